//! Optimal brain surgery on one matrix: units of several rows each, removed one after another.
//!
//! The loss of a weight W is `L(W) = ½ tr((W − W₀)ᵀ H (W − W₀))`. With the rows of unit u at zero and all others at
//! their optimum, it grows by `½ tr(W_uᵀ ([H⁻¹]_uu)⁻¹ W_u)` (Hassibi & Stork 1993, in blocks), W being the weight that
//! earlier removals left. Only the K×K matrices `P = H⁻¹` and `T = W Wᵀ` are needed, and both follow a removal by
//! downdates of low rank. With `A = P_:u P_uu⁻¹` and `B = T_:u − ½ A T_uu`:
//!
//! ```text
//! P ← P − A P_u:        T ← T − A Bᵀ − B Aᵀ
//! ```
//!
//! Downdates are gathered in panels and applied together, which makes them products of matrices. Both matrices are
//! symmetric: only what lies on and below the diagonal is kept up to date.

use ndarray::{Array2, ArrayView2, s};

use crate::error::Result;
use crate::linalg::{Backend, in_strips};

/// Rows that are removed before the panels are applied.
const PANEL: usize = 64;

/// Rows of a matrix that one task updates: fixed, so that the number of threads does not matter.
const STRIP: usize = 256;

/// The square blocks of P and T that belong to one unit.
#[derive(Debug, Clone)]
pub struct Block {
    /// `[H⁻¹]_uu`.
    pub p: Array2<f64>,
    /// `W_u W_uᵀ`.
    pub t: Array2<f64>,
}

/// A matrix in surgery.
#[derive(Clone)]
pub struct Surgeon<'b> {
    backend: &'b dyn Backend,
    /// Rows of each unit in the matrices as they are now; empty once removed.
    units: Vec<Vec<usize>>,
    blocks: Vec<Option<Block>>,
    /// Lower triangles; what lies above is stale.
    p: Array2<f64>,
    t: Array2<f64>,
    /// Panels K×filled, pending: P lacks `a·pcᵀ`, T lacks `a·bᵀ + b·aᵀ`.
    a: Array2<f64>,
    pc: Array2<f64>,
    b: Array2<f64>,
    filled: usize,
}

impl std::fmt::Debug for Surgeon<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surgeon")
            .field("rows", &self.p.nrows())
            .field("units", &self.units.len())
            .finish_non_exhaustive()
    }
}

impl<'b> Surgeon<'b> {
    /// Begins with the Hessian `h` (K×K, positive definite), the weight `w` (K×N), and the rows of each unit.
    ///
    /// # Errors
    /// If `h` is not positive definite.
    pub fn new(
        backend: &'b dyn Backend,
        h: ArrayView2<'_, f64>,
        w: ArrayView2<'_, f64>,
        units: Vec<Vec<usize>>,
        name: &str,
    ) -> Result<Self> {
        let p = rowwise(backend.inverse_spd(h, name)?);
        let t = product(backend, w, w.t());
        let widest = units.iter().map(Vec::len).max().unwrap_or(1);
        let k = p.nrows();
        let panel = || Array2::zeros((k, PANEL.max(widest)));
        let (a, pc, b) = (panel(), panel(), panel());
        let block = |rows: &Vec<usize>| {
            let square =
                |m: &Array2<f64>| Array2::from_shape_fn((rows.len(), rows.len()), |(i, j)| m[[rows[i], rows[j]]]);
            (!rows.is_empty()).then(|| Block { p: square(&p), t: square(&t) })
        };
        let blocks = units.iter().map(block).collect();
        Ok(Self { backend, units, blocks, p, t, a, pc, b, filled: 0 })
    }

    /// What removing unit `u` now adds to the loss; zero if it owns nothing here.
    pub fn saliency(&self, u: usize) -> f64 {
        self.blocks.get(u).and_then(Option::as_ref).map_or(0.0, saliency)
    }

