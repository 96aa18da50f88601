//! One layer, decomposed: the error of every rank, and the factors of the chosen one.

use ndarray::{Array2, ArrayD, Ix2};

use super::candidates::{Candidate, Form};
use crate::error::{Error, Result};
use crate::linalg::Backend;
use crate::lowrank::conv::{ConvMode, Kernel, inputs_in_proportion, tucker_ranks, tucker2};
use crate::lowrank::low_rank::{ErrorCurve, LowRank};
use crate::lowrank::nmf::{self, NmfOptions};
use crate::lowrank::outputs::{InputMoments, Inputs, OutputPca, Space};
use crate::lowrank::semi_nmf;
use crate::lowrank::svd::WeightSvd;
use crate::lowrank::{Factors, encoded};

/// The decomposition of weight matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Singular value decomposition of the weight or, with data, of the layer's outputs.
    #[default]
    Svd,
    /// Nonnegative matrix factorization: both factors are nonnegative.
    Nmf,
    /// Semi-nonnegative matrix factorization: one factor is nonnegative.
    SemiNmf,
}

/// A layer from which every rank can be read.
#[derive(Debug)]
pub struct Decomposition {
    curve: ErrorCurve,
    parts: Parts,
    /// The weight as the nodes see it, where the factors are computed from it.
    weight: Option<ArrayD<f64>>,
    is_of_outputs: bool,
}

#[derive(Debug)]
enum Parts {
    Svd(Vec<WeightSvd>),
    Outputs(Vec<OutputPca>),
    /// Spatial and Tucker-2 with data.
    Encoded(Vec<encoded::Group>),
    Nmf,
    SemiNmf,
    Tucker2,
}

impl Decomposition {
    /// Decomposes the weight of a layer (as the nodes see it), one matrix for each group. With `inputs` the SVD is that of
    /// the outputs.
    ///
    /// # Errors
    /// Weights that are not finite, no convergence, negative weights for [`Method::Nmf`]; all name the layer.
    pub fn new(
        backend: &dyn Backend,
        candidate: &Candidate,
        weight: ArrayD<f64>,
        (method, mode): (Method, ConvMode),
        inputs: Option<Vec<Inputs>>,
    ) -> Result<Self> {
        let name = candidate.tensor.as_str();
        if let Some(inputs) = inputs.filter(|_| method == Method::Svd) {
            let (curve, parts) = of_outputs(backend, candidate, &weight, mode, inputs)?;
            return Ok(Self { curve, parts, weight: Some(weight), is_of_outputs: true });
        }
        let matrices = matrices(candidate, &weight, mode)?;
        if mode == ConvMode::Tucker2 {
            let curve = tucker_curve(backend, &weight, candidate)?;
            return Ok(Self { curve, parts: Parts::Tucker2, weight: Some(weight), is_of_outputs: false });
        }
        let svds: Vec<WeightSvd> =
            matrices.iter().map(|w| WeightSvd::new(backend, w.view(), name)).collect::<Result<_>>()?;
        let curve = summed(svds.iter().map(WeightSvd::curve));
        let parts = match method {
            Method::Svd => Parts::Svd(svds),
            Method::Nmf => {
                matrices.iter().try_for_each(|w| nmf::require_nonnegative(w.view(), name))?;
                Parts::Nmf
            }
            Method::SemiNmf => Parts::SemiNmf,
        };
        Ok(Self { curve, parts, weight: Some(weight), is_of_outputs: false })
    }

    /// Squared error at every rank, summed over groups: of the outputs with data, of the weight without. For NMF that
    /// of the SVD, which it cannot fall below; for Tucker-2 the sum of both truncations, which it cannot exceed; for
    /// spatial and Tucker-2 splits with data an estimate.
    pub fn curve(&self) -> &ErrorCurve {
        &self.curve
    }

