//! `bn`: running means and variances of batch normalizations, estimated again on the pruned model in topological order.
//!
//! A batch normalization keeps its old statistics where the new ones do not bring its result closer to the original's
//! on held-out samples.

use std::collections::BTreeSet;

use ndarray::{Array1, array};
use rayon::prelude::*;

use super::reader::{HELD_OUT, MANY_SAMPLES};
use super::report::RepairReport;
use super::write::{own_vector, put_vector};
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::stages::after_removal;
use crate::calibrate::{Calibration, Detail, Evidence, Gather, Pair, Reference, Visit, Wanted, floats};
use crate::error::{Error, Result};
use crate::graph::{NodeId, View};
use crate::linalg::default_backend;
use crate::onnx::attributes::Attributes;
use crate::onnx::proto::ModelProto;

/// A batch normalization: parameters of the kept channels, and for each of them evidence on its input and its original
/// result.
struct Norm {
    name: String,
    result: String,
    data: String,
    kept: Vec<usize>,
    gamma: Array1<f64>,
    beta: Array1<f64>,
    mean: Array1<f64>,
    variance: Array1<f64>,
    epsilon: f64,
    channels: Vec<Channel>,
}

/// One value in, one value out: rows to estimate statistics from, and rows to judge them by.
struct Channel {
    train: Gather,
    held_out: Gather,
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
    let mut models = Pair::new(data);
    let mut reports = Vec::new();
    for stage in after_removal(subject, selection, &candidates, &BTreeSet::new()).order.stages {
        let view = View::of(model)?;
        let norms = stage.iter().map(|&id| Norm::read(subject, selection, &view, id));
        let mut norms: Vec<Norm> = norms.filter_map(Result::transpose).collect::<Result<_>>()?;
        if norms.is_empty() {
            continue;
        }
        accumulate(subject, model, &mut models, &mut norms)?;
        for norm in norms {
            reports.push(norm.replace(model)?);
        }
    }
    Ok(reports)
}

fn accumulate(subject: Subject<'_>, model: &ModelProto, models: &mut Pair<'_>, norms: &mut [Norm]) -> Result<()> {
    let original = Reference::Run(Wanted::new(subject.model, norms.iter().map(|norm| &norm.result), []));
    let repaired = Wanted::new(model, norms.iter().map(|norm| &norm.data), []);
    models.stage(&original, &repaired, |visit| norms.par_iter_mut().try_for_each(|norm| norm.add(visit)))
}

impl Norm {
    fn read(subject: Subject<'_>, selection: &Selection, view: &View<'_>, id: NodeId) -> Result<Option<Self>> {
        let old = &subject.proto()?.node[id.0];
        let Some(result) = old.output.first() else { return Ok(None) };
        let Some((rewritten, node)) = view.maker(result) else { return Ok(None) };
        let value = subject.graph.value(result);
        let Some(axis) = value.and_then(|v| subject.network.value(v)?.get(1)) else { return Ok(None) };
        let width = subject.network.solution.extent(axis, &Selection::all()).and_then(crate::axes::Extent::as_fixed);
        let Some(width) = width else { return Ok(None) };
        let kept = subject.network.solution.kept(axis, selection).unwrap_or_else(|| (0..width).collect());
        let parameter =
            |slot: usize| view.operand(rewritten, slot).map_or(Ok(None), |value| own_vector(view, value, kept.len()));
        let (Some(gamma), Some(beta), Some(mean), Some(variance)) =
            (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?)
        else {
            return Ok(None);
        };
        let gather = || Gather::new(1, 1, Evidence::sums(1, 1, Detail::Covariance));
        let channels = kept.iter().map(|_| Channel { train: gather(), held_out: gather() }).collect();
        Ok(Some(Self {
            name: subject.graph.node(id).name.clone(),
            result: result.clone(),
            data: node.input[0].clone(),
            epsilon: f64::from(Attributes::of(node).float_or("epsilon", 1e-5)?),
            channels,
            kept,
            gamma,
            beta,
            mean,
            variance,
        }))
    }