    /// Removes unit `u`.
    pub fn remove(&mut self, u: usize) {
        let rows = std::mem::take(&mut self.units[u]);
        let Some(block) = self.blocks[u].take() else { return };
        let r = rows.len();
        if self.filled + r > self.a.ncols() {
            self.apply();
        }
        let (pc, tc) = (self.columns_of_p(&rows), self.columns_of_t(&rows));
        let inverse = inverse(&block.p);
        let a = pc.dot(&inverse);
        let b = &tc - &(a.dot(&block.t) * 0.5);
        for (rows, block) in self.units.iter().zip(&mut self.blocks) {
            if let Some(block) = block {
                downdate(block, rows, &a, &pc, &b);
            }
        }
        let range = s![.., self.filled..self.filled + r];
        self.a.slice_mut(range).assign(&a);
        self.pc.slice_mut(range).assign(&pc);
        self.b.slice_mut(range).assign(&b);
        self.filled += r;
        if self.filled >= PANEL {
            self.apply();
            self.compact();
        }
    }

    /// `H⁻¹` of the rows that are left, in order of the units' rows.
    pub fn inverse(&mut self) -> Array2<f64> {
        self.apply();
        self.compact();
        let rows: Vec<usize> = (0..self.p.nrows()).collect();
        columns(&self.p, &rows)
    }

    fn columns_of_p(&self, rows: &[usize]) -> Array2<f64> {
        let (a, pc) = (self.a.slice(s![.., ..self.filled]), self.pc.slice(s![.., ..self.filled]));
        let mut columns = columns(&self.p, rows);
        subtract_products(&mut columns, &a, &pc, rows);
        columns
    }

    fn columns_of_t(&self, rows: &[usize]) -> Array2<f64> {
        let (a, b) = (self.a.slice(s![.., ..self.filled]), self.b.slice(s![.., ..self.filled]));
        let mut columns = columns(&self.t, rows);
        subtract_products(&mut columns, &a, &b, rows);
        subtract_products(&mut columns, &b, &a, rows);
        columns
    }

    /// Applies the panels.
    fn apply(&mut self) {
        if self.filled == 0 {
            return;
        }
        let panel = |m: &Array2<f64>| m.slice(s![.., ..self.filled]).to_owned();
        let (a, pc, b) = (panel(&self.a), panel(&self.pc), panel(&self.b));
        let backend = self.backend;
        let update = |target: &mut Array2<f64>, products: &[(&Array2<f64>, &Array2<f64>)]| {
            in_strips(target, STRIP, |rows, mut strip| {
                for (left, right) in products {
                    let up_to = right.slice(s![..rows.end, ..]);
                    backend.add_product(-1.0, left.slice(s![rows.clone(), ..]), up_to.t(), strip.view_mut());
                }
            });
        };
        update(&mut self.p, &[(&a, &pc)]);
        update(&mut self.t, &[(&a, &b), (&b, &a)]);
        self.filled = 0;
    }

    /// Drops the rows that no unit owns any more, unless they never had an owner.
    fn compact(&mut self) {
        let k = self.p.nrows();
        let mut owned: Vec<usize> = self.units.iter().flatten().copied().collect();
        owned.sort_unstable();
        if owned.len() == k {
            return;
        }
        let mut place = vec![0; k];
        owned.iter().enumerate().for_each(|(new, &old)| place[old] = new);
        self.units.iter_mut().flatten().for_each(|row| *row = place[*row]);
        keep(&mut self.p, &owned);
        keep(&mut self.t, &owned);
        let width = self.a.ncols();
        let panel = || Array2::zeros((owned.len(), width));
        (self.a, self.pc, self.b) = (panel(), panel(), panel());
    }
}

/// `P −= A_u P_u:ᵀ` and `T −= A_u B_uᵀ + B_u A_uᵀ` for the rows of one unit.
fn downdate(block: &mut Block, rows: &[usize], a: &Array2<f64>, pc: &Array2<f64>, b: &Array2<f64>) {
    let dot = |x: &Array2<f64>, i: usize, y: &Array2<f64>, j: usize| -> f64 {
        x.row(i).iter().zip(y.row(j)).map(|(x, y)| x * y).sum()
    };
    for (i, &row) in rows.iter().enumerate() {
        for (j, &column) in rows.iter().enumerate() {
            block.p[[i, j]] -= dot(a, row, pc, column);
            block.t[[i, j]] -= dot(a, row, b, column) + dot(b, row, a, column);
        }
    }
}

