//! `CumSum` for integers that tract takes for sizes.
//!
//! tract turns every cast to int64 into its type for symbolic sizes, over which its running sum does not run: position
//! ids counted from an attention mask, for instance. At concrete shapes such values are plain integers.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::ops::cumsum;
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::{DatumType, OutletId, SpecialOps, TVec, TractResult, TypedModel};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::infer::{InferenceOp, InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::internal::{Expansion, StaticName, bail, expand};

/// Replaces tract's operator.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert("CumSum", read);
}

fn read(_context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let is_set = |name: &str| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)? == Some(1)) };
    let sum = cumsum::CumSum { reverse: is_set("reverse")?, exclusive: is_set("exclusive")? };
    Ok((expand(RunningSum(sum)), vec![]))
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
struct RunningSum(cumsum::CumSum);

impl Expansion for RunningSum {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.0.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let &[data, axis] = inputs else { bail!("two operands are needed") };
        if model.outlet_fact(data)?.datum_type != DatumType::TDim {
            return self.0.wire(prefix, model, inputs);
        }
        let integers = model.wire_node(format!("{prefix}.integers"), cast(DatumType::I64), &[data])?;
        let sums = self.0.wire(&format!("{prefix}.sums"), model, &[integers[0], axis])?;
        model.wire_node(prefix, cast(DatumType::TDim), &sums)
    }
}
