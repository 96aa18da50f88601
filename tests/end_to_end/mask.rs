//! An oracle of its own: units zeroed by what the report says about their group, nothing else.

use std::collections::BTreeMap;

use paredown::internals::onnx::proto::{GraphProto, ModelProto, TensorProto};
use paredown::internals::onnx::tensor::{ElementType, TensorView, from_f64_as};
use paredown::{GroupReport, Report};

/// Whether units of the group may go without a statistic shifting.
pub(crate) fn is_open(group: &GroupReport) -> bool {
    group.role == "free" && group.reason.is_none() && group.size > 1
}

/// `model` with the slices of every removed unit zeroed in all tensors of its group, running statistics excepted.
///
/// A merged axis is taken to have the unit outermost, as heads have it: position p of n belongs to unit p · size / n.
pub(crate) fn zeroed(model: &ModelProto, report: &Report, removed: &BTreeMap<String, Vec<bool>>) -> ModelProto {
    let mut masked = model.clone();
    let graph = masked.graph.as_mut().unwrap();
    let statistics = running_statistics(graph);
    for group in &report.groups {
        let Some(removed) = removed.get(&group.name) else { continue };
        for member in group.members.iter().filter(|member| !statistics.contains(&member.tensor)) {
            let tensor = graph.initializer.iter_mut().find(|tensor| tensor.name() == member.tensor).unwrap();
            *tensor = zero_slices(tensor, member.axis, removed);
        }
    }
    masked
}

fn running_statistics(graph: &GraphProto) -> Vec<String> {
    let norms = graph.node.iter().filter(|node| node.op_type() == "BatchNormalization");
    norms.flat_map(|node| node.input[3..5].to_vec()).collect()
}

fn zero_slices(tensor: &TensorProto, axis: usize, removed: &[bool]) -> TensorProto {
    let view = TensorView::new(tensor).unwrap();
    let dims = view.dims();
    let inner: usize = dims[axis + 1..].iter().product();
    let mut values = view.to_f64().unwrap();
    for (at, value) in values.iter_mut().enumerate() {
        let position = at / inner % dims[axis];
        if removed[position * removed.len() / dims[axis]] {
            *value = 0.0;
        }
    }
    assert_eq!(view.element_type(), ElementType::Float);
    from_f64_as(view.name(), dims, &values, view.element_type()).unwrap()
}
