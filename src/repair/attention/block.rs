//! The function of one attention block, its derivative, and the transpose of that.
//!
//! With inputs x̃ that end in a constant 1 (so that a matrix holds its bias as last row), for each head:
//!
//! ```text
//! Q = x̃ W_q    K = x̃ W_k    V = x̃ W_v    P = softmax(α Q Kᵀ + B)    y = [P V …, 1] W_o
//! dS = α (dQ Kᵀ + Q dKᵀ)    dP = P ∘ (dS − rowsum(P ∘ dS))    dy = [dP V + P dV …, 0] W_o + [P V …, 1] dW_o
//! ```
//!
//! In f32 where a fit takes its steps, in f64 where the formulas are tested.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, NdFloat, s};

/// Weights of a block: queries, keys, values, output, each with its bias as last row.
pub(super) type Weights<F> = [Array2<F>; 4];

/// What all samples share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form<F> {
    pub(super) heads: usize,
    /// α, what `q kᵀ` is multiplied with.
    pub(super) scale: F,
}

/// One sample of a chunk: its rows, and what is added to the scores of each head (nothing if empty).
#[derive(Debug, Clone)]
pub(super) struct Span<F> {
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    pub(super) added: Vec<Array2<F>>,
}

/// Some samples, rows below each other.
#[derive(Debug, Clone)]
pub(super) struct Chunk<F> {
    pub(super) spans: Vec<Span<F>>,
    /// Inputs of queries, keys and values, the constant included.
    pub(super) inputs: [Arc<Array2<F>>; 3],
    pub(super) target: Array2<F>,
}

/// What a chunk becomes under some weights.
#[derive(Debug)]
pub(super) struct State<F> {
    projected: [Array2<F>; 3],
    /// P, head after head for each sample.
    attention: Vec<Array2<F>>,
    /// `[P V …, 1]`.
    pub(super) mixed: Array2<F>,
    /// y − target.
    pub(super) residual: Array2<F>,
}

impl<F: NdFloat> Form<F> {
    /// The chunk under these weights.
    pub(super) fn forward(&self, chunk: &Chunk<F>, weights: &Weights<F>) -> State<F> {
        let project = |i: usize| chunk.inputs[i].dot(&weights[i]);
        let projected = [project(0), project(1), project(2)];
        let attention = self.attention(chunk, &projected);
        let mixed = self.mix(chunk, &attention, &projected[2], F::one());
        let residual = mixed.dot(&weights[3]) - &chunk.target;
        State { projected, attention, mixed, residual }
    }

    fn attention(&self, chunk: &Chunk<F>, [q, k, _]: &[Array2<F>; 3]) -> Vec<Array2<F>> {
        let mut all = Vec::with_capacity(chunk.spans.len() * self.heads);
        for span in &chunk.spans {
            for head in 0..self.heads {
                let mut scores = self.tile(q, &span.queries, head).dot(&self.tile(k, &span.keys, head).t());
                scores *= self.scale;
                if let Some(added) = span.added.get(head) {
                    scores += added;
                }
                softmax(&mut scores);
                all.push(scores);
            }
        }
        all
    }

    /// Each head's attention over the inputs of the values: `P x̃`, one matrix for each head.
    pub(super) fn attended(&self, chunk: &Chunk<F>, state: &State<F>) -> Vec<Array2<F>> {
        let shape = (chunk.target.nrows(), chunk.inputs[2].ncols());
        let mut all = vec![Array2::zeros(shape); self.heads];
        for (span, attention) in chunk.spans.iter().zip(state.attention.chunks(self.heads)) {
            let inputs = chunk.inputs[2].slice(s![span.keys.clone(), ..]);
            for (p, z) in attention.iter().zip(&mut all) {
                z.slice_mut(s![span.queries.clone(), ..]).assign(&p.dot(&inputs));
            }
        }
        all
    }

    /// Jᵀ J applied to a change of the weights.
    pub(super) fn normal(
        &self,
        chunk: &Chunk<F>,
        state: &State<F>,
        weights: &Weights<F>,
        change: &Weights<F>,
    ) -> Weights<F> {
        self.transposed(chunk, state, weights, &self.derivative(chunk, state, weights, change))
    }

    /// dy for a change of the weights.
    pub(super) fn derivative(
        &self,
        chunk: &Chunk<F>,
        state: &State<F>,
        weights: &Weights<F>,
        change: &Weights<F>,
    ) -> Array2<F> {
        let project = |i: usize| chunk.inputs[i].dot(&change[i]);
        let moved = [project(0), project(1), project(2)];
        let [q, k, v] = &state.projected;
        let mut mixed = self.mix(chunk, &state.attention, &moved[2], F::zero());
        let width = v.ncols() / self.heads;
        for (span, attention) in chunk.spans.iter().zip(state.attention.chunks(self.heads)) {
            for (head, p) in attention.iter().enumerate() {
                let mut scores = self.tile(&moved[0], &span.queries, head).dot(&self.tile(k, &span.keys, head).t());
                scores += &self.tile(q, &span.queries, head).dot(&self.tile(&moved[1], &span.keys, head).t());
                through_softmax(p, &mut scores, self.scale);
                let part = scores.dot(&self.tile(v, &span.keys, head));
                let mut slot = mixed.slice_mut(s![span.queries.clone(), head * width..(head + 1) * width]);
                slot += &part;
            }
        }
        mixed.dot(&weights[3]) + state.mixed.dot(&change[3])
    }

