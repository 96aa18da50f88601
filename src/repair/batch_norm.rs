//! `bn`: running means and variances of batch normalizations, estimated again on the pruned model in topological order.
//!
//! A batch normalization keeps its old statistics where the new ones do not bring its result closer to the original's
//! on held-out samples.

use ndarray::Array1;

use super::reconstruct::{HELD_OUT, MANY_SAMPLES};
use super::stages::stages;
use super::write::{may_be_replaced, put_vector, vector};
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::data::Batch;
use crate::calibrate::{Calibration, Held, Stream, floats, in_turn, run_both, samples_of};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::ModelProto;
use crate::report::RepairReport;
use crate::runtime::Tensor;

/// A batch normalization: parameters of the kept channels, sums over its input x and its original result t.
struct Norm {
    name: String,
    result: String,
    data: (String, String),
    kept: Vec<usize>,
    gamma: Array1<f64>,
    beta: Array1<f64>,
    mean: Array1<f64>,
    variance: Array1<f64>,
    epsilon: f64,
    train: Sums,
    held_out: Sums,
}

/// Sums for each channel.
struct Sums {
    rows: f64,
    x: Array1<f64>,
    xx: Array1<f64>,
    t: Array1<f64>,
    tt: Array1<f64>,
    xt: Array1<f64>,
}

pub(super) fn estimate(
    subject: Subject<'_>,
    selection: &Selection,
    model: &mut ModelProto,
    data: Calibration<'_>,
) -> Result<Vec<RepairReport>> {
    let is_norm = |id: &NodeId| {
        let node = subject.graph.node(*id);
        node.op == "BatchNormalization" && node.domain.is_empty()
    };
    let candidates: Vec<NodeId> = subject.graph.order.iter().copied().filter(is_norm).collect();
    let (mut original, mut repaired) = (Stream::default(), Stream::default());
    let mut reports = Vec::new();
    for stage in stages(subject, selection, &candidates).stages {
        let norms = stage.iter().map(|&id| Norm::read(subject, selection, model, id));
        let mut norms: Vec<Norm> = norms.filter_map(Result::transpose).collect::<Result<_>>()?;
        if norms.is_empty() {
            continue;
        }
        accumulate(subject, model, data, &mut norms, (&mut original, &mut repaired))?;
        for norm in &norms {
            reports.push(norm.replace(model)?);
        }
    }
    Ok(reports)
}

fn accumulate(
    subject: Subject<'_>,
    model: &ModelProto,
    data: Calibration<'_>,
    norms: &mut [Norm],
    (original, repaired): (&mut Stream, &mut Stream),
) -> Result<()> {
    let names = |name: fn(&Norm) -> &String| -> Vec<String> { norms.iter().map(name).cloned().collect() };
    let inputs = names(|n| &n.data.1);
    let sources = original.segment(subject.model, &names(|n| &n.data.0), &names(|n| &n.result))?;
    let images = repaired.segment(model, &inputs, &inputs)?;
    let by_sample = data.data.samples() >= MANY_SAMPLES;
    let mut held = Held::default();
    let mut first = 0;
    let pair = [(&*original, &sources), (&*repaired, &images)];
    let run = |index: usize, batch: &Batch| run_both(pair, index, &batch.inputs);
    in_turn(data.data.batches(data.batch), run, |batch, (targets, found)| {
        for norm in norms.iter_mut() {
            norm.add(found.get(&norm.data.1)?, targets.get(&norm.result)?, first, by_sample)?;
        }
        first += samples_of(&batch.inputs);
        held.add([targets.frontier, found.frontier]);
        Ok(())
    })?;
    held.advance([(original, &sources), (repaired, &images)]);
    Ok(())
}

impl Norm {
    fn read(subject: Subject<'_>, selection: &Selection, model: &ModelProto, id: NodeId) -> Result<Option<Self>> {
        let graph = model.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
        let old = &subject.proto()?.node[id.0];
        let Some(result) = old.output.first() else { return Ok(None) };
        let Some(node) = graph.node.iter().find(|node| node.output.first() == Some(result)) else { return Ok(None) };
        let value = subject.graph.value(result);
        let Some(axis) = value.and_then(|v| subject.network.value(v)?.get(1)) else { return Ok(None) };
        let width = subject.network.solution.extent(axis, &Selection::all()).and_then(crate::axes::Extent::as_fixed);
        let Some(width) = width else { return Ok(None) };
        let kept = subject.network.solution.kept(axis, selection).unwrap_or_else(|| (0..width).collect());
        let parameter = |slot: usize| match node.input.get(slot) {
            Some(name) if !may_be_replaced(model, name) => vector(graph, name, kept.len()),
            _ => Ok(None),
        };
        let (Some(gamma), Some(beta), Some(mean), Some(variance)) =
            (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?)
        else {
            return Ok(None);
        };
        let sums = || Sums::new(kept.len());
        Ok(Some(Self {
            name: subject.graph.node(id).name.clone(),
            result: result.clone(),
            data: (old.input[0].clone(), node.input[0].clone()),
            epsilon: f64::from(Attributes::of(node).float_or("epsilon", 1e-5)?),
            train: sums(),
            held_out: sums(),
            kept,
            gamma,
            beta,
            mean,
            variance,
        }))
    }