    /// Squared error at every rank where only these outputs of each group are left; `None` where that is not known.
    ///
    /// # Errors
    /// No convergence.
    pub(crate) fn curve_of(&self, backend: &dyn Backend, outputs: &[usize]) -> Result<Option<ErrorCurve>> {
        match &self.parts {
            Parts::Outputs(pcas) if pcas.len() == 1 => pcas[0].curve_of(backend, outputs).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether the error is that of outputs on data.
    pub fn is_of_outputs(&self) -> bool {
        self.is_of_outputs
    }

    /// The factors of rank `rank`, the same in every group.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the rank is 0 or above full; no convergence.
    pub fn split(&self, backend: &dyn Backend, candidate: &Candidate, mode: ConvMode, rank: usize) -> Result<Factors> {
        let name = candidate.tensor.as_str();
        let weight = self.weight.as_ref();
        let matrices = || weight.map(|w| matrices(candidate, w, mode)).transpose().map(Option::unwrap_or_default);
        let groups: Vec<LowRank> = match &self.parts {
            Parts::Svd(svds) => svds.iter().map(|svd| svd.split(rank)).collect::<Result<_>>()?,
            Parts::Outputs(pcas) => pcas.iter().map(|pca| pca.split(backend, rank)).collect::<Result<_>>()?,
            Parts::Nmf => matrices()?
                .iter()
                .map(|w| Ok(nmf::split(backend, w.view(), rank, NmfOptions::default(), name)?.split))
                .collect::<Result<_>>()?,
            Parts::SemiNmf => {
                matrices()?.iter().map(|w| semi_nmf::split(backend, w.view(), rank, name)).collect::<Result<_>>()?
            }
            Parts::Encoded(groups) => {
                let weight = weight.ok_or_else(|| Error::input("its kernel is missing"))?;
                let kernel = kernel(candidate, weight)?;
                let split = |group: &encoded::Group| group.split(backend, &kernel, mode, rank);
                let groups = groups.iter().map(split).collect::<Result<_>>()?;
                return encoded::assembled(&kernel, mode, groups);
            }
            Parts::Tucker2 => {
                let weight = weight.ok_or_else(|| Error::input("its kernel is missing"))?;
                let kernel = kernel(candidate, weight)?;
                let ranks = tucker_ranks(&kernel, rank);
                return tucker2(backend, &kernel, ranks).map(Factors::Tucker2);
            }
        };
        assembled(candidate, mode, groups)
    }

    /// Variance of the outputs of each group; empty where the error is not that of outputs.
    pub(crate) fn output_energies(&self) -> Vec<f64> {
        match &self.parts {
            Parts::Outputs(pcas) => pcas.iter().map(|pca| pca.curve().total()).collect(),
            Parts::Encoded(groups) => groups.iter().map(encoded::Group::energy).collect(),
            _ => Vec::new(),
        }
    }
}

/// Decomposes the outputs of every group.
fn of_outputs(
    backend: &dyn Backend,
    candidate: &Candidate,
    weight: &ArrayD<f64>,
    mode: ConvMode,
    inputs: Vec<Inputs>,
) -> Result<(ErrorCurve, Parts)> {
    // Rows are in im2col order, as the inputs are.
    let matrices = matrices(candidate, weight, ConvMode::Channel)?;
    if inputs.len() != matrices.len() {
        return Err(Error::input("its inputs were not measured for each group"));
    }
    let groups = matrices.into_iter().zip(inputs);
    if candidate.form == Form::Table {
        let pca = |(w, x): (Array2<f64>, Inputs)| OutputPca::of_rows(backend, w, &x.mean, &candidate.tensor);
        let pcas: Vec<OutputPca> = groups.map(pca).collect::<Result<_>>()?;
        return Ok((summed(pcas.iter().map(OutputPca::curve)), Parts::Outputs(pcas)));
    }
    if matches!(mode, ConvMode::Spatial | ConvMode::Tucker2) {
        let kernel = kernel(candidate, weight)?;
        let groups: Vec<encoded::Group> =
            groups.map(|(w, x)| encoded::Group::new(backend, w, (&kernel, mode), x)).collect::<Result<_>>()?;
        return Ok((summed(groups.iter().map(encoded::Group::curve)), Parts::Encoded(groups)));
    }
    let pca = |(w, x): (Array2<f64>, Inputs)| {
        if x.space == Space::Outputs {
            return OutputPca::of_outputs(backend, w, (&x.mean, x.covariance.view()), &candidate.tensor);
        }
        let moments = InputMoments { matrix: x.covariance.view(), mean: Some(&x.mean) };
        OutputPca::new(backend, w.view(), moments, &candidate.tensor)
    };
    let pcas: Vec<OutputPca> = groups.map(pca).collect::<Result<_>>()?;
    Ok((summed(pcas.iter().map(OutputPca::curve)), Parts::Outputs(pcas)))
}

/// The factors of all groups as those of the layer.
pub(crate) fn assembled(candidate: &Candidate, mode: ConvMode, groups: Vec<LowRank>) -> Result<Factors> {
    match candidate.form {
        Form::Matrix | Form::Table | Form::Gates { .. } => {
            let first = groups.into_iter().next();
            first.map(Factors::Matrix).ok_or_else(|| Error::input("it has no matrix"))
        }
        Form::Kernel { groups: count } => {
            let shape = ArrayD::zeros(candidate.dims.clone());
            let kernel = Kernel::new(shape.view(), count, &candidate.tensor)?;
            match mode {
                ConvMode::Spatial => kernel.spatial_split(&groups).map(Factors::Spatial),
                _ => kernel.channel_split(&groups).map(Factors::Channel),
            }
        }
    }
}

pub(crate) fn kernel<'w>(candidate: &Candidate, weight: &'w ArrayD<f64>) -> Result<Kernel<'w>> {
    let Form::Kernel { groups } = candidate.form else { return Err(Error::input("it is no convolution")) };
    Kernel::new(weight.view(), groups, &candidate.tensor)
}