    /// Jᵀ applied to a change of y.
    pub(super) fn transposed(
        &self,
        chunk: &Chunk<F>,
        state: &State<F>,
        weights: &Weights<F>,
        dy: &Array2<F>,
    ) -> Weights<F> {
        let [q, k, v] = &state.projected;
        let mixed = dy.dot(&weights[3].t());
        let mut moved = [Array2::zeros(q.raw_dim()), Array2::zeros(k.raw_dim()), Array2::zeros(v.raw_dim())];
        let (depth, width) = (q.ncols() / self.heads, v.ncols() / self.heads);
        for (span, attention) in chunk.spans.iter().zip(state.attention.chunks(self.heads)) {
            let (queries, keys) = (&span.queries, &span.keys);
            for (head, p) in attention.iter().enumerate() {
                let (narrow, wide) = (head * depth..(head + 1) * depth, head * width..(head + 1) * width);
                let part = mixed.slice(s![queries.clone(), wide.clone()]);
                moved[2].slice_mut(s![keys.clone(), wide]).assign(&p.t().dot(&part));
                let mut scores = part.dot(&self.tile(v, keys, head).t());
                through_softmax(p, &mut scores, self.scale);
                let into = s![queries.clone(), narrow.clone()];
                moved[0].slice_mut(into).assign(&scores.dot(&self.tile(k, keys, head)));
                let into = s![keys.clone(), narrow];
                moved[1].slice_mut(into).assign(&scores.t().dot(&self.tile(q, queries, head)));
            }
        }
        let back = |i: usize| chunk.inputs[i].t().dot(&moved[i]);
        [back(0), back(1), back(2), state.mixed.t().dot(dy)]
    }

    /// Rows of one sample, columns of one head.
    fn tile<'m>(&self, all: &'m Array2<F>, rows: &Range<usize>, head: usize) -> ArrayView2<'m, F> {
        let width = all.ncols() / self.heads;
        all.slice(s![rows.clone(), head * width..(head + 1) * width])
    }

    /// `[P V …, last]`.
    fn mix(&self, chunk: &Chunk<F>, attention: &[Array2<F>], values: &Array2<F>, last: F) -> Array2<F> {
        let width = values.ncols() / self.heads;
        let mut mixed = Array2::from_elem((chunk.target.nrows(), values.ncols() + 1), last);
        for (span, attention) in chunk.spans.iter().zip(attention.chunks(self.heads)) {
            for (head, p) in attention.iter().enumerate() {
                let into = s![span.queries.clone(), head * width..(head + 1) * width];
                mixed.slice_mut(into).assign(&p.dot(&self.tile(values, &span.keys, head)));
            }
        }
        mixed
    }
}

fn softmax<F: NdFloat>(scores: &mut Array2<F>) {
    for mut row in scores.rows_mut() {
        let largest = row.iter().fold(F::neg_infinity(), |m, &s| m.max(s));
        row.mapv_inplace(|s| (s - largest).exp());
        let sum = row.sum();
        row.mapv_inplace(|s| s / sum);
    }
}

/// dS → scale · P ∘ (dS − rowsum(P ∘ dS)), which is its own transpose.
fn through_softmax<F: NdFloat>(p: &Array2<F>, scores: &mut Array2<F>, scale: F) {
    for (mut row, p) in scores.rows_mut().into_iter().zip(p.rows()) {
        let mean = row.dot(&p);
        row.zip_mut_with(&p, |s, &p| *s = scale * p * (*s - mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
        Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
    }

    fn chunk(rng: &mut ChaCha8Rng) -> Chunk<f64> {
        let span = |queries: Range<usize>, keys: Range<usize>, rng: &mut ChaCha8Rng| Span {
            added: vec![random(queries.len(), keys.len(), rng), Array2::zeros((queries.len(), keys.len()))],
            queries,
            keys,
        };
        let spans = vec![span(0..3, 0..4, rng), span(3..5, 4..6, rng)];
        let inputs = [(5, 7), (6, 7), (6, 5)].map(|(rows, columns)| Arc::new(random(rows, columns, rng)));
        Chunk { spans, inputs, target: random(5, 3, rng) }
    }

    fn weights(rng: &mut ChaCha8Rng) -> Weights<f64> {
        [random(7, 4, rng), random(7, 4, rng), random(5, 6, rng), random(7, 3, rng)]
    }

    #[test]
    fn derivative_is_the_limit_of_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (form, chunk) = (Form { heads: 2, scale: 0.7 }, chunk(&mut rng));
        let (at, change) = (weights(&mut rng), weights(&mut rng));
        let shifted = |step: f64| {
            let moved = [0, 1, 2, 3].map(|i: usize| &at[i] + &(&change[i] * step));
            form.forward(&chunk, &moved).residual
        };
        let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        let derivative = form.derivative(&chunk, &form.forward(&chunk, &at), &at, &change);
        let worst = (&difference - &derivative).iter().fold(0.0_f64, |m, d| m.max(d.abs()));
        assert!(worst < 1e-8, "{worst:e}");
    }

    #[test]
    fn transposed_is_the_transpose_of_the_derivative() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let (form, chunk) = (Form { heads: 2, scale: 0.7 }, chunk(&mut rng));
        let (at, change, dy) = (weights(&mut rng), weights(&mut rng), random(5, 3, &mut rng));
        let state = form.forward(&chunk, &at);
        let one = (&form.derivative(&chunk, &state, &at, &change) * &dy).sum();
        let back = form.transposed(&chunk, &state, &at, &dy);
        let other: f64 = back.iter().zip(&change).map(|(a, b)| (a * b).sum()).sum();
        assert!((one - other).abs() < 1e-12 * one.abs().max(1.0), "{one} {other}");
    }
}