    fn add(&mut self, x: &Tensor, t: &Tensor, first: usize, by_sample: bool) -> Result<()> {
        let (channels, plane) = (self.kept.len(), x.shape().iter().skip(2).product::<usize>());
        let (samples, width) = (x.shape()[0], t.shape().get(1).copied().unwrap_or(0));
        let (x, t) = (floats(x)?, floats(t)?);
        if x.len() != samples * channels * plane || t.len() != samples * width * plane {
            return Err(Error::input("activations do not fit a batch normalization").at_node(self.name.as_str()));
        }
        for sample in 0..samples {
            for (channel, &source) in self.kept.iter().enumerate() {
                let x = &x[(sample * channels + channel) * plane..][..plane];
                let t = &t[(sample * width + source) * plane..][..plane];
                for (position, (&x, &t)) in x.iter().zip(t).enumerate() {
                    let number = if by_sample { first + sample } else { position };
                    let is_held_out = number % HELD_OUT == HELD_OUT - 1;
                    let sums = if is_held_out { &mut self.held_out } else { &mut self.train };
                    sums.add(channel, f64::from(x), f64::from(t));
                }
            }
        }
        Ok(())
    }

    /// Writes the new statistics, if they are better.
    fn replace(&self, model: &mut ModelProto) -> Result<RepairReport> {
        let n = (self.train.rows / count(self.kept.len())).max(1.0);
        let mean = &self.train.x / n;
        let variance = (&self.train.xx / n - &mean * &mean).mapv(|v| v.max(0.0));
        let spread = self.held_out.spread().max(f64::MIN_POSITIVE);
        let before = self.error(&self.mean, &self.variance) / spread;
        let after = self.error(&mean, &variance) / spread;
        let is_known = self.train.rows > 0.0 && self.held_out.rows > 0.0;
        let mut report = RepairReport {
            name: self.name.clone(),
            before: Some(before),
            after: Some(before),
            ..RepairReport::default()
        };
        if !is_known {
            report.reason = Some("too few samples to repair and to check".to_owned());
        } else if after < before {
            put_vector(model, &self.result, 3, &mean)?;
            put_vector(model, &self.result, 4, &variance)?;
            report.after = Some(after);
        } else {
            report.reason = Some("new statistics would not help on held-out data: the old ones stay".to_owned());
        }
        Ok(report)
    }

    /// Σ over held-out rows of the squared distance to the original's result.
    fn error(&self, mean: &Array1<f64>, variance: &Array1<f64>) -> f64 {
        let slope = &self.gamma / &variance.mapv(|v| (v + self.epsilon).sqrt());
        let offset = &self.beta - &(&slope * mean);
        let s = &self.held_out;
        let n = s.rows / count(self.kept.len());
        let quadratic = &(&slope * &slope) * &s.xx + &(&(&slope * &offset) * &s.x) * 2.0 + &(&offset * &offset) * n;
        let cross = &(&slope * &s.xt) + &(&offset * &s.t);
        (quadratic + &s.tt - cross * 2.0).sum().max(0.0)
    }
}

impl Sums {
    fn new(channels: usize) -> Self {
        let zeros = || Array1::zeros(channels);
        Self { rows: 0.0, x: zeros(), xx: zeros(), t: zeros(), tt: zeros(), xt: zeros() }
    }

    fn add(&mut self, channel: usize, x: f64, t: f64) {
        self.rows += 1.0;
        self.x[channel] += x;
        self.xx[channel] += x * x;
        self.t[channel] += t;
        self.tt[channel] += t * t;
        self.xt[channel] += x * t;
    }

    fn spread(&self) -> f64 {
        let n = (self.rows / count(self.t.len())).max(1.0);
        (&self.tt - &(&self.t * &self.t / n)).sum().max(0.0)
    }
}

#[allow(clippy::cast_precision_loss)]
fn count(n: usize) -> f64 {
    n.max(1) as f64
}
