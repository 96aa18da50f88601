//! What a convolution hears of each channel: a few filtered taps in place of a whole window.
//!
//! A channel's window x (t values, covariance C) reaches the outputs through W (t×N). With `S = C^½` and `S W = U Σ Vᵀ`, the
//! q linear filters `B R = S⁻¹ U_q` (t×q, B orthonormal) keep the most of what the channel contributes: in place of x stands
//! `z = Bᵀx`, in place of W its regression on z, `R U_qᵀ S W`. A surgeon's cost falls by (q/t)³, that of its Gram matrix by (q/t)²; the scores of q = 2 are
//! as good as those of all taps (within the noise of the choice of samples).

use ndarray::{Array2, s};
use rayon::prelude::*;

use crate::calibrate::{Block, Detail, Folded, Sums};
use crate::error::Result;
use crate::linalg::default_backend;

/// Filters that stay of a window.
pub(super) const FILTERS: usize = 2;

/// Least standard deviation of a combination of taps, as a share of the largest: what does not vary is not blown up.
const LEAST: f64 = 1e-3;

/// The rows of one matrix on their way to sums of filtered taps. The first block decides on the filters.
#[derive(Debug)]
pub(super) struct Filtered {
    taps: usize,
    /// q.
    count: usize,
    weight: Array2<f64>,
    name: String,
    raw: Block,
    state: Option<State>,
    /// The portion of the samples that is being summed up.
    leaf: usize,
    folded: Folded<Vec<Sums>>,
}

#[derive(Debug)]
struct State {
    /// For each channel B, t×q.
    filters: Vec<Array2<f32>>,
    /// What stands in place of W, (q C)×N.
    weight: Array2<f64>,
    z: Block,
    none: Block,
    sums: Sums,
}

/// Sums over filtered taps, and the weight as they see it: the rows of channel c are `q c .. q (c + 1)`.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) sums: Sums,
    pub(super) weight: Array2<f64>,
}

impl Heard {
    /// The weight and the sums as matrices.
    pub(super) fn to_record(&self) -> Vec<Array2<f64>> {
        std::iter::once(self.weight.clone()).chain(self.sums.to_record()).collect()
    }

    /// What [`to_record`](Self::to_record) gave, of a matrix with this many channels and outputs; `None` if the sizes differ.
    pub(super) fn from_record(
        matrices: &mut impl Iterator<Item = Array2<f64>>,
        (channels, outputs): (usize, usize),
    ) -> Option<Self> {
        let width = channels.checked_mul(FILTERS)?;
        let weight = matrices.next().filter(|weight| weight.dim() == (width, outputs))?;
        Some(Self { sums: Sums::from_record(matrices, width, Detail::Covariance)?, weight })
    }
}

impl Filtered {
    /// Of a convolution with this weight (K×N, `taps` rows for each channel); `count` filters stay of each channel.
    /// Portions of the samples are kept `apart` where others sum up the rest.
    pub(super) fn new(weight: Array2<f64>, (taps, count): (usize, usize), name: &str, apart: bool) -> Self {
        let raw = Block::new(weight.nrows(), weight.nrows());
        let folded = Folded::new(apart);
        Self { taps, count: count.min(taps), weight, name: name.to_owned(), raw, state: None, leaf: 0, folded }
    }

    /// The next rows are of this portion of the samples.
    ///
    /// # Errors
    /// If activations are not finite.
    pub(super) fn enter(&mut self, leaf: usize) -> Result<()> {
        if leaf != self.leaf {
            self.close()?;
            self.leaf = leaf;
        }
        Ok(())
    }

    /// Ends a portion.
    fn close(&mut self) -> Result<()> {
        self.flush()?;
        if let Some(state) = &mut self.state {
            let empty = Sums::new(state.weight.nrows(), 0, Detail::Covariance);
            let sums = std::mem::replace(&mut state.sums, empty);
            if sums.rows() > 0 {
                self.folded.push(self.leaf, vec![sums]);
            }
        }
        Ok(())
    }

    /// Forgets all rows but not the filters that were found by them: this machine sums up other portions.
    ///
    /// # Errors
    /// If activations are not finite.
    pub(super) fn forget_rows(&mut self) -> Result<()> {
        self.close()?;
        self.folded = Folded::new(true);
        Ok(())
    }

