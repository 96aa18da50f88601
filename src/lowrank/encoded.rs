//! Data-aware splits whose first convolution does not see the whole window at once: spatial and Tucker-2.
//!
//! Seen from the window, the first convolution is one small map E, from n inputs to r, applied at each of b places: a column
//! of the window (n = i k₁, b = k₂) in a spatial split, a pixel (n = i, b = k₁ k₂ …) in Tucker-2. With x the window as a
//! matrix n×b, the layer y = Σ_p W_pᵀ x_p becomes ŷ = Σ_p G_pᵀ (E x_p).
//!
//! * E keeps what the outputs need of one place, as if places did not depend on each other: the leading r eigenvectors U of
//!   C^½ (Σ_p W_p W_pᵀ) C^½, with C the covariance of x_p averaged over places; E = Uᵀ C^-½. (The output PCA of
//!   [`outputs`](super::outputs), from the side of the inputs.)
//! * G is then the least-squares map from what E leaves to the outputs, whatever the places have to do with each other; in
//!   Tucker-2 of the rank that the last 1×1 convolution has: reduced-rank regression. The moments of E x follow from those of
//!   x, so no second pass over the data is needed, and the error that is reported is that of the two together, exactly.
//!
//! An input that has changed since ([`correct`](crate::factorize::correct)) changes the moments, nothing else.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::Factors;
use super::conv::{ConvMode, ConvSplit, Kernel, concatenated, inputs_in_proportion, reshaped};
use super::low_rank::{ErrorCurve, LowRank, require_rank, require_shape};
use super::outputs::{InputMoments, Inputs, OutputPca, Target};
use crate::error::Result;
use crate::linalg::Backend;

/// Pull of the least-squares map towards the one that inverts E, as a share of the mean variance, where inputs are those of
/// the original: it decides where the data says nothing, and no more.
const DAMPING: f64 = 1e-7;

/// Variances below this share of the largest count as this: E stays invertible at full rank.
const FLOOR: f64 = 1e-4;

/// One group of a kernel, and what its inputs are like.
#[derive(Debug)]
pub(crate) struct Group {
    /// (i k…)×o, rows in im2col order.
    weight: Array2<f64>,
    inputs: Inputs,
    /// E[(x − μ) yᵀ], of the shape of the weight.
    cross: Array2<f64>,
    energy: f64,
    encoders: Encoders,
    curve: ErrorCurve,
}

