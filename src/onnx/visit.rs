//! Every tensor of a model, wherever it is: initializers, sparse initializers, attributes, subgraphs,
//! functions, training graphs.

use crate::Result;
use crate::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto};

/// Where a tensor was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the initializers of a graph or subgraph.
    Initializer,
    /// In an attribute of a node, or in a sparse tensor.
    Attribute,
}

/// What is done with a tensor.
pub(super) type Action<'a> = dyn FnMut(Place, &mut TensorProto) -> Result<()> + 'a;

/// Calls `action` on every tensor of `model`, in the order of the file, and stops at the first error.
///
/// # Errors
/// The first error of `action`.
pub(super) fn tensors(model: &mut ModelProto, action: &mut Action) -> Result<()> {
    model.graph.iter_mut().try_for_each(|graph| in_graph(graph, action))?;
    for training in &mut model.training_info {
        for graph in training.initialization.iter_mut().chain(&mut training.algorithm) {
            in_graph(graph, action)?;
        }
    }
    for function in &mut model.functions {
        in_nodes(&mut function.node, action)?;
        in_attributes(&mut function.attribute_proto, action)?;
    }
    Ok(())
}

fn in_graph(graph: &mut GraphProto, action: &mut Action) -> Result<()> {
    in_nodes(&mut graph.node, action)?;
    for tensor in &mut graph.initializer {
        action(Place::Initializer, tensor)?;
    }
    for tensor in &mut graph.sparse_initializer {
        in_sparse(tensor, action)?;
    }
    Ok(())
}

fn in_nodes(nodes: &mut [NodeProto], action: &mut Action) -> Result<()> {
    nodes.iter_mut().try_for_each(|node| in_attributes(&mut node.attribute, action))
}

fn in_attributes(attributes: &mut [AttributeProto], action: &mut Action) -> Result<()> {
    for attribute in attributes {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            action(Place::Attribute, tensor)?;
        }
        for tensor in attribute.sparse_tensor.iter_mut().map(Box::as_mut).chain(&mut attribute.sparse_tensors) {
            in_sparse(tensor, action)?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            in_graph(graph, action)?;
        }
    }
    Ok(())
}

fn in_sparse(sparse: &mut SparseTensorProto, action: &mut Action) -> Result<()> {
    sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(|tensor| action(Place::Attribute, tensor))
}
