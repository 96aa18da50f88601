//! A model that can be run at any input shapes, its plans cached by shape.

use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::*;
use tract_onnx::tract_core::model::TypedSimplePlan;

use super::bounds::{analyse_within, sizes};
use super::optimize::optimized;
use super::promote::Precision;
use super::skeleton::{Parsed, parse};
use super::stack::on_deep_stack;
use super::support::refuse_unsupported;
use super::tensor::Tensor;
use crate::graph::bodies::decided;
use crate::onnx::proto::ModelProto;
use crate::{Error, Result};

/// A tensor and the name of the graph value that it is.
pub type NamedTensor = (String, Tensor);

/// Plans that are kept; each holds the weights once more, packed for its kernels.
const CACHED_PLANS: usize = 4;

/// Integer inputs of at most this many elements may be shapes.
const SHAPE_ELEMENTS: usize = 16;

/// Above this many nodes the search for a memory-saving order, quadratic at worst, is skipped.
const ORDERED_NODES: usize = 4000;

/// How a model is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Values inside the graph that [`Runnable::run`] returns beside the graph's outputs.
    pub taps: Vec<String>,
    /// The float types to run in.
    pub precision: Precision,
    /// No value may be larger, in bytes.
    pub max_value_bytes: u64,
    /// Nor may all values that are alive at one time, in bytes.
    pub max_live_bytes: u64,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { taps: Vec::new(), precision: Precision::Single, max_value_bytes: 1 << 30, max_live_bytes: 4 << 30 }
    }
}

impl RunOptions {
    /// The default options, in float64.
    pub fn double() -> Self {
        Self { precision: Precision::Double, max_value_bytes: 2 << 30, max_live_bytes: 8 << 30, ..Self::default() }
    }

