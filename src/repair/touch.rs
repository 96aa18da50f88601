//! How much a removal changed what a layer makes: where it hardly did, there is nothing to repair.

use ndarray::{Array1, Array2};

use crate::calibrate::{BLOCK_ROWS, Columns, Product, Record, Sum, row, whole};

/// Relative error of the results below which a layer that lost no input keeps its weights.
const HARDLY: f64 = 0.1;

/// What one matrix makes with its weights, and what it should make, compared on the first rows.
#[derive(Debug)]
pub(super) struct Touch {
    weights: Product,
    bias: Array1<f64>,
    pub(super) seen: Seen,
}

/// What was found on some rows.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    rows: usize,
    /// Σ over rows and outputs of the squared difference.
    change: f64,
    /// Σ y and Σ y² of what it should make, for each output.
    sums: Vec<(f64, f64)>,
}

impl Touch {
    /// For a matrix (K×N) and its bias (N).
    pub(super) fn new((weights, bias): (Array2<f64>, Array1<f64>)) -> Self {
        let seen = Seen { rows: 0, change: 0.0, sums: vec![(0.0, 0.0); bias.len()] };
        Self { weights: Product::new(&weights), bias, seen }
    }

    /// Compares some rows: `x` in the repaired model, and what the matrix should make of them.
    pub(super) fn add(&mut self, x: &mut Columns<'_>, y: &mut Columns<'_>) {
        if self.seen.is_known() || y.width() == 0 {
            return;
        }
        let rows = y.column(0).len();
        let mut made = vec![0.0; rows * y.width()];
        self.weights.multiply(x, &mut Columns::over(&mut made, y.width()));
        for (number, (made, (sum, square))) in made.chunks_exact(rows.max(1)).zip(&mut self.seen.sums).enumerate() {
            for (&made, &wanted) in made.iter().zip(y.column(number).iter()) {
                let (made, wanted) = (f64::from(made) + self.bias[number], f64::from(wanted));
                *sum += wanted;
                *square += wanted * wanted;
                self.seen.change += (made - wanted) * (made - wanted);
            }
        }
        self.seen.rows += rows;
    }
}

impl Seen {
    /// Whether enough rows were seen.
    pub(super) fn is_known(&self) -> bool {
        self.rows >= BLOCK_ROWS
    }

    /// `‖ŷ − y‖ / ‖y − mean y‖` of all rows that were seen, if it is next to nothing.
    pub(super) fn hardly(&self) -> Option<f64> {
        let n = self.rows as f64;
        let spread: f64 = self.sums.iter().map(|(sum, square)| (square - sum * sum / n).max(0.0)).sum();
        let change = (self.change / spread).sqrt();
        (change < HARDLY).then_some(change)
    }
}

impl Sum for Seen {
    fn merge(&mut self, next: Self) {
        if self.is_known() {
            return;
        }
        self.rows += next.rows;
        self.change += next.change;
        for ((sum, square), next) in self.sums.iter_mut().zip(next.sums) {
            *sum += next.0;
            *square += next.1;
        }
    }

    fn to_record(&self) -> Record {
        let (sums, squares): (Vec<f64>, Vec<f64>) = self.sums.iter().copied().unzip();
        vec![row(&[self.rows as f64, self.change]), row(&sums), row(&squares)]
    }

    fn from_record(matrices: &mut impl Iterator<Item = Array2<f64>>) -> Option<Self> {
        let (counted, sums, squares) = (matrices.next()?, matrices.next()?, matrices.next()?);
        let (rows, change) = (whole(*counted.first()?)?, *counted.get((0, 1))?);
        (sums.len() == squares.len()).then(|| Self { rows, change, sums: sums.into_iter().zip(squares).collect() })
    }
}
