//! Sums over rows: counts, means, second moments, cross moments. They can be merged, and of some inputs be picked.
//!
//! Products of activations are formed in f32 and summed up in f64. With blocks of b rows the relative error of an entry of
//! Σ xxᵀ is about `√b · 6e-8 / √blocks`, some 1e-6 of the mean square or less. So that this is a share of the *variance*, an
//! origin near the means, that of the first block, is subtracted before the product.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::block::Block;
use super::stats::{Record, row};
use crate::error::Result;
use crate::linalg::{Backend, Ridge, default_backend, in_strips, mirror_lower, strength};

/// Inputs whose products with all others are one task. A constant: sums must not depend on the number of threads.
const STRIP: usize = 128;

/// Values of a column that are summed up side by side.
const LANES: usize = 8;

/// Shares of the mean variance that dampen a covariance: of few rows for each input, and of enough.
const DAMPING: (f64, f64) = (1e-1, 1e-2);

/// Rows for each input that are enough.
const ENOUGH_ROWS: usize = 10;

/// How much is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Means, squares, zeros.
    Diagonal,
    /// The products of all inputs with each other too.
    Covariance,
}

/// Sums over rows of x (K values) and y (N values, N may be zero).
#[derive(Debug, Clone)]
pub struct Sums {
    rows: usize,
    x: Values,
    y: Values,
    /// Rows in which x is zero.
    zeros: Array1<f64>,
    /// Σ x xᵀ (K×K) from the origin. Blocks add to its lower triangle only.
    xx: Option<Array2<f64>>,
    /// Σ x yᵀ (K×N) from the origins.
    xy: Array2<f64>,
}

/// Sums of values one by one.
#[derive(Debug, Clone)]
struct Values {
    /// What is subtracted before anything is summed up: f32 numbers.
    origin: Array1<f64>,
    /// Σ v, from the origin.
    sum: Array1<f64>,
    /// Σ v², from the origin.
    square: Array1<f64>,
}

impl Sums {
    /// Nothing yet, of `inputs` values of x and `outputs` values of y.
    pub fn new(inputs: usize, outputs: usize, detail: Detail) -> Self {
        Self {
            rows: 0,
            x: Values::new(inputs),
            y: Values::new(outputs),
            zeros: Array1::zeros(inputs),
            xx: (detail == Detail::Covariance).then(|| Array2::zeros((inputs, inputs))),
            xy: Array2::zeros((inputs, outputs)),
        }
    }

    /// The sums over rows of x (n×K) and y (n×N), all in f64.
    pub fn of(backend: &dyn Backend, x: ArrayView2<'_, f64>, y: ArrayView2<'_, f64>) -> Self {
        let mut sums = Self::new(x.ncols(), y.ncols(), Detail::Covariance);
        if x.nrows() == 0 {
            return sums;
        }
        sums.rows = x.nrows();
        sums.zeros = x.axis_iter(Axis(1)).map(|column| column.iter().filter(|&&v| v == 0.0).count() as f64).collect();
        let (x, y) = (sums.x.of(x), sums.y.of(y));
        let columns = x.t().as_standard_layout().into_owned();
        if let Some(xx) = &mut sums.xx {
            in_strips(xx, STRIP, |rows, mut strip| {
                let up_to = columns.slice(s![..rows.end, ..]);
                let product = backend.matmul(columns.slice(s![rows.clone(), ..]), up_to.t());
                strip.slice_mut(s![.., ..rows.end]).assign(&product);
            });
            mirror_lower(xx);
        }
        sums.xy = backend.matmul(columns.view(), y.view());
        sums
    }

    /// Adds the rows of a block of x and of one of y, and empties both.
    pub(crate) fn add(&mut self, backend: &dyn Backend, x: &mut Block, y: &mut Block) {
        let rows = x.rows();
        if rows == 0 {
            return;
        }
        self.zeros.iter_mut().zip(x.columns()).for_each(|(zeros, column)| *zeros += zeros_of(column));
        self.x.add(x, self.rows == 0);
        self.y.add(y, self.rows == 0);
        let (columns, targets) = (x.transposed(), y.transposed());
        if let Some(xx) = &mut self.xx {
            in_strips(xx, STRIP, |rows, mut strip| {
                let up_to = columns.slice(s![..rows.end, ..]);
                let below = strip.slice_mut(s![.., ..rows.end]);
                backend.add_product_f32(columns.slice(s![rows, ..]), up_to.t(), below);
            });
        }
        if y.width() > 0 {
            in_strips(&mut self.xy, STRIP, |rows, strip| {
                backend.add_product_f32(columns.slice(s![rows, ..]), targets.t(), strip);
            });
        }
        drop((columns, targets));
        self.rows += rows;
        x.clear();
        y.clear();
    }

