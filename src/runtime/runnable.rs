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
        if let Some(place) = plans.iter().position(|cached| cached.is_for(inputs)) {
            // The one that was not used for longest goes first.
            let cached = plans.remove(place);
            let plan = cached.plan.clone();
            plans.push(cached);
            return Ok(plan);
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
