//! Pruned ≡ masked original: the metric that a removal is held to.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::kept::Kept;
use crate::runtime::{NamedTensor, Runnable};
use crate::{Error, Result};

/// The outputs of the two models on the same probes, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Exactness {
    /// Samples that the outputs were compared on.
    pub samples: usize,
    /// Each output separately, in graph order.
    pub outputs: Vec<OutputExactness>,
}

/// One output of the two models, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputExactness {
    /// Name of the graph output.
    pub name: String,
    /// max |Δ| / max |y − mean of y over samples|; 0 when both are 0.
    pub max_rel: f64,
    /// max |y − mean of y over samples| / max |y|.
    pub spread: f64,
}

impl OutputExactness {
    fn proves(&self) -> bool {
        self.spread > Exactness::LEAST_SPREAD
    }
}

impl Exactness {
    /// Compares the outputs that two models gave for the same batches of inputs, sample by sample.
    ///
    /// A sample is a row of axis 0 where an output has as many rows as the batch, else a whole run; so give several
    /// batches, [`probes`](crate::runtime::probes::probes) does. Outputs of integers (indices of a
    /// `TopK`, whose ties rounding may break) count only when there is no other output.
    ///
    /// # Errors
    /// [`ErrorKind::Proof`](crate::ErrorKind::Proof) when outputs differ in name or shape, or the masked
    /// original gives NaN.
    pub fn between(
        masked: &[Vec<NamedTensor>],
        pruned: &[Vec<NamedTensor>],
        batches: &[Vec<NamedTensor>],
    ) -> Result<Self> {
        let first = masked.first().ok_or_else(|| Error::proof("there are no probes to compare outputs on"))?;
        let any_float = first.iter().any(|(_, tensor)| tensor.is_float());
        let compared = (0..first.len()).filter(|&index| !any_float || first[index].1.is_float());
        let outputs =
            compared.map(|index| compare_output(index, (masked, pruned), batches)).collect::<Result<Vec<_>>>()?;
        Ok(Self { samples: batches.iter().map(|batch| batch_size(batch)).sum(), outputs })
    }

    /// Largest deviation that passes as rounding in float32.
    pub const TOLERANCE: f64 = 1e-4;
    /// An output that varies less than this share of its magnitude would hide a wrong removal.
    pub const LEAST_SPREAD: f64 = 1e-2;

    /// The worst of all outputs.
    pub fn max_rel(&self) -> f64 {
        self.outputs.iter().map(|output| output.max_rel).fold(0.0, f64::max)
    }

    /// Whether some output reacts to the probes; without that the comparison proves nothing.
    pub fn proves(&self) -> bool {
        self.outputs.iter().any(OutputExactness::proves)
    }

    /// Whether the comparison proves that the two models are the same function.
    pub fn holds(&self) -> bool {
        self.proves() && self.max_rel() <= Self::TOLERANCE
    }

    /// The outputs that barely react to the probes.
    pub fn silent_outputs(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().filter(|output| !output.proves()).map(|output| output.name.as_str())
    }
}

/// Runs `masked` (the original with the removed slices zeroed) and `pruned` on the same batches of inputs and compares
/// their outputs as [`Exactness::between`] does.
///
/// # Errors
/// What running the models returns, and [`Exactness::between`].
pub fn exactness(masked: &Runnable, pruned: &Runnable, batches: &[Vec<NamedTensor>]) -> Result<Exactness> {
    exactness_of_rest(masked, pruned, batches, &Kept::default())
}

/// [`exactness`] where inputs and outputs shrink too: `pruned` is fed with what is kept of the inputs, and compared with
/// what is kept of the outputs.
///
/// # Errors
/// As [`exactness`].
pub fn exactness_of_rest(
    masked: &Runnable,
    pruned: &Runnable,
    batches: &[Vec<NamedTensor>],
    kept: &Kept,
) -> Result<Exactness> {
    let whole = || batches.par_iter().map(|batch| kept.of(&masked.run(batch)?)).collect::<Result<Vec<_>>>();
    let rest = || batches.par_iter().map(|batch| pruned.run(&kept.of(batch)?)).collect::<Result<Vec<_>>>();
    let (whole, rest) = rayon::join(whole, rest);
    Exactness::between(&whole?, &rest?, batches)
}

/// Axis 0 of the first input.
pub(super) fn batch_size(inputs: &[NamedTensor]) -> usize {
    inputs.first().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(1)
}

fn compare_output(
    index: usize,
    (masked, pruned): (&[Vec<NamedTensor>], &[Vec<NamedTensor>]),
    batches: &[Vec<NamedTensor>],
) -> Result<OutputExactness> {
    // By length: what is not a row of a batch grows with the batch.
    let mut samples: BTreeMap<usize, Vec<Vec<f64>>> = BTreeMap::new();
    let mut max_delta = 0_f64;
    for ((masked, pruned), batch) in masked.iter().zip(pruned).zip(batches) {
        let (y, other) = matching(index, masked, pruned)?;
        let (name, y, other) = (&y.0, &y.1, other.1.to_vec::<f64>()?);
        let values = y.to_vec::<f64>()?;
        if values.iter().any(|value| value.is_nan()) {
            return Err(Error::proof(format!(
                "output '{name}' of the original is not a number on synthetic inputs; pass `data`"
            )));
        }
        max_delta = values.iter().zip(&other).map(|(a, b)| difference(*a, *b)).fold(max_delta, f64::max);
        let rows = batch_size(batch);
        let count = if y.shape().first() == Some(&rows) { rows } else { 1 };
        let width = (values.len() / count.max(1)).max(1);
        samples.entry(width).or_default().extend(values.chunks(width).map(<[f64]>::to_vec));
    }
    let first = masked.first().and_then(|outputs| outputs.get(index));
    let name = first.map(|output| output.0.clone()).unwrap_or_default();
    let spreads = samples.values().map(|samples| spread(samples));
    let (deviation, magnitude) = spreads.fold((0.0, 0.0), |(a, b), (c, d)| (f64::max(a, c), f64::max(b, d)));
    let ratio = |part: f64, whole: f64| if part == 0.0 { 0.0 } else { part / whole };
    Ok(OutputExactness { name, max_rel: ratio(max_delta, deviation), spread: ratio(deviation, magnitude) })
}

