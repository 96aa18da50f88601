//! Statistics of layers' inputs in the original model, for criteria.

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::data::Batch;
use super::moments::Buffered;
use super::rows::floats;
use super::{Calibration, Layer, Padding, Sampler, Stream, in_turn};
use crate::analysis::Subject;
use crate::error::Result;
use crate::linalg::default_backend;
use crate::runtime::Tensor;

/// How much is accumulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Means, squares, zeros.
    Diagonal,
    /// The covariance too.
    Covariance,
}

/// Statistics of the input of one matrix (a layer, or a convolution group of it): K values each.
#[derive(Debug, Clone)]
pub struct InputStatistics {
    /// Rows that were counted.
    pub rows: usize,
    /// `E[x]`.
    pub mean: Array1<f64>,
    /// `E[x²]`.
    pub square: Array1<f64>,
    /// Share of zeros.
    pub zeros: Array1<f64>,
    /// `E[x xᵀ] − μ μᵀ`, K×K, where asked for.
    pub covariance: Option<Array2<f64>>,
}

impl InputStatistics {
    /// `E[x²] − E[x]²`, never negative.
    pub fn variance(&self) -> Array1<f64> {
        let mut variance = &self.square - &(&self.mean * &self.mean);
        variance.mapv_inplace(|v| v.max(0.0));
        variance
    }
}

struct Accumulator<'l> {
    layer: &'l Layer,
    group: usize,
    sampler: Sampler,
    full: Option<Buffered>,
    rows: usize,
    sum: Array1<f64>,
    square: Array1<f64>,
    zeros: Array1<f64>,
}

impl<'l> Accumulator<'l> {
    fn new(layer: &'l Layer, group: usize, data: Calibration<'_>, detail: Detail) -> Self {
        let k = layer.inputs();
        Self {
            layer,
            group,
            sampler: Sampler::new(layer, data.data.samples(), data.seed),
            full: (detail == Detail::Covariance).then(|| Buffered::new(k, 0)),
            rows: 0,
            sum: Array1::zeros(k),
            square: Array1::zeros(k),
            zeros: Array1::zeros(k),
        }
    }

    fn add(&mut self, data: &Tensor, samples: usize, first: usize, padding: Option<&Padding>) -> Result<()> {
        let rows = self.sampler.choose(self.layer.row_count(data.shape()), samples, first, padding);
        let values = floats(data)?;
        let mut x = Vec::with_capacity(rows.len() * self.sum.len());
        self.layer.input_rows(data, &values, self.group, &rows, &mut x)?;
        for row in x.chunks_exact(self.sum.len().max(1)) {
            for (k, &value) in row.iter().enumerate() {
                self.sum[k] += value;
                self.square[k] += value * value;
                self.zeros[k] += f64::from(u8::from(value == 0.0));
            }
        }
        self.rows += rows.len();
        if let Some(full) = &mut self.full {
            full.push(default_backend(), &x, &[]);
        }
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)]
    fn finish(self) -> InputStatistics {
        let n = self.rows.max(1) as f64;
        InputStatistics {
            rows: self.rows,
            mean: self.sum / n,
            square: self.square / n,
            zeros: self.zeros / n,
            covariance: self.full.map(|full| full.finish(default_backend()).covariance()),
        }
    }
}

/// Statistics of the inputs of `layers` of the original model, one for each convolution group of each.
///
/// # Errors
/// If reading the data or running the model fails.
pub fn input_statistics(
    subject: Subject<'_>,
    data: Calibration<'_>,
    layers: &[Layer],
    detail: Detail,
) -> Result<Vec<Vec<InputStatistics>>> {
    let mut wanted: Vec<String> = layers.iter().map(|layer| layer.data.clone()).collect();
    wanted.sort();
    wanted.dedup();
    let mut stream = Stream::default();
    let segment = stream.segment(subject.model, &[], &wanted)?;
    let matrices = layers.iter().flat_map(|layer| (0..layer.groups).map(move |group| (layer, group)));
    let mut accumulators: Vec<Accumulator<'_>> =
        matrices.map(|(layer, group)| Accumulator::new(layer, group, data, detail)).collect();
    let mut first = 0;
    let run = |index: usize, batch: &Batch| stream.run(&segment, index, &batch.inputs);
    in_turn(data.data.batches(data.batch), run, |batch, activations| {
        let samples = samples_of(&batch.inputs);
        let padding = Padding::of(&batch.inputs);
        accumulators
            .par_iter_mut()
            .try_for_each(|a| a.add(activations.get(&a.layer.data)?, samples, first, padding.as_ref()))?;
        first += samples;
        Ok(())
    })?;
    let mut done = accumulators.into_iter().map(Accumulator::finish);
    Ok(layers.iter().map(|layer| done.by_ref().take(layer.groups).collect()).collect())
}

/// Number of samples of a batch.
pub(crate) fn samples_of(inputs: &[(String, Tensor)]) -> usize {
    inputs.first().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(1)
}
