//! A graph as a differentiable program.
//!
//! Values that a trained tensor reaches are computed on the tape, operator by operator; all others are tract's
//! ([`Feed`]). So shape arithmetic, masks and index computations need no gradient rule, whatever an exporter wrote.

use std::collections::{BTreeMap, BTreeSet};

use super::feed::Feed;
use super::kernel::Real;
use super::ops::{Gradient, Operand, Site, gradient};
use super::parameters::{of_data, trainable};
use super::tape::{Tape, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Editor, Graph, NodeId, ValueId, View};
use crate::onnx::opset_of;
use crate::onnx::proto::{ModelProto, NodeProto, type_proto};
use crate::onnx::tensor::{ElementType, TensorView, from_weights};
use crate::onnx::traits::READS_SHAPE;
use crate::ops::operator_name;
use crate::runtime::{NamedTensor, tensor_of};

/// A stored tensor that is trained.
#[derive(Debug, Clone)]
pub struct Parameter<T: Real = f32> {
    /// Name of the initializer.
    pub name: String,
    /// Its value.
    pub value: Tensor<T>,
}

/// A factor of ones in front of an operand: its gradient says how much each index matters for each sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gate {
    /// The node.
    pub node: NodeId,
    /// The operand.
    pub operand: usize,
    /// Axis of the operand.
    pub axis: usize,
}

