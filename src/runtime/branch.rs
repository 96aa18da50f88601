//! `If`, of which only the branch that is taken has to fit the inputs.
//!
//! tract plans both branches at the shapes of the inputs. But a branch may be meant for other shapes: a model for two
//! sample rates takes windows of two lengths, and one that squeezes an axis of length one does so in a branch. So where
//! the condition is known, which shapes and small integer inputs decide, only that branch is looked at.

use std::collections::{BTreeMap, HashMap};

use tract_onnx::model::{OnnxOpRegister, ParseResult, ParsingContext};
use tract_onnx::pb;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::logic::IfThenElse;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};
#[allow(clippy::wildcard_imports)] // what the macros of tract name
use tract_onnx::tract_hir::internal::*;

/// Replaces tract's operator.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert("If", read);
}

fn read(context: &ParsingContext, node: &pb::NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    ensure!(node.input.len() == 1, "it has {} operands, not one condition", node.input.len());
    let body = |name: &str| -> TractResult<ParseResult> {
        let attribute = node.attribute.iter().find(|a| a.name == name).and_then(|a| a.g.as_ref());
        context.parse_graph(attribute.ok_or_else(|| anyhow!("it has no {name}"))?)
    };
    let (then, other) = (body("then_branch")?, body("else_branch")?);
    let mut captured: Vec<String> = then.unresolved_inputs.iter().chain(&other.unresolved_inputs).cloned().collect();
    captured.sort();
    captured.dedup();
    let branch = |parsed: ParseResult| -> TractResult<Branch> {
        let slot = |name: &String| captured.iter().position(|other| other == name).map(|at| at + 1);
        let slots = parsed.unresolved_inputs.iter().map(slot).collect::<Option<Vec<usize>>>();
        Ok(Branch { body: parsed.model, slots: slots.ok_or_else(|| anyhow!("a branch reads what is not there"))? })
    };
    let (then, other) = (branch(then)?, branch(other)?);
    ensure!(then.body.outputs.len() == other.body.outputs.len(), "its branches have different numbers of results");
    Ok((Box::new(If { then, other }), captured))
}

/// One branch, and the operand that each input of its body is.
#[derive(Debug, Clone)]
struct Branch {
    body: InferenceModel,
    slots: Vec<usize>,
}

impl Branch {
    /// The body with what is known of the operands.
    fn analysed(&self, operands: &[InferenceFact]) -> TractResult<InferenceModel> {
        let mut body = self.body.clone();
        for (index, &slot) in self.slots.iter().enumerate() {
            let fact = body.input_fact(index)?.unify(&operands[slot])?;
            body.set_input_fact(index, fact)?;
        }
        body.analyse(false)?;
        Ok(body)
    }

    /// The body, with operands of these facts, as a model of its own.
    fn typed(&self, operands: &[InferenceFact]) -> TractResult<TypedModel> {
        self.analysed(operands)?.into_typed()
    }
}

/// The operator.
#[derive(Debug, Clone)]
struct If {
    then: Branch,
    other: Branch,
}

impl If {
    fn branch(&self, condition: bool) -> &Branch {
        if condition { &self.then } else { &self.other }
    }
}

impl PartialEq for If {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Eq for If {}

impl Op for If {
    fn name(&self) -> StaticName {
        "If".into()
    }

    not_a_typed_op!();
}

impl EvalOp for If {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let Branch { body, slots } = self.branch(inputs[0].cast_to_scalar::<bool>()?);
        let operands: TVec<TValue> = slots.iter().map(|&slot| inputs[slot].clone()).collect();
        body.clone().into_runnable()?.run(operands)
    }
}

/// What the condition is, where it is known.
fn decision(condition: &InferenceFact) -> TractResult<Option<bool>> {
    condition.value.concretize().map(|value| value.cast_to_scalar::<bool>()).transpose()
}

impl InferenceOp for If {
    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(TVec<InferenceFact>, TVec<InferenceFact>, TVec<InferenceFact>)> {
        let inputs: TVec<InferenceFact> = inputs.into_iter().cloned().collect();
        let mut outputs: TVec<InferenceFact> = outputs.into_iter().cloned().collect();
        let taken = decision(&inputs[0])?;
        let bodies = match taken {
            Some(condition) => vec![self.branch(condition).analysed(&inputs)?],
            // A branch that does not fit may be the one that is not taken.
            None => [&self.then, &self.other].iter().filter_map(|branch| branch.analysed(&inputs).ok()).collect(),
        };
        for (slot, output) in outputs.iter_mut().enumerate() {
            for body in &bodies {
                let fact = body.output_fact(slot)?;
                output.datum_type.unify_with(&fact.datum_type)?;
            }
            if taken.is_some() {
                output.unify_with(bodies[0].output_fact(slot)?)?;
            } else if let [then, other] = &bodies[..]
                && then.output_fact(slot)?.shape == other.output_fact(slot)?.shape
            {
                output.shape.unify_with(&then.output_fact(slot)?.shape)?;
            }
        }
        Ok((inputs, outputs, observed.into_iter().cloned().collect()))
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.then.body.outputs.len())
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        let operands = node.inputs.iter().map(|&outlet| source.outlet_fact(outlet).cloned());
        let operands = operands.collect::<TractResult<Vec<InferenceFact>>>()?;
        let inputs: TVec<OutletId> = node.inputs.iter().map(|outlet| mapping[outlet]).collect();
        if let Some(condition) = decision(&operands[0])? {
            let branch = self.branch(condition);
            let given: Vec<OutletId> = branch.slots.iter().map(|&slot| inputs[slot]).collect();
            return inline(&branch.typed(&operands)?, &given, &node.name, target);
        }
        let op = IfThenElse {
            then_body: self.then.typed(&operands)?,
            else_body: self.other.typed(&operands)?,
            then_input_mapping: self.then.slots.clone(),
            else_input_mapping: self.other.slots.clone(),
        };
        target.wire_node(&node.name, op, &inputs)
    }

    as_op!();
}

