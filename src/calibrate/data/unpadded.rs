//! Samples without the positions that only fill them up.
//!
//! Texts of one data set are filled up to the longest of them, and a mask says which positions count. Where a model gives the same
//! for a shorter array, most of its time goes into positions that nobody reads. Samples are then put in order of length, portion by
//! portion, and cropped.

use super::super::padding::Padding;
use super::batch::Batch;
use super::crop::Crop;
use super::labels::Labels;
use super::part::Part;
use super::schema::Schema;
use super::{CHECKED_ROWS, Dataset};
use crate::error::Result;
use crate::graph::bodies::has_branches;
use crate::onnx::proto::ModelProto;
use crate::runtime::inputs::Dim;
use crate::runtime::{NamedTensor, RunOptions, Runnable, Tensor};

/// Consecutive samples that are put in order of length.
const IN_ORDER: usize = 64;

/// The part of the largest value of an output that a run on a cropped sample may differ by.
const TOLERANCE: f32 = 1e-3;

/// Values of this size stand for what is masked: they are not the scale of an output.
const MASKED: f32 = 1e4;

impl Dataset {
    /// The same samples without the positions at their ends that a mask leaves out, if `model` gives the same for them; a warning
    /// says so. Samples with values as labels stay as they are, because an output may have positions too.
    ///
    /// # Errors
    /// If the samples cannot be read.
    pub(crate) fn without_padding(mut self, model: &ModelProto) -> Result<Self> {
        let unclear = self.schema.inputs.iter().filter(|input| Padding::is_unclear(&input.name));
        self.warnings.extend(unclear.map(|input| {
            format!(
                "padding counts like any other position: whether the ones or the zeros of '{}' are padding is not known",
                input.name
            )
        }));
        // A branch may be chosen by a length.
        if model.graph.as_ref().is_none_or(has_branches) {
            return Ok(self);
        }
        let Some(Filled { axes, lengths, whole }) = self.filled()? else { return Ok(self) };
        let mut samples = self.part(0..self.samples());
        let mut order: Vec<usize> = Vec::with_capacity(lengths.len());
        for (part, rows) in &mut samples.parts {
            let first = order.len();
            let mut of_part: Vec<usize> = (first..first + *rows).collect();
            of_part.chunks_mut(IN_ORDER).for_each(|samples| samples.sort_by_key(|&sample| lengths.get(sample)));
            let kept = of_part.iter().map(|sample| sample - first).collect();
            *part = Part::Chosen { of: Box::new(part.clone()), kept };
            order.extend(of_part);
        }
        let lengths: Vec<usize> = order.iter().filter_map(|&sample| lengths.get(sample).copied()).collect();
        let Some(crop) = Crop::new(axes, &lengths, whole) else { return Ok(self) };
        let Ok(model) = Runnable::new(model, &RunOptions::default()) else { return Ok(self) };
        for sample in crop.examples() {
            let Some(batch) = samples.batches_of(sample..sample + 1, 1).next().transpose()? else { return Ok(self) };
            let cropped = crop.cropped(batch.clone(), sample..sample + 1)?;
            if !is_same(&model, &batch.inputs, &cropped.inputs) {
                return Ok(self);
            }
        }
        samples.identity = self.identity_of("without padding");
        samples.warnings.push(format!(
            "the samples run without their padding: {:.1} positions on average, not {whole}",
            crop.mean()
        ));
        samples.crop = Some(crop);
        Ok(samples)
    }

    /// How samples are filled up, if a mask says so and all are of one size.
    fn filled(&self) -> Result<Option<Filled>> {
        let is_all = self.range.len() == self.parts.iter().map(|(_, rows)| rows).sum::<usize>();
        let Some(mask) = self.schema.inputs.iter().position(|input| Padding::is_mask(&input.name)) else {
            return Ok(None);
        };
        if !is_all || self.fixed.is_some() || self.is_synthetic {
            return Ok(None);
        }
        let (mut lengths, mut known) = (Vec::with_capacity(self.samples()), None);
        for batch in self.batches(CHECKED_ROWS) {
            let batch = batch?;
            if matches!(batch.labels, Some(Labels::Values(_))) {
                return Ok(None);
            }
            let Some((axes, whole)) = axes(&self.schema, &batch, mask) else { return Ok(None) };
            if *known.get_or_insert((axes.clone(), whole)) != (axes, whole) {
                return Ok(None);
            }
            let padding = Padding::of(&batch);
            match padding.as_ref().and_then(|padding| padding.lengths(whole)) {
                Some(found) => lengths.extend(found.map(|length| length.max(1))),
                None => lengths.resize(lengths.len() + batch.samples(), whole),
            }
        }
        Ok(known.map(|(axes, whole)| Filled { axes, lengths, whole }))
    }
}

