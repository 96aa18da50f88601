//! How much the network's output changes when one layer alone is split: what its error weighs in a budget.
//!
//! Measured at two ranks, because the output does not always follow a layer's squared error in proportion: scores of attention
//! do harm faster than they err (up to the square), and what a normalization follows saturates.

use rayon::prelude::*;

use crate::calibrate::data::{Batch, Dataset};
use crate::error::{Error, Result};
use crate::onnx::proto::ModelProto;
use crate::runtime::NamedTensor;
use crate::runtime::{Activations, Held, Segment, Stream};

/// Samples that each effect is measured on.
const SAMPLES: usize = 48;

/// Samples that run at once.
const BATCH: usize = 24;

/// Bytes of activations in front of layers that wait for being measured side by side.
const MOST_PENDING: usize = 512 << 20;

/// What the network's output loses by a layer's squared error, `scale · error^power`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// The loss at an error of one.
    pub scale: f64,
    /// One where the loss is in proportion.
    pub power: f64,
}

/// Powers are kept within these: fewer samples than weights say little.
const POWERS: std::ops::RangeInclusive<f64> = 0.5..=2.0;

impl Effect {
    /// In proportion.
    pub fn linear(scale: f64) -> Self {
        Self { scale, power: 1.0 }
    }

    /// Through measured `(error, loss)`, the first one exactly; `None` if that is no positive pair.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let is_positive = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0 && point.1.is_finite();
        let &(error, loss) = points.first().filter(is_positive)?;
        let other = points.get(1).filter(is_positive).filter(|other| other.0 > error);
        let power = other.map_or(1.0, |other| (other.1 / loss).ln() / (other.0 / error).ln());
        let power = power.clamp(*POWERS.start(), *POWERS.end());
        Some(Self { scale: loss / error.powf(power), power })
    }

    /// The loss at a squared error.
    pub fn at(self, error: f64) -> f64 {
        self.scale * error.powf(self.power)
    }
}

/// Inputs from the middle of the data, where batches of every kind are.
///
/// # Errors
/// If the data cannot be read.
pub(crate) fn middle(data: &Dataset) -> Result<Vec<Vec<NamedTensor>>> {
    let count = data.samples();
    let start = (count / 2).saturating_sub(SAMPLES / 2);
    let inputs = |batch: Result<Batch>| Ok(batch?.inputs);
    let found = data.batches_of(start..count.min(start + SAMPLES), BATCH).map(inputs).collect::<Result<Vec<_>>>()?;
    // A fixed batch may be longer than that.
    if found.is_empty() { data.batches(BATCH).take(1).map(inputs).collect() } else { Ok(found) }
}

/// A layer that is changed alone, in one or more ways.
#[derive(Debug)]
pub(crate) struct Site {
    /// What it reads.
    pub(crate) reads: Vec<String>,
    /// Number of ways.
    pub(crate) changes: usize,
}

/// Σ over float outputs of ‖Δy‖² / ‖y‖², for each of the models that `write(site, change)` makes. `sites` are in graph order:
/// only what comes behind a site is run for it.
///
/// # Errors
/// If a model cannot be made or run.
pub(crate) fn effects(
    original: &ModelProto,
    sites: &[Site],
    write: impl Fn(usize, usize) -> Result<ModelProto> + Sync,
    batches: &[Vec<NamedTensor>],
) -> Result<Vec<Vec<f64>>> {
    let graph = original.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let names: Vec<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    let run = |stream: &Stream, segment: &Segment| -> Result<Vec<Activations>> {
        batches.iter().enumerate().map(|(index, inputs)| stream.run(segment, index, inputs)).collect()
    };
    let mut stream = Stream::default();
    let outputs = run(&stream, &stream.rest(original, &names)?)?;
    let measure = |(site, change, stream): &(usize, usize, Stream)| {
        let behind: Vec<String> = names.iter().filter(|name| !stream.has_reached(name)).cloned().collect();
        if behind.is_empty() {
            return Ok(0.0);
        }
        let segment = stream.rest(&write(*site, *change)?, &behind)?;
        distance(&behind, &outputs, &run(stream, &segment)?)
    };
    let mut measured = vec![Vec::new(); sites.len()];
    let (mut pending, mut pending_bytes) = (Vec::new(), 0);
    for (index, site) in sites.iter().enumerate() {
        let segment = stream.segment(original, &site.reads, &[])?;
        let mut held = Held::default();
        for (index, inputs) in batches.iter().enumerate() {
            held.add([stream.run(&segment, index, inputs)?.frontier]);
        }
        pending_bytes += held.advance([(&mut stream, &segment)]);
        pending.extend((0..site.changes).map(|change| (index, change, stream.clone())));
        if pending_bytes > MOST_PENDING || index + 1 == sites.len() {
            let effects: Vec<f64> = pending.par_iter().map(measure).collect::<Result<_>>()?;
            for ((site, ..), effect) in pending.drain(..).zip(effects) {
                measured[site].push(effect);
            }
            pending_bytes = 0;
        }
    }
    Ok(measured)
}

