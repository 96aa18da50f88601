//! Tucker-2: low rank in the output and the input channels of a kernel at once.

use ndarray::{Array2, ArrayD, ArrayViewD, IxDyn, s};

use super::conv::{ConvSplit, Kernel, matrix, reshaped};
use super::low_rank::{energy, require_rank};
use crate::Result;
use crate::linalg::Backend;

/// Relative increase of the core's energy in a round below which the iteration ends.
const TOLERANCE: f64 = 1e-9;

/// Rounds after which to stop in any case.
const MAX_ROUNDS: usize = 50;

/// The ranks of a Tucker-2 split, per group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tucker2 {
    /// Channels after the first 1×1 convolution, at most I/g.
    pub inputs: usize,
    /// Channels before the last 1×1 convolution, at most O/g.
    pub outputs: usize,
}

/// Three convolutions, 1×1 to `inputs`, k… to `outputs`, 1×1 to O, by higher-order orthogonal iteration
/// (De Lathauwer, De Moor & Vandewalle 2000). The error is ‖W‖² − ‖core‖², exactly.
///
/// # Errors
/// Ranks of 0 or above the channels; entries that are not finite; no convergence.
pub fn tucker2(backend: &dyn Backend, kernel: &Kernel<'_>, ranks: Tucker2) -> Result<ConvSplit> {
    require_rank(ranks.inputs, kernel.inputs(), &kernel.name)?;
    require_rank(ranks.outputs, kernel.outputs(), &kernel.name)?;
    let parts: Vec<Decomposed> = kernel
        .by_group(|group| Decomposed::new(backend, group, ranks, &kernel.name))
        .into_iter()
        .collect::<Result<_>>()?;
    let ones: Vec<usize> = kernel.window().iter().map(|_| 1).collect();
    let shape = |outputs: usize, inputs: usize, window: &[usize]| [&[outputs, inputs], window].concat();
    let first = shape(ranks.inputs, kernel.inputs(), &ones);
    let core = shape(ranks.outputs, ranks.inputs, kernel.window());
    let last = shape(kernel.outputs(), ranks.outputs, &ones);
    Ok(ConvSplit {
        kernels: vec![
            kernel.stacked(parts.iter().map(|p| reshaped(p.inputs.t().iter(), &first)))?,
            kernel.stacked(parts.iter().map(|p| reshaped(p.core.iter(), &core)))?,
            kernel.stacked(parts.iter().map(|p| reshaped(p.outputs.iter(), &last)))?,
        ],
        bias_shift: None,
        error: parts.iter().map(|p| p.error).sum(),
    })
}

/// W [O, I, k…] ≈ core [r_o, r_i, k…] × outputs (O×r_o) × inputs (I×r_i).
struct Decomposed {
    outputs: Array2<f64>,
    inputs: Array2<f64>,
    core: Array2<f64>,
    error: f64,
}

impl Decomposed {
    fn new(backend: &dyn Backend, w: ArrayViewD<'_, f64>, ranks: Tucker2, name: &str) -> Result<Self> {
        let (o, i) = (w.shape()[0], w.shape()[1]);
        let area = w.len() / (o * i);
        let by_output = matrix(w.view(), o, i * area);
        let mut outputs = leading(backend, &by_output, ranks.outputs, name)?;
        let (mut kept, mut round) = (0.0, 0);
        loop {
            // W with its outputs projected, [r_o, I, k…], unfolded by input: I×(r_o k…)
            let projected = backend.matmul(outputs.t(), by_output.view());
            let inputs_first = swapped(&projected, ranks.outputs, i, area);
            let inputs = leading(backend, &inputs_first, ranks.inputs, name)?;
            let core = backend.matmul(inputs.t(), inputs_first.view());
            let now = energy(&core);
            round += 1;
            if now - kept <= TOLERANCE * now || round == MAX_ROUNDS {
                let error = (energy(&by_output) - now).max(0.0);
                let core = swapped(&core, ranks.inputs, ranks.outputs, area);
                return Ok(Self { outputs, inputs, core, error });
            }
            kept = now;
            // W with its inputs projected, unfolded by output: O×(r_i k…)
            let unfolded = swapped(&by_output, o, i, area);
            let projected = backend.matmul(inputs.t(), unfolded.view());
            let outputs_first = swapped(&projected, ranks.inputs, o, area);
            outputs = leading(backend, &outputs_first, ranks.outputs, name)?;
        }
    }
}

/// The first r left singular vectors, as eigenvectors of M Mᵀ.
fn leading(backend: &dyn Backend, m: &Array2<f64>, rank: usize, name: &str) -> Result<Array2<f64>> {
    let gram = backend.matmul(m.view(), m.t());
    let eigh = backend.eigh(gram.view(), name)?;
    Ok(eigh.vectors.slice(s![.., ..rank]).to_owned())
}

/// a×(b·area) → b×(a·area).
fn swapped(m: &Array2<f64>, a: usize, b: usize, area: usize) -> Array2<f64> {
    let whole: ArrayD<f64> = reshaped(m.iter(), &[a, b, area]);
    matrix(whole.view().permuted_axes(IxDyn(&[1, 0, 2])), b, a * area)
}

/// Output channels of the core are the rank; input channels in proportion.
pub(crate) fn tucker_ranks(kernel: &Kernel<'_>, rank: usize) -> Tucker2 {
    Tucker2 { inputs: inputs_in_proportion(kernel.inputs(), kernel.outputs(), rank), outputs: rank }
}

/// Input channels of a Tucker-2 core whose output channels are `rank` of `outputs`: as many of `inputs` in proportion.
pub(crate) fn inputs_in_proportion(inputs: usize, outputs: usize, rank: usize) -> usize {
    ((rank * inputs + outputs / 2) / outputs.max(1)).clamp(1, inputs.max(1))
}
