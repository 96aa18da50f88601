//! The proof of a rewrite: valid, exact, faithful, and how fast.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use super::faithful::faithful_to;
use super::quantized::{self, Quantized};
use super::trial::{Models, Removal, Trial, load, own_fault};
use super::{
    Exactness, Faithfulness, Kept, Latency, LatencyBudget, exactness_of_rest, latency_each, probes_of, signature,
};
use crate::analysis::{Analysis, Subject};
use crate::axes::{Role, Selection};
use crate::calibrate::data::Dataset;
use crate::error::{Error, ErrorKind, Result};
use crate::graph::ValueId;
use crate::graph::bodies::{hoisted_like, is_decided};
use crate::onnx::proto::ModelProto;
use crate::plan::Group;
use crate::rewrite;
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::{probe_batches, probes};
use crate::runtime::{Limits, NamedTensor, RunOptions, Runnable, release_memory};

/// Samples that probes are made of.
const PROBES: usize = 6;
/// Probes that float64, in which tract has no fast kernels, is tried on.
const IN_DOUBLES: usize = 2;

/// A rewrite to be proved against its original.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The original and what is known about it.
    pub analysis: &'a Analysis<'a>,
    /// The rewritten model.
    pub rewritten: &'a ModelProto,
    /// The removal of units to be proved exact; `None` if the rewrite was something else.
    pub removed: Option<Removed<'a>>,
    /// Outputs that may have shrunk.
    pub thaw: &'a [String],
    /// Data to measure fidelity and accuracy on; synthetic inputs otherwise.
    pub data: Option<&'a Dataset>,
    /// Sizes of dynamic dimensions.
    pub dims: &'a DimSizes,
    /// Memory that the proof may take.
    pub limits: Limits,
    /// Seed of synthetic inputs.
    pub seed: u64,
}

/// A removal of units.
#[derive(Debug, Clone, Copy)]
pub struct Removed<'a> {
    /// Groups of the original.
    pub groups: &'a [Group],
    /// The units that are kept.
    pub selection: &'a Selection,
    /// Whether the kept weights were repaired or trained: the removal is then carried out again and proved without that.
    pub adjusted: bool,
}

/// What was measured about a rewrite that holds.
#[derive(Debug, Clone)]
pub struct Proved {
    /// The removal against the masked original.
    pub exactness: Option<Exactness>,
    /// The quantizers of a quantized model.
    pub quantized: Option<Quantized>,
    /// The rewritten model against the original; `None` where outputs may have shrunk.
    pub faithfulness: Option<Faithfulness>,
    /// tract's time of both models.
    pub latency: Latency,
    /// Time that the proof took.
    pub seconds: f64,
    /// What limits the proof.
    pub doubts: Vec<Doubt>,
}

/// What limits a proof.
#[derive(Debug, Clone, PartialEq)]
pub enum Doubt {
    /// No unit was removed.
    NothingRemoved,
    /// Only units were removed whose removal shifts a statistic.
    OnlyShifts,
    /// tract runs no single samples of this model.
    OnlyPairs(String),
    /// Nothing the proof ran on makes the output vary.
    Deaf {
        /// Whether it ran on samples that were given.
        given: bool,
    },
    /// The two models differ, but on outputs that hardly vary.
    Silent {
        /// The outputs.
        outputs: Vec<String>,
        /// The largest deviation.
        deviation: f64,
        /// Whether the proof ran on samples that were given.
        given: bool,
    },
    /// Rounding in float32 parts the two models by this much, so exactness was decided in float64.
    Rounding(f64),
    /// Exactness was measured without the quantizers.
    Quantized(Quantized),
    /// Fidelity was measured on synthetic inputs.
    Synthetic,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingRemoved => {
                f.write_str("there is no removal whose exactness could be proved; give the plan of `prune` with `plan`")
            }
            Self::OnlyShifts => f.write_str("every removal shifts a statistic: there is no exact part to prove"),
            Self::OnlyPairs(error) => {
                write!(f, "tract runs pairs of samples of this model, but no single ones: {error}")
            }
            Self::Deaf { given } => {
                let (inputs, advice) = inputs_and_advice(*given);
                write!(f, "the output barely reacts to {inputs}, so the exactness check proves little; {advice}")
            }
            Self::Silent { outputs, deviation, given } => {
                let (inputs, advice) = inputs_and_advice(*given);
                let outputs = outputs.join(", ");
                write!(
                    f,
                    "the exactness check proves nothing: output {outputs} barely reacts to {inputs} (deviation {deviation:.1e}); {advice}"
                )
            }
            Self::Rounding(deviation) => write!(
                f,
                "with rounding in float32, the pruned model and the masked original differ by {deviation:.1e}: exactness was decided in float64"
            ),
            Self::Quantized(quantized) => quantized.fmt(f),
            Self::Synthetic => {
                f.write_str("fidelity was measured on synthetic inputs; give `data` for a reliable figure")
            }
        }
    }
}