/// What is to be computed on the tape.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// Gradients of the stored tensors that `admits` lets through.
    Parameters(&'a dyn Fn(&str) -> bool),
    /// Gradients of gates.
    Gates(&'a [Gate]),
}

/// One operator on the tape.
struct Step<T: Real> {
    node: NodeProto,
    name: String,
    gradient: &'static Gradient<T>,
    opset: i64,
    gates: Vec<(usize, usize, usize)>,
    /// Values that no later step reads.
    done: Vec<String>,
}

/// A graph as a differentiable program, computed in `T`.
pub struct Program<T: Real = f32> {
    steps: Vec<Step<T>>,
    parameters: Vec<Parameter<T>>,
    constants: BTreeMap<String, Operand<T>>,
    feed: Feed,
    outputs: Vec<String>,
    gates: usize,
}

/// The results of one run.
pub struct Run<T: Real = f32> {
    /// The graph's real outputs that depend on what is differentiated, in graph order.
    pub outputs: Vec<(String, Tensor<T>)>,
    /// The trained tensors, in the order of the program's parameters.
    pub parameters: Vec<Tensor<T>>,
    /// The gates' factors: one for each sample and index, in the order of the gates.
    pub gates: Vec<Tensor<T>>,
}

impl<T: Real> Program<T> {
    /// The program of `model`'s main graph.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input), naming operators and nodes, if the model is malformed, nothing in it can be trained,
    /// or an operator on the way to an output has no gradient.
    pub fn new(model: &ModelProto, wanted: Wanted<'_>) -> Result<Self> {
        let view = View::of(model)?;
        let (proto, graph) = (view.proto, &view.graph);
        let (chosen, gates): (BTreeSet<String>, &[Gate]) = match wanted {
            Wanted::Parameters(admits) => (trainable(&view)?.into_iter().filter(|name| admits(name)).collect(), &[]),
            Wanted::Gates(gates) => (BTreeSet::new(), gates),
        };
        let outputs: Vec<String> = proto.output.iter().filter(|o| is_real(o)).map(|o| o.name().to_owned()).collect();
        let (live, nodes) = live(graph, &chosen, gates, &outputs);
        let outputs: Vec<String> =
            outputs.into_iter().filter(|name| graph.value(name).is_some_and(|v| live.contains(&v))).collect();
        if outputs.is_empty() {
            return Err(Error::input("no real output of the model depends on a weight that can be trained"));
        }
        let opset = |domain: &str| opset_of(model, domain).unwrap_or(0);
        let mut steps = steps(graph, &proto.node, &nodes, gates, &opset)?;
        mark_done(&mut steps, &outputs);
        let read: BTreeSet<ValueId> =
            nodes.iter().flat_map(|&id| graph.node(id).inputs.iter().flatten().copied()).collect();
        let data = of_data(graph);
        let (mut constants, mut parameters) = (BTreeMap::new(), Vec::new());
        let (mut of_shapes, mut of_values) = (BTreeSet::new(), BTreeSet::new());
        for &value in &read {
            let name = &graph.at(value).name;
            match view.tensor(value) {
                Some(tensor) if chosen.contains(name) => {
                    let value = Tensor::of(&tensor_of(tensor)?)?;
                    parameters.push(Parameter { name: name.clone(), value });
                }
                Some(tensor) if !data.contains(&value) => {
                    constants.insert(name.clone(), operand(&tensor_of(tensor)?)?);
                }
                _ if live.contains(&value) => {}
                _ if data.contains(&value) => {
                    of_values.insert(name.clone());
                }
                _ => {
                    of_shapes.insert(name.clone());
                }
            }
        }
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        let feed = Feed::new(model, of_shapes, of_values)?;
        Ok(Self { steps, parameters, constants, feed, outputs, gates: gates.len() })
    }

    /// The tensors that are trained, by name.
    pub fn parameters(&self) -> &[Parameter<T>] {
        &self.parameters
    }

    /// The tensors that are trained, to be changed.
    pub(super) fn parameters_mut(&mut self) -> &mut [Parameter<T>] {
        &mut self.parameters
    }

    /// Names of the outputs that a run gives.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs the program on one batch of `samples` samples, on a tape: gradients can be taken of what follows from the
    /// outputs.
    ///
    /// # Errors
    /// If an operand does not fit its operator; the message names the node.
    pub fn run(&self, inputs: &[NamedTensor], samples: usize) -> Result<Run<T>> {
        let tape = Tape::new();
        let parameters = self.parameters.iter().map(|p| tape.leaf(&p.value)).collect::<Result<_>>()?;
        self.compute(inputs, samples, parameters, |value| tape.leaf(value))
    }

    /// Runs the program on one batch of `samples` samples, for the values alone.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn evaluate(&self, inputs: &[NamedTensor], samples: usize) -> Result<Run<T>> {
        let parameters = self.parameters.iter().map(|p| p.value.clone()).collect();
        self.compute(inputs, samples, parameters, |value| Ok(value.clone()))
    }

    fn compute(
        &self,
        inputs: &[NamedTensor],
        samples: usize,
        parameters: Vec<Tensor<T>>,
        leaf: impl Fn(&Tensor<T>) -> Result<Tensor<T>>,
    ) -> Result<Run<T>> {
        let mut values = self.constants.clone();
        for (name, tensor) in self.feed.values(inputs)?.iter().chain(inputs) {
            values.insert(name.clone(), operand(tensor)?);
        }
        let named = self.parameters.iter().zip(&parameters);
        values.extend(named.map(|(p, value)| (p.name.clone(), Operand::Real(value.clone()))));
        let mut gates: Vec<Option<Tensor<T>>> = vec![None; self.gates];
        for step in &self.steps {
            let located = |e: Error| e.at_node(step.name.as_str());
            let mut operands: Vec<Option<Operand<T>>> =
                step.node.input.iter().map(|name| values.get(name.as_str()).cloned()).collect();
            for &(slot, axis, number) in &step.gates {
                let Some(Some(Operand::Real(x))) = operands.get(slot) else { continue };
                let (gated, gate) = gated(x, axis, samples, &leaf).map_err(located)?;
                operands[slot] = Some(Operand::Real(gated));
                gates[number] = Some(gate);
            }
            let site = Site::new(&step.node, operands, step.opset);
            let results = step.gradient.forward(&site).map_err(located)?;
            for (name, result) in step.node.output.iter().zip(results) {
                values.insert(name.clone(), Operand::Real(result));
            }
            step.done.iter().for_each(|name| drop(values.remove(name)));
        }
        let outputs = self.outputs.iter().map(|name| match values.remove(name) {
            Some(Operand::Real(tensor)) => Ok((name.clone(), tensor)),
            _ => Err(Error::input(format!("output '{name}' was not computed"))),
        });
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        let gates = gates.into_iter().map(|gate| gate.ok_or_else(|| Error::input("a gate was not passed")));
        Ok(Run { outputs, parameters, gates: gates.collect::<Result<_>>()? })
    }

    /// `model`, whose program this is, with the trained tensors in their own element types. Nothing else changes.
    ///
    /// # Errors
    /// If a value does not fit its element type.
    pub fn write(&self, model: &ModelProto) -> Result<ModelProto> {
        let view = View::of(model)?;
        let mut editor = Editor::new(model.clone(), &view.graph)?;
        for parameter in &self.parameters {
            let place = view.graph.value(&parameter.name).and_then(|value| view.graph.place(value));
            let Some((place, tensor)) = place.and_then(|place| Some((place, place.tensor(view.proto)?))) else {
                continue;
            };
            let values: Vec<f64> = parameter.value.data().iter().map(|x| x.to_f64()).collect();
            let old = TensorView::new(tensor)?;
            let new = from_weights(old.name(), old.dims(), &values, old.element_type())?;
            place.write(editor.proto_mut(), new);
        }
        Ok(editor.finish_flat())
    }
}