    /// The sums, complete: once all blocks, and all sums over other rows, have been added.
    pub(crate) fn finish(mut self) -> Self {
        if let Some(xx) = &mut self.xx {
            mirror_lower(xx);
        }
        self
    }

    /// Adds the sums over other rows of the same values.
    ///
    /// # Panics
    /// When the sizes differ.
    pub fn merge(&mut self, other: &Self) {
        if other.rows == 0 {
            return;
        }
        if self.rows == 0 {
            self.clone_from(other);
            return;
        }
        let n = count(other.rows);
        let (d, e) = (&other.x.origin - &self.x.origin, &other.y.origin - &self.y.origin);
        if let (Some(xx), Some(added)) = (&mut self.xx, &other.xx) {
            merge_products(xx, added, (&other.x.sum, &d), (&other.x.sum, &d), n);
        }
        merge_products(&mut self.xy, &other.xy, (&other.x.sum, &d), (&other.y.sum, &e), n);
        self.x.merge(&other.x, &d, n);
        self.y.merge(&other.y, &e, n);
        self.zeros += &other.zeros;
        self.rows += other.rows;
    }

    /// The sums of some of the inputs, in this order, and of all of y.
    pub fn of_inputs(&self, inputs: &[usize]) -> Self {
        let square = |xx: &Array2<f64>| xx.select(Axis(0), inputs).select(Axis(1), inputs);
        Self {
            rows: self.rows,
            x: self.x.pick(inputs),
            y: self.y.clone(),
            zeros: self.zeros.select(Axis(0), inputs),
            xx: self.xx.as_ref().map(square),
            xy: self.xy.select(Axis(0), inputs),
        }
    }

    /// The sums as matrices, of which Σ xxᵀ is the lower triangle only, row by row.
    pub(crate) fn to_record(&self) -> Record {
        let triangle: Option<Vec<f64>> = self.xx.as_ref().map(|xx| {
            let rows = xx.rows().into_iter().enumerate();
            rows.flat_map(|(number, row)| row.into_iter().take(number + 1).copied()).collect()
        });
        vec![
            row(&[self.rows as f64]),
            self.x.to_matrix(),
            self.y.to_matrix(),
            self.zeros.view().insert_axis(Axis(0)).to_owned(),
            row(&triangle.unwrap_or_default()),
            self.xy.clone(),
        ]
    }

    /// The sums that [`to_record`](Self::to_record) gave; takes as many matrices as it needs. `None` if their sizes contradict
    /// each other.
    pub(crate) fn from_matrices(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        let mut next = |rows: usize| matrices.next().filter(|matrix| matrix.nrows() == rows);
        let rows = whole(*next(1)?.first()?)?;
        let (x, y, zeros, triangle) = (next(3)?, next(3)?, next(1)?, next(1)?);
        let (inputs, outputs) = (x.ncols(), y.ncols());
        let xy = next(inputs)?;
        if zeros.ncols() != inputs || xy.ncols() != outputs {
            return None;
        }
        let xx = if triangle.is_empty() {
            None
        } else if triangle.ncols() == inputs.checked_mul(inputs.checked_add(1)?)? / 2 {
            let mut xx = Array2::zeros((inputs, inputs));
            let lower = xx.rows_mut().into_iter().enumerate();
            let slots = lower.flat_map(|(number, row)| row.into_iter().take(number + 1));
            slots.zip(&triangle).for_each(|(slot, &value)| *slot = value);
            mirror_lower(&mut xx);
            Some(xx)
        } else {
            return None;
        };
        let (x, y) = (Values::from_matrix(&x), Values::from_matrix(&y));
        Some(Self { rows, x, y, zeros: zeros.row(0).to_owned(), xx, xy })
    }

    /// [`from_matrices`](Self::from_matrices), if it gives sums of this many inputs and no outputs in this detail.
    pub(crate) fn from_record(
        matrices: &mut impl Iterator<Item = Array2<f64>>,
        inputs: usize,
        detail: Detail,
    ) -> Option<Self> {
        let sums = Self::from_matrices(matrices)?;
        (sums.inputs() == inputs && sums.y.sum.is_empty() && sums.detail() == detail).then_some(sums)
    }

