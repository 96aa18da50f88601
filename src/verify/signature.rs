//! A rewritten model keeps the signature of the original, and runs.

use std::collections::BTreeSet;

use crate::onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto, type_proto};
use crate::runtime::{NamedTensor, RunOptions, Runnable};
use crate::{Error, Result};

/// Checks that `rewritten` declares the inputs and outputs of `original`: names, order, element types and shapes.
///
/// The shapes of values in `resized` (outputs that the user allowed to shrink) may differ.
///
/// # Errors
/// [`ErrorKind::Proof`](crate::ErrorKind::Proof), naming the first value that changed.
pub fn signature(original: &ModelProto, rewritten: &ModelProto, resized: &BTreeSet<String>) -> Result<()> {
    let (Some(before), Some(after)) = (&original.graph, &rewritten.graph) else {
        return Err(Error::proof("the model has no graph"));
    };
    same_values("input", &inputs(before), &inputs(after), resized)?;
    same_values("output", &before.output.iter().collect::<Vec<_>>(), &after.output.iter().collect::<Vec<_>>(), resized)
}

/// Inputs that are not initializers.
fn inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let given: BTreeSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    graph.input.iter().filter(|input| !given.contains(input.name())).collect()
}

fn same_values(
    what: &str,
    before: &[&ValueInfoProto],
    after: &[&ValueInfoProto],
    resized: &BTreeSet<String>,
) -> Result<()> {
    if before.len() != after.len() {
        return Err(Error::proof(format!("the model had {} {what}s and now has {}", before.len(), after.len())));
    }
    for (old, new) in before.iter().zip(after) {
        if old.name() != new.name() {
            return Err(Error::proof(format!("{what} '{}' is now called '{}'", old.name(), new.name())));
        }
        if comparable(old, resized) != comparable(new, resized) {
            return Err(Error::proof(format!("{what} '{}' has a different type or shape than before", old.name())));
        }
    }
    Ok(())
}

/// The declared type, without the shape where it may change.
fn comparable(value: &ValueInfoProto, resized: &BTreeSet<String>) -> Option<type_proto::Value> {
    let mut declared = value.r#type.as_ref()?.value.clone()?;
    if resized.contains(value.name())
        && let type_proto::Value::TensorType(tensor) = &mut declared
    {
        tensor.shape = None;
    }
    Some(declared)
}

/// Checks that `rewritten`, as loaded from the written file, has the signature of `original`, and that tract types,
/// optimizes and runs it on `inputs`; returns the runnable for further checks.
///
/// # Errors
/// As [`signature`], and what tract has to say.
pub fn valid(
    original: &ModelProto,
    rewritten: &ModelProto,
    resized: &BTreeSet<String>,
    options: &RunOptions,
    inputs: &[NamedTensor],
) -> Result<Runnable> {
    signature(original, rewritten, resized)?;
    let runnable = Runnable::new(rewritten, options)?;
    let outputs = runnable.run(inputs)?;
    let declared = rewritten.graph.iter().flat_map(|graph| &graph.output);
    for (value, (name, tensor)) in declared.zip(&outputs) {
        // Where the declaration is the original's, a wrong one was wrong before.
        if resized.contains(name) && !fits(value, tensor.shape()) {
            let message = format!("output '{name}' has shape {:?}, which is not the declared one", tensor.shape());
            return Err(Error::proof(message));
        }
    }
    Ok(runnable)
}

/// Whether `shape` has the declared rank and fixed sizes.
fn fits(value: &ValueInfoProto, shape: &[usize]) -> bool {
    use crate::onnx::proto::tensor_shape_proto::dimension::Value;
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return true;
    };
    let Some(declared) = &tensor.shape else { return true };
    let fits = |declared: &Option<Value>, size: usize| match declared {
        Some(Value::DimValue(fixed)) if *fixed > 0 => usize::try_from(*fixed) == Ok(size),
        _ => true,
    };
    declared.dim.len() == shape.len() && declared.dim.iter().zip(shape).all(|(dim, &size)| fits(&dim.value, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::Tensor;
    use crate::runtime::sample_models::{mlp, tensor_value};

    fn refusal(change: impl Fn(&mut GraphProto)) -> String {
        let mut changed = mlp();
        change(changed.graph.as_mut().unwrap());
        signature(&mlp(), &changed, &BTreeSet::new()).unwrap_err().to_string()
    }

    #[test]
    fn every_change_of_the_signature_is_named() {
        assert!(refusal(|g| g.input[0].name = Some("z".into())).contains("input 'x' is now called 'z'"));
        assert!(refusal(|g| g.output.clear()).contains("had 1 outputs and now has 0"));
        let other_type = |g: &mut GraphProto| g.output[0] = tensor_value("y", DataType::Double, &["n", "2"]);
        assert!(refusal(other_type).contains("output 'y' has a different type"));
        let other_shape = |g: &mut GraphProto| g.input[0] = tensor_value("x", DataType::Float, &["1", "3"]);
        assert!(refusal(other_shape).contains("input 'x' has a different type or shape"));
    }

    #[test]
    fn an_output_that_may_shrink_keeps_its_type_only() {
        let mut smaller = mlp();
        smaller.graph.as_mut().unwrap().output[0] = tensor_value("y", DataType::Float, &["n", "1"]);
        let resized = BTreeSet::from(["y".to_owned()]);
        assert!(signature(&mlp(), &smaller, &resized).is_ok());
        smaller.graph.as_mut().unwrap().output[0] = tensor_value("y", DataType::Int64, &["n", "1"]);
        assert!(signature(&mlp(), &smaller, &resized).is_err());
    }

    #[test]
    fn a_model_that_runs_is_valid_and_a_wrong_declaration_is_not() {
        let inputs = [("x".to_owned(), Tensor::new(&[2, 3], &[1_f32; 6]).unwrap())];
        let resized = BTreeSet::from(["y".to_owned()]);
        let check = |model: &ModelProto| valid(&mlp(), model, &resized, &RunOptions::default(), &inputs);
        assert!(check(&mlp()).is_ok());
        let mut wrong = mlp();
        wrong.graph.as_mut().unwrap().output[0] = tensor_value("y", DataType::Float, &["n", "5"]);
        assert!(check(&wrong).unwrap_err().to_string().contains("not the declared one"));
        let mut broken = mlp();
        broken.graph.as_mut().unwrap().initializer[2].dims = vec![4, 2];
        assert_eq!(check(&broken).unwrap_err().kind(), crate::ErrorKind::Runtime);
    }
}
