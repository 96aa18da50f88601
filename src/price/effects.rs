//! How much the network's output changes when one part of it alone is changed: runs that start at the part.

use rayon::prelude::*;

use super::distance::Reference;
use crate::error::Result;
use crate::onnx::proto::ModelProto;
use crate::runtime::{Activations, Held, Limits, NamedTensor, Segment, Stream};

/// A part that is changed alone, in one or more ways.
#[derive(Debug)]
pub(crate) struct Site {
    /// What the first node that changes reads.
    pub(crate) reads: Vec<String>,
    /// Number of ways.
    pub(crate) changes: usize,
}

/// The distance from the reference of each of the models that `write(site, change)` makes of `model`, with the same bodies hoisted.
/// `sites` are in graph order: only what comes after what a site reads is run for it.
///
/// # Errors
/// If a model cannot be made or run.
pub(crate) fn effects(
    model: &ModelProto,
    reference: &Reference,
    sites: &[Site],
    write: impl Fn(usize, usize) -> Result<ModelProto> + Sync,
    batches: &[Vec<NamedTensor>],
    limits: Limits,
) -> Result<Vec<Vec<f64>>> {
    let mut stream = Stream::default();
    let measure = |(site, change, stream): &(usize, usize, Stream)| {
        let behind: Vec<String> = reference.names().iter().filter(|name| !stream.has_reached(name)).cloned().collect();
        if behind.is_empty() {
            return Ok(0.0);
        }
        let segment = stream.rest(&write(*site, *change)?, &behind)?;
        reference.distance(&behind, batches, |index, inputs| stream.run(&segment, index, inputs))
    };
    let mut measured = vec![Vec::new(); sites.len()];
    let (mut pending, mut pending_bytes) = (Vec::new(), 0);
    for (index, site) in sites.iter().enumerate() {
        let segment = stream.segment(model, &site.reads, &[])?;
        let mut held = Held::within(limits.held());
        run_all(&stream, &segment, batches)?.into_iter().for_each(|found| held.add([found.frontier]));
        pending_bytes += held.advance([(&mut stream, Some(&segment))]);
        pending.extend((0..site.changes).map(|change| (index, change, stream.clone())));
        // A half: the frontier that the next site starts from is held beside them.
        if pending_bytes > limits.held() / 2 || index + 1 == sites.len() {
            let effects: Vec<f64> = pending.par_iter().map(measure).collect::<Result<_>>()?;
            for ((site, ..), effect) in pending.drain(..).zip(effects) {
                measured[site].push(effect);
            }
            pending_bytes = 0;
        }
        limits.relieve();
    }
    Ok(measured)
}

/// Runs a segment on all batches, as many side by side as there are threads.
///
/// # Errors
/// If tract fails.
fn run_all(stream: &Stream, segment: &Segment, batches: &[Vec<NamedTensor>]) -> Result<Vec<Activations>> {
    batches.par_iter().with_max_len(1).enumerate().map(|(index, inputs)| stream.run(segment, index, inputs)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::onnx::Model;
    use crate::onnx::proto::NodeProto;
    use crate::onnx::tensor::{TensorView, from_f32};
    use crate::runtime::inputs::DimSizes;
    use crate::runtime::probes::probe_batches;

    /// Every weight of the vision transformer alone, half of it: from what its node reads, and from the graph's inputs.
    #[test]
    fn an_effect_is_the_same_wherever_the_run_starts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let proto = Model::load(folder.join("digits_vit.onnx")).unwrap().proto;
        let graph = proto.graph.clone().unwrap();
        let sizes = DimSizes::default();
        let batches = probe_batches(&graph, &sizes, 4, 1).unwrap();
        let stored: BTreeMap<&str, usize> =
            graph.initializer.iter().enumerate().map(|(at, tensor)| (tensor.name(), at)).collect();
        let weight = |node: &NodeProto| {
            let is_linear = ["Gemm", "MatMul", "Conv"].contains(&node.op_type());
            node.input.iter().find_map(|name| stored.get(name.as_str()).copied()).filter(|_| is_linear)
        };
        let layers: Vec<_> = graph.node.iter().filter_map(|node| Some((node, weight(node)?))).collect();
        assert!(layers.len() >= 10, "{}", layers.len());
        let write = |site: usize, change: usize| {
            let mut changed = proto.clone();
            let tensor = &mut changed.graph.as_mut().unwrap().initializer[layers[site].1];
            let values = TensorView::new(tensor)?.to_f32()?;
            let less: Vec<f32> = values.iter().map(|value| value * 0.5_f32.powi(change as i32)).collect();
            let dims: Vec<usize> = tensor.dims.iter().map(|&size| size as usize).collect();
            *tensor = from_f32(tensor.name(), &dims, &less)?;
            Ok(changed)
        };
        let measured = |reads: fn(&NodeProto) -> Vec<String>| {
            let sites: Vec<Site> = layers.iter().map(|(node, _)| Site { reads: reads(node), changes: 2 }).collect();
            let reference = Reference::new(&proto, &mut batches.clone(), Limits::default()).unwrap();
            effects(&proto, &reference, &sites, write, &batches, Limits::default()).unwrap()
        };
        let (near, far) = (measured(|node| node.input.clone()), measured(|_| Vec::new()));
        for ((near, far), (node, _)) in near.iter().zip(&far).zip(&layers) {
            assert!(near[0] < 1e-10 && near[1] > 1e-6, "{}: {near:?}", node.name());
            assert!((near[1] / far[1] - 1.0).abs() < 1e-4, "{}: {near:?}, {far:?}", node.name());
        }
    }
}
