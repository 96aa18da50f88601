//! A guess at the time of a unit that nothing measured: its multiply–accumulates in whole blocks, or the bytes that it moves,
//! whichever takes longer.

use super::alone::sizes;
use super::units::Unit;
use crate::analysis::Subject;
use crate::axes::{Expr, Selection};
use crate::plan::Surface;

/// Channels that are computed at a time: sizes are filled up to a multiple.
const BLOCK: u64 = 8;

/// Multiply–accumulates in a millisecond, of one thread of a processor with 256-bit vectors.
const MACS: f64 = 2e7;

/// Bytes moved in a millisecond.
const BYTES: f64 = 1e7;

/// What any operator takes, in milliseconds.
const LEAST: f64 = 2e-3;

/// Bytes of an element.
const ELEMENT: f64 = 4.0;

/// Shares of the sizes that a function of them is fitted to.
const SHARES: [f64; 4] = [1.0, 0.7, 0.4, 0.2];

/// The estimated time in milliseconds, with `selection` kept.
pub(crate) fn estimate(subject: Subject<'_>, unit: &Unit, selection: &Selection) -> f64 {
    let parts = Parts::of(subject, unit, selection);
    parts.ms(parts.macs, parts.bytes)
}

/// The estimate as a function of the sizes of some axes: work in proportion to the product of them, bytes to their mean.
pub(crate) fn padded(subject: Subject<'_>, unit: &Unit, axes: &[Expr]) -> Surface {
    let parts = Parts::of(subject, unit, &Selection::all());
    let whole = sizes(subject, axes, &Selection::all()).unwrap_or_else(|| vec![1; axes.len()]);
    let scaled = |share: f64| -> Vec<u64> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        whole.iter().map(|&size| ((size as f64 * share).round() as u64).max(1)).collect()
    };
    let ms = |sizes: &[u64]| {
        let shares = whole.iter().zip(sizes).map(|(&whole, &size)| filled(size) as f64 / filled(whole) as f64);
        let shares: Vec<f64> = shares.collect();
        let mean = if shares.is_empty() { 1.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 };
        parts.ms(parts.macs * shares.iter().product::<f64>(), parts.bytes * mean)
    };
    let mut points: Vec<Vec<u64>> = SHARES.iter().map(|&share| scaled(share)).collect();
    // Each size alone, so that the function tells them apart.
    for (at, size) in scaled(SHARES[2]).into_iter().enumerate() {
        let mut point = whole.clone();
        point[at] = size;
        points.push(point);
    }
    let measured: Vec<(Vec<u64>, f64)> = points.into_iter().map(|sizes| (sizes.clone(), ms(&sizes))).collect();
    Surface::fit(&whole, &measured)
}

/// A size filled up to whole blocks; a size below one block is computed as it is.
fn filled(size: u64) -> u64 {
    if size < BLOCK { size } else { size.next_multiple_of(BLOCK) }
}

/// What a unit computes and moves.
struct Parts {
    macs: f64,
    bytes: f64,
}

impl Parts {
    fn of(subject: Subject<'_>, unit: &Unit, selection: &Selection) -> Self {
        let Subject { graph, network, .. } = subject;
        let volume = |axes: &[Expr]| -> f64 {
            let sizes = sizes(subject, axes, selection).unwrap_or_default();
            sizes.iter().map(|&size| size as f64).product()
        };
        let blocks = |axes: &Vec<Expr>| -> f64 {
            let sizes = sizes(subject, axes, selection).unwrap_or_default();
            sizes.iter().map(|&size| filled(size) as f64).product()
        };
        let contractions = unit.nodes.iter().filter_map(|id| network.relations.get(id.0)?.contraction.as_ref());
        let macs = contractions.flat_map(|contraction| &contraction.macs).map(blocks).sum();
        let slots = unit.nodes.iter().flat_map(|&id| (0..graph.node(id).inputs.len()).map(move |slot| (id, slot)));
        let read = slots.filter(|&(id, slot)| {
            let value = graph.node(id).inputs.get(slot).copied().flatten();
            value.is_some_and(|value| graph.producer(value).is_none_or(|maker| !unit.nodes.contains(&maker)))
        });
        let read: f64 = read.filter_map(|(id, slot)| network.operand(graph, id, slot)).map(volume).sum();
        let made: f64 = unit.makes.iter().filter_map(|&value| network.value(value)).map(volume).sum();
        Self { macs, bytes: (read + made) * ELEMENT }
    }

    fn ms(&self, macs: f64, bytes: f64) -> f64 {
        (macs / MACS).max(bytes / BYTES) + LEAST
    }
}