    /// The default options with these taps.
    pub fn with_taps(taps: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { taps: taps.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// A model in tract. Its weights are shared by all plans made for it.
#[derive(Debug)]
pub struct Runnable {
    parsed: Parsed,
    options: RunOptions,
    plans: Mutex<Vec<CachedPlan>>,
}

/// A plan, and the inputs that it was made for.
#[derive(Debug)]
struct CachedPlan {
    /// Shape of each input in graph order.
    shapes: Vec<Vec<usize>>,
    /// Inputs that the plan takes for constants; `None` for those that may vary.
    constants: Vec<Option<Tensor>>,
    plan: Arc<TypedSimplePlan>,
}

impl CachedPlan {
    fn is_for(&self, inputs: &[Tensor]) -> bool {
        let same_shapes = self.shapes.iter().zip(inputs).all(|(shape, input)| shape == input.shape());
        same_shapes && self.constants.iter().zip(inputs).all(|(known, input)| known.as_ref().is_none_or(|k| k == input))
    }
}

impl Runnable {
    /// Hands `model`, its external data loaded, to tract.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when the model is malformed or a tap does not exist;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) when tract cannot run it, with node and operator
    /// where tract tells.
    pub fn new(model: &ModelProto, options: &RunOptions) -> Result<Self> {
        let model = &*decided(model);
        refuse_unsupported(model)?;
        let parsed = on_deep_stack(|| parse(model, &options.taps, options.precision))?;
        Ok(Self { parsed, options: options.clone(), plans: Mutex::new(Vec::new()) })
    }

    /// Names of the inputs to feed, in graph order; initializers are not among them.
    pub fn input_names(&self) -> impl Iterator<Item = &str> {
        self.parsed.inputs.iter().map(|(name, _)| name.as_str())
    }

    /// Names of what [`Runnable::run`] returns: the graph's outputs, then the taps.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.parsed.outputs.iter().map(|(name, _)| name.as_str())
    }

    /// Runs the model on `inputs` and returns its outputs, then its taps, by name.
    ///
    /// Elements are cast to the declared input type. Declared output types are kept, except that promoted floats
    /// stay as wide as they ran.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input) when an input is missing; `Runtime` when tract cannot plan or run the
    /// model at these shapes, or would need more memory than the options allow.
    pub fn run(&self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let inputs = self.ordered(inputs)?;
        on_deep_stack(|| {
            let plan = self.plan(&inputs)?;
            let outputs = self.execute(&plan, &inputs)?;
            self.named(outputs)
        })
    }

    /// What a run on `inputs` would give and take, without running or optimizing anything.
    ///
    /// # Errors
    /// As [`Runnable::run`], but for failures of the run itself.
    pub fn footprint(&self, inputs: &[NamedTensor]) -> Result<Footprint> {
        let inputs = self.ordered(inputs)?;
        on_deep_stack(|| {
            let none = vec![None; inputs.len()];
            let typed = self.typed(&inputs, &none).or_else(|_| self.typed(&inputs, &shapes_among(&inputs)));
            let typed = typed.map_err(|e| self.parsed.names.explain("plan", &e))?;
            let measured = sizes(&typed).map_err(|e| self.parsed.names.explain("plan", &e))?;
            let (live, total) = measured.map_or((0, 0), |sizes| (sizes.peak, sizes.total));
            let shape = |outlet: &OutletId| -> Option<Vec<usize>> {
                typed.outlet_fact(*outlet).ok()?.shape.as_concrete().map(<[usize]>::to_vec)
            };
            let outlets = typed.output_outlets().map_err(|e| self.parsed.names.explain("plan", &e))?;
            let named = self.parsed.outputs.iter().zip(outlets);
            let outputs = named.map(|((name, _), outlet)| (name.clone(), shape(outlet))).collect();
            Ok(Footprint { outputs, live, total })
        })
    }

    /// Makes the plan for the shapes of `inputs`, so that runs need not wait for it.
    ///
    /// # Errors
    /// As [`Runnable::run`], but for failures of the run itself.
    pub fn plan_for(&self, inputs: &[NamedTensor]) -> Result<()> {
        self.prepare(inputs).map(drop)
    }

    /// Drops all plans, each of which holds the weights once more.
    pub fn forget_plans(&self) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Everything needed to run again and again on the same inputs; to be used on a deep stack.
    pub(crate) fn prepare(&self, inputs: &[NamedTensor]) -> Result<Prepared<'_>> {
        let inputs = self.ordered(inputs)?;
        let plan = on_deep_stack(|| self.plan(&inputs))?;
        Ok(Prepared { runnable: self, plan, inputs })
    }

    /// `inputs` in graph order, cast to the types that tract was told.
    fn ordered(&self, inputs: &[NamedTensor]) -> Result<Vec<Tensor>> {
        let find = |(name, datum_type): &(String, DatumType)| match inputs.iter().find(|(given, _)| given == name) {
            Some((_, tensor)) => tensor.cast_to(*datum_type),
            None => Err(Error::input(format!("nothing is given for input '{name}'"))),
        };
        self.parsed.inputs.iter().map(find).collect()
    }

    fn execute(&self, plan: &Arc<TypedSimplePlan>, inputs: &[Tensor]) -> Result<TVec<TValue>> {
        let values = inputs.iter().map(|tensor| tensor.as_tract().clone().into_tvalue()).collect();
        plan.run(values).map_err(|e| self.parsed.names.explain("run", &e))
    }

    fn named(&self, outputs: TVec<TValue>) -> Result<Vec<NamedTensor>> {
        let declared = self.parsed.outputs.iter();
        declared
            .zip(outputs)
            .map(|((name, declared), value)| {
                let tensor = Tensor::from_tract(value.into_arc_tensor());
                let target = match declared {
                    Some(datum_type) => *datum_type,
                    // tract keeps shape arithmetic in a type of its own.
                    None if tensor.datum_type() == DatumType::TDim => DatumType::I64,
                    None => tensor.datum_type(),
                };
                Ok((name.clone(), tensor.cast_to(target)?))
            })
            .collect()
    }

    /// The cached plan for these inputs, or a new one.
    ///
    /// A plan is made for shapes. Where that fails because an input *is* a shape (the operand of a Reshape, say), the
    /// values of small integer inputs are made part of the plan.
    fn plan(&self, inputs: &[Tensor]) -> Result<Arc<TypedSimplePlan>> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = plans.iter().find(|cached| cached.is_for(inputs)) {
            return Ok(cached.plan.clone());
        }
        let shape_inputs = shapes_among(inputs);
        let none = vec![None; inputs.len()];
        let (constants, plan) = match self.compile(inputs, &none) {
            Ok(plan) => (none, plan),
            Err(error) if shape_inputs == none => return Err(self.parsed.names.explain("plan", &error)),
            Err(_) => {
                let plan = self.compile(inputs, &shape_inputs).map_err(|e| self.parsed.names.explain("plan", &e))?;
                (shape_inputs, plan)
            }
        };
        if plans.len() == CACHED_PLANS {
            plans.remove(0);
        }
        let shapes = inputs.iter().map(|tensor| tensor.shape().to_vec()).collect();
        plans.push(CachedPlan { shapes, constants, plan: plan.clone() });
        Ok(plan)
    }

