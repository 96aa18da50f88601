//! What a layer costs whole and at each rank.

use super::candidates::{Candidate, Form};
use crate::analysis::Subject;
use crate::graph::{NodeId, ValueId};
use crate::lowrank::conv::{ConvMode, inputs_in_proportion};
use crate::plan::Cost;
use crate::times::ranks::RankTimes;

/// Prices the ranks of one layer.
#[derive(Debug, Clone)]
pub struct PriceList {
    weight: Vec<u64>,
    groups: u64,
    mode: Option<ConvMode>,
    /// Rows are picked, not multiplied.
    is_table: bool,
    /// Sizes without channels of the input, of the result, and of what lies between the halves of a spatial split;
    /// one of each for every node.
    places: Vec<[u64; 3]>,
    shape: (u64, u64),
    added: u64,
    /// Bits of an element.
    bits: u64,
    /// What it takes whole and at each rank, for a latency budget.
    times: Option<RankTimes>,
}

impl PriceList {
    /// The list of a layer whose kernel, if it is one, is split by `mode`; `added` parameters come with any split.
    pub fn new(subject: Subject<'_>, candidate: &Candidate, mode: ConvMode, added: usize) -> Self {
        let (k, n) = candidate.matrix_shape();
        let (groups, mode) = match candidate.form {
            Form::Kernel { groups } => (groups as u64, Some(mode)),
            _ => (1, None),
        };
        Self {
            weight: candidate.dims.iter().map(|&d| d as u64).collect(),
            groups,
            mode,
            is_table: candidate.form == Form::Table,
            places: candidate.nodes.iter().map(|&id| places(subject, candidate, id)).collect(),
            shape: (k as u64, n as u64),
            added: added as u64,
            bits: candidate.element.bits() as u64,
            times: None,
        }
    }

    /// Sets the time of the layer, whole and at every rank.
    pub(crate) fn set_times(&mut self, times: Option<RankTimes>) {
        self.times = times;
    }

    /// The list of the same layer with `inputs` rows in the matrix of each group, and `outputs` columns. Its times are
    /// in proportion to its multiply–accumulates.
    #[must_use]
    pub(crate) fn resized(&self, inputs: usize, outputs: usize) -> Self {
        let (inputs, outputs) = (inputs as u64, outputs as u64);
        let mut weight = self.weight.clone();
        if self.is_conv() {
            let taps: u64 = weight.iter().skip(2).product();
            weight[0] = outputs * self.groups;
            weight[1] = inputs / taps.max(1);
        } else {
            weight = vec![inputs, outputs];
        }
        let added = (self.added * outputs).div_ceil(self.shape.1.max(1));
        let mut resized = Self { weight, shape: (inputs, outputs), added, ..self.clone() };
        let share = resized.dense().macs as f64 / self.dense().macs.max(1) as f64;
        resized.times = self.times.as_ref().map(|times| times.scaled(share));
        resized
    }

    /// Whether the layer is a convolution.
    pub fn is_conv(&self) -> bool {
        self.mode.is_some()
    }

    /// The layer as it is.
    pub fn dense(&self) -> Cost {
        let params: u64 = self.weight.iter().product();
        let macs = self.places.iter().map(|[_, out, _]| if self.is_table { 0 } else { out * params });
        Cost { nanos: self.times.as_ref().map_or(0, RankTimes::whole), ..self.cost(params, macs.sum()) }
    }

    fn cost(&self, params: u64, macs: u64) -> Cost {
        Cost { params, macs, bytes: (params * self.bits).div_ceil(8), nanos: 0 }
    }

    /// The layer split at `rank` (of each group): elements of weights, with a bias that has to be added, and
    /// multiply–accumulates of all nodes that use the weight.
    pub fn split(&self, rank: usize) -> Cost {
        let nanos = self.times.as_ref().map_or(0, |times| times.at(rank));
        let rank = rank as u64;
        let (k, n) = self.shape;
        let kernels: Vec<(u64, usize)> = match self.mode {
            Some(ConvMode::Spatial) => {
                let (i, height, width) = (self.weight[1], self.weight[2], self.weight[3]);
                vec![(rank * i * height, 2), (rank * n * width, 1)]
            }
            Some(ConvMode::Tucker2) => {
                let i = self.weight[1];
                let inner = inputs_in_proportion(
                    usize::try_from(i).unwrap_or(1),
                    usize::try_from(n).unwrap_or(1),
                    usize::try_from(rank).unwrap_or(1),
                ) as u64;
                let window: u64 = self.weight[2..].iter().product();
                vec![(i * inner, 0), (inner * rank * window, 1), (rank * n, 1)]
            }
            _ => vec![(rank * k, 1), (rank * n, 1)],
        };
        let params: u64 = kernels.iter().map(|(size, _)| size * self.groups).sum();
        let products = &kernels[usize::from(self.is_table)..];
        let macs = self
            .places
            .iter()
            .map(|place| products.iter().map(|(size, at)| size * self.groups * place[*at]).sum::<u64>());
        Cost { nanos, ..self.cost(params + self.added, macs.sum()) }
    }

    /// The largest rank that takes fewer parameters than the whole layer, 0 if none does.
    pub fn paying(&self, full: usize) -> usize {
        let dense = self.dense().params;
        (1..=full).take_while(|&rank| self.split(rank).params < dense).last().unwrap_or(0)
    }
}

fn places(subject: Subject<'_>, candidate: &Candidate, id: NodeId) -> [u64; 3] {
    let node = subject.graph.node(id);
    let input = sizes(subject, node.inputs.get(candidate.linear.data).copied().flatten());
    let output = sizes(subject, node.outputs.first().copied().flatten());
    let without = |sizes: &[u64], axis: usize| -> u64 {
        sizes.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, &size)| size).product()
    };
    if matches!(candidate.form, Form::Gates { .. }) {
        let steps = without(&input, candidate.linear.data_axis);
        return [steps, steps, 0];
    }
    let between = match (input.as_slice(), output.as_slice()) {
        (&[_, _, _, width], &[batch, _, height, _]) => batch * height * width,
        _ => 0,
    };
    [without(&input, candidate.linear.data_axis), without(&output, candidate.linear.result_axis), between]
}

/// Sizes of a value at the sample sizes; all one where they are unknown.
fn sizes(subject: Subject<'_>, value: Option<ValueId>) -> Vec<u64> {
    let extents = value.and_then(|value| subject.facts.at(value).extents.clone()).unwrap_or_default();
    extents.iter().map(|extent| extent.under(0)).collect()
}
