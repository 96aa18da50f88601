//! Facts at the ends of hoisted bodies; see [`bodies`](crate::graph::bodies).

use tract_onnx::prelude::DatumType;

use super::known::Known;
use crate::graph::bodies::{ARITY, AXIS, CARRIED, CONDITION, COUNTER, ENTRY, KIND, SLICE, take, taken_operands};
use crate::onnx::attributes::{Attributes, position};
use crate::onnx::proto::NodeProto;

/// Facts of the results of `node`, an end of a body, from those of its operands.
pub(super) fn results(node: &NodeProto, operands: &[Option<&Known>]) -> Result<Vec<Known>, String> {
    let attributes = Attributes::of(node);
    let int = |name: &str| attributes.int(name).ok().flatten().unwrap_or(0);
    if node.op_type() == ENTRY {
        return entry(int(KIND), int(AXIS), operands.first().copied().flatten()).map(|known| vec![known]);
    }
    let arity = usize::try_from(int(ARITY)).unwrap_or(0);
    let given = operands.get(..arity).unwrap_or_default();
    let left = operands.get(arity..).unwrap_or_default();
    match node.op_type() {
        "If" => Ok(match taken(node, given.first().copied().flatten()) {
            Some(taken) => {
                let left = operands.get(taken).unwrap_or_default();
                left.iter().map(|known| known.map(Known::without_value).unwrap_or_default()).collect()
            }
            None => branches(left, node.output.len()),
        }),
        "Loop" => Ok(carried(given.get(2..).unwrap_or_default(), left.get(1..).unwrap_or_default())),
        _ => {
            let scanned = usize::try_from(int("num_scan_inputs")).unwrap_or(0);
            let states = given.len().saturating_sub(scanned);
            let mut results = carried(given.get(..states).unwrap_or_default(), left);
            let input_axis = attributes.ints("scan_input_axes").ok().flatten().and_then(|a| a.first().copied());
            let length = given.get(states).copied().flatten().and_then(|known| size_of(known, input_axis.unwrap_or(0)));
            let axes = attributes.ints("scan_output_axes").ok().flatten();
            for (number, &body) in left.iter().enumerate().skip(states) {
                let axis = axes.map_or(Some(0), |axes| axes.get(number - states).copied());
                results.push(body.zip(length).zip(axis).map_or_else(Known::default, |((k, n), a)| stacked(k, n, a)));
            }
            Ok(results)
        }
    }
}

/// The operands that the branch leaves which the condition decides for, or which is always taken.
fn taken(node: &NodeProto, condition: Option<&Known>) -> Option<std::ops::Range<usize>> {
    let decided = || {
        let is_true = condition?.value.as_ref()?.cast_to_scalar::<bool>().ok()?;
        let mut marked = node.clone();
        take(&mut marked, is_true);
        taken_operands(&marked)
    };
    taken_operands(node).or_else(decided)
}

fn entry(kind: i64, axis: i64, operand: Option<&Known>) -> Result<Known, String> {
    let scalar = |element| Known { element: Some(element), shape: Some(Vec::new()), ..Known::default() };
    let operand = || operand.ok_or_else(|| "what enters the body is not known".to_owned());
    match kind {
        COUNTER => Ok(scalar(DatumType::I64)),
        CONDITION => Ok(scalar(DatumType::Bool)),
        CARRIED => operand().map(Known::without_value),
        SLICE => {
            let mut known = operand()?.without_value();
            let at = known.shape.as_ref().and_then(|shape| position(axis, shape.len()));
            match (&mut known.shape, at) {
                (Some(shape), Some(at)) => drop(shape.remove(at)),
                (shape, _) => *shape = None,
            }
            Ok(known)
        }
        other => Err(format!("an entry of kind {other}")),
    }
}

/// Results on which all branches agree.
fn branches(left: &[Option<&Known>], count: usize) -> Vec<Known> {
    (0..count)
        .map(|slot| {
            let mut each = left.iter().skip(slot).step_by(count.max(1));
            let Some(&Some(first)) = each.next() else { return Known::default() };
            let agree = each.all(|other| other.is_some_and(|other| other.shape == first.shape));
            if agree { first.without_value() } else { Known { shape: None, ..first.without_value() } }
        })
        .collect()
}

/// What a loop carries: known where its shape stays the same from one iteration to the next.
fn carried(initial: &[Option<&Known>], last: &[Option<&Known>]) -> Vec<Known> {
    initial
        .iter()
        .zip(last)
        .map(|pair| match pair {
            (Some(first), Some(last)) if first.shape == last.shape => last.without_value(),
            (Some(first), _) => Known { shape: None, ..first.without_value() },
            _ => Known::default(),
        })
        .collect()
}

fn size_of(known: &Known, axis: i64) -> Option<u64> {
    let shape = known.shape.as_ref()?;
    shape.get(position(axis, shape.len())?).copied()
}

/// One slice for each of `length` iterations, along `axis` of the result.
fn stacked(slice: &Known, length: u64, axis: i64) -> Known {
    let mut known = slice.without_value();
    if let Some(shape) = &mut known.shape {
        match position(axis, shape.len() + 1) {
            Some(at) => shape.insert(at, length),
            None => known.shape = None,
        }
    }
    known
}
