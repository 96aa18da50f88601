//! Which stored tensors are trained.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::graph::{Graph, Source, ValueId, View};
use crate::onnx::tensor::{ElementType, TensorView};
use crate::onnx::traits::{MOVES, READS_SHAPE};

/// Larger values are masks and limits, not weights.
const LARGEST_WEIGHT: f32 = 1e4;

/// Operands that are statistics, bounds or sizes, not weights.
const FIXED: &[(&str, &[usize])] = &[
    ("BatchNormalization", &[3, 4]),
    ("Clip", &[1, 2]),
    ("DequantizeLinear", &[1, 2]),
    ("Dropout", &[1, 2]),
    ("GRU", &[5]),
    ("LSTM", &[5, 6]),
    ("Pad", &[1, 2]),
    ("Pow", &[1]),
    ("QuantizeLinear", &[1, 2]),
    ("RNN", &[5]),
    ("Resize", &[1, 2, 3]),
    ("Upsample", &[1]),
    ("Where", &[0]),
];

/// The stored float tensors that a gradient may change: those that meet the data in some operator that they weigh. Tables
/// that only meet positions (rotary frequencies), statistics, masks and single numbers are left alone.
///
/// # Errors
/// If a stored tensor is malformed.
pub(super) fn trainable(view: &View<'_>) -> Result<BTreeSet<String>> {
    let graph = &view.graph;
    let data = of_data(graph);
    let mut found = BTreeSet::new();
    for (index, value) in graph.values.iter().enumerate() {
        if graph.is_overridable(ValueId(index)) {
            continue;
        }
        let Some(tensor) = view.tensor(ValueId(index)) else { continue };
        let is_float = ElementType::from_code(tensor.data_type()).is_ok_and(ElementType::is_float);
        if !is_float || !value.captured_by.is_empty() || !meets_data(graph, ValueId(index), &data) {
            continue;
        }
        let view = TensorView::new(tensor)?;
        let is_weight = |w: &f32| w.is_finite() && w.abs() < LARGEST_WEIGHT;
        if view.len() > 1 && view.to_f32()?.iter().all(is_weight) {
            found.insert(value.name.clone());
        }
    }
    Ok(found)
}

/// Values that follow from the values of the graph's inputs, not from their shapes alone.
pub(super) fn of_data(graph: &Graph) -> BTreeSet<ValueId> {
    let is_input =
        |value: &ValueId| matches!(graph.at(*value).source, Source::Input(_)) || graph.is_overridable(*value);
    let inputs = (0..graph.values.len()).map(ValueId).filter(is_input);
    graph.reached_from(inputs, |node| !node.traits().has(READS_SHAPE))
}

/// Whether some operator combines the stored `value` with data, or looks it up.
fn meets_data(graph: &Graph, value: ValueId, data: &BTreeSet<ValueId>) -> bool {
    graph.at(value).uses.iter().any(|&(id, slot)| {
        let node = graph.node(id);
        let op = node.op.as_str();
        if FIXED.iter().any(|(fixed, slots)| *fixed == op && slots.contains(&slot)) {
            return false;
        }
        if op == "Gather" || node.inputs.iter().flatten().any(|input| data.contains(input)) {
            return true;
        }
        node.traits().has(MOVES) && node.outputs.iter().flatten().any(|&output| meets_data(graph, output, data))
    })
}