    fn add(&mut self, visit: Visit<'_>) -> Result<()> {
        let (x, t) = (visit.changed.get(&self.data)?, visit.original.get(&self.result)?);
        let (channels, plane) = (self.kept.len(), x.shape().iter().skip(2).product::<usize>());
        let (samples, width) = (x.shape().first().copied().unwrap_or(0), t.shape().get(1).copied().unwrap_or(0));
        let (x, t) = (floats(x)?, floats(t)?);
        let fits = x.len() == samples * channels * plane && t.len() == samples * width * plane;
        if !fits || self.kept.iter().any(|&channel| channel >= width) {
            return Err(Error::input("activations do not fit a batch normalization").at_node(self.name.as_str()));
        }
        let by_sample = visit.at.total >= MANY_SAMPLES;
        for sample in 0..samples {
            let is_held_out = |place: &usize| {
                let number = if by_sample { visit.at.first + sample } else { *place };
                number % HELD_OUT == HELD_OUT - 1
            };
            let (held_out, train): (Vec<usize>, Vec<usize>) = (0..plane).partition(is_held_out);
            for (number, (channel, &source)) in self.channels.iter_mut().zip(&self.kept).enumerate() {
                let x = &x[(sample * channels + number) * plane..][..plane];
                let t = &t[(sample * width + source) * plane..][..plane];
                put(&mut channel.train, x, t, &train);
                put(&mut channel.held_out, x, t, &held_out);
            }
        }
        Ok(())
    }

    /// Writes the new statistics, if they are better.
    fn replace(mut self, model: &mut ModelProto) -> Result<RepairReport> {
        let channels = std::mem::take(&mut self.channels);
        let finish = |channel: Channel| (channel.train.finish(), channel.held_out.finish());
        let (train, held_out): (Vec<Evidence>, Vec<Evidence>) = channels.into_iter().map(finish).unzip();
        let mean: Array1<f64> = train.iter().map(|channel| channel.mean_x()[0]).collect();
        let variance: Array1<f64> = train.iter().map(|channel| channel.covariance()[[0, 0]].max(0.0)).collect();
        let spread = held_out.iter().map(|channel| channel.spreads().sum()).sum::<f64>().max(f64::MIN_POSITIVE);
        let before = self.error(&held_out, &self.mean, &self.variance) / spread;
        let after = self.error(&held_out, &mean, &variance) / spread;
        let is_known = train.iter().chain(&held_out).all(|channel| channel.rows() > 0);
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
            report.reason = Some("new statistics would not help on held-out data: the old ones are kept".to_owned());
        }
        Ok(report)
    }

    /// Sum over channels of the mean squared distance to the original's result.
    fn error(&self, held_out: &[Evidence], mean: &Array1<f64>, variance: &Array1<f64>) -> f64 {
        let slope = &self.gamma / &variance.mapv(|v| (v + self.epsilon).sqrt());
        let offset = &self.beta - &(&slope * mean);
        let error = |(channel, (&slope, &offset)): (&Evidence, (&f64, &f64))| {
            channel.errors(default_backend(), &array![[slope]], &array![offset]).sum()
        };
        held_out.iter().zip(slope.iter().zip(&offset)).map(error).sum()
    }
}

/// Adds the values at some places.
fn put(gather: &mut Gather, x: &[f32], y: &[f32], places: &[usize]) {
    let pick = |from: &[f32], places: &[usize], to: &mut [f32]| {
        to.iter_mut().zip(places).for_each(|(to, &place)| *to = from[place]);
    };
    gather.add(places.len(), |rows, x_columns, y_columns| {
        pick(x, &places[rows.clone()], x_columns.column(0));
        pick(y, &places[rows], y_columns.column(0));
    });
}