/// How samples are filled up.
struct Filled {
    /// Inputs and their axes that count positions.
    axes: Vec<(usize, usize)>,
    /// Positions of each sample up to the last one that counts.
    lengths: Vec<usize>,
    /// Positions of all samples.
    whole: usize,
}

/// Whether `model` gives the same for a cropped sample as for the whole one, as far as its outputs go; `false` if it does not run.
fn is_same(model: &Runnable, whole: &[NamedTensor], cropped: &[NamedTensor]) -> bool {
    let (Ok(whole), Ok(cropped)) = rayon::join(|| model.run(whole), || model.run(cropped)) else { return false };
    // Classes would hardly show a difference.
    whole.iter().any(|(_, tensor)| tensor.is_float())
        && whole.iter().zip(&cropped).all(|((_, whole), (_, cropped))| agree(whole, cropped).unwrap_or(false))
}

/// Whether the beginning of `whole` is `cropped`.
fn agree(whole: &Tensor, cropped: &Tensor) -> Result<bool> {
    let sizes = || whole.shape().iter().zip(cropped.shape());
    if whole.shape().len() != cropped.shape().len() || sizes().any(|(whole, cropped)| whole < cropped) {
        return Ok(false);
    }
    let mut part = whole.clone();
    for (axis, (_, &size)) in sizes().enumerate().filter(|(_, (whole, cropped))| whole != cropped) {
        part = part.narrow(axis, 0, size)?;
    }
    let (expected, found) = (part.to_vec::<f32>()?, cropped.to_vec::<f32>()?);
    let values = expected.iter().map(|value| value.abs()).filter(|value| *value < MASKED);
    let tolerance = if whole.is_float() { TOLERANCE * values.fold(0.0, f32::max) } else { 0.0 };
    Ok(expected.iter().zip(&found).all(|(a, b)| a == b || (a - b).abs() <= tolerance))
}

/// The axes of the inputs that count the same positions as the last axis of the input number `mask`, of shape `[samples, positions]`,
/// and how many these are: axes of the same symbol, or those of no name and the same size. `None` if the model fixes them, another size
/// is computed from them, or another mask counts other positions.
fn axes(schema: &Schema, batch: &Batch, mask: usize) -> Option<(Vec<(usize, usize)>, usize)> {
    let sizes: Vec<&[usize]> = batch.inputs.iter().map(|(_, tensor)| tensor.shape()).collect();
    let &[_, whole] = *sizes.get(mask)? else { return None };
    let positions = schema.inputs.get(mask)?.dims.as_ref()?.get(1)?;
    let mut found = Vec::new();
    for (number, input) in schema.inputs.iter().enumerate() {
        let of_samples = batch.axes.get(number).copied().flatten();
        for (axis, dim) in input.dims.as_ref()?.iter().enumerate().filter(|(axis, _)| Some(*axis) != of_samples) {
            match (dim, positions) {
                (Dim::Symbol(symbol), Dim::Symbol(own)) if symbol == own => found.push((number, axis)),
                (Dim::Symbol(symbol), Dim::Symbol(own)) if symbol.contains(own.as_str()) => return None,
                (Dim::Unknown, Dim::Unknown) if sizes.get(number)?.get(axis) == Some(&whole) => {
                    found.push((number, axis));
                }
                _ => {}
            }
        }
    }
    let masks = schema.inputs.iter().enumerate().filter(|(_, input)| Padding::is_mask(&input.name));
    let are_alike = masks.map(|(number, _)| number).all(|number| found.contains(&(number, 1)));
    are_alike.then_some((found, whole))
}
