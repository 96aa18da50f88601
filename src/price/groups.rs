//! Prices of coupled groups: each group alone, narrowed to a few widths.
//!
//! The narrowed group is the masked original, which computes what the pruned model would, so that every run starts from the
//! original's activations in front of the first node that changes. The layers that read the group are fitted to do without
//! ([`refit`](super::refit)) on four fifths of the samples; the others tell the loss.

use std::time::Instant;

use rayon::prelude::*;

use super::curve::Curve;
use super::distance::Reference;
use super::effects::{Site, effects};
use super::refit::{Reader, put};
use super::samples::Samples;
use crate::analysis::Subject;
use crate::axes::Selection;
use crate::calibrate::data::Dataset;
use crate::calibrate::{Detail, InputStatistics, Key, Layer, Sums, WIDEST, input_statistics, stats};
use crate::error::{Error, Result};
use crate::graph::bodies::{Run, hoisted_like};
use crate::onnx::proto::ModelProto;
use crate::plan::{Group, Request, Scored};
use crate::repair::Method;
use crate::score::{Consumers, Context};

/// Times the covariances of a part's readers that are alive when their ridge is chosen.
const SOLVED: usize = 2;

/// How many widths are tried when a group's effect on the output is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// One width, 1/2; losses are not corrected for the repair of later layers.
    Fast,
    /// Three widths: 3/4, 1/2 and 1/4.
    #[default]
    Normal,
    /// Seven widths: every eighth.
    Thorough,
}

impl Effort {
    /// Shares of the units to keep.
    fn shares(self) -> &'static [f64] {
        match self {
            Self::Fast => &[0.5],
            Self::Normal => &[0.75, 0.5, 0.25],
            Self::Thorough => &[0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
        }
    }
}

/// What every group costs; in the order of the scored groups.
#[derive(Debug, Clone)]
pub(crate) struct Prices {
    /// A curve, or why there is none.
    pub(crate) curves: Vec<std::result::Result<Curve, String>>,
    /// Time that it took to measure them.
    pub(crate) seconds: f64,
}

impl Prices {
    /// Each price times its factor.
    pub(crate) fn times(&self, factors: &[f64]) -> Self {
        let curve =
            |(curve, &factor): (&std::result::Result<Curve, String>, &f64)| curve.clone().map(|c| c.times(factor));
        Self { curves: self.curves.iter().zip(factors).map(curve).collect(), seconds: self.seconds }
    }
}

/// What prices are measured with.
pub(crate) struct Market<'a> {
    /// The model that is priced.
    pub(crate) subject: Subject<'a>,
    /// What its outputs should be.
    pub(crate) reference: &'a Reference,
    pub(crate) samples: &'a Samples,
    /// How readers are repaired.
    pub(crate) method: Method,
    pub(crate) effort: Effort,
}

/// A group on its way to a price.
struct Part<'s, 'g> {
    scored: &'s Scored<'g>,
    /// Units in the order in which they go.
    ranking: Vec<usize>,
    /// Widths to measure, wide to narrow.
    widths: Vec<usize>,
    readers: Vec<Reader>,
    /// Position of the first node that changes in graph order.
    first: usize,
}