fn distance(outputs: &[String], original: &[Activations], changed: &[Activations]) -> Result<f64> {
    let mut sum = 0.0;
    for name in outputs {
        let (mut delta, mut energy) = (0.0, 0.0);
        for (before, after) in original.iter().zip(changed) {
            let (y, other) = (before.get(name)?, after.get(name)?);
            if !y.is_float() {
                continue;
            }
            for (a, b) in y.to_vec::<f64>()?.into_iter().zip(other.to_vec::<f64>()?) {
                if a.is_finite() {
                    delta += (a - b) * (a - b);
                    energy += a * a;
                }
            }
        }
        if energy > 0.0 {
            sum += delta / energy;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::onnx::Model;
    use crate::onnx::proto::NodeProto;
    use crate::onnx::tensor::{TensorView, from_f32};
    use crate::runtime::inputs::DimSizes;
    use crate::runtime::probes::probe_batches;

    #[test]
    fn an_effect_goes_through_what_was_measured() {
        let effect = Effect::through(&[(0.1, 0.02), (0.2, 0.06)]).unwrap();
        assert!((effect.power - 3.0_f64.log2()).abs() < 1e-12);
        assert!((effect.at(0.1) - 0.02).abs() < 1e-12 && (effect.at(0.2) - 0.06).abs() < 1e-12);
        let steep = Effect::through(&[(0.1, 0.01), (0.2, 1.0)]).unwrap();
        assert_eq!(steep.power, 2.0);
        assert!((steep.at(0.1) - 0.01).abs() < 1e-12);
    }

    /// Every weight of the vision transformer alone, half of it: from what its node reads, and from the graph's inputs.
    #[test]
    fn an_effect_is_the_same_wherever_the_run_starts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let proto = Model::load(&folder.join("digits_vit.onnx")).unwrap().proto;
        let graph = proto.graph.clone().unwrap();
        let sizes = DimSizes::default();
        let batches = probe_batches(&graph, &sizes, 4, 1).unwrap();
        let stored = |name: &str| graph.initializer.iter().position(|tensor| tensor.name() == name);
        let weight = |node: &NodeProto| {
            let is_linear = ["Gemm", "MatMul", "Conv"].contains(&node.op_type());
            node.input.iter().find_map(|name| stored(name)).filter(|_| is_linear)
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
            effects(&proto, &sites, write, &batches).unwrap()
        };
        let (near, far) = (measured(|node| node.input.clone()), measured(|_| Vec::new()));
        for ((near, far), (node, _)) in near.iter().zip(&far).zip(&layers) {
            assert!(near[0] < 1e-10 && near[1] > 1e-6, "{}: {near:?}", node.name());
            assert!((near[1] / far[1] - 1.0).abs() < 1e-4, "{}: {near:?}, {far:?}", node.name());
        }
    }

    #[test]
    fn one_measured_point_is_a_proportion() {
        for points in [&[(0.5, 0.1)][..], &[(0.5, 0.1), (0.5, 0.3)], &[(0.5, 0.1), (0.9, f64::NAN)]] {
            assert_eq!(Effect::through(points), Some(Effect::linear(0.2)));
        }
        assert_eq!(Effect::through(&[(0.0, 0.0), (0.5, 0.1)]), None);
        assert_eq!(Effect::through(&[(0.5, f64::NAN)]), None);
    }
}
