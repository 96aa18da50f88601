//! `TopK` of integers that tract takes for sizes, such as the lengths of sequences that a model sorts.

use tract_onnx::model::{OnnxOpRegister, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::array::Topk;
use tract_onnx::tract_core::ops::cast::cast;
#[allow(clippy::wildcard_imports)] // what the rules of tract name
use tract_onnx::tract_hir::internal::*;

/// Replaces tract's operator.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert("TopK", read);
}

fn read(_context: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axis = node.get_attr_opt::<i64>("axis")?.unwrap_or(-1);
    let largest = node.get_attr_opt::<i64>("largest")?.unwrap_or(1) == 1;
    Ok((expand(TopK { axis, largest }), vec![]))
}

#[derive(Debug, Clone, Hash, PartialEq, Eq)]
struct TopK {
    axis: i64,
    largest: bool,
}

impl TopK {
    fn axis_of(&self, rank: usize) -> TractResult<usize> {
        crate::onnx::attributes::position(self.axis, rank).ok_or_else(|| format_err!("axis {} of {rank}", self.axis))
    }
}

impl Expansion for TopK {
    fn name(&self) -> StaticName {
        "TopK".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(2)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2)?;
        check_output_arity(outputs, 2)?;
        let (data, count) = (&inputs[0], &inputs[1]);
        solver.equals(&data.datum_type, &outputs[0].datum_type)?;
        solver.equals(&outputs[1].datum_type, DatumType::I64)?;
        for output in outputs {
            solver.equals(&data.rank, &output.rank)?;
        }
        solver.given(&data.rank, move |solver, rank| {
            let rank = usize::try_from(rank)?;
            let taken = self.axis_of(rank)?;
            for output in outputs {
                for axis in (0..rank).filter(|&axis| axis != taken) {
                    solver.equals(&data.shape[axis], &output.shape[axis])?;
                }
            }
            solver.given(&count.value, move |solver, count| {
                let count = count.cast_to::<TDim>()?;
                let count = count.try_as_plain_ram()?.as_slice::<TDim>()?.first().cloned();
                let count = count.ok_or_else(|| format_err!("the number of elements is missing"))?;
                outputs.iter().try_for_each(|output| solver.equals(&output.shape[taken], count.clone()))
            })
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let &[data, count] = inputs else { bail!("two operands are needed") };
        let fact = model.outlet_fact(data)?;
        let (are_sizes, rank) = (fact.datum_type == DatumType::TDim, fact.rank());
        let fallback_k = model.symbols.new_with_prefix("k").into();
        let taken = Topk { axis: self.axis_of(rank)?, largest: self.largest, fallback_k };
        if !are_sizes {
            return model.wire_node(prefix, taken, &[data, count]);
        }
        let integers = model.wire_node(format!("{prefix}.integers"), cast(DatumType::I64), &[data])?;
        let found = model.wire_node(format!("{prefix}.taken"), taken, &[integers[0], count])?;
        let sizes = model.wire_node(prefix, cast(DatumType::TDim), &[found[0]])?;
        Ok(tvec![sizes[0], found[1]])
    }
}

#[cfg(test)]
mod tests {
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::*;
    use crate::runtime::{RunOptions, Runnable, Tensor};

    #[test]
    fn sizes_are_sorted_as_numbers() {
        let nodes = vec![
            node("Shape", &["x"], &["sizes"], vec![]),
            node("Cast", &["lengths"], &["whole"], attributes("to=7")),
            node("Concat", &["sizes", "whole"], &["all"], attributes("axis=0")),
            node("TopK", &["all", "two"], &["largest", "places"], vec![]),
        ];
        let inputs =
            vec![tensor_value("x", DataType::Float, &["n", "3"]), tensor_value("lengths", DataType::Int32, &["m"])];
        let outputs = ["largest", "places"].map(|name| tensor_value(name, DataType::Int64, &["k"]));
        let model = model(inputs, nodes, vec![integers("two", &[1], &[2])], outputs.into());
        let x = Tensor::new(&[2, 3], &[0.0_f32; 6]).unwrap();
        let lengths = Tensor::new(&[3], &[1_i32, 9, 4]).unwrap();
        let runnable = Runnable::new(&model, &RunOptions::default()).unwrap();
        let results = runnable.run(&[("x".to_owned(), x), ("lengths".to_owned(), lengths)]).unwrap();
        assert_eq!(results[0].1.to_vec::<i64>().unwrap(), [9, 4]);
        assert_eq!(results[1].1.to_vec::<i64>().unwrap(), [3, 4]);
    }
}
