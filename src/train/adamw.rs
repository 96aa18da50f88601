//! AdamW (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization"), with its state in plain vectors. Steps are
//! relative to the size of each tensor, as in Adafactor (Shazeer & Stern 2018, section 8).

use rayon::prelude::*;

use super::program::Parameter;

const BETA: (f32, f32) = (0.9, 0.999);
const EPSILON: f32 = 1e-8;

/// Elements that one task moves.
const CHUNK: usize = 1 << 14;

/// Largest norm of the gradient of all parameters together.
const CLIP: f64 = 1.0;

/// Smallest size of a tensor that steps are relative to, so that biases of zero can move (ε₂ of Adafactor).
const SMALLEST: f64 = 1e-3;

/// Moments of one parameter's gradient, and the size of its steps.
#[derive(Debug, Clone)]
struct Moments {
    mean: Vec<f32>,
    square: Vec<f32>,
    /// Root mean square of the parameter before training.
    size: f32,
}

/// The optimizer of some parameters.
#[derive(Debug, Clone)]
pub(super) struct AdamW {
    moments: Vec<Moments>,
    steps: i32,
    decay: f32,
}

impl AdamW {
    /// For `parameters`; weights of two and more axes decay by `decay` times the rate a step.
    pub(super) fn new(parameters: &[Parameter], decay: f32) -> Self {
        let moments = |parameter: &Parameter| {
            let count = parameter.value.len();
            Moments { mean: vec![0.0; count], square: vec![0.0; count], size: size(parameter.value.data()) }
        };
        Self { moments: parameters.iter().map(moments).collect(), steps: 0, decay }
    }

    /// One step against the gradients, one for each parameter, whose common norm is clipped to 1. It moves each weight by about
    /// `rate` times the root mean square of its tensor. A parameter without a gradient stays.
    pub(super) fn step(&mut self, parameters: &mut [Parameter], gradients: &[Option<Vec<f32>>], rate: f32) {
        self.steps += 1;
        let square = |gradient: &Vec<f32>| gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        let norm = gradients.iter().flatten().map(square).sum::<f64>();
        #[allow(clippy::cast_possible_truncation)]
        let scale = (CLIP / norm.sqrt().max(CLIP)) as f32;
        let bias = (1.0 - BETA.0.powi(self.steps), 1.0 - BETA.1.powi(self.steps));
        for ((parameter, moments), gradient) in parameters.iter_mut().zip(&mut self.moments).zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let decay = if parameter.value.rank() > 1 { self.decay * rate } else { 0.0 };
            let rate = rate * moments.size;
            let moments = moments.mean.par_chunks_mut(CHUNK).zip(moments.square.par_chunks_mut(CHUNK));
            let weights = parameter.value.data_mut().par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
            weights.zip(moments).for_each(|((weights, gradient), (means, squares))| {
                let moments = means.iter_mut().zip(squares);
                for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(moments) {
                    let g = g * scale;
                    *m = BETA.0 * *m + (1.0 - BETA.0) * g;
                    *v = BETA.1 * *v + (1.0 - BETA.1) * g * g;
                    *w -= decay * *w + rate * (*m / bias.0) / ((*v / bias.1).sqrt() + EPSILON);
                }
            });
        }
    }
}

/// The root mean square of a tensor, at least [`SMALLEST`].
#[allow(clippy::cast_possible_truncation)]
fn size(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (squares / values.len().max(1) as f64).sqrt().max(SMALLEST) as f32
}

/// The rate at `progress` (0..1) of training: a linear start, then a cosine down to nothing.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn rate(peak: f64, progress: f64) -> f32 {
    const WARM_UP: f64 = 0.05;
    let share = if progress < WARM_UP {
        progress / WARM_UP
    } else {
        let rest = (progress - WARM_UP) / (1.0 - WARM_UP);
        0.5 * (1.0 + (std::f64::consts::PI * rest.min(1.0)).cos())
    };
    (peak * share) as f32
}