fn inputs_and_advice(given: bool) -> (&'static str, &'static str) {
    if given {
        ("the samples and to synthetic inputs", "give other samples")
    } else {
        ("synthetic inputs", "give `data`")
    }
}

/// Why a rewrite is not proved.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The pruned model differs by this much from the masked original.
    Inexact(f64),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Inexact(found) => Error::proof(format!(
                "the pruned model differs from the masked original by {found:.1e} (allowed: {:.0e}); this is a defect of paredown, please report it",
                Exactness::TOLERANCE
            )),
            Failure::Other(error) => error,
        }
    }
}

impl Proof<'_> {
    /// Checks that the rewritten model has the signature of the original and runs, and that the removal, if there is one,
    /// is exact; measures fidelity and time. Every model is loaded once and runs on the probes once, whatever its outputs
    /// are then compared with; a quantized one by itself.
    ///
    /// # Errors
    /// [`Failure::Inexact`] if the removal is not exact; [`Proof`](ErrorKind::Proof) if the model is not valid, and what
    /// running the models returns.
    pub fn prove(&self) -> Result<Proved, Failure> {
        let started = Instant::now();
        let mut doubts = Vec::new();
        let removal = match &self.removed {
            Some(removed) => self.removal(removed, &mut doubts)?,
            None => None,
        };
        let subject = self.analysis.subject();
        let resized = self.removed.map(|removed| kept(subject, removed.selection)).unwrap_or_default();
        let original = &self.analysis.model.proto;
        signature(original, self.rewritten, &self.thaw.iter().cloned().collect())?;
        let is_quantized = removal.as_ref().map_or(Ok(false), |removal| quantized::is_quantized(&removal.masked))?;
        let (quantized, compared) = if is_quantized { (removal.as_ref(), None) } else { (None, removal.as_ref()) };
        let models = Models::load(self.rewritten, compared, resized).map_err(|e| self.blame(e))?;
        let trial = self.run(&models, &mut doubts)?;
        let mut exactness = self.exactness(&models, &trial)?;
        if let (Some(measured), Some(removal)) = (&exactness, compared)
            && let Some(decided) = self.in_doubles(measured, removal, trial.probes())
        {
            doubts.push(Doubt::Rounding(measured.max_rel()));
            exactness = Some(decided);
        }
        let mut apart = None;
        if let Some(Removal { masked, pruned, kept }) = quantized {
            let pruned = pruned.as_ref().unwrap_or(self.rewritten);
            let (measured, steps) = quantized::prove(masked, pruned, trial.probes(), kept)?;
            doubts.push(Doubt::Quantized(steps.clone()));
            (exactness, apart) = (Some(measured), Some(steps));
        }
        if let Some(measured) = &exactness {
            doubts.extend(judge(measured, self.given().is_some())?);
        }
        let Models { after, resized, .. } = models;
        // The weights of the masked model are not held beside those of the original.
        drop(removal);
        release_memory();
        let before = load(original).map_err(|e| self.blame(e))?;
        // Without data, fidelity is measured on the probes too.
        let faithfulness = match self.data {
            _ if !self.thaw.is_empty() => None,
            Some(data) => Some(faithful_to((original, &before), &after, data, self.limits)?),
            None => Some(trial.faithfulness(&before)?),
        };
        if self.data.is_none() && self.thaw.is_empty() {
            doubts.push(Doubt::Synthetic);
        }
        let budget = LatencyBudget::default();
        let last = trial.last();
        // Both as the samples run them: in tract, a branch that is not decided is planned in every run.
        let decided = hoisted_like(self.rewritten.clone(), original);
        let decided = if is_decided(&decided) { Some(load(&decided)?) } else { None };
        let latency = latency_each((&before, last), (decided.as_ref().unwrap_or(&after), &resized.of(last)?), budget)?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Proved { exactness, quantized: apart, faithfulness, latency, seconds, doubts })
    }

    /// The samples that were given, not synthetic.
    fn given(&self) -> Option<&Dataset> {
        self.data.filter(|data| !data.is_synthetic())
    }

    /// The outputs of the pruned model against those of the masked original, if there is one; on synthetic inputs too, where
    /// the samples hardly make the outputs vary.
    fn exactness(&self, models: &Models, trial: &Trial) -> Result<Option<Exactness>> {
        let measured = trial.exactness()?;
        let is_unsure = measured.as_ref().is_some_and(|measured| !measured.proves());
        if !is_unsure || self.given().is_none() {
            return Ok(measured);
        }
        let graph = self.analysis.subject().proto()?;
        let synthetic = probes(graph, &self.analysis.probe_sizes(self.dims), PROBES, self.seed);
        let other = synthetic.and_then(|probes| models.run(probes)).and_then(|trial| trial.exactness());
        // What cannot run on synthetic inputs has run on the samples.
        Ok(other.ok().flatten().filter(Exactness::proves).or(measured))
    }

    /// The two models of a removal compared in float64, where float32 parts them by more than is allowed: deep networks with
    /// narrow outputs amplify rounding, while a wrong removal is as wrong in float64. `None` where float32 decides, or tract
    /// lacks an operator in float64.
    fn in_doubles(&self, measured: &Exactness, removal: &Removal, probes: &[Vec<NamedTensor>]) -> Option<Exactness> {
        if measured.max_rel() <= Exactness::TOLERANCE || !measured.proves() {
            return None;
        }
        let double = |model| Runnable::new(model, &RunOptions::double());
        let pruned = removal.pruned.as_ref().unwrap_or(self.rewritten);
        let (masked, pruned) = (double(&removal.masked).ok()?, double(pruned).ok()?);
        let few = &probes[probes.len().saturating_sub(IN_DOUBLES)..];
        exactness_of_rest(&masked, &pruned, few, &removal.kept).ok()
    }

    /// Runs the models on probes: single ones but for the first pair, or pairs, if tract fails on single ones.
    fn run(&self, models: &Models, doubts: &mut Vec<Doubt>) -> Result<Trial> {
        let graph = self.analysis.subject().proto()?;
        let sizes = self.analysis.probe_sizes(self.dims);
        if let Some(data) = self.given() {
            return models.run(probes_of(data, PROBES)?).map_err(|e| self.blame(e));
        }
        match models.run(probes(graph, &sizes, PROBES, self.seed)?) {
            Err(error) if error.kind() == ErrorKind::Runtime => {
                let pairs = probe_batches(graph, &sizes, PROBES, self.seed)?;
                let trial = models.run(pairs).map_err(|e| self.blame(e))?;
                doubts.push(Doubt::OnlyPairs(error.to_string()));
                Ok(trial)
            }
            trial => trial,
        }
    }

    /// `error`, unless the original itself fails.
    fn blame(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Runtime {
            return error;
        }
        let sizes = self.analysis.probe_sizes(self.dims);
        let probes = match self.given() {
            Some(data) => probes_of(data, 1),
            None => self.analysis.subject().proto().and_then(|graph| probe_batches(graph, &sizes, 1, self.seed)),
        };
        let Ok(Some(inputs)) = probes.map(|batches| batches.into_iter().next()) else { return error };
        own_fault(&self.analysis.model.proto, &inputs).unwrap_or(error)
    }

    /// The exact part of the removal, on unrepaired weights; `None`, with a doubt, where there is none to prove.
    fn removal(&self, removed: &Removed<'_>, doubts: &mut Vec<Doubt>) -> Result<Option<Removal>> {
        let mut free = removed.selection.clone();
        let mut all_free = true;
        for group in removed.groups {
            if !matches!(group.role, Role::Free) && !free.keeps_all(group.factor) {
                free.keep(group.factor, vec![true; group.size]);
                all_free = false;
            }
        }
        let obstacle = if removed.selection.touched().next().is_none() {
            Some(Doubt::NothingRemoved)
        } else if free.touched().next().is_none() {
            Some(Doubt::OnlyShifts)
        } else {
            None
        };
        if let Some(obstacle) = obstacle {
            doubts.push(obstacle);
            return Ok(None);
        }
        let subject = self.analysis.subject();
        let is_rewritten = !removed.adjusted && all_free;
        let pruned = if is_rewritten { None } else { Some(rewrite::prune(subject, &free)?) };
        Ok(Some(Removal { masked: rewrite::masked(subject, &free)?, pruned, kept: kept(subject, &free) }))
    }
}

/// What `selection` leaves of every value of a model.
fn kept(subject: Subject<'_>, selection: &Selection) -> Kept {
    let Subject { graph, network, .. } = subject;
    let mut kept = BTreeMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        let axes = network.value(ValueId(index)).unwrap_or_default().iter().enumerate();
        let cuts: Vec<(usize, Vec<usize>)> =
            axes.filter_map(|(axis, expr)| Some((axis, network.solution.kept(expr, selection)?))).collect();
        if !cuts.is_empty() {
            kept.insert(value.name.clone(), cuts);
        }
    }
    kept.into()
}

/// Whether the removal is exact; what limits the answer, if anything does.
fn judge(measured: &Exactness, given: bool) -> Result<Option<Doubt>, Failure> {
    let deviation = measured.max_rel();
    if deviation <= Exactness::TOLERANCE {
        return Ok((!measured.proves()).then_some(Doubt::Deaf { given }));
    }
    if !measured.proves() {
        let outputs = measured.silent_outputs().map(str::to_owned).collect();
        return Ok(Some(Doubt::Silent { outputs, deviation, given }));
    }
    Err(Failure::Inexact(deviation))
}