/// `½ tr(P⁻¹ T)` of a block.
fn saliency(block: &Block) -> f64 {
    let (p, t) = (&block.p, &block.t);
    match p.nrows() {
        1 => return 0.5 * t[[0, 0]] / p[[0, 0]],
        2 => {
            let determinant = p[[0, 0]] * p[[1, 1]] - p[[0, 1]] * p[[1, 0]];
            // A pair that is as good as one goes the long way.
            if determinant > 1e-12 * p[[0, 0]] * p[[1, 1]] {
                let cross = p[[0, 1]] * t[[1, 0]] + p[[1, 0]] * t[[0, 1]];
                return 0.5 * (p[[1, 1]] * t[[0, 0]] + p[[0, 0]] * t[[1, 1]] - cross) / determinant;
            }
        }
        _ => {}
    }
    0.5 * (&inverse(&block.p) * &block.t.t()).sum()
}

/// Inverse of a small symmetric positive definite matrix by Gauss–Jordan; a pivot that vanished counts as tiny.
fn inverse(p: &Array2<f64>) -> Array2<f64> {
    let n = p.nrows();
    let mut work = p.clone();
    let scale = p.diag().iter().fold(0.0_f64, |m, d| m.max(d.abs())).max(f64::MIN_POSITIVE);
    for k in 0..n {
        let pivot = if work[[k, k]].abs() > scale * 1e-14 { work[[k, k]] } else { scale * 1e-14 };
        let row: Vec<f64> = work.row(k).iter().map(|v| v / pivot).collect();
        for i in 0..n {
            let factor = work[[i, k]];
            if i == k {
                continue;
            }
            for j in 0..n {
                work[[i, j]] = if j == k { -factor / pivot } else { work[[i, j]] - factor * row[j] };
            }
        }
        for j in 0..n {
            work[[k, j]] = if j == k { 1.0 / pivot } else { row[j] };
        }
    }
    work
}

/// Columns of a symmetric matrix of which the lower triangle counts.
fn columns(m: &Array2<f64>, chosen: &[usize]) -> Array2<f64> {
    Array2::from_shape_fn((m.nrows(), chosen.len()), |(i, j)| {
        let (i, j) = (i.max(chosen[j]), i.min(chosen[j]));
        m[[i, j]]
    })
}

/// `columns −= left · (rows of right)ᵀ`, product by product: there are few columns.
fn subtract_products(
    columns: &mut Array2<f64>,
    left: &ArrayView2<'_, f64>,
    right: &ArrayView2<'_, f64>,
    rows: &[usize],
) {
    for (mut into, left) in columns.rows_mut().into_iter().zip(left.rows()) {
        for (sum, &row) in into.iter_mut().zip(rows) {
            *sum -= left.dot(&right.row(row));
        }
    }
}

/// Moves the rows and columns `kept` of a lower triangle, which ascend, to its front and forgets the others.
#[allow(clippy::expect_used)] // the length is the product of the sizes, a line above
fn keep(m: &mut Array2<f64>, kept: &[usize]) {
    let (old, new) = (m.ncols(), kept.len());
    let (mut values, _) = std::mem::take(m).into_raw_vec_and_offset();
    for (i, &row) in kept.iter().enumerate() {
        for (j, &column) in kept[..=i].iter().enumerate() {
            values[i * new + j] = values[row * old + column];
        }
    }
    values.truncate(new * new);
    *m = Array2::from_shape_vec((new, new), values).expect("values holds the square");
}

fn rowwise(m: Array2<f64>) -> Array2<f64> {
    if m.is_standard_layout() { m } else { m.as_standard_layout().into_owned() }
}

/// `left · right` in strips of rows.
fn product(backend: &dyn Backend, left: ArrayView2<'_, f64>, right: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut result = Array2::zeros((left.nrows(), right.ncols()));
    in_strips(&mut result, STRIP, |rows, mut strip| {
        strip.assign(&backend.matmul(left.slice(s![rows, ..]), right));
    });
    result
}
