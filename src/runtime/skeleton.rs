//! From our `ModelProto` to tract's inference model, with one copy of each weight.
//!
//! tract has its own generated protobuf types. Only the *skeleton* of the model (nodes, names, types) goes through
//! bytes to become one of those; weights are left out, so that tract takes them for unresolved inputs, which are then
//! turned into constants that share one allocation with every plan made from the model. `value_info` is dropped:
//! it may be stale, and the symbols that some exporters write there clash with concrete input shapes.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::ops::konst::Const;

use super::failure::{NodeNames, unique_name};
use super::lowered::lowered;
use super::promote::{Precision, promote_node, promoted_type};
use super::support::{framework, set_results_apart, spell_out_default};
use super::weights::{datum_type, tract_tensor};
use crate::graph::constant_tensor;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto};
use crate::{Error, Result};

/// Constants at least this long are taken out of their nodes and treated as weights.
const HOISTED_BYTES: usize = 1024;

/// A model in tract's hands, its input shapes still open.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) model: InferenceModel,
    /// Name and element type of each input that is not an initializer, in graph order.
    pub(super) inputs: Vec<(String, DatumType)>,
    /// Name and declared element type of each output, then of each tap.
    pub(super) outputs: Vec<(String, Option<DatumType>)>,
    pub(super) names: NodeNames,
}

/// Hands `model` to tract. `taps` become further outputs; floats run in `precision`.
pub(super) fn parse(model: &ModelProto, taps: &[String], precision: Precision) -> Result<Parsed> {
    let model = &*super::single_channel::widened(model)?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::input("the model has no graph"))?;
    let names = NodeNames::of(graph);
    let output_names = output_names(graph, taps)?;
    let weights = Weights::of(graph, &output_names);
    let inputs = input_types(graph, &weights, precision)?;
    let skeleton = skeleton(model, graph, &weights, &output_names, precision);
    let bytes = skeleton.encode_to_vec();
    drop(skeleton);
    let proto =
        tract_onnx::pb::ModelProto::decode(&*bytes).map_err(|e| Error::input(format!("not a valid model: {e}")))?;
    drop(bytes);

    let framework =
        framework().with_ignore_output_shapes(true).with_ignore_output_types(true).with_ignore_value_info(true);
    let mut parsed = framework.parse(&proto, None).map_err(|e| names.explain("read", &e))?;
    for name in &parsed.unresolved_inputs {
        let weight = weights.by_name.get(name.as_str()).ok_or_else(|| undefined(graph, &weights, name))?;
        let tensor = tract_tensor(weight, precision).map_err(|e| e.at_node(name.clone()))?;
        let outlet = parsed.outlets_by_name.get(name).copied().ok_or_else(|| undefined(graph, &weights, name))?;
        make_constant(&mut parsed.model, outlet, tensor).map_err(|e| names.explain("read", &e))?;
    }
    let sources: Vec<OutletId> =
        inputs.iter().filter_map(|(name, _)| parsed.outlets_by_name.get(name).copied()).collect();
    parsed.model.set_input_outlets(&sources).map_err(|e| names.explain("read", &e))?;
    let declared: BTreeMap<&str, &ValueInfoProto> = graph.output.iter().map(|info| (info.name(), info)).collect();
    let code = |name: &String| declared.get(name.as_str()).and_then(|info| element_code(info));
    let declared_type = |name: &String| code(name).and_then(|code| datum_type(promoted_type(code, precision)));
    let outputs = output_names.iter().map(|name| (name.clone(), declared_type(name))).collect();
    Ok(Parsed { model: parsed.model, inputs, outputs, names })
}

/// The weights that the skeleton leaves out, by name.
struct Weights<'a> {
    by_name: BTreeMap<&'a str, &'a TensorProto>,
    /// Initializers that are graph outputs by themselves: they stay in the skeleton.
    kept: Vec<&'a TensorProto>,
    /// Outputs of the `Constant` nodes that became weights.
    hoisted: BTreeSet<&'a str>,
    /// Sparse initializers, which tract does not run.
    sparse: BTreeSet<&'a str>,
}

impl<'a> Weights<'a> {
    fn of(graph: &'a GraphProto, outputs: &[String]) -> Self {
        let is_output = |name: &str| outputs.iter().any(|output| output == name);
        let (kept, taken): (Vec<_>, Vec<_>) = graph.initializer.iter().partition(|tensor| is_output(tensor.name()));
        let mut by_name: BTreeMap<&str, &TensorProto> =
            taken.into_iter().map(|tensor| (tensor.name(), tensor)).collect();
        let constants = graph.node.iter().filter_map(long_constant).filter(|(name, _)| !is_output(name));
        let constants: BTreeMap<&str, &TensorProto> = constants.collect();
        let hoisted = constants.keys().copied().collect();
        by_name.extend(constants);
        let sparse =
            graph.sparse_initializer.iter().filter_map(|sparse| Some(sparse.values.as_ref()?.name())).collect();
        Self { by_name, kept, hoisted, sparse }
    }