impl Group {
    /// # Errors
    /// As [`Encoders::new`].
    pub(crate) fn new(
        backend: &dyn Backend,
        weight: Array2<f64>,
        (kernel, mode): (&Kernel<'_>, ConvMode),
        inputs: Inputs,
    ) -> Result<Self> {
        let moments = InputMoments { matrix: inputs.covariance.view(), mean: Some(&inputs.mean) };
        let cross = backend.matmul(moments.matrix, weight.view());
        let energy = (&weight * &cross).sum();
        let encoders = Encoders::new(backend, weight.view(), places(kernel, mode), moments, &kernel.name)?;
        let by_input = encoders.curve(energy);
        let curve = if mode == ConvMode::Tucker2 {
            let by_output = OutputPca::new(backend, weight.view(), moments, &kernel.name)?;
            let by_output = by_output.curve();
            let full = by_output.full_rank();
            let error = |rank: usize| {
                let inner = inputs_in_proportion(kernel.inputs(), kernel.outputs(), rank);
                if rank == 0 { energy } else { (by_output.error(rank) + by_input.error(inner)).min(energy) }
            };
            ErrorCurve::from_components((0..full).map(|rank| error(rank) - error(rank + 1)))
        } else {
            by_input
        };
        Ok(Self { weight, inputs, cross, energy, encoders, curve })
    }

    /// The error of every rank, estimated: as if places did not depend on each other, and truncations added up.
    pub(crate) fn curve(&self) -> &ErrorCurve {
        &self.curve
    }

    /// E‖y − E y‖².
    pub(crate) fn energy(&self) -> f64 {
        self.energy
    }

    /// # Errors
    /// As [`Encoders::split`].
    pub(crate) fn split(
        &self,
        backend: &dyn Backend,
        kernel: &Kernel<'_>,
        mode: ConvMode,
        rank: usize,
    ) -> Result<Encoded> {
        let mean = self.weight.t().dot(&self.inputs.mean);
        let moments = InputMoments { matrix: self.inputs.covariance.view(), mean: Some(&self.inputs.mean) };
        let target = Target { cross: self.cross.view(), mean: Some(&mean), energy: self.energy };
        self.encoders.split(backend, self.weight.view(), ranks(kernel, mode, rank), moments, target, DAMPING)
    }
}

/// Places of the window at which the first convolution is applied.
pub(crate) fn places(kernel: &Kernel<'_>, mode: ConvMode) -> usize {
    match mode {
        ConvMode::Spatial => kernel.window().last().copied().unwrap_or(1),
        _ => kernel.window().iter().product(),
    }
}

/// Values kept at each place, and the rank of the map after them if it has one.
pub(crate) fn ranks(kernel: &Kernel<'_>, mode: ConvMode, rank: usize) -> (usize, Option<usize>) {
    match mode {
        ConvMode::Spatial => (rank, None),
        _ => (inputs_in_proportion(kernel.inputs(), kernel.outputs(), rank), Some(rank)),
    }
}

/// The convolutions of all groups.
///
/// # Errors
/// Groups of unequal ranks.
pub(crate) fn assembled(kernel: &Kernel<'_>, mode: ConvMode, groups: Vec<Encoded>) -> Result<Factors> {
    if mode == ConvMode::Spatial {
        let width = kernel.window().last().copied().unwrap_or(1);
        let pair = |Encoded { encoder, map }: Encoded| {
            // (r k₂)×o to r×(o k₂).
            let product = map.a.dot(&map.b);
            let b = Array2::from_shape_fn((encoder.nrows(), kernel.outputs() * width), |(r, column)| {
                product[[r * width + column % width, column / width]]
            });
            LowRank { a: encoder.reversed_axes(), b, bias_shift: map.bias_shift, error: map.error }
        };
        let pairs: Vec<LowRank> = groups.into_iter().map(pair).collect();
        return kernel.spatial_split(&pairs).map(Factors::Spatial);
    }
    let ones: Vec<usize> = kernel.window().iter().map(|_| 1).collect();
    let shape = |outputs: usize, inputs: usize, window: &[usize]| [&[outputs, inputs], window].concat();
    let first = |g: &Encoded| reshaped(g.encoder.iter(), &shape(g.encoder.nrows(), kernel.inputs(), &ones));
    let core = |g: &Encoded| reshaped(g.map.a.t().iter(), &shape(g.map.rank(), g.encoder.nrows(), kernel.window()));
    let last = |g: &Encoded| reshaped(g.map.b.t().iter(), &shape(kernel.outputs(), g.map.rank(), &ones));
    let maps: Vec<&LowRank> = groups.iter().map(|group| &group.map).collect();
    Ok(Factors::Tucker2(ConvSplit {
        kernels: vec![
            kernel.stacked(groups.iter().map(first))?,
            kernel.stacked(groups.iter().map(core))?,
            kernel.stacked(groups.iter().map(last))?,
        ],
        bias_shift: concatenated(&maps),
        error: maps.iter().map(|map| map.error).sum(),
    }))
}

/// The encoders of every rank for one group of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Encoders {
    /// E of full rank, n×n: the first r rows are that of rank r.
    encoder: Array2<f64>,
    /// E⁻¹, n×n.
    decoder: Array2<f64>,
    places: usize,
    /// What each row of E explains of the outputs, if places did not depend on each other.
    energies: Vec<f64>,
    name: String,
}

/// A fitted split of one group.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    /// E, r×n.
    pub(crate) encoder: Array2<f64>,
    /// G as two factors, (r b)×s and s×N, rows in the order (r, place).
    pub(crate) map: LowRank,
}