    /// The model at the shapes of `inputs`, some of which are `constants`.
    fn typed(&self, inputs: &[Tensor], constants: &[Option<Tensor>]) -> TractResult<TypedModel> {
        let mut model = self.parsed.model.clone();
        for (index, (input, constant)) in inputs.iter().zip(constants).enumerate() {
            let fact = match constant {
                Some(value) => InferenceFact::try_from(value.as_tract().clone())?,
                None => InferenceFact::dt_shape(input.datum_type(), input.shape()),
            };
            model.set_input_fact(index, fact)?;
        }
        analyse_within(&mut model, self.options.max_value_bytes)?;
        model.into_typed()
    }

    /// A plan for the shapes of `inputs`, some of which are `constants`.
    fn compile(&self, inputs: &[Tensor], constants: &[Option<Tensor>]) -> TractResult<Arc<TypedSimplePlan>> {
        let typed = self.typed(inputs, constants)?;
        let peak = sizes(&typed)?.map_or(0, |sizes| sizes.peak);
        if peak > self.options.max_live_bytes {
            let limit = self.options.max_live_bytes / 1_000_000;
            tract_onnx::tract_hir::internal::bail!("running it takes {} MB, the limit is {limit} MB", peak / 1_000_000);
        }
        let optimized = optimized(typed)?;
        let options = tract_onnx::tract_core::runtime::RunOptions {
            skip_order_opt_ram: optimized.nodes().len() > ORDERED_NODES,
            ..Default::default()
        };
        TypedSimplePlan::new_with_options(optimized, &options)
    }
}

/// Inputs that may be shapes: small ones of integers.
fn shapes_among(inputs: &[Tensor]) -> Vec<Option<Tensor>> {
    let is_shape = |tensor: &&Tensor| tensor.datum_type().is_integer() && tensor.len() <= SHAPE_ELEMENTS;
    inputs.iter().map(|tensor| Some(tensor).filter(is_shape).cloned()).collect()
}

/// What a run of a model gives and takes at some shapes of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Shape of each output, then of each tap, by name; `None` where it depends on values.
    pub outputs: Vec<(String, Option<Vec<usize>>)>,
    /// Most bytes of computed values that are alive at one time; 0 where some size is unknown.
    pub live: u64,
    /// Bytes of all computed values; 0 where some size is unknown.
    pub total: u64,
}

/// A plan and the inputs to run it on.
pub(crate) struct Prepared<'a> {
    runnable: &'a Runnable,
    plan: Arc<TypedSimplePlan>,
    inputs: Vec<Tensor>,
}

