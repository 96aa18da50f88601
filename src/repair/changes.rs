//! What a stage of a repair changed in the model, on its way from the lead to the workers.

use std::collections::BTreeMap;

use prost::Message;

use crate::calibrate::Team;
use crate::error::{Error, Result};
use crate::onnx::proto::{ModelProto, TensorProto};

/// Stands for the type of a tensor that has not changed; no tensor has it.
const UNCHANGED: i32 = -1;

/// `after` with only the names of tensors that are the same in `before`.
fn changes(before: &ModelProto, after: &mut ModelProto) -> ModelProto {
    let tensors = after.graph.as_mut().map(|graph| std::mem::take(&mut graph.initializer)).unwrap_or_default();
    let mut change = after.clone();
    let old = tensors_of(before);
    let kept = |tensor: &TensorProto| match old.get(tensor.name()) {
        Some(&old) if old == tensor => {
            TensorProto { name: tensor.name.clone(), data_type: Some(UNCHANGED), ..TensorProto::default() }
        }
        _ => tensor.clone(),
    };
    if let Some(graph) = &mut change.graph {
        graph.initializer = tensors.iter().map(kept).collect();
    }
    if let Some(graph) = &mut after.graph {
        graph.initializer = tensors;
    }
    change
}

/// What [`changes`] found, with the tensors of `before`.
fn changed(before: &ModelProto, mut change: ModelProto) -> ModelProto {
    let old = tensors_of(before);
    let tensors = change.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    for tensor in tensors.filter(|tensor| tensor.data_type == Some(UNCHANGED)) {
        if let Some(&old) = old.get(tensor.name()) {
            tensor.clone_from(old);
        }
    }
    change
}

fn tensors_of(model: &ModelProto) -> BTreeMap<&str, &TensorProto> {
    model.graph.iter().flat_map(|graph| &graph.initializer).map(|tensor| (tensor.name(), tensor)).collect()
}

/// Sends what changed in the model since `before` to all workers.
///
/// # Errors
/// If they cannot be reached.
pub(super) fn send(team: &Team, key: &str, before: &ModelProto, after: &mut ModelProto) -> Result<()> {
    team.put(key, changes(before, after).encode_to_vec())
}

/// Takes over what the lead changed in the model.
///
/// # Errors
/// If the lead cannot be reached, or sent something damaged.
pub(super) fn receive(team: &Team, key: &str, model: &mut ModelProto) -> Result<()> {
    let change = ModelProto::decode(team.get(key)?.as_slice());
    let change = change.map_err(|e| Error::runtime("the weights that the lead sent are damaged").caused_by(e))?;
    *model = changed(model, change);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sample_models::mlp;

    /// A tensor that changed, one that is new and has another place, and one that is gone.
    #[test]
    fn only_what_changed_is_sent() {
        let before = mlp();
        let mut after = before.clone();
        let tensors = &mut after.graph.as_mut().unwrap().initializer;
        assert!(tensors.len() > 2);
        let gone = tensors.remove(0);
        tensors[0].dims.push(1);
        tensors.insert(1, TensorProto { name: Some("new".to_owned()), ..gone });
        let expected = after.clone();
        let change = changes(&before, &mut after);
        let sent = &change.graph.as_ref().unwrap().initializer;
        assert_eq!(sent.iter().filter(|tensor| tensor.data_type != Some(UNCHANGED)).count(), 2);
        assert!(after == expected && changed(&before, change) == expected);
    }
}