    /// Whether other sums are over the same values.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.detail() == other.detail() && self.xy.dim() == other.xy.dim()
    }

    /// The sums without the products of inputs.
    pub(crate) fn without_products(self) -> Self {
        Self { xx: None, ..self }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.zeros.len()
    }

    /// How much is summed up.
    pub fn detail(&self) -> Detail {
        if self.xx.is_some() { Detail::Covariance } else { Detail::Diagonal }
    }

    /// Share of the inputs' mean variance that dampens their covariance: a hundredth, or a tenth where rows are fewer than ten an
    /// input.
    pub(crate) fn damping(&self) -> f64 {
        if self.rows() < ENOUGH_ROWS * self.inputs() { DAMPING.0 } else { DAMPING.1 }
    }

    /// λ that is this share of the inputs' mean variance.
    pub(crate) fn ridge(&self, share: f64) -> f64 {
        strength(share, self.variance_x().sum(), self.square_x().sum(), self.inputs())
    }

    /// What the weights of the inputs `kept` (S×N) gain so that these make up for the inputs `gone`, whose rows of `weights` (K×N)
    /// are lost: `(C_SS + λI)⁻¹ C_SR W_R`.
    ///
    /// # Errors
    /// If the system cannot be solved.
    pub(crate) fn compensation(
        &self,
        weights: &Array2<f64>,
        (kept, gone): (&[usize], &[usize]),
        lambda: f64,
        name: &str,
    ) -> Result<Array2<f64>> {
        let backend = default_backend();
        let rows = self.covariance().select(Axis(0), kept);
        let square = rows.select(Axis(1), kept);
        let lost = backend.matmul(rows.select(Axis(1), gone).view(), weights.select(Axis(0), gone).view());
        Ridge::primal(backend, &square, lost.view(), None).weights(lambda, name)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `E[x]`, K values.
    pub fn mean_x(&self) -> Array1<f64> {
        self.x.mean(self.rows)
    }

    /// `E[y]`, N values.
    pub fn mean_y(&self) -> Array1<f64> {
        self.y.mean(self.rows)
    }

    /// `E[x²] − E[x]²`, K values, never negative.
    pub fn variance_x(&self) -> Array1<f64> {
        self.x.variance(self.rows)
    }

    /// `E[y²] − E[y]²`, N values, never negative.
    pub fn variance_y(&self) -> Array1<f64> {
        self.y.variance(self.rows)
    }

    /// `E[x²]`, K values.
    pub fn square_x(&self) -> Array1<f64> {
        let mean = self.mean_x();
        self.variance_x() + &(&mean * &mean)
    }

    /// Share of rows in which x is zero, K values.
    pub fn zeros(&self) -> Array1<f64> {
        &self.zeros / count(self.rows)
    }

    /// `E[x xᵀ] − E[x] E[x]ᵀ`, K×K. Inputs whose products were not summed up count as independent.
    pub fn covariance(&self) -> Array2<f64> {
        match &self.xx {
            Some(xx) => centred(xx, &self.x.sum, &self.x.sum, self.rows),
            None => Array2::from_diag(&self.variance_x()),
        }
    }

    /// `E[x yᵀ] − E[x] E[y]ᵀ`, K×N.
    pub fn cross_covariance(&self) -> Array2<f64> {
        centred(&self.xy, &self.x.sum, &self.y.sum, self.rows)
    }

    /// The mean over rows of `(y − Wᵀx − b)²` for each output, for W (K×N) and b (N values). Inputs whose products were not
    /// summed up count as independent.
    pub fn errors(&self, backend: &dyn Backend, w: &Array2<f64>, b: &Array1<f64>) -> Array1<f64> {
        let n = count(self.rows);
        let mut product = w * &self.x.square.view().insert_axis(Axis(1));
        if let Some(xx) = &self.xx {
            in_strips(&mut product, STRIP, |rows, mut strip| {
                strip.assign(&backend.matmul(xx.slice(s![rows, ..]), w.view()));
            });
        }
        // All about the means.
        let sum = w.t().dot(&self.x.sum) / n;
        let quadratic = (&product * w).sum_axis(Axis(0)) / n - &sum * &sum;
        let cross = (&self.xy * w).sum_axis(Axis(0)) / n - &sum * &self.y.sum / n;
        let offset = self.mean_y() - w.t().dot(&self.mean_x()) - b;
        let scatter = (self.variance_y() + quadratic - cross * 2.0).mapv_into(|error| error.max(0.0));
        scatter + &offset * &offset
    }
}

impl Values {
    fn new(width: usize) -> Self {
        Self { origin: Array1::zeros(width), sum: Array1::zeros(width), square: Array1::zeros(width) }
    }

    /// Sums up rows, and gives them with the origin subtracted.
    fn of(&mut self, rows: ArrayView2<'_, f64>) -> Array2<f64> {
        self.origin = rows.sum_axis(Axis(0)).mapv(|sum| f64::from(rounded(sum / count(rows.nrows()))));
        let rows = &rows - &self.origin;
        self.sum = rows.sum_axis(Axis(0));
        self.square = (&rows * &rows).sum_axis(Axis(0));
        rows
    }