    fn holds(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.kept.iter().any(|tensor| tensor.name() == name)
    }
}

/// Output name and value of a `Constant` node that is worth taking out.
fn long_constant(node: &NodeProto) -> Option<(&str, &TensorProto)> {
    let value = constant_tensor(node)?;
    (value.raw_data().len() >= HOISTED_BYTES).then_some((node.output.first()?.as_str(), value))
}

/// Graph outputs, then taps that are not graph outputs, each once.
fn output_names(graph: &GraphProto, taps: &[String]) -> Result<Vec<String>> {
    let defined: BTreeSet<&str> = (graph.input.iter().map(ValueInfoProto::name))
        .chain(graph.initializer.iter().map(TensorProto::name))
        .chain(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)))
        .collect();
    let mut names: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in graph.output.iter().map(ValueInfoProto::name).chain(taps.iter().map(String::as_str)) {
        if name.is_empty() || !defined.contains(name) {
            return Err(Error::input(format!("output '{name}' is not the result of any node")));
        }
        if seen.insert(name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn input_types(graph: &GraphProto, weights: &Weights<'_>, precision: Precision) -> Result<Vec<(String, DatumType)>> {
    let declared = graph.input.iter().filter(|input| !weights.holds(input.name()));
    declared
        .map(|input| {
            let code = element_code(input).ok_or_else(|| {
                Error::input(format!(
                    "input '{}' is not a tensor; paredown runs models with tensor inputs only",
                    input.name()
                ))
            })?;
            let datum_type = datum_type(promoted_type(code, precision)).ok_or_else(|| {
                Error::runtime(format!("input '{}' has element type {code}, which tract lacks", input.name()))
            })?;
            Ok((input.name().to_owned(), datum_type))
        })
        .collect()
}

/// ONNX's number of the element type of a tensor value.
fn element_code(value: &ValueInfoProto) -> Option<i32> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => tensor.elem_type,
        _ => None,
    }
}

/// The model without weights, shapes and annotations.
fn skeleton(
    model: &ModelProto,
    graph: &GraphProto,
    weights: &Weights<'_>,
    outputs: &[String],
    precision: Precision,
) -> ModelProto {
    let is_hoisted =
        |node: &NodeProto| node.output.first().is_some_and(|output| weights.hoisted.contains(output.as_str()));
    let numbered = graph.node.iter().enumerate().filter(|(_, node)| !is_hoisted(node));
    let nodes = numbered.flat_map(|(index, node)| {
        let mut node = NodeProto { name: Some(unique_name(index, node)), doc_string: None, ..node.clone() };
        spell_out_default(&mut node);
        promote_node(&mut node, precision);
        set_results_apart(&mut node);
        lowered(node, precision)
    });
    let graph = GraphProto {
        node: nodes.collect(),
        name: graph.name.clone(),
        initializer: weights.kept.iter().map(|&tensor| tensor.clone()).collect(),
        input: graph
            .input
            .iter()
            .filter(|input| !weights.holds(input.name()))
            .map(|input| bare_input(input, precision))
            .collect(),
        output: outputs
            .iter()
            .map(|name| ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() })
            .collect(),
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: model.ir_version,
        opset_import: model.opset_import.clone(),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// An input of which only name and element type are declared.
fn bare_input(input: &ValueInfoProto, precision: Precision) -> ValueInfoProto {
    let elem_type = element_code(input).map(|code| promoted_type(code, precision));
    let tensor = type_proto::Tensor { elem_type, ..type_proto::Tensor::default() };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: input.name.clone(), r#type: Some(r#type), ..ValueInfoProto::default() }
}

fn make_constant(model: &mut InferenceModel, outlet: OutletId, tensor: Tensor) -> TractResult<()> {
    let tensor = tensor.into_arc_tensor();
    let fact = InferenceFact::try_from(tensor.clone())?;
    model.node_mut(outlet.node).op = Box::new(Const::new(tensor)?);
    model.set_outlet_fact(outlet, fact)
}

fn undefined(graph: &GraphProto, weights: &Weights<'_>, name: &str) -> Error {
    if weights.sparse.contains(name) {
        return Error::runtime(format!("initializer '{name}' is sparse, which tract does not run; pass `no_verify`"));
    }
    let user = graph.node.iter().find(|node| node.input.iter().any(|input| input == name));
    let error =
        Error::input(format!("value '{name}' is used but never defined; is an initializer missing from the file?"));
    match user {
        Some(node) => error.at_node(super::support::node_label(node)),
        None => error,
    }
}
