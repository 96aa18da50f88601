//! Rows of a matrix on their way to sums, stored column by column.
//!
//! Sums and products go along columns, so that each of their inner loops reads memory in order.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, CowArray, Ix2, s};

/// Rows that a block holds: sums are formed over this many at a time, whatever the batches, so that their rounding depends on
/// nothing else.
pub(crate) const BLOCK_ROWS: usize = 1024;

/// Rows of a block of few columns, of which a layer may have one for each channel.
const NARROW_ROWS: usize = 256;

/// Products are formed over a multiple of this many rows.
const EVEN: usize = 64;

/// Columns below which a block is narrow.
const NARROW: usize = 32;

/// Up to [`BLOCK_ROWS`] rows of `width` values each.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    width: usize,
    capacity: usize,
    filled: usize,
    /// width × capacity; what lies beyond the rows that are filled is zero once [`Block::pad`] was called.
    values: Vec<f32>,
}

/// Some rows of a block, to be written.
#[derive(Debug)]
pub(crate) struct Columns<'b> {
    values: &'b mut [f32],
    width: usize,
    stride: usize,
    rows: Range<usize>,
}

impl<'b> Columns<'b> {
    /// Columns that lie one after the other, `width` of them.
    pub(crate) fn over(values: &'b mut [f32], width: usize) -> Self {
        let rows = values.len() / width.max(1);
        Self { values, width, stride: rows, rows: 0..rows }
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Some of the columns.
    pub(crate) fn part(&mut self, columns: Range<usize>) -> Columns<'_> {
        let values = &mut self.values[columns.start * self.stride..columns.end * self.stride];
        Columns { values, width: columns.len(), stride: self.stride, rows: self.rows.clone() }
    }

    /// The rows' values of one column.
    pub(crate) fn column(&mut self, number: usize) -> &mut [f32] {
        &mut self.values[number * self.stride..][self.rows.clone()]
    }

    /// The rows' values of some consecutive columns, side by side.
    pub(crate) fn columns(&mut self, numbers: Range<usize>) -> impl Iterator<Item = &mut [f32]> {
        let (stride, rows) = (self.stride, self.rows.clone());
        let some = &mut self.values[numbers.start * stride..numbers.end * stride];
        some.chunks_exact_mut(stride.max(1)).map(move |column| &mut column[rows.clone()])
    }
}

impl Block {
    /// An empty block; its rows are as many as suit a matrix of `inputs` columns.
    pub(crate) fn new(width: usize, inputs: usize) -> Self {
        let capacity = if inputs < NARROW { NARROW_ROWS } else { BLOCK_ROWS };
        Self { width, capacity, filled: 0, values: Vec::new() }
    }

    /// Values of each row.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Rows that are filled.
    pub(crate) fn rows(&self) -> usize {
        self.filled
    }

    /// Rows that still fit.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.filled
    }

    /// The next `count` rows, which count as filled.
    pub(crate) fn next(&mut self, count: usize) -> Columns<'_> {
        // Most blocks of small data sets are never needed.
        if self.values.is_empty() {
            self.values = vec![0.0; self.width * self.capacity];
        }
        let rows = self.filled..self.filled + count;
        self.filled = rows.end;
        Columns { values: &mut self.values, width: self.width, stride: self.capacity, rows }
    }

    /// The filled part of one column.
    pub(crate) fn column(&self, number: usize) -> &[f32] {
        self.values.get(number * self.capacity..).and_then(|rest| rest.get(..self.filled)).unwrap_or_default()
    }

    /// The filled part of each column.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.capacity).map(|column| &column[..self.filled])
    }

    /// The filled part of each column, to be changed.
    pub(crate) fn columns_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let filled = self.filled;
        self.values.chunks_exact_mut(self.capacity).map(move |column| &mut column[..filled])
    }

    /// Overwrites the remains of earlier rows with zeros.
    pub(crate) fn pad(&mut self) {
        let filled = self.filled;
        if filled < self.capacity {
            self.values.chunks_exact_mut(self.capacity).for_each(|column| column[filled..].fill(0.0));
        }
    }

    /// The transposed block, width × rows; some rows of zeros may follow those that are filled.
    #[allow(clippy::expect_used)] // the length is the product of the sizes, as allocated
    pub(crate) fn transposed(&self) -> CowArray<'_, f32, Ix2> {
        let width = if self.values.is_empty() { 0 } else { self.width };
        let whole = ArrayView2::from_shape((width, self.capacity), &self.values);
        let rows = self.filled.next_multiple_of(EVEN).min(self.capacity);
        let whole = whole.expect("values holds width × capacity");
        if rows == self.capacity { whole.into() } else { whole.slice_move(s![.., ..rows]).to_owned().into() }
    }

    /// Moves the filled rows to the end of a matrix of as many columns.
    pub(crate) fn move_to(&mut self, matrix: &mut Array2<f64>) {
        let first = matrix.nrows();
        let mut longer = Array2::zeros((first + self.filled, self.width));
        longer.slice_mut(s![..first, ..]).assign(matrix);
        for (mut into, column) in longer.columns_mut().into_iter().zip(self.columns()) {
            into.iter_mut().skip(first).zip(column).for_each(|(to, &from)| *to = f64::from(from));
        }
        *matrix = longer;
        self.clear();
    }

    /// Empties the block.
    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }
}
