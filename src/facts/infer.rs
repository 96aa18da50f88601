//! One topological walk per binding, each operator's facts by tract's rules.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::prelude::{InferenceFact, IntoTensor, Tensor, tvec};
use tract_onnx::tract_hir::infer::InferenceOp;

use super::known::{CONSTANT_LIMIT, Known, POSITION_LIMIT, datum_type, fact_of, known_of, known_value, onnx_element};
use super::operators::{Operators, stand_in};
use super::{Binding, Fact, Facts, Shapes};
use crate::axes::{BINDINGS, Extent};
use crate::error::Error;
use crate::graph::bodies::{self, Run};
use crate::graph::{Graph, NodeId, Source, ValueId};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::onnx::traits::AXIS_OF_FIRST;
use crate::runtime::inputs::{DeclaredInput, Dim};

pub(super) fn infer(
    model: &ModelProto,
    proto: &GraphProto,
    graph: &Graph,
    inputs: &[DeclaredInput],
    (sizes, values): (&[Binding; BINDINGS], &BTreeMap<String, Vec<i64>>),
    rules: &dyn Shapes,
) -> crate::Result<Facts> {
    let mut walks = Vec::with_capacity(BINDINGS);
    let stationary = sizes.iter().all(Binding::is_empty);
    let operators = Operators::new(model);
    let positions = positions(graph);
    // Of several declarations the first counts.
    let declared = proto.value_info.iter().chain(&proto.output).rev().map(|info| (info.name(), info)).collect();
    for (binding, sizes) in sizes.iter().enumerate() {
        let mut walk = Walk {
            proto,
            graph,
            operators: &operators,
            positions: &positions,
            declared: &declared,
            sizes,
            values,
            binding,
            made_up: false,
            known: vec![Known::default(); graph.values.len()],
            gaps: BTreeMap::new(),
            rules,
        };
        walk.sources(inputs)?;
        for &node in &graph.order {
            walk.check_axis(node)?;
            walk.visit(node);
        }
        let made_up = walk.made_up;
        walks.push((walk.known, walk.gaps));
        if stationary && !made_up {
            break;
        }
    }
    while walks.len() < BINDINGS {
        walks.push(walks[0].clone());
    }
    let facts = (0..graph.values.len()).map(|v| merge(&walks, v)).collect();
    let mut gaps = BTreeMap::new();
    walks.iter_mut().for_each(|(_, found)| gaps.append(found));
    // What no sample runs need not fit their sizes.
    gaps.retain(|&node, _| graph.node(node).run != Run::Never);
    Ok(Facts { facts, gaps: gaps.into_iter().collect(), sizes: sizes.clone() })
}

/// The values that positions in a tensor are computed from, and these.
fn positions(graph: &Graph) -> BTreeSet<ValueId> {
    let written = graph.nodes.iter().filter(|node| node.domain.is_empty() && node.op == "ScatterND");
    graph.ancestry(written.filter_map(|node| node.inputs.get(1).copied().flatten()), |_| false).values
}

/// One value's facts under all bindings.
fn merge(walks: &[(Vec<Known>, BTreeMap<NodeId, String>)], value: usize) -> Fact {
    let known: Vec<&Known> = walks.iter().map(|(known, _)| &known[value]).collect();
    let shapes: Option<Vec<&Vec<u64>>> = known.iter().map(|k| k.shape.as_ref()).collect();
    let extents = shapes.filter(|s| s.iter().all(|shape| shape.len() == s[0].len())).map(|shapes| {
        (0..shapes[0].len())
            .map(|axis| {
                let mut sizes = [0; BINDINGS];
                sizes.iter_mut().zip(&shapes).for_each(|(size, shape)| *size = shape[axis]);
                Extent::sampled(sizes)
            })
            .collect()
    });
    let mut constants: [Option<Arc<Tensor>>; BINDINGS] = Default::default();
    constants.iter_mut().zip(&known).for_each(|(slot, k)| slot.clone_from(&k.value));
    Fact { element: known[0].raw_element.or_else(|| known[0].element.and_then(onnx_element)), extents, constants }
}

/// The state of one walk.
pub(super) struct Walk<'a> {
    pub(super) proto: &'a GraphProto,
    pub(super) graph: &'a Graph,
    operators: &'a Operators,
    positions: &'a BTreeSet<ValueId>,
    /// Values that the file declares.
    pub(super) declared: &'a BTreeMap<&'a str, &'a ValueInfoProto>,
    pub(super) sizes: &'a Binding,
    /// Elements of inputs.
    values: &'a BTreeMap<String, Vec<i64>>,
    /// Number of the binding.
    pub(super) binding: usize,
    /// Whether sizes were invented, which differ from binding to binding.
    pub(super) made_up: bool,
    pub(super) known: Vec<Known>,
    gaps: BTreeMap<NodeId, String>,
    pub(super) rules: &'a dyn Shapes,
}