fn is_real(output: &crate::onnx::proto::ValueInfoProto) -> bool {
    let value = output.r#type.as_ref().and_then(|t| t.value.as_ref());
    match value {
        Some(type_proto::Value::TensorType(tensor)) => {
            ElementType::from_code(tensor.elem_type()).is_ok_and(ElementType::is_float)
        }
        _ => false,
    }
}

fn operand<T: Real>(tensor: &crate::runtime::Tensor) -> Result<Operand<T>> {
    Ok(if tensor.is_float() { Operand::Real(Tensor::of(tensor)?) } else { Operand::Known(tensor.clone()) })
}

/// Values that `chosen` tensors and gates reach, and the nodes among them that `outputs` need, in order.
fn live(
    graph: &Graph,
    chosen: &BTreeSet<String>,
    gates: &[Gate],
    outputs: &[String],
) -> (BTreeSet<ValueId>, Vec<NodeId>) {
    let gated = gates.iter().flat_map(|gate| graph.node(gate.node).outputs.iter().copied().flatten());
    let seeds = chosen.iter().filter_map(|name| graph.value(name)).chain(gated);
    let live = graph.reached_from(seeds, |node| !node.traits().has(READS_SHAPE));
    let needed = graph.ancestry(outputs.iter().filter_map(|name| graph.value(name)), |value| !live.contains(&value));
    // A trained tensor may be stored in a `Constant` node, which is nothing to compute.
    let stores = |id: &NodeId| {
        let mut made = graph.node(*id).outputs.iter().flatten();
        made.any(|&value| chosen.contains(&graph.at(value).name))
    };
    let nodes = graph.order.iter().copied().filter(|id| needed.nodes.contains(id) && !stores(id)).collect();
    (live, nodes)
}

/// The steps of `nodes`, or all their operators that have no gradient.
fn steps<T: Real>(
    graph: &Graph,
    protos: &[NodeProto],
    nodes: &[NodeId],
    gates: &[Gate],
    opset: &dyn Fn(&str) -> i64,
) -> Result<Vec<Step<T>>> {
    let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut steps = Vec::new();
    for &id in nodes {
        let node = graph.node(id);
        let Some(gradient) = gradient(&node.domain, &node.op) else {
            missing.entry(operator_name(&node.domain, &node.op)).or_default().push(&node.name);
            continue;
        };
        let at = gates.iter().enumerate().filter(|(_, gate)| gate.node == id);
        steps.push(Step {
            node: protos[id.0].clone(),
            name: node.name.clone(),
            gradient,
            opset: opset(&node.domain),
            gates: at.map(|(number, gate)| (gate.operand, gate.axis, number)).collect(),
            done: Vec::new(),
        });
    }
    if missing.is_empty() {
        return Ok(steps);
    }
    let named: Vec<String> =
        missing.iter().map(|(op, nodes)| format!("{op} (node '{}'{})", nodes[0], more(nodes.len() - 1))).collect();
    Err(Error::input(format!("the model cannot be trained: no gradient is known for {}", named.join(", "))))
}

/// Tells each step which values it is the last to read or make; the outputs stay.
fn mark_done<T: Real>(steps: &mut [Step<T>], outputs: &[String]) {
    let mut seen: BTreeSet<String> = outputs.iter().cloned().collect();
    for step in steps.iter_mut().rev() {
        let names = step.node.input.iter().chain(&step.node.output).filter(|name| !name.is_empty());
        step.done = names.filter(|name| seen.insert((*name).clone())).cloned().collect();
    }
}

fn more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more") }
}

/// `x` times ones, one for each sample and index of `axis`, and the ones. Samples lie along axis 0, alone or merged with
/// something else; where they do not, all of `x` is one sample.
fn gated<T: Real>(
    x: &Tensor<T>,
    axis: usize,
    samples: usize,
    leaf: &impl Fn(&Tensor<T>) -> Result<Tensor<T>>,
) -> Result<(Tensor<T>, Tensor<T>)> {
    let dims = x.dims();
    let first = *dims.first().ok_or_else(|| Error::input("a single number has no axis to gate"))?;
    let samples = if axis > 0 && samples > 0 && first.is_multiple_of(samples) { samples } else { 1 };
    let split: Vec<usize> = match axis {
        0 => [1].iter().chain(dims).copied().collect(),
        _ => [samples, first / samples].iter().chain(&dims[1..]).copied().collect(),
    };
    let mut ones = vec![1; split.len()];
    ones[0] = samples;
    ones[axis + 1] = dims[axis];
    let gate = leaf(&Tensor::filled(ones, 1.0))?;
    Ok((x.reshape(split)?.times(&gate)?.reshape(dims)?, gate))
}
