//! Slices of row-major bytes along one axis.

use std::ops::Range;

use bytes::Bytes;

/// Blocks of `block` bytes at `indices` (each below `size`) of every row of `size` blocks.
pub(super) fn gather(bytes: &Bytes, size: usize, block: usize, indices: &[usize]) -> Bytes {
    let row = size * block;
    if row == 0 || indices.is_empty() {
        return Bytes::new();
    }
    let runs = runs(indices);
    if let [run] = runs.as_slice()
        && bytes.len() == row
    {
        return bytes.slice(run.start * block..run.end * block);
    }
    match block {
        1 => gather_elements::<1>(bytes, size, indices),
        2 => gather_elements::<2>(bytes, size, indices),
        4 => gather_elements::<4>(bytes, size, indices),
        8 => gather_elements::<8>(bytes, size, indices),
        16 => gather_elements::<16>(bytes, size, indices),
        _ => {
            let mut taken = Vec::with_capacity(bytes.len() / row * indices.len() * block);
            for row in bytes.chunks_exact(row) {
                for run in &runs {
                    taken.extend_from_slice(&row[run.start * block..run.end * block]);
                }
            }
            Bytes::from(taken)
        }
    }
}

/// [`gather`] for blocks of one machine word, where a copy call for each block would dominate.
fn gather_elements<const N: usize>(bytes: &Bytes, size: usize, indices: &[usize]) -> Bytes {
    let elements = bytes.as_chunks::<N>().0;
    let mut taken: Vec<[u8; N]> = Vec::with_capacity(elements.len() / size * indices.len());
    for row in elements.chunks_exact(size) {
        taken.extend(indices.iter().map(|&index| row[index]));
    }
    Bytes::from(taken.into_flattened())
}

/// The maximal ascending runs of `indices`.
fn runs(indices: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}
