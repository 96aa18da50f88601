//! Split layers on their way into a graph: see [`rewrite::split`](crate::rewrite::split).

use super::candidates::{Candidate, Form};
use crate::analysis::Subject;
use crate::error::{Error, Result};
use crate::graph::{NodeId, ValueId};
use crate::lowrank::Factors;
use crate::onnx::proto::ModelProto;
use crate::rewrite::{Chain, Split, addition_after, split};

/// The model with these layers split.
///
/// # Errors
/// [`Input`](crate::ErrorKind::Input) if a tensor or attribute of a layer is malformed; the message names the node.
pub fn split_layers(subject: Subject<'_>, splits: &[(&Candidate, &Factors)]) -> Result<ModelProto> {
    split(
        subject,
        &splits.iter().map(|&(candidate, factors)| of_layer(candidate, factors)).collect::<Result<Vec<_>>>()?,
    )
}

fn of_layer<'s>(candidate: &'s Candidate, factors: &'s Factors) -> Result<Split<'s>> {
    let (chain, weights) = match (candidate.form, factors) {
        (Form::Matrix, Factors::Matrix(split)) => {
            (Chain::Matrix, vec![candidate.laid_out(&split.a), candidate.laid_out(&split.b)])
        }
        (Form::Table, Factors::Matrix(split)) => {
            (Chain::Table, vec![split.a.clone().into_dyn(), split.b.clone().into_dyn()])
        }
        (Form::Gates { directions }, Factors::Matrix(split)) => {
            let (rank, outputs) = split.b.dim();
            let shape = vec![directions, outputs / directions.max(1), rank];
            let gates = split.b.t().as_standard_layout().into_owned().into_shape_with_order(shape);
            let gates = gates.map_err(|e| Error::input(e.to_string()).at_node(candidate.name.as_str()))?;
            (Chain::Gates, vec![split.a.clone().into_dyn(), gates.into_dyn()])
        }
        (Form::Kernel { .. }, Factors::Channel(split)) => (Chain::Channel, split.kernels.clone()),
        (Form::Kernel { .. }, Factors::Spatial(split)) => (Chain::Spatial, split.kernels.clone()),
        (Form::Kernel { .. }, Factors::Tucker2(split)) => (Chain::Tucker2, split.kernels.clone()),
        _ => {
            let why = "its factors are of another form than its weight";
            return Err(Error::input(why).at_node(candidate.name.as_str()));
        }
    };
    Ok(Split {
        name: &candidate.name,
        nodes: &candidate.nodes,
        linear: candidate.linear,
        tensor: &candidate.tensor,
        element: candidate.element,
        chain,
        weights,
        bias_shift: factors.bias_shift(),
    })
}

/// Parameters that a change of bias adds to the model: those of biases that are missing, or needed by others too.
pub(crate) fn added_by_bias(subject: Subject<'_>, candidate: &Candidate) -> usize {
    if candidate.form == Form::Table {
        return 0;
    }
    // A recurrent operator adds a bias for its inputs and one for its state.
    let is_gates = matches!(candidate.form, Form::Gates { .. });
    let size = if is_gates { 2 * candidate.outputs() } else { candidate.outputs() };
    let of_node = |&id: &NodeId| {
        let bias = match candidate.linear.bias {
            Some(slot) => subject.graph.node(id).inputs.get(slot).copied().flatten(),
            None => addition_after(subject, id, candidate.linear, size).map(|(_, _, value)| value),
        };
        let is_own = |value: ValueId| {
            let root = subject.graph.behind_identity(value);
            let stored = subject.constant(root).map_or(0, |tensor| tensor.dims.iter().product::<i64>());
            let at = subject.graph.at(root);
            root == value && at.uses.len() == 1 && at.captured_by.is_empty() && usize::try_from(stored) == Ok(size)
        };
        if bias.is_some_and(is_own) { 0 } else { size }
    };
    candidate.nodes.iter().map(of_node).sum()
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod gates_tests;