/// The matrices that are factorized, one for each group.
pub(crate) fn matrices(candidate: &Candidate, weight: &ArrayD<f64>, mode: ConvMode) -> Result<Vec<Array2<f64>>> {
    if !matches!(candidate.form, Form::Kernel { .. }) {
        let stored = weight.view().into_dimensionality::<Ix2>().map_err(|e| Error::input(e.to_string()))?;
        let turned =
            if candidate.linear.weight_in < candidate.linear.weight_out { stored } else { stored.reversed_axes() };
        return Ok(vec![turned.as_standard_layout().into_owned()]);
    }
    let kernel = kernel(candidate, weight)?;
    match mode {
        ConvMode::Spatial => kernel.spatial_matrices(),
        _ => Ok(kernel.channel_matrices()),
    }
}

/// The sum of several curves, rank by rank.
fn summed<'c>(curves: impl Iterator<Item = &'c ErrorCurve>) -> ErrorCurve {
    let curves: Vec<&ErrorCurve> = curves.collect();
    let full = curves.iter().map(|curve| curve.full_rank()).max().unwrap_or(0);
    let component = |rank: usize| curves.iter().map(|c| c.error(rank) - c.error(rank + 1)).sum::<f64>();
    ErrorCurve::from_components((0..full).map(component))
}

/// The sum of what truncating outputs and truncating inputs costs (De Lathauwer, De Moor & Vandewalle 2000, property 10).
fn tucker_curve(backend: &dyn Backend, weight: &ArrayD<f64>, candidate: &Candidate) -> Result<ErrorCurve> {
    let kernel = kernel(candidate, weight)?;
    let (inputs, outputs) = (kernel.inputs(), kernel.outputs());
    let mut errors = vec![0.0; outputs + 1];
    for [by_output, by_input] in kernel.unfoldings() {
        let o = WeightSvd::new(backend, by_output.view(), &candidate.tensor)?;
        let i = WeightSvd::new(backend, by_input.view(), &candidate.tensor)?;
        for (rank, error) in errors.iter_mut().enumerate() {
            let bound = o.curve().error(rank) + i.curve().error(inputs_in_proportion(inputs, outputs, rank));
            *error += if rank == 0 { o.curve().total() } else { bound.min(o.curve().total()) };
        }
    }
    Ok(ErrorCurve::from_components(errors.windows(2).map(|pair| pair[0] - pair[1])))
}