impl Walk<'_> {
    fn sources(&mut self, inputs: &[DeclaredInput]) -> crate::Result<()> {
        for (index, value) in self.graph.values.iter().enumerate() {
            self.known[index] = match value.source {
                Source::Initializer { index, overridable } => {
                    let mut known = self.tensor(&self.proto.initializer[index])?;
                    if overridable {
                        known.value = None;
                    }
                    known
                }
                Source::Input(_) => self.input(inputs, &value.name),
                Source::Sparse(_) | Source::Node(..) => Known::default(),
            };
        }
        Ok(())
    }

    fn input(&self, inputs: &[DeclaredInput], name: &str) -> Known {
        let Some(input) = inputs.iter().find(|input| input.name == name) else { return Known::default() };
        let shape: Option<Vec<u64>> = input.dims.as_ref().map(|dims| {
            let open = |axis| input.axis_name(axis).and_then(|name| self.sizes.get(&name).copied()).unwrap_or(1);
            let size = |(axis, dim): (usize, &Dim)| match dim {
                Dim::Fixed(size) => *size as u64,
                Dim::Symbol(_) | Dim::Unknown => open(axis) as u64,
            };
            dims.iter().enumerate().map(size).collect()
        });
        let element = input.element as i32;
        let value = self.values.get(name).zip(shape.as_ref()).and_then(|(values, shape)| {
            let dims: Vec<usize> = shape.iter().filter_map(|&size| usize::try_from(size).ok()).collect();
            let tensor = Tensor::from_shape(&dims, values).ok()?;
            Some(Arc::new(tensor.cast_to_dt(datum_type(element)?).ok()?.into_owned()))
        });
        Known { element: datum_type(element), raw_element: Some(element), shape, value }
    }

    fn tensor(&self, tensor: &TensorProto) -> crate::Result<Known> {
        let dims: Option<Vec<u64>> = tensor.dims.iter().map(|&d| u64::try_from(d).ok()).collect();
        let shape = dims.ok_or_else(|| Error::input(format!("tensor '{}' has a negative dimension", tensor.name())))?;
        let volume = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d));
        let small = volume.is_some_and(|n| n <= CONSTANT_LIMIT);
        let value = if small { self.operators.load(tensor).map(Arc::new) } else { None };
        let element = datum_type(tensor.data_type());
        Ok(Known { element, raw_element: Some(tensor.data_type()), shape: Some(shape), value })
    }

    /// An axis beyond the rank is a fault of the file; tract would count up to it, or from it.
    fn check_axis(&self, id: NodeId) -> crate::Result<()> {
        let node = self.graph.node(id);
        if !node.traits().has(AXIS_OF_FIRST) {
            return Ok(());
        }
        let data = node.inputs.first().copied().flatten();
        let rank = data.and_then(|value| self.known[value.0].shape.as_ref()).map(Vec::len);
        let axis = self.proto.node[id.0].attribute.iter().find(|attribute| attribute.name() == "axis").map(|a| a.i());
        let (Some(rank), Some(axis)) = (rank.and_then(|rank| i64::try_from(rank).ok()), axis) else { return Ok(()) };
        if (-rank..rank).contains(&axis) {
            return Ok(());
        }
        Err(Error::input(format!("axis {axis} is out of range for rank {rank}")).at_node(node.name.as_str()))
    }

    fn visit(&mut self, id: NodeId) {
        let node = &self.graph.nodes[id.0];
        let proto = &self.proto.node[id.0];
        let outcome = match (node.domain.as_str(), node.op.as_str()) {
            _ if self.operators.functions.called_by(proto).is_some() => Err("a function of the model".to_owned()),
            (bodies::DOMAIN, _) => self.body_end(id, proto),
            ("", "Constant") => self.constant(proto),
            ("", "Shape") => self.shape(id, proto),
            ("", "NonZero") => self.nonzero(id, proto),
            ("", "Identity") => self.first_input(id).map(|known| vec![known]),
            _ => self.by_tract(id, proto),
        };
        let mut results = match outcome {
            Ok(results) => results,
            Err(why) => {
                self.gaps.insert(id, why);
                Vec::new()
            }
        };
        results.resize(node.outputs.len(), Known::default());
        if results.iter().zip(&node.outputs).any(|(known, output)| output.is_some() && known.shape.is_none()) {
            self.fill_in(id, &mut results);
        }
        self.inherit_element(id, proto, &mut results);
        let complete = results.iter().zip(&node.outputs).all(|(k, output)| output.is_none() || k.shape.is_some());
        if complete {
            self.gaps.remove(&id);
        } else {
            self.gaps.entry(id).or_insert_with(|| "tract infers none".to_owned());
            self.read_off(id, &mut results);
        }
        for (output, known) in node.outputs.iter().zip(results) {
            if let Some(output) = output {
                self.known[output.0] = known;
            }
        }
    }

    fn body_end(&self, id: NodeId, proto: &NodeProto) -> Result<Vec<Known>, String> {
        let operands: Vec<Option<&Known>> =
            self.graph.node(id).inputs.iter().map(|input| input.map(|value| &self.known[value.0])).collect();
        super::bodies::results(proto, &operands)
    }

    fn first_input(&self, id: NodeId) -> Result<Known, String> {
        let input = self.graph.node(id).inputs.first().copied().flatten().ok_or("an operand is missing")?;
        Ok(self.known[input.0].clone())
    }

    fn constant(&self, node: &NodeProto) -> Result<Vec<Known>, String> {
        match node.attribute.iter().find_map(|a| a.t.as_ref()) {
            Some(tensor) => Ok(vec![self.tensor(tensor).map_err(|e| e.to_string())?]),
            None => {
                let (op, _) = self.operators.build(node)?;
                let value = op.eval_out_of_plan(tvec![]).map_err(|e| format!("{e:#}"))?;
                let value = value.and_then(|mut v| v.pop()).ok_or("the constant has no value")?;
                Ok(vec![known_value(value.into_tensor())])
            }
        }
    }

    fn shape(&self, id: NodeId, proto: &NodeProto) -> Result<Vec<Known>, String> {
        let shape = self.first_input(id)?.shape.ok_or("its operand's shape is not known")?;
        let rank = shape.len();
        let bound = |name: &str, default: usize| {
            let given = proto.attribute.iter().find(|a| a.name() == name).map(|a| a.i());
            given.map_or(default, |i| {
                let rank = i64::try_from(rank).unwrap_or(i64::MAX);
                usize::try_from(if i < 0 { i.saturating_add(rank) } else { i }.clamp(0, rank)).unwrap_or(0)
            })
        };
        let (start, end) = (bound("start", 0), bound("end", rank));
        let dims: Option<Vec<i64>> = shape[start..end.max(start)].iter().map(|&d| i64::try_from(d).ok()).collect();
        let dims = dims.ok_or("a size is too large")?;
        Ok(vec![known_value(tract_onnx::prelude::tensor1(&dims))])
    }

    /// Positions in a known value: TorchScript counts `0, 1, …` by those of a list of ones.
    fn nonzero(&self, id: NodeId, proto: &NodeProto) -> Result<Vec<Known>, String> {
        let value = self.first_input(id)?.value.ok_or("how many values are not zero is known at run time only")?;
        let (op, _) = self.operators.build(proto)?;
        let found = op.eval_out_of_plan(tvec![Tensor::clone(&value).into()]).map_err(|e| format!("{e:#}"))?;
        let found = found.and_then(|mut found| found.pop()).ok_or("it has no value")?;
        Ok(vec![known_value(found.into_tensor())])
    }

    fn by_tract(&self, id: NodeId, proto: &NodeProto) -> Result<Vec<Known>, String> {
        let node = self.graph.node(id);
        let replaced = stand_in(proto) != proto.op_type();
        if !replaced && !crate::runtime::is_supported(&self.operators.framework.op_register, proto) {
            return Err(format!("unknown operator {}", qualified(&node.domain, &node.op)));
        }
        let attempt = || {
            let (mut op, captured) = self.operators.build(proto)?;
            let mut inputs: Vec<InferenceFact> = Vec::new();
            let mut operands: Vec<ValueId> = node.inputs.iter().copied().flatten().collect();
            for name in &captured {
                operands.push(self.graph.value(name).ok_or("a captured value is not defined")?);
            }
            for operand in &operands {
                inputs.push(fact_of(&self.known[operand.0]));
            }
            let outputs = vec![InferenceFact::default(); node.outputs.iter().flatten().count()];
            let (_, inferred, _) = op
                .infer_facts(inputs.iter().collect(), outputs.iter().collect(), tvec![])
                .map_err(|e| format!("{:#}", e.root_cause()))?;
            let mut results: Vec<Known> = inferred.iter().map(known_of).collect();
            let are_positions = node.outputs.iter().flatten().all(|output| self.positions.contains(output));
            let limit = if are_positions { POSITION_LIMIT } else { CONSTANT_LIMIT };
            self.fold(&*op, &operands, &mut results, limit);
            Ok::<_, String>(spread(results, &node.outputs))
        };
        catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| Err("tract gave up on its shapes".to_owned()))
    }

    /// Evaluates an operator whose operands are all known and whose results have at most `limit` elements.
    fn fold(&self, op: &dyn InferenceOp, operands: &[ValueId], results: &mut [Known], limit: u64) {
        let small = |k: &Known| {
            let volume = k.shape.as_ref().and_then(|s| s.iter().try_fold(1_u64, |n, &d| n.checked_mul(d)));
            volume.is_some_and(|n| n <= limit)
        };
        if operands.is_empty() || results.iter().all(|k| k.value.is_some()) || !results.iter().all(small) {
            return;
        }
        let values: Option<_> =
            operands.iter().map(|o| self.known[o.0].value.as_ref().map(|v| Tensor::clone(v).into())).collect();
        let Some(values) = values else { return };
        if let Ok(Some(values)) = op.eval_out_of_plan(values) {
            for (result, value) in results.iter_mut().zip(values) {
                *result = known_value(value.into_tensor());
            }
        }
    }
}

/// Results of the outputs that are present, with gaps for those left out.
fn spread(results: Vec<Known>, outputs: &[Option<ValueId>]) -> Vec<Known> {
    let mut results = results.into_iter();
    outputs.iter().map(|o| o.and_then(|_| results.next()).unwrap_or_default()).collect()
}

fn qualified(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") }
}