impl Encoders {
    /// For a layer W ((n b)×N, rows in the order (n, place)) on inputs with these moments.
    ///
    /// # Errors
    /// Moments that do not fit W; entries that are not finite; no convergence.
    pub(crate) fn new(
        backend: &dyn Backend,
        w: ArrayView2<'_, f64>,
        places: usize,
        inputs: InputMoments<'_>,
        name: &str,
    ) -> Result<Self> {
        let rows = w.nrows();
        require_shape(inputs.matrix.dim(), (rows, rows), "input covariance", name)?;
        require_shape((rows % places.max(1), 1), (0, 1), "window", name)?;
        let size = rows / places.max(1);
        let mut covariance = Array2::<f64>::zeros((size, size));
        let mut needed = Array2::<f64>::zeros((size, size));
        for place in 0..places {
            covariance += &inputs.matrix.slice(s![place..;places, place..;places]);
            let weight = w.slice(s![place..;places, ..]);
            needed += &backend.matmul(weight, weight.t());
        }
        covariance /= places as f64;
        let eigh = backend.eigh(covariance.view(), name)?;
        let floor = FLOOR * eigh.values.iter().copied().fold(0.0, f64::max);
        let deviation = eigh.values.mapv(|x| x.max(floor).sqrt()).mapv(|x| if x > 0.0 { x } else { 1.0 });
        // C^½ and C^-½ up to the same rotation.
        let (root, inverse) = (&eigh.vectors * &deviation, &eigh.vectors / &deviation);
        let whitened = backend.matmul(root.t(), backend.matmul(needed.view(), root.view()).view());
        let principal = backend.eigh(whitened.view(), name)?;
        Ok(Self {
            encoder: backend.matmul(principal.vectors.t(), inverse.t()),
            decoder: backend.matmul(root.view(), principal.vectors.view()),
            places,
            energies: principal.values.to_vec(),
            name: name.to_owned(),
        })
    }

    /// The error of every rank if places did not depend on each other, of outputs of this energy.
    fn curve(&self, energy: f64) -> ErrorCurve {
        let total: f64 = self.energies.iter().map(|x| x.max(0.0)).sum();
        let scale = if total > 0.0 { energy / total } else { 0.0 };
        ErrorCurve::from_components(self.energies.iter().map(|x| x.max(0.0) * scale))
    }

    /// The split that keeps `rank` values at each place, the map after it of the rank `behind`. `damping` is the pull
    /// of the least-squares map towards the one that inverts E, as a share of the mean variance.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when a rank is 0 or above full; what the regression returns.
    pub(crate) fn split(
        &self,
        backend: &dyn Backend,
        w: ArrayView2<'_, f64>,
        (rank, behind): (usize, Option<usize>),
        inputs: InputMoments<'_>,
        target: Target<'_>,
        damping: f64,
    ) -> Result<Encoded> {
        require_rank(rank, self.encoder.nrows(), &self.name)?;
        let encoder = self.encoder.slice(s![..rank, ..]);
        let decoded = self.at_places(backend, self.decoder.slice(s![.., ..rank]).t(), w);
        let half = self.at_places(backend, encoder, inputs.matrix);
        let covariance = self.at_places(backend, encoder, half.t());
        let mean = inputs.mean.map(|mean| {
            let column = mean.view().insert_axis(Axis(1));
            self.at_places(backend, encoder, column).index_axis_move(Axis(1), 0)
        });
        let cross = self.at_places(backend, encoder, target.cross);
        let moments = InputMoments { matrix: covariance.view(), mean: mean.as_ref() };
        let target = Target { cross: cross.view(), ..target };
        let pca = OutputPca::corrected(backend, decoded.view(), moments, target, damping, &self.name)?;
        let full = pca.curve().full_rank();
        let map = pca.split(backend, behind.unwrap_or(full))?;
        Ok(Encoded { encoder: encoder.to_owned(), map })
    }

    /// `e` (r×n) applied at every place of the rows of `x`: (n b)×M becomes (r b)×M.
    fn at_places(&self, backend: &dyn Backend, e: ArrayView2<'_, f64>, x: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut out = Array2::zeros((e.nrows() * self.places, x.ncols()));
        for place in 0..self.places {
            let part = backend.matmul(e, x.slice(s![place..;self.places, ..]));
            out.slice_mut(s![place..;self.places, ..]).assign(&part);
        }
        out
    }
}

#[cfg(test)]
#[path = "encoded_tests.rs"]
mod tests;