/// Puts the nodes of a body into `target`, where its inputs are `given`; what its outputs are there.
fn inline(body: &TypedModel, given: &[OutletId], name: &str, target: &mut TypedModel) -> TractResult<TVec<OutletId>> {
    let mut known: BTreeMap<OutletId, OutletId> =
        body.input_outlets()?.iter().copied().zip(given.iter().copied()).collect();
    for id in body.eval_order()? {
        let node = body.node(id);
        if Graph::is_source(&node.op) {
            continue;
        }
        let inputs = node.inputs.iter().map(|outlet| known.get(outlet).copied());
        let inputs = inputs.collect::<Option<TVec<OutletId>>>().ok_or_else(|| anyhow!("its order is broken"))?;
        let results = target.wire_node(format!("{name}.{}", node.name), node.op.clone(), &inputs)?;
        known.extend(results.iter().enumerate().map(|(slot, &outlet)| (OutletId::new(id, slot), outlet)));
    }
    let result = |outlet: &OutletId| known.get(outlet).copied().ok_or_else(|| anyhow!("a result is never computed"));
    body.output_outlets()?.iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use crate::ErrorKind;
    use crate::onnx::attributes::set_graph;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
    use crate::runtime::sample_models::{integers, model, node, tensor_value, weight};
    use crate::runtime::{NamedTensor, RunOptions, Runnable, Tensor};

    fn branch(nodes: Vec<NodeProto>, result: &str) -> GraphProto {
        GraphProto { node: nodes, output: vec![tensor_value(result, DataType::Float, &[])], ..GraphProto::default() }
    }

    fn decision(condition: &str, then: GraphProto, other: GraphProto, result: &str) -> NodeProto {
        let mut decision = node("If", &[condition], &[result], vec![]);
        set_graph(&mut decision, "then_branch", then);
        set_graph(&mut decision, "else_branch", other);
        decision
    }

    /// A model for two rates, each with windows of its own length: `x W₃` at rate 1, `x W₂` otherwise.
    fn two_rates() -> ModelProto {
        let product = |w: &str, y: &str| branch(vec![node("MatMul", &["x", w], &[y], vec![])], y);
        let which = decision("is", product("w3", "a"), product("w2", "b"), "y");
        model(
            vec![tensor_value("x", DataType::Float, &["n", "length"]), tensor_value("rate", DataType::Int64, &[])],
            vec![node("Equal", &["rate", "one"], &["is"], vec![]), which],
            vec![integers("one", &[], &[1]), weight("w3", &[3, 4], |_| 1.0), weight("w2", &[2, 4], |_| 10.0)],
            vec![tensor_value("y", DataType::Float, &["n", "4"])],
        )
    }

    fn at_rate(runnable: &Runnable, rate: i64, length: usize) -> crate::Result<Vec<NamedTensor>> {
        let x = Tensor::new(&[1, length], &vec![1_f32; length])?;
        runnable.run(&[("x".to_owned(), x), ("rate".to_owned(), Tensor::new(&[], &[rate])?)])
    }

    /// Silero's voice detector for 8 and 16 kHz was refused: the branch for the other rate does not fit the window.
    #[test]
    fn the_other_branch_need_not_fit() {
        let runnable = Runnable::new(&two_rates(), &RunOptions::default()).unwrap();
        for (rate, length, expected) in [(1, 3, 3.0), (0, 2, 20.0), (1, 3, 3.0)] {
            let y = at_rate(&runnable, rate, length).unwrap();
            assert_eq!(y[0].1.as_slice::<f32>().unwrap(), [expected; 4]);
        }
        let error = at_rate(&runnable, 0, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime, "{error}");
    }

    /// `h.squeeze(-1)` as PyTorch exports it, where the branches differ in rank and the shape decides.
    #[test]
    fn a_shape_decides_between_ranks() {
        let squeeze = branch(vec![node("Squeeze", &["x", "last"], &["a"], vec![])], "a");
        let same = branch(vec![node("Identity", &["x"], &["b"], vec![])], "b");
        let squeezed = model(
            vec![tensor_value("x", DataType::Float, &["n", "k"])],
            vec![
                node("Shape", &["x"], &["s"], vec![]),
                node("Gather", &["s", "last"], &["k"], vec![]),
                node("Equal", &["k", "one"], &["is"], vec![]),
                decision("is", squeeze, same, "y"),
            ],
            vec![integers("last", &[1], &[-1]), integers("one", &[1], &[1])],
            vec![tensor_value("y", DataType::Float, &[])],
        );
        let runnable = Runnable::new(&squeezed, &RunOptions::default()).unwrap();
        for (shape, expected) in [([2, 1], vec![2]), ([2, 3], vec![2, 3])] {
            let x = Tensor::new(&shape, &vec![1_f32; shape[0] * shape[1]]).unwrap();
            assert_eq!(runnable.run(&[("x".to_owned(), x)]).unwrap()[0].1.shape(), expected);
        }
    }
}