impl Prepared<'_> {
    /// Runs once and drops the outputs, on the thread of the caller.
    pub(crate) fn run_once(&self) -> Result<()> {
        self.runnable.execute(&self.plan, &self.inputs).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::onnx::proto::FunctionProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::*;

    fn floats(shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor::new(shape, &(0..count).map(wavy).collect::<Vec<f32>>()).unwrap()
    }

    fn run(model: &ModelProto, inputs: &[(&str, Tensor)]) -> Result<Vec<NamedTensor>> {
        let inputs: Vec<NamedTensor> =
            inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        Runnable::new(model, &RunOptions::default())?.run(&inputs)
    }

    /// The multilayer perceptron of [`mlp`], written out.
    fn mlp_by_hand(x: &[f32]) -> Vec<f32> {
        let layer = |x: &[f32], rows: usize| -> Vec<f32> {
            (0..rows)
                .map(|o| wavy(o) + x.iter().enumerate().map(|(i, v)| v * wavy(o * x.len() + i)).sum::<f32>())
                .collect()
        };
        let hidden: Vec<f32> = layer(x, 4).into_iter().map(|h| h.max(0.0)).collect();
        layer(&hidden, 2)
    }

    #[test]
    fn any_batch_runs_and_matches_the_definition() {
        let runnable = Runnable::new(&mlp(), &RunOptions::default()).unwrap();
        for batch in [1, 2, 7] {
            let x = floats(&[batch, 3]);
            let outputs = runnable.run(&[("x".into(), x.clone())]).unwrap();
            assert_eq!((outputs[0].0.as_str(), outputs[0].1.shape()), ("y", &[batch, 2][..]));
            let expected: Vec<f32> = x.as_slice::<f32>().unwrap().chunks(3).flat_map(mlp_by_hand).collect();
            for (found, expected) in outputs[0].1.as_slice::<f32>().unwrap().iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }

    #[test]
    fn taps_follow_the_outputs_and_may_be_inputs_weights_or_inner_values() {
        let options = RunOptions::with_taps(["r", "x", "y", "w2"]);
        let runnable = Runnable::new(&mlp(), &options).unwrap();
        let x = floats(&[2, 3]);
        let outputs = runnable.run(&[("x".into(), x.clone())]).unwrap();
        let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["y", "r", "x", "w2"]);
        assert_eq!(outputs[1].1.shape(), [2, 4]);
        assert!(outputs[1].1.as_slice::<f32>().unwrap().iter().all(|&r| r >= 0.0));
        assert_eq!(outputs[2].1, x);
        assert_eq!(outputs[3].1, floats(&[2, 4]));
    }

    #[test]
    fn a_shape_chain_is_a_constant_at_concrete_shapes() {
        for batch in [1, 3] {
            let outputs = run(&conv_reshape(), &[("x", floats(&[batch, 2, 4, 4]))]).unwrap();
            assert_eq!(outputs[0].1.shape(), [batch, 3]);
        }
    }

    #[test]
    fn inputs_are_cast_to_the_declared_type() {
        let ids = Tensor::new(&[1, 2], &[3_i32, 9]).unwrap();
        let outputs = run(&embedding(), &[("mask", floats(&[1, 2, 1])), ("ids", ids)]).unwrap();
        let row = |id: usize, scale: f32| (0..4).map(move |d| wavy(id * 4 + d) * scale);
        let expected: Vec<f32> = row(3, wavy(0)).chain(row(9, wavy(1))).collect();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), expected);
    }

    #[test]
    fn half_precision_runs_as_float32() {
        for (code, bits) in [
            (DataType::Float16, half::f16::from_f32(1.5).to_bits()),
            (DataType::Bfloat16, half::bf16::from_f32(1.5).to_bits()),
        ] {
            let mut scale = weight("s", &[1], |_| 0.0);
            scale.data_type = Some(code as i32);
            scale.raw_data = Some(bits.to_le_bytes().to_vec().into());
            let constant = node("Constant", &[], &["c"], vec![value(scale.clone())]);
            let cast = node("Cast", &["x"], &["h"], vec![int("to", code as i64)]);
            let double = node("Mul", &["h", "s"], &["d"], vec![]);
            let model = model(
                vec![tensor_value("x", DataType::Float, &["n"])],
                vec![constant, cast, double, node("Add", &["d", "c"], &["y"], vec![])],
                vec![scale],
                vec![tensor_value("y", code, &["n"])],
            );
            let outputs = run(&model, &[("x", Tensor::new(&[2], &[0.1_f32, 3.0]).unwrap())]).unwrap();
            assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.1_f32 * 1.5 + 1.5, 6.0]);
        }
    }

    #[test]
    fn shape_arithmetic_comes_out_as_int64() {
        let model = model(
            vec![tensor_value("x", DataType::Float, &["n", "3"])],
            vec![node("Shape", &["x"], &["s"], vec![])],
            vec![],
            vec![tensor_value("s", DataType::Int64, &["2"])],
        );
        let outputs = run(&model, &[("x", floats(&[5, 3]))]).unwrap();
        assert_eq!(outputs[0].1.as_slice::<i64>().unwrap(), [5, 3]);
    }

    #[test]
    fn nodes_may_share_a_name() {
        let mut same = mlp();
        same.graph.as_mut().unwrap().node.iter_mut().for_each(|node| node.name = Some("w1".into()));
        assert!(run(&same, &[("x", floats(&[1, 3]))]).is_ok());
        let error = run(&same, &[("x", floats(&[1, 4]))]).unwrap_err();
        assert!(error.to_string().contains("node 'w1': tract cannot plan this Gemm"), "{error}");
    }

    #[test]
    fn an_input_may_be_a_shape() {
        let model = model(
            vec![tensor_value("x", DataType::Float, &["n", "6"]), tensor_value("s", DataType::Int64, &["2"])],
            vec![node("Reshape", &["x", "s"], &["y"], vec![])],
            vec![],
            vec![tensor_value("y", DataType::Float, &["a", "b"])],
        );
        let runnable = Runnable::new(&model, &RunOptions::default()).unwrap();
        for shape in [[3, 4], [2, 6], [3, 4]] {
            let s = Tensor::new(&[2], &shape.map(|size| i64::try_from(size).unwrap())).unwrap();
            let outputs = runnable.run(&[("x".into(), floats(&[2, 6])), ("s".into(), s)]).unwrap();
            assert_eq!(outputs[0].1, floats(&shape));
        }
    }

    #[test]
    fn a_function_of_the_model_is_not_run() {
        let mut local = mlp();
        let function = FunctionProto { name: Some("Relu".into()), domain: Some(String::new()), ..Default::default() };
        local.functions.push(function);
        let error = Runnable::new(&local, &RunOptions::default()).unwrap_err();
        assert_eq!(error.node(), Some("Relu_r"));
        assert!(error.to_string().contains("does not run functions of the model such as Relu"), "{error}");
    }

    #[test]
    fn long_constants_are_weights() {
        let table = node("Constant", &[], &["w"], vec![value(weight("", &[300, 2], wavy))]);
        let model = model(
            vec![tensor_value("x", DataType::Float, &["n", "300"])],
            vec![table, node("MatMul", &["x", "w"], &["y"], vec![])],
            vec![],
            vec![tensor_value("y", DataType::Float, &["n", "2"])],
        );
        let outputs = run(&model, &[("x", Tensor::new(&[1, 300], &[1_f32; 300]).unwrap())]).unwrap();
        let expected: f32 = (0..300).map(|i| wavy(2 * i)).sum();
        assert!((outputs[0].1.as_slice::<f32>().unwrap()[0] - expected).abs() < 1e-4);
    }

    #[test]
    fn failures_say_what_and_where() {
        let error = run(&mlp(), &[]).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("input 'x'")), (ErrorKind::Input, true));

        let mut missing = mlp();
        missing.graph.as_mut().unwrap().initializer.remove(2);
        let error = run(&missing, &[("x", floats(&[1, 3]))]).unwrap_err();
        assert_eq!((error.kind(), error.node()), (ErrorKind::Input, Some("Gemm_y")));
        assert!(error.to_string().contains("'w2' is used but never defined"), "{error}");

        let mut short = mlp();
        short.graph.as_mut().unwrap().initializer[0].raw_data = Some(vec![0; 40].into());
        let error = run(&short, &[("x", floats(&[1, 3]))]).unwrap_err();
        assert!(error.to_string().contains("40 bytes of data cannot have shape [4, 3]"), "{error}");

        let error = run(&mlp(), &[("x", floats(&[1, 5]))]).unwrap_err();
        assert_eq!((error.kind(), error.node()), (ErrorKind::Runtime, Some("Gemm_h")), "{error}");

        let options = RunOptions::with_taps(["nowhere"]);
        assert_eq!(Runnable::new(&mlp(), &options).unwrap_err().kind(), ErrorKind::Input);
    }

    #[test]
    fn an_operator_of_another_domain_is_not_the_standard_one() {
        let mut foreign = mlp();
        foreign.graph.as_mut().unwrap().node[1].domain = Some("com.example".into());
        let error = Runnable::new(&foreign, &RunOptions::default()).unwrap_err();
        assert_eq!((error.kind(), error.node()), (ErrorKind::Runtime, Some("Relu_r")));
        assert!(error.to_string().contains("com.example.Relu"), "{error}");
    }

    #[test]
    fn absurd_sizes_are_refused_before_they_are_allocated() {
        let huge = 1_i64 << 30;
        let fill = |nodes: Vec<_>, initializers| {
            model(
                vec![tensor_value("x", DataType::Float, &["n"])],
                nodes,
                initializers,
                vec![tensor_value("y", DataType::Float, &["m"])],
            )
        };
        let filled = fill(
            vec![node("ConstantOfShape", &["size"], &["z"], vec![]), node("Add", &["x", "z"], &["y"], vec![])],
            vec![integers("size", &[1], &[huge])],
        );
        let expanded =
            fill(vec![node("Expand", &["x", "size"], &["y"], vec![])], vec![integers("size", &[2], &[huge, 1])]);
        let counted = fill(
            vec![
                node("Range", &["start", "end", "step"], &["i"], vec![]),
                node("Cast", &["i"], &["f"], vec![int("to", DataType::Float as i64)]),
                node("Add", &["x", "f"], &["y"], vec![]),
            ],
            vec![integers("start", &[], &[0]), integers("end", &[], &[huge]), integers("step", &[], &[1])],
        );
        let tiled = fill(vec![node("Tile", &["x", "size"], &["y"], vec![])], vec![integers("size", &[1], &[huge])]);
        for model in [filled, expanded, counted, tiled] {
            let error = run(&model, &[("x", floats(&[1]))]).unwrap_err();
            assert!(error.to_string().contains("exceeds the limit"), "{error}");
        }
    }

    #[test]
    fn a_long_chain_does_not_overflow_the_stack() {
        let name = |i: usize| format!("v{i}");
        let nodes = (0..3000).map(|i| node("Relu", &[&name(i)], &[&name(i + 1)], vec![])).collect();
        let model = model(
            vec![tensor_value("v0", DataType::Float, &["n"])],
            nodes,
            vec![],
            vec![tensor_value("v3000", DataType::Float, &["n"])],
        );
        let outputs = run(&model, &[("v0", Tensor::new(&[2], &[-1_f32, 2.0]).unwrap())]).unwrap();
        assert_eq!(outputs[0].1.as_slice::<f32>().unwrap(), [0.0, 2.0]);
    }
}