impl Market<'_> {
    /// Prices all groups; `request` says which widths are of interest.
    ///
    /// # Errors
    /// If a model cannot be made or run.
    pub(crate) fn prices(&self, scored: &[Scored<'_>], request: &Request) -> Result<Prices> {
        let started = Instant::now();
        let groups: Vec<&Group> = scored.iter().map(|scored| scored.group).collect();
        let context = Context::without_data(self.subject, &groups, self.samples.seed);
        let consumers = Consumers::new(&context)?;
        let mut curves: Vec<std::result::Result<Curve, String>> = Vec::new();
        let mut parts: Vec<(usize, Part<'_, '_>)> = Vec::new();
        for (index, scored) in scored.iter().enumerate() {
            let part = self.part(scored, &consumers, index, request)?;
            curves.push(Err(part.as_ref().err().copied().unwrap_or("it was not measured").to_owned()));
            parts.extend(part.ok().map(|part| (index, part)));
        }
        parts.sort_by_key(|(index, part)| (part.first, *index));
        let key = self.key();
        let mut unknown = Vec::new();
        for (index, part) in parts {
            match self.recalled(key.as_ref(), &part)? {
                Some(losses) => curves[index] = part.curve(&losses),
                None => unknown.push((index, part)),
            }
        }
        if unknown.is_empty() {
            return Ok(Prices { curves, seconds: started.elapsed().as_secs_f64() });
        }
        let base = self.reference.distance_of(self.subject.model, self.samples.batches())?;
        let limits = self.samples.limits;
        for portion in limits.portions(unknown, |_, (_, part)| covariances(part, &consumers.layers)) {
            for (index, part, losses) in self.measure(portion, &consumers.layers, base)? {
                if let (Some(stats), Some(key)) = (self.samples.fitted.stats(), &key) {
                    stats.put(&part.key(key), &[stats::row(&losses)])?;
                }
                curves[index] = part.curve(&losses);
            }
        }
        Ok(Prices { curves, seconds: started.elapsed().as_secs_f64() })
    }

    /// What all prices of the market depend on; `None` where nothing is kept.
    fn key(&self) -> Option<Key> {
        let samples = (self.samples.fitted.identity(), self.samples.held_out.identity(), self.samples.seed);
        self.samples.fitted.stats().map(|_| {
            let key = Key::of("prices").model(self.subject.model).on("reference", &self.reference.hash());
            key.on("samples", &samples).on("method", &self.method)
        })
    }

    /// What a group loses at its widths, if that was measured before.
    fn recalled(&self, key: Option<&Key>, part: &Part<'_, '_>) -> Result<Option<Vec<f64>>> {
        let (Some(stats), Some(key)) = (self.samples.fitted.stats(), key) else { return Ok(None) };
        stats.get(&part.key(key), |record| {
            let losses = record.into_iter().next().filter(|losses| losses.dim() == (1, part.widths.len()))?;
            Some(losses.into_iter().collect())
        })
    }

    /// A group with its readers, or why it cannot be priced.
    fn part<'s, 'g>(
        &self,
        scored: &'s Scored<'g>,
        consumers: &Consumers,
        index: usize,
        request: &Request,
    ) -> Result<std::result::Result<Part<'s, 'g>, &'static str>> {
        let (subject, factor) = (self.subject, scored.group.factor);
        let widths = self.widths(scored.group, request);
        if widths.is_empty() {
            return Ok(Err("it cannot be narrower"));
        }
        let mut readers = Vec::new();
        for consumer in &consumers.of_group[index] {
            readers.push(Reader {
                layer: consumer.layer,
                matrix: consumer.matrix,
                units: consumer.units.clone(),
                weight: consumers.weight(subject, consumer)?,
                ridge: None,
            });
        }
        let is_read = |node: &crate::graph::NodeId| {
            let masks = &subject.network.relations[node.0].masks;
            let is_masked = |&(operand, axis): &(usize, usize)| {
                let axes = subject.network.operand(subject.graph, *node, operand);
                axes.and_then(|axes| axes.get(axis)).is_some_and(|expr| expr.mentions(factor))
            };
            masks.iter().any(is_masked)
                || readers.iter().any(|reader| consumers.layers[reader.layer].nodes().any(|at| at == *node))
        };
        let Some(first) = subject.graph.order.iter().position(is_read) else {
            return Ok(Err("no node sums over it, so that a removal cannot be tried by masking"));
        };
        Ok(Ok(Part { scored, ranking: scored.ranking(), widths, readers, first }))
    }

    /// The widths of a group that are measured, wide to narrow.
    fn widths(&self, group: &Group, request: &Request) -> Vec<usize> {
        let (size, all) = (group.size, request.sizes(group));
        let mut widths: Vec<usize> = Vec::new();
        for share in self.effort.shares() {
            let wanted = size as f64 * share;
            let distance = |width: usize| (width as f64 - wanted).abs();
            let narrower = all.iter().filter(|&&width| width < size);
            widths.extend(narrower.min_by(|&&a, &&b| distance(a).total_cmp(&distance(b))));
        }
        widths.dedup();
        widths
    }

    /// What each group of a portion loses at its widths, beyond what the model loses with all of them.
    fn measure<'s, 'g>(
        &self,
        portion: Vec<(usize, Part<'s, 'g>)>,
        layers: &[Layer],
        base: f64,
    ) -> Result<Vec<(usize, Part<'s, 'g>, Vec<f64>)>> {
        let (indices, mut parts): (Vec<usize>, Vec<Part<'_, '_>>) = portion.into_iter().unzip();
        let used = layers_of(&parts);
        let fitted = self.statistics(&self.samples.fitted, layers, &used)?;
        if self.method == Method::Lstsq {
            let held_out = self.statistics(&self.samples.held_out, layers, &used)?;
            let choose = |part: &mut Part<'_, '_>| {
                let removed = part.removed(part.widths.len() / 2).to_vec();
                for reader in &mut part.readers {
                    let (fitted, held_out) = (of(&fitted, &used, reader)?, of(&held_out, &used, reader)?);
                    reader.choose_ridge(&removed, fitted, held_out, &layers[reader.layer].name)?;
                }
                Ok::<(), Error>(())
            };
            let limits = self.samples.limits;
            for portion in limits.solved_at_once(&mut parts, |part| SOLVED * covariances(part, layers)) {
                portion.into_par_iter().try_for_each(choose)?;
                limits.relieve();
            }
        }
        let order = &self.subject.graph.order;
        let site = |part: &Part<'_, '_>| {
            let node = self.subject.graph.node(order[part.first]);
            let reads = node.inputs.iter().flatten().map(|&value| self.subject.graph.at(value).name.clone());
            // What enters a body cannot be held.
            Site {
                reads: if node.run == Run::Always { reads.collect() } else { Vec::new() },
                changes: part.widths.len(),
            }
        };
        let sites: Vec<Site> = parts.iter().map(site).collect();
        let write = |site: usize, change: usize| self.narrowed(&parts[site], change, layers, (&used, &fitted));
        let measured =
            effects(self.subject.model, self.reference, &sites, write, self.samples.batches(), self.samples.limits())?;
        let beyond = |((index, part), losses): ((usize, Part<'s, 'g>), Vec<f64>)| {
            (index, part, losses.into_iter().map(|loss| loss - base).collect())
        };
        Ok(indices.into_iter().zip(parts).zip(measured).map(beyond).collect())
    }

    /// Statistics of the inputs of the layers `used`, in that order.
    fn statistics(&self, data: &Dataset, layers: &[Layer], used: &[usize]) -> Result<Vec<InputStatistics>> {
        let data = self.samples.over(data);
        // Readers that are wider only follow the means.
        let is_wide = |index: usize| layers[index].inputs() > WIDEST || self.method != Method::Lstsq;
        let mut all: Vec<(usize, InputStatistics)> = Vec::new();
        for (wide, detail) in [(false, Detail::Covariance), (true, Detail::Diagonal)] {
            let chosen: Vec<usize> = used.iter().copied().filter(|&index| is_wide(index) == wide).collect();
            if !chosen.is_empty() {
                let of: Vec<Layer> = chosen.iter().map(|&index| layers[index].clone()).collect();
                all.extend(chosen.into_iter().zip(input_statistics(self.subject, data, &of, detail)?));
            }
        }
        all.sort_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, statistics)| statistics).collect())
    }

    /// The model with one group narrowed to its width number `change`, its readers repaired.
    fn narrowed(
        &self,
        part: &Part<'_, '_>,
        change: usize,
        layers: &[Layer],
        (used, fitted): (&[usize], &[InputStatistics]),
    ) -> Result<ModelProto> {
        let (subject, removed) = (self.subject, part.removed(change));
        let mut flags = vec![true; part.scored.group.size];
        removed.iter().for_each(|&unit| flags[unit] = false);
        let mut selection = Selection::all();
        selection.keep(part.scored.group.factor, flags);
        let mut model = hoisted_like(crate::rewrite::masked(subject, &selection)?, subject.model);
        if self.method == Method::None {
            return Ok(model);
        }
        for index in layers_of(std::slice::from_ref(part)) {
            let layer = &layers[index];
            let mut matrices = layer.stored_matrices(|name| subject.constant(subject.graph.value(name)?))?;
            let mut shift = vec![0.0; layer.groups * layer.outputs];
            for reader in part.readers.iter().filter(|reader| reader.layer == index) {
                let refitted = reader.refitted(removed, of(fitted, used, reader)?, &layer.name)?;
                let from = reader.matrix * layer.outputs;
                shift[from..from + layer.outputs].copy_from_slice(&refitted.shift.to_vec());
                matrices[reader.matrix] = refitted.weight;
            }
            put(&mut model, layer, &matrices, &shift)?;
        }
        Ok(model)
    }
}

