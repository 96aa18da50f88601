//! How much a removal changed what a layer reads: where it hardly did, there is nothing to repair.

use std::ops::Range;

use crate::calibrate::{BLOCK_ROWS, Columns, Lines};

/// Relative error of the inputs below which a layer that lost none of them keeps its weights.
const HARDLY: f64 = 0.1;

/// The inputs of one matrix in both models, compared on the first rows.
#[derive(Debug)]
pub(super) struct Touch {
    rows: usize,
    /// Σ over rows and inputs of the squared difference.
    change: f64,
    /// Σ x and Σ x² of the original, for each input.
    sums: Vec<(f64, f64)>,
    original: Vec<f32>,
}

impl Touch {
    pub(super) fn new(inputs: usize) -> Self {
        Self { rows: 0, change: 0.0, sums: vec![(0.0, 0.0); inputs], original: Vec::new() }
    }

    /// Compares some rows: `found` in the repaired model, `first` and the following channels in the original.
    pub(super) fn add(&mut self, found: &mut Columns<'_>, (original, first): (&Lines<'_>, usize), rows: Range<usize>) {
        if self.is_known() {
            return;
        }
        self.rows += rows.len();
        self.original.resize(self.sums.len() * rows.len(), 0.0);
        let mut columns = Columns::over(&mut self.original, self.sums.len());
        original.write(first, rows, &mut columns);
        for (number, (sum, square)) in self.sums.iter_mut().enumerate() {
            for (&was, &is) in columns.column(number).iter().zip(found.column(number).iter()) {
                let (was, difference) = (f64::from(was), f64::from(is) - f64::from(was));
                *sum += was;
                *square += was * was;
                self.change += difference * difference;
            }
        }
    }

    /// Whether enough rows were seen.
    pub(super) fn is_known(&self) -> bool {
        self.rows >= BLOCK_ROWS
    }

    /// `‖x' − x‖ / ‖x − mean x‖` of all rows that were seen, if it is next to nothing.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn hardly(&self) -> Option<f64> {
        let n = self.rows as f64;
        let spread: f64 = self.sums.iter().map(|(sum, square)| (square - sum * sum / n).max(0.0)).sum();
        let change = (self.change / spread).sqrt();
        (change < HARDLY).then_some(change)
    }
}
