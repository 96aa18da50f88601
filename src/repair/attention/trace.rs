//! The map between a projection and attention, measured by running it.
//!
//! In place of a projection's result its channels are fed: all 0, all −1, each its own number. If what attention reads then is
//! the same at every position, and a number of a channel times one factor, the way only moves values, whatever operators it
//! is made of; and it is known which channel is which dimension of which head. Rotary embeddings, normalizations of queries
//! and gates do not pass.

use std::collections::{BTreeMap, BTreeSet};

use crate::analysis::Subject;
use crate::axes::{Expr, FactorId};
use crate::error::{Error, Result};
use crate::graph::{ValueId, bodies};
use crate::onnx::declared;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{ModelProto, NodeProto};
use crate::onnx::tensor::{ElementType, from_f64_as};
use crate::runtime::probes::elements;
use crate::runtime::{NamedTensor, RunOptions, Runnable, Tensor};

/// How far a reading may be from a whole number, or from that at another position.
const TOLERANCE: f64 = 1e-2;

/// Which head: an index of each factor that counts heads.
pub(super) type Head = Vec<(FactorId, u32)>;

/// A value whose content is replaced.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) value: String,
    /// Of the value's rank; 1 where all positions are fed the same.
    pub(super) dims: Vec<usize>,
}

/// What one value was when the probes were 0, −1 and numbers.
pub(super) type Runs<'r> = [&'r Tensor; 3];

/// What was read, for each combination of positions of the axes that were asked for.
#[derive(Debug)]
pub(super) struct Reading {
    /// Which number of the probe arrives, counted from 0.
    pub(super) numbers: Vec<usize>,
    /// What is added on the way, in units of the probe.
    pub(super) added: Vec<f64>,
}

/// Runs the model with these probes on `inputs`; gives what each value of `taps` was then.
///
/// # Errors
/// If the model does not run.
pub(super) fn run(
    subject: Subject<'_>,
    probes: &[Probe],
    taps: &BTreeSet<String>,
    inputs: &[NamedTensor],
) -> Result<[BTreeMap<String, Tensor>; 3]> {
    let contents: [fn(usize) -> f32; 3] = [|_| 0.0, |_| -1.0, number];
    let Probed { model, renamed, contents: places } = probed(subject, probes)?;
    let names: BTreeMap<&String, &String> = taps.iter().map(|tap| (renamed.get(tap).unwrap_or(tap), tap)).collect();
    let runnable = Runnable::new(&model, &RunOptions::with_taps(names.keys().map(|name| (*name).clone())))?;
    let mut found = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
    for (found, content) in found.iter_mut().zip(contents) {
        let mut fed = inputs.to_vec();
        for ((name, element), Probe { dims, .. }) in places.iter().zip(probes) {
            let values: Vec<f32> = (0..dims.iter().product()).map(content).collect();
            fed.push((name.clone(), elements(*element, &Tensor::new(dims, &values)?)?));
        }
        let outputs = runnable.run(&fed)?.into_iter();
        *found = outputs.filter_map(|(name, tensor)| Some(((*names.get(&name)?).clone(), tensor))).collect();
    }
    Ok(found)
}

#[allow(clippy::cast_precision_loss)]
fn number(index: usize) -> f32 {
    (index + 1) as f32
}

/// A model that reads `value · 0 + content` in place of each probed value.
struct Probed {
    model: ModelProto,
    /// The new names of probed values.
    renamed: BTreeMap<String, String>,
    /// For each probe the input that is its content, and the type of its elements.
    contents: Vec<(String, DataType)>,
}

fn probed(subject: Subject<'_>, probes: &[Probe]) -> Result<Probed> {
    let mut model = bodies::nested(subject.model).into_owned();
    let graph = model.graph.as_mut().ok_or_else(|| Error::input("the file holds no graph"))?;
    let (mut renamed, mut contents) = (BTreeMap::new(), Vec::new());
    let mut after: BTreeMap<&String, [NodeProto; 2]> = BTreeMap::new();
    for Probe { value, dims } in probes {
        let free = |suffix: &str| {
            let mut name = format!("{value}_{suffix}");
            while is_taken(subject, &name) {
                name.push('_');
            }
            name
        };
        let names = ["zero", "vanished", "content", "probed"].map(free);
        let [zero, vanished, vector, new] = names;
        let element = subject.graph.value(value).and_then(|value| subject.facts.at(value).element);
        let code = element.unwrap_or(DataType::Float as i32);
        let element = ElementType::from_code(code)?;
        graph.initializer.push(from_f64_as(&zero, &[], &[0.0], element)?);
        graph.input.push(declared(&vector, code, Some(dims)));
        contents.push((vector.clone(), DataType::try_from(code).unwrap_or(DataType::Float)));
        let node = |op: &str, a: &str, b: &str, result: &str| NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(result.to_owned()),
            input: vec![a.to_owned(), b.to_owned()],
            output: vec![result.to_owned()],
            ..NodeProto::default()
        };
        after.insert(value, [node("Mul", value, &zero, &vanished), node("Add", &vanished, &vector, &new)]);
        renamed.insert(value.clone(), new);
    }
    let mut nodes = Vec::with_capacity(graph.node.len() + 2 * probes.len());
    for mut node in std::mem::take(&mut graph.node) {
        for input in &mut node.input {
            if let Some(new) = renamed.get(input) {
                input.clone_from(new);
            }
        }
        let made: Vec<[NodeProto; 2]> = node.output.iter().filter_map(|output| after.remove(output)).collect();
        nodes.push(node);
        nodes.extend(made.into_iter().flatten());
    }
    graph.node = nodes;
    Ok(Probed { model, renamed, contents })
}

