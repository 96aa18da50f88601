//! Loops over a constant number of iterations, and branches whose condition is constant.

use std::collections::BTreeMap;

use super::{MOST_ITEMS, MOST_NODES, Unroller};
use crate::graph::{bodies::rename, constant_tensor};
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType, type_proto};
use crate::onnx::tensor::{TensorView, from_i64};

impl Unroller<'_> {
    /// A loop that carries sequences, over a constant number of iterations and without an end before that.
    pub(super) fn unroll(&mut self, node: &NodeProto) -> Option<()> {
        let body = Attributes::of(node).graph("body").ok()??;
        let states = node.input.get(2..)?;
        let fits = body.input.len() == states.len() + 2 && body.output.len() == states.len() + 1;
        let is_output = |name: &String| self.graph.value(name).is_some_and(|id| self.graph.at(id).is_output);
        let given = node.input.get(1).is_some_and(|name| !name.is_empty());
        let starts = !given || self.ints(node, 1)? == [1];
        let &[count] = self.ints(node, 0)?.as_slice() else { return None };
        let goes_on = self.goes_on(body);
        if !self.reads_sequence(node)
            || !fits
            || !body.sparse_initializer.is_empty()
            || !starts
            || !goes_on
            || node.output.iter().any(is_output)
            || !(0..=MOST_ITEMS).contains(&count)
            || body.node.len() * usize::try_from(count).ok()? > MOST_NODES
        {
            return None;
        }
        let tensors = body.initializer.iter().map(|tensor| tensor.name().to_owned());
        let mut shared: BTreeMap<String, String> = BTreeMap::new();
        for name in tensors {
            let fresh = self.fresh(node, &name);
            shared.insert(name, fresh);
        }
        let mut states = states.to_vec();
        for iteration in 0..count {
            let (mut copy, names) = self.iteration(node, body, iteration, &states, &shared)?;
            if iteration > 0 {
                copy.initializer.clear();
            }
            let outer = |name: &str| names.get(name).cloned().unwrap_or_else(|| name.to_owned());
            states = body.output.iter().skip(1).map(|output| outer(output.name())).collect();
            copy.initializer.into_iter().for_each(|tensor| self.store(tensor));
            self.new.append(&mut copy.node);
        }
        for (result, last) in node.output.iter().zip(states).filter(|(result, _)| !result.is_empty()) {
            self.editor.alias(result.clone(), last);
        }
        Some(())
    }

    /// The body of one iteration in the names of the graph around it, and these names.
    fn iteration(
        &mut self,
        node: &NodeProto,
        body: &GraphProto,
        iteration: i64,
        states: &[String],
        shared: &BTreeMap<String, String>,
    ) -> Option<(GraphProto, BTreeMap<String, String>)> {
        let mut names = shared.clone();
        for (role, input) in body.input.iter().enumerate() {
            let outer = match role {
                0 | 1 => {
                    let name = self.fresh(node, input.name());
                    let dims: &[usize] = if is_list(input) { &[1] } else { &[] };
                    let tensor = if role == 0 { from_i64(&name, dims, &[iteration]).ok()? } else { truth(&name, dims) };
                    self.store(tensor);
                    name
                }
                _ => states.get(role - 2)?.clone(),
            };
            names.insert(input.name().to_owned(), outer);
        }
        for name in body.node.iter().flat_map(|inner| &inner.output).filter(|name| !name.is_empty()) {
            let fresh = self.fresh(node, &format!("{iteration}/{name}"));
            names.insert(name.clone(), fresh);
        }
        let mut copy = body.clone();
        rename(&mut copy, &names);
        for inner in copy.node.iter_mut().filter(|inner| !inner.name().is_empty()) {
            inner.name = Some(format!("{}/{iteration}/{}", node.name(), inner.name()));
        }
        Some((copy, names))
    }

    /// Whether a body never ends its loop: what it returns is the condition that it was given, or always true.
    fn goes_on(&self, body: &GraphProto) -> bool {
        let Some(mut name) = body.output.first().map(|output| output.name()) else { return false };
        let is_true = |tensor| TensorView::new(tensor).and_then(|view| view.to_i64()).is_ok_and(|v| v == [1]);
        // Each node at most once: the body of a malformed file may go in a circle.
        for _ in 0..=body.node.len() {
            if body.input.get(1).is_some_and(|input| input.name() == name) {
                return true;
            }
            if let Some(tensor) = body.initializer.iter().find(|tensor| tensor.name() == name) {
                return is_true(tensor);
            }
            let Some(maker) = body.node.iter().find(|node| node.output.iter().any(|output| output == name)) else {
                return self.graph.value(name).and_then(|id| self.constant_ints(id)).is_some_and(|v| v == [1]);
            };
            if let Some(tensor) = constant_tensor(maker) {
                return is_true(tensor);
            }
            match (maker.op_type(), maker.input.first()) {
                ("Identity" | "Cast", Some(operand)) => name = operand,
                _ => return false,
            }
        }
        false
    }

    /// A branch that is always taken, in the place of its `If`.
    pub(super) fn decide(&mut self, node: &NodeProto) -> Option<()> {
        let &[condition] = self.ints(node, 0)?.as_slice() else { return None };
        let taken = if condition == 0 { "else_branch" } else { "then_branch" };
        let branch = Attributes::of(node).graph(taken).ok()??;
        if branch.output.len() < node.output.len() || !branch.sparse_initializer.is_empty() {
            return None;
        }
        let mut names = BTreeMap::new();
        let tensors = branch.initializer.iter().map(|tensor| tensor.name());
        let results = branch.node.iter().flat_map(|inner| inner.output.iter().map(String::as_str));
        for name in tensors.chain(results).filter(|name| !name.is_empty()) {
            let fresh = self.fresh(node, name);
            names.insert(name.to_owned(), fresh);
        }
        let mut copy = branch.clone();
        rename(&mut copy, &names);
        copy.initializer.into_iter().for_each(|tensor| self.store(tensor));
        self.new.append(&mut copy.node);
        for (result, inner) in node.output.iter().zip(&copy.output).filter(|(result, _)| !result.is_empty()) {
            self.becomes(result, inner.name().to_owned());
        }
        Some(())
    }
}

/// Whether a value is declared with one axis: the number of an iteration may be a list of one.
fn is_list(value: &ValueInfoProto) -> bool {
    let declared = value.r#type.as_ref().and_then(|r#type| r#type.value.as_ref());
    let Some(type_proto::Value::TensorType(tensor)) = declared else { return false };
    tensor.shape.as_ref().is_some_and(|shape| shape.dim.len() == 1)
}

/// The condition of a loop that continues.
fn truth(name: &str, dims: &[usize]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![1; dims.len()],
        data_type: Some(DataType::Bool as i32),
        raw_data: Some(vec![1].into()),
        ..TensorProto::default()
    }
}