impl Part<'_, '_> {
    /// The key of its losses; `key` is what all prices depend on.
    fn key(&self, key: &Key) -> String {
        let group = self.scored.group;
        let units: Vec<_> = self.readers.iter().map(|reader| (reader.layer, reader.matrix, &reader.units)).collect();
        let key = key.clone().on("group", &(&group.name, group.kind, &group.members, group.size)).on("readers", &units);
        key.on("order", &self.ranking).on("widths", &self.widths).done()
    }

    /// What is lost at every width, from what is lost at those that were measured.
    fn curve(&self, losses: &[f64]) -> std::result::Result<Curve, String> {
        let size = self.scored.group.size;
        let points: Vec<(usize, f64)> =
            self.widths.iter().zip(losses).map(|(width, &loss)| (size - width, loss)).collect();
        let scores: Vec<f64> = self.ranking.iter().map(|&unit| self.scored.scores[unit]).collect();
        Curve::new(&scores, &points).ok_or_else(|| "the outputs are not finite without it".to_owned())
    }

    /// The units that go at width number `change`.
    fn removed(&self, change: usize) -> &[usize] {
        let size = self.ranking.len();
        let width = self.widths.get(change).copied().unwrap_or(size);
        &self.ranking[..size - width.min(size)]
    }
}