fn is_taken(subject: Subject<'_>, name: &str) -> bool {
    subject.graph.value(name).is_some()
}

/// Reads a value that three runs gave: one number for each combination of positions of `axes`, the first axis outermost. The
/// reason, if positions of other axes differ, or if the way does more than move numbers.
pub(super) fn read(runs: Runs<'_>, axes: &[usize], count: usize) -> Result<std::result::Result<Reading, &'static str>> {
    let [zero, minus, numbers] = [runs[0].to_vec::<f32>()?, runs[1].to_vec::<f32>()?, runs[2].to_vec::<f32>()?];
    let shape = runs[0].shape();
    if runs.iter().any(|run| run.shape() != shape) || axes.iter().any(|&axis| axis >= shape.len()) || zero.is_empty() {
        return Ok(Err("is read at another shape"));
    }
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let slots: usize = axes.iter().map(|&axis| shape[axis]).product();
    let slot = |at: usize| axes.iter().fold(0, |slot, &axis| slot * shape[axis] + at / stride(axis) % shape[axis]);
    let mut first: Vec<Option<[f64; 3]>> = vec![None; slots];
    for at in 0..zero.len() {
        let seen = [zero[at], minus[at], numbers[at]].map(f64::from);
        let known = first[slot(at)].get_or_insert(seen);
        let size = (known[0] - known[1]).abs();
        if seen
            .iter()
            .zip(known)
            .any(|(a, b)| (*a - *b).abs().partial_cmp(&(TOLERANCE * size)).is_none_or(|o| o.is_gt()))
        {
            return Ok(Err("is not the same at every position: heads are rotated, mixed or scaled before"));
        }
    }
    let mut reading = Reading { numbers: Vec::with_capacity(slots), added: Vec::with_capacity(slots) };
    let mut factor = None;
    for seen in first {
        let Some([zero, minus, number]) = seen else { return Ok(Err("is read at another shape")) };
        let size = zero - minus;
        let same = *factor.get_or_insert(size);
        let position = (number - zero) / size - 1.0;
        let nearest = position.round();
        if !position.is_finite()
            || (position - nearest).abs() > TOLERANCE
            || (size - same).abs() > TOLERANCE * same.abs()
        {
            return Ok(Err("is more than moved on the way: a normalization, a gate or a scale of single dimensions"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = nearest.max(0.0) as usize;
        if nearest < 0.0 || index >= count {
            return Ok(Err("is more than moved on the way: a normalization, a gate or a scale of single dimensions"));
        }
        reading.numbers.push(index);
        reading.added.push(zero / size);
    }
    Ok(Ok(reading))
}

/// What the positions of an axis are: of which head, and which dimension of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Label {
    pub(super) head: Head,
    pub(super) dim: Option<usize>,
}

/// The axes of a value that mention one of the `shared` factors, and what each position of them is; `None` if one is not
/// static.
pub(super) fn labels(
    subject: Subject<'_>,
    axes: &[Expr],
    factor: FactorId,
    shared: &BTreeSet<FactorId>,
) -> Option<(Vec<usize>, Vec<Vec<Label>>)> {
    let (mut numbers, mut all) = (Vec::new(), Vec::new());
    for (number, axis) in axes.iter().enumerate() {
        let factors: BTreeSet<FactorId> = axis.factors().into_iter().filter(|f| shared.contains(f)).collect();
        if factors.is_empty() {
            continue;
        }
        let mut labels: Vec<Label> = Vec::new();
        for of in factors {
            let positions = subject.network.solution.positions_of(axis, of)?;
            labels.resize(positions.len(), Label::default());
            for (label, index) in labels.iter_mut().zip(positions) {
                match index {
                    Some(index) if of == factor => label.dim = Some(index as usize),
                    Some(index) => label.head.push((of, index)),
                    None => {}
                }
            }
        }
        numbers.push(number);
        all.push(labels);
    }
    Some((numbers, all))
}

/// All combinations of positions of some axes, the first axis outermost.
pub(super) fn combined(axes: &[Vec<Label>]) -> Vec<Label> {
    let mut all = vec![Label::default()];
    for axis in axes {
        let join = |a: &Label, b: &Label| {
            let mut head = [a.head.as_slice(), b.head.as_slice()].concat();
            head.sort_unstable();
            Label { head, dim: a.dim.or(b.dim) }
        };
        all = all.iter().flat_map(|a| axis.iter().map(move |b| join(a, b))).collect();
    }
    all
}

/// The axes of a value, and which of its positions are heads and dimensions.
pub(super) fn axes_of(subject: Subject<'_>, value: ValueId) -> &[Expr] {
    subject.network.value(value).unwrap_or_default()
}