/// The output number `index` of both models, which must agree in name and shape.
fn matching<'a>(
    index: usize,
    masked: &'a [NamedTensor],
    pruned: &'a [NamedTensor],
) -> Result<(&'a NamedTensor, &'a NamedTensor)> {
    match (masked.get(index), pruned.get(index)) {
        (Some(a), Some(b)) if a.0 == b.0 && a.1.shape() == b.1.shape() => Ok((a, b)),
        (Some(a), Some(b)) => Err(Error::proof(format!(
            "output '{}' of shape {:?} became '{}' of shape {:?}",
            a.0,
            a.1.shape(),
            b.0,
            b.1.shape()
        ))),
        _ => Err(Error::proof("the rewritten model has a different number of outputs")),
    }
}

/// |a − b|, infinite when only one of them is finite or any is not a number.
fn difference(a: f64, b: f64) -> f64 {
    if a == b {
        return 0.0;
    }
    let delta = (a - b).abs();
    if delta.is_nan() { f64::INFINITY } else { delta }
}

/// max |y − mean over samples| and max |y|, over the finite elements of samples of equal length.
fn spread(samples: &[Vec<f64>]) -> (f64, f64) {
    let width = samples.first().map_or(0, Vec::len);
    let (mut deviation, mut magnitude) = (0_f64, 0_f64);
    for element in 0..width {
        let column = || samples.iter().map(|sample| sample[element]).filter(|value| value.is_finite());
        let mean = column().sum::<f64>() / column().count().max(1) as f64;
        deviation = column().map(|value| (value - mean).abs()).fold(deviation, f64::max);
        magnitude = column().map(f64::abs).fold(magnitude, f64::max);
    }
    (deviation, magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::ModelProto;
    use crate::runtime::RunOptions;
    use crate::runtime::inputs::DimSizes;
    use crate::runtime::probes::probe_batches;
    use crate::runtime::sample_models::{mlp, wavy, weight};

    fn compare(masked: &ModelProto, pruned: &ModelProto) -> Exactness {
        let runnable = |model| Runnable::new(model, &RunOptions::default()).unwrap();
        let probes = probe_batches(masked.graph.as_ref().unwrap(), &DimSizes::default(), 8, 1).unwrap();
        exactness(&runnable(masked), &runnable(pruned), &probes).unwrap()
    }

    /// `mlp` with hidden unit 1 zeroed, and with it removed.
    fn masked_and_pruned() -> (ModelProto, ModelProto) {
        let (mut masked, mut pruned) = (mlp(), mlp());
        let w2 = |i: usize| if i % 4 == 1 { 0.0 } else { wavy(i) };
        masked.graph.as_mut().unwrap().initializer[2] = weight("w2", &[2, 4], w2);
        let kept = [0_usize, 2, 3];
        pruned.graph.as_mut().unwrap().initializer = vec![
            weight("w1", &[3, 3], |i| wavy(kept[i / 3] * 3 + i % 3)),
            weight("b1", &[3], |i| wavy(kept[i])),
            weight("w2", &[2, 3], |i| wavy(i / 3 * 4 + kept[i % 3])),
            weight("b2", &[2], wavy),
        ];
        (masked, pruned)
    }

    #[test]
    fn a_right_removal_holds() {
        let (masked, pruned) = masked_and_pruned();
        let found = compare(&masked, &pruned);
        assert!(found.holds() && found.max_rel() < 1e-6, "{found:?}");
        assert_eq!(found.samples, 8);
    }

    #[test]
    fn a_removal_at_the_wrong_index_does_not_hold() {
        let (masked, mut pruned) = masked_and_pruned();
        pruned.graph.as_mut().unwrap().initializer[1] = weight("b1", &[3], wavy);
        let found = compare(&masked, &pruned);
        assert!(found.proves() && !found.holds(), "{found:?}");
    }

    #[test]
    fn an_output_that_ignores_its_input_proves_nothing() {
        let mut deaf = mlp();
        deaf.graph.as_mut().unwrap().initializer[2] = weight("w2", &[2, 4], |i| wavy(i) * 1e-4);
        let found = compare(&deaf, &deaf);
        assert!(!found.proves() && !found.holds() && found.max_rel() == 0.0, "{found:?}");
        assert_eq!(found.silent_outputs().collect::<Vec<_>>(), ["y"]);
    }

    #[test]
    fn an_output_that_is_not_a_number_is_an_error() {
        let mut broken = mlp();
        broken.graph.as_mut().unwrap().initializer[3] = weight("b2", &[2], |_| f32::NAN);
        let runnable = Runnable::new(&broken, &RunOptions::default()).unwrap();
        let probes = probe_batches(broken.graph.as_ref().unwrap(), &DimSizes::default(), 2, 1).unwrap();
        let error = exactness(&runnable, &runnable, &probes).unwrap_err();
        assert!(error.to_string().contains("not a number"), "{error}");
    }

    #[test]
    fn infinities_are_equal_to_themselves_only() {
        assert_eq!(difference(f64::INFINITY, f64::INFINITY), 0.0);
        assert_eq!(difference(f64::INFINITY, 1.0), f64::INFINITY);
        assert_eq!(difference(1.0, f64::NAN), f64::INFINITY);
    }
}