    /// Where the next rows belong; at least one fits.
    pub(super) fn raw(&mut self) -> &mut Block {
        &mut self.raw
    }

    /// Takes in the rows of a block that is full.
    ///
    /// # Errors
    /// If activations are not finite.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.raw.rows() == 0 {
            return Ok(());
        }
        if self.state.is_none() {
            self.state = Some(self.begin()?);
        }
        let Some(State { filters, z, none, sums, .. }) = &mut self.state else { return Ok(()) };
        let rows = self.raw.rows();
        let mut into = z.next(rows);
        for (channel, filter) in filters.iter().enumerate() {
            for number in 0..filter.ncols() {
                let column = into.column(channel * filter.ncols() + number);
                column.fill(0.0);
                for (tap, &factor) in filter.column(number).iter().enumerate() {
                    let values = self.raw.column(channel * self.taps + tap);
                    column.iter_mut().zip(values).for_each(|(to, &value)| *to += factor * value);
                }
            }
        }
        none.next(rows);
        self.raw.clear();
        sums.add(default_backend(), z, none);
        Ok(())
    }

    /// The filters, by what is in the first block.
    fn begin(&self) -> Result<State> {
        let channels = self.weight.nrows() / self.taps.max(1);
        let found: Vec<(Array2<f32>, Array2<f64>)> =
            (0..channels).into_par_iter().map(|channel| self.filters(channel)).collect::<Result<_>>()?;
        let width = channels * self.count;
        let mut weight = Array2::zeros((width, self.weight.ncols()));
        for (channel, (_, part)) in found.iter().enumerate() {
            weight.slice_mut(s![channel * self.count..(channel + 1) * self.count, ..]).assign(part);
        }
        let filters = found.into_iter().map(|(filters, _)| filters).collect();
        let sums = Sums::new(width, 0, Detail::Covariance);
        let inputs = self.raw.width();
        Ok(State { filters, weight, z: Block::new(width, inputs), none: Block::new(0, inputs), sums })
    }

    /// B of one channel, and what stands in place of its weight.
    #[allow(clippy::cast_possible_truncation)]
    fn filters(&self, channel: usize) -> Result<(Array2<f32>, Array2<f64>)> {
        let backend = default_backend();
        let own = channel * self.taps..(channel + 1) * self.taps;
        let mut x = Array2::zeros((self.raw.rows(), self.taps));
        for (mut to, tap) in x.columns_mut().into_iter().zip(own.clone()) {
            to.iter_mut().zip(self.raw.column(tap)).for_each(|(to, &value)| *to = f64::from(value));
        }
        let covariance = Sums::of(backend, x.view(), x.slice(s![.., ..0])).covariance();
        let weight = self.weight.slice(s![own, ..]);
        let eigen = backend.eigh(covariance.view(), &self.name)?;
        let floor = LEAST * eigen.values.first().copied().unwrap_or(0.0).max(0.0).sqrt();
        let deviations = eigen.values.mapv(|v| v.max(0.0).sqrt().max(floor)).mapv(|d| if d > 0.0 { d } else { 1.0 });
        // S W in the basis of C's eigenvectors.
        let heard = (&eigen.vectors * &deviations).t().dot(&weight);
        let loudest = backend.eigh(heard.dot(&heard.t()).view(), &self.name)?;
        let loudest = loudest.vectors.slice_move(s![.., ..self.count]);
        let qr = backend.qr((&eigen.vectors / &deviations).dot(&loudest).view(), &self.name)?;
        Ok((qr.q.mapv(|v| v as f32), qr.r.dot(&loudest.t().dot(&heard))))
    }

    /// The sums of all rows, or of each portion where these are kept apart; none without rows.
    ///
    /// # Errors
    /// If activations are not finite.
    pub(super) fn finish(mut self) -> Result<Vec<(usize, Heard)>> {
        self.close()?;
        let Some(State { weight, .. }) = self.state else { return Ok(Vec::new()) };
        let portions =
            self.folded.finish().into_iter().filter_map(|(leaf, sums)| Some((leaf, sums.into_iter().next()?)));
        Ok(portions.map(|(leaf, sums)| (leaf, Heard { sums: sums.finish(), weight: weight.clone() })).collect())
    }
}

#[cfg(test)]
#[path = "taps_tests.rs"]
mod tests;