    /// Sums up a block; the first one gives the origin. What is left in the block is what products are formed of.
    fn add(&mut self, block: &mut Block, is_first: bool) {
        let rows = count(block.rows());
        let sums = self.origin.iter_mut().zip(self.sum.iter_mut().zip(self.square.iter_mut()));
        for (column, (origin, (sum, square))) in block.columns_mut().zip(sums) {
            if is_first {
                *origin = f64::from(rounded(moments(column, 0.0).0 / rows));
            }
            let (of_column, squares) = moments(column, rounded(*origin));
            *sum += of_column;
            *square += squares;
        }
        block.pad();
    }

    /// With v = v' + d, d being how far the other origin is from this one: `Σ v² = Σ v'² + 2 d Σ v' + n d²`.
    fn merge(&mut self, other: &Self, d: &Array1<f64>, n: f64) {
        self.square += &other.square;
        self.square += &(&other.sum * d * 2.0 + d * d * n);
        self.sum += &other.sum;
        self.sum += &(d * n);
    }

    fn pick(&self, places: &[usize]) -> Self {
        let pick = |values: &Array1<f64>| values.select(Axis(0), places);
        Self { origin: pick(&self.origin), sum: pick(&self.sum), square: pick(&self.square) }
    }

    /// Origin, sums and squares, a row each.
    fn to_matrix(&self) -> Array2<f64> {
        let mut matrix = Array2::zeros((3, self.sum.len()));
        let rows = [&self.origin, &self.sum, &self.square];
        matrix.rows_mut().into_iter().zip(rows).for_each(|(mut row, values)| row.assign(values));
        matrix
    }

    /// The opposite of [`to_matrix`](Self::to_matrix), for a matrix of three rows.
    fn from_matrix(matrix: &Array2<f64>) -> Self {
        let row = |number: usize| matrix.row(number).to_owned();
        Self { origin: row(0), sum: row(1), square: row(2) }
    }

    fn mean(&self, rows: usize) -> Array1<f64> {
        &self.origin + &(&self.sum / count(rows))
    }

    fn variance(&self, rows: usize) -> Array1<f64> {
        let mean = &self.sum / count(rows);
        (&self.square / count(rows) - &mean * &mean).mapv_into(|v| v.max(0.0))
    }
}

/// `Σ xyᵀ = Σ x'y'ᵀ + Σx' eᵀ + d Σy'ᵀ + n d eᵀ`, for the sums and the shifts of both sides.
fn merge_products(
    into: &mut Array2<f64>,
    added: &Array2<f64>,
    (left, d): (&Array1<f64>, &Array1<f64>),
    (right, e): (&Array1<f64>, &Array1<f64>),
    n: f64,
) {
    in_strips(into, STRIP, |rows, mut strip| {
        for (row, mut into) in rows.zip(strip.rows_mut()) {
            let (left, d) = (left[row], d[row]);
            into += &added.row(row);
            into.scaled_add(left + n * d, e);
            into.scaled_add(d, right);
        }
    });
}

fn centred(sums: &Array2<f64>, left: &Array1<f64>, right: &Array1<f64>, rows: usize) -> Array2<f64> {
    let n = count(rows);
    let mut covariance = sums / n;
    for (mut row, left) in covariance.rows_mut().into_iter().zip(left) {
        let mean = left / n;
        row.zip_mut_with(right, |c, &sum| *c -= mean * sum / n);
    }
    covariance
}

fn zeros_of(column: &[f32]) -> f64 {
    let mut zeros = 0_u32;
    for &value in column {
        zeros += u32::from(value == 0.0);
    }
    f64::from(zeros)
}

/// Subtracts `pilot` from a column's values; their sum and that of their squares.
fn moments(column: &mut [f32], pilot: f32) -> (f64, f64) {
    let (mut sums, mut squares) = ([0.0; LANES], [0.0; LANES]);
    let mut add = |value: &mut f32, lane: usize| {
        *value -= pilot;
        let value = f64::from(*value);
        sums[lane] += value;
        squares[lane] += value * value;
    };
    let (chunks, rest) = column.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, value) in chunk.iter_mut().enumerate() {
            add(value, lane);
        }
    }
    for (lane, value) in rest.iter_mut().enumerate() {
        add(value, lane);
    }
    (sums.iter().sum(), squares.iter().sum())
}

/// A number that counts something, stored as a float; `None` if it does not.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn whole(rows: f64) -> Option<usize> {
    (rows.fract() == 0.0 && (0.0..9e15).contains(&rows)).then_some(rows as usize)
}

/// The nearest f32.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn rounded(value: f64) -> f32 {
    value as f32
}

fn count(rows: usize) -> f64 {
    rows.max(1) as f64
}