fn layers_of(parts: &[Part<'_, '_>]) -> Vec<usize> {
    let mut used: Vec<usize> = parts.iter().flat_map(|part| &part.readers).map(|reader| reader.layer).collect();
    used.sort_unstable();
    used.dedup();
    used
}

fn of<'s>(statistics: &'s [InputStatistics], used: &[usize], reader: &Reader) -> Result<&'s Sums> {
    let position = used.binary_search(&reader.layer).ok();
    let found = position.and_then(|position| statistics.get(position)?.get(reader.matrix));
    found.ok_or_else(|| Error::input("a layer has no statistics"))
}

/// Bytes of the covariances that the repair of a part's readers takes.
fn covariances(part: &Part<'_, '_>, layers: &[Layer]) -> usize {
    let square = |reader: &Reader| match layers[reader.layer].inputs() {
        inputs if inputs > WIDEST => 0,
        inputs => 2 * inputs * inputs * size_of::<f64>(),
    };
    part.readers.iter().map(square).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::analysis::Analysis;
    use crate::calibrate::Calibration;
    use crate::onnx::Model;
    use crate::plan::{Budget, CostModel, Filter, Group, Quota, Scope, Units, groups};
    use crate::rewrite;
    use crate::score::Criterion;

    /// Prices of the open groups of a network of the digits, in `l2` order; `check` gets what they were measured with.
    fn priced(name: &str, method: Method, check: impl FnOnce(&Market<'_>, &[Scored<'_>], &Prices)) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let model = Model::load(folder.join(name)).unwrap();
        let data = Dataset::open(&folder.join("calib.npz"), model.proto.graph.as_ref().unwrap()).unwrap();
        let analysis = Analysis::new(&model, &Default::default(), &Default::default()).unwrap();
        let subject = analysis.subject();
        let all = groups(subject, &CostModel::new(subject), &Filter::new(&[], &[], Units::default(), false).unwrap());
        let open: Vec<&Group> = all.iter().filter(|group| group.is_open(false)).collect();
        let context = Context::without_data(subject, &open, 1);
        let scored = Criterion::by_name("l2").unwrap().score(&context).unwrap();
        let samples = Samples::new(Calibration::new(&data, 1)).unwrap().unwrap();
        let reference =
            Reference::new(subject.model, &mut samples.batches().to_vec(), crate::runtime::Limits::default()).unwrap();
        let market = Market { subject, reference: &reference, samples: &samples, method, effort: Effort::Normal };
        let quota = Quota::Budget(Budget::Macs(0));
        let request = Request { quota, scope: Scope::Global, min_keep: 1, whole_blocks: false };
        let prices = market.prices(&scored, &request).unwrap();
        check(&market, &scored, &prices);
    }

    /// Without a repair the price of a width is the distance of the model that is really cut to it.
    #[test]
    fn a_price_is_what_the_pruned_model_loses() {
        for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
            priced(name, Method::None, |market, scored, prices| {
                for (scored, curve) in scored.iter().zip(&prices.curves) {
                    let curve = curve.as_ref().unwrap();
                    let mut losses = Vec::new();
                    for &(removed, _) in curve.points() {
                        let mut flags = vec![true; scored.group.size];
                        scored.ranking()[..removed].iter().for_each(|&unit| flags[unit] = false);
                        let mut selection = Selection::all();
                        selection.keep(scored.group.factor, flags);
                        let pruned = rewrite::prune(market.subject, &selection).unwrap();
                        losses
                            .push((removed, market.reference.distance_of(&pruned, market.samples.batches()).unwrap()));
                    }
                    let expected = Curve::new(&vec![1.0; scored.group.size], &losses).unwrap();
                    for (found, expected) in curve.points().iter().zip(expected.points()) {
                        let case = format!("{name} {}: {found:?}, {expected:?}", scored.group.name);
                        assert!((found.1 - expected.1).abs() < 1e-4 * expected.1 + 1e-9, "{case}");
                    }
                }
            });
        }
    }

    /// A new bias alone may raise the divergence of scores, although it lowers their squared error (it does in `digits_mlp`).
    #[test]
    fn what_is_repaired_costs_less() {
        for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
            let sum = |method: Method| {
                let mut sum = 0.0;
                priced(name, method, |_, scored, prices| {
                    let halves = scored.iter().zip(&prices.curves);
                    sum = halves.map(|(s, curve)| curve.as_ref().unwrap().at(s.group.size / 2)).sum();
                });
                sum
            };
            let (bare, shifted, fitted) = (sum(Method::None), sum(Method::Bias), sum(Method::Lstsq));
            assert!(fitted < 0.7 * bare && fitted < shifted, "{name}: {bare} {shifted} {fitted}");
        }
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut found = Vec::new();
            pool.install(|| {
                priced("digits_resnet.onnx", Method::Lstsq, |_, _, prices| found.clone_from(&prices.curves));
            });
            found
        };
        assert!(run(1) == run(3));
    }
}
