//! Statistics of layers' inputs in the original model, for criteria and for splits.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;
use rayon::prelude::*;

use super::block::Columns;
use super::data::Batch;
use super::rows::{Lines, Row};
use super::stats::{Key, Record, SUMS, Stats, portion};
use super::sums::{Detail, Sums};
use super::{Activations, At, Calibration, Layer, Padding, Portions, Sampler, Stream, exposed, in_turn};
use crate::analysis::Subject;
use crate::error::Result;
use crate::onnx::proto::ModelProto;

/// Sums over the inputs of a layer, for each convolution group of it; layers that read the same rows share them.
pub type InputStatistics = Arc<[Sums]>;

/// What layers that read the same rows have in common.
pub(crate) struct Accumulator<'l> {
    source: Source<'l>,
    groups: Portions,
}

/// Rows that are summed up.
#[derive(Clone, Copy)]
struct Source<'l> {
    layer: &'l Layer,
    sampler: Sampler,
    /// A weight for each group of the layer, if the products with it are summed up.
    products: Option<&'l [Product]>,
}

impl<'l> Source<'l> {
    /// The weight of a group, if the products with it are summed up.
    fn product(self, group: usize) -> Option<&'l Product> {
        self.products.and_then(|products| products.get(group))
    }

    /// Values of a row of each group.
    fn widths(self) -> Vec<usize> {
        let width = |group: usize| self.product(group).map_or_else(|| self.layer.inputs(), Product::width);
        (0..self.layer.groups).map(width).collect()
    }
}

/// A weight (K×N) of which the products with inputs are summed up, in place of the inputs: N values a row, not K.
#[derive(Debug, Clone)]
pub(crate) struct Product(Array2<f32>);

impl Product {
    /// Of a weight K×N.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn new(weight: &Array2<f64>) -> Self {
        Self(weight.mapv(|w| w as f32))
    }

    /// Values of a row of products (N).
    pub(crate) fn width(&self) -> usize {
        self.0.ncols()
    }

    /// Writes the products with the inputs (K) that `read` writes, value by value: they are the same however many rows come
    /// at once.
    fn write(&self, rows: usize, into: &mut Columns<'_>, read: impl FnOnce(&mut Columns<'_>)) {
        let inputs = self.0.nrows();
        let mut values = vec![0.0; inputs * rows];
        let mut columns = Columns::over(&mut values, inputs);
        read(&mut columns);
        self.multiply(&mut columns, into);
    }

    /// Writes the products with some rows of inputs.
    pub(crate) fn multiply(&self, inputs: &mut Columns<'_>, into: &mut Columns<'_>) {
        let inputs: Vec<&mut [f32]> = inputs.columns(0..self.0.nrows()).collect();
        let columns: Vec<&mut [f32]> = into.columns(0..self.width()).collect();
        columns.into_par_iter().zip(self.0.columns().into_iter().collect::<Vec<_>>()).for_each(|(column, factors)| {
            column.fill(0.0);
            for (&factor, input) in factors.iter().zip(&inputs) {
                column.iter_mut().zip(input.iter()).for_each(|(to, &value)| *to += factor * value);
            }
        });
    }
}

impl Lines<'_> {
    /// Writes some of the rows of the channels from `first` on, or their products with a weight.
    pub(crate) fn write_or_multiply(
        &self,
        product: Option<&Product>,
        first: usize,
        rows: Range<usize>,
        into: &mut Columns<'_>,
    ) {
        match product {
            Some(product) => product.write(rows.len(), into, |inputs| self.write(first, rows, inputs)),
            None => self.write(first, rows, into),
        }
    }
}

impl<'l> Accumulator<'l> {
    pub(crate) fn new(layer: &'l Layer, sampler: Sampler, detail: Detail, data: Calibration<'_>) -> Self {
        Self::of(Source { layer, sampler, products: None }, detail, data)
    }

    fn of(source: Source<'l>, detail: Detail, data: Calibration<'_>) -> Self {
        Self { source, groups: Portions::new(source.widths(), detail, data) }
    }

    /// The layer that is read.
    pub(crate) fn layer(&self) -> &'l Layer {
        self.source.layer
    }

    /// How its rows are chosen.
    pub(crate) fn sampler(&self) -> Sampler {
        self.source.sampler
    }

    /// Adds the chosen rows of some samples, at every node of the layer.
    pub(crate) fn add(&mut self, found: &Activations, at: At<'_>) -> Result<()> {
        let Self { source, groups } = self;
        let read = rows_of((source.layer, source.sampler), found, at)?;
        for (leaf, number, run) in groups.division().order(&read) {
            let lines = &read[number].1;
            groups.add_run(leaf, run, |group, rows, x| {
                lines.write_or_multiply(source.product(group), group * source.layer.channels, rows, x);
            });
        }
        Ok(())
    }

    /// The sums, which are kept; where other machines sum up the other samples, those of a part of them.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn finish(self, kept: Option<&Kept<'_>>) -> Result<InputStatistics> {
        let Self { source, groups } = self;
        let Some(kept) = kept.filter(|kept| kept.stats.leaves().is_some()) else {
            let sums: InputStatistics = groups.total().into_iter().map(Sums::finish).collect();
            kept.map(|kept| kept.put_sums(source, &sums)).transpose()?;
            return Ok(sums);
        };
        let mut last = Vec::new();
        for (leaf, sums) in groups.finish() {
            let detail = sums.first().map(Sums::detail);
            let key = kept.key_of_sums(source, detail.unwrap_or(Detail::Diagonal));
            kept.stats.put(&portion(&key, SUMS, leaf), &sums.iter().flat_map(Sums::to_record).collect::<Record>())?;
            last = sums;
        }
        Ok(last.into_iter().map(Sums::finish).collect())
    }
}

/// The rows that are chosen of what each node of a layer reads.
///
/// # Errors
/// If the model does not give these values, or not in the layer's width.
pub(crate) fn rows_of<'t>(
    (layer, sampler): (&Layer, Sampler),
    found: &'t Activations,
    at: At<'_>,
) -> Result<Vec<(Vec<Row>, Lines<'t>)>> {
    let rows = |data: &String| {
        let data = found.get(data)?;
        let rows = sampler.choose(layer.row_count(data.shape()), at.samples, at.first, at.padding);
        let lines = layer.inputs_of(data, &rows)?;
        Ok((rows, lines))
    };
    layer.all_data().map(rows).collect()
}

/// Statistics of the inputs of `layers` of the original model.
///
/// # Errors
/// If reading the data or running the model fails.
pub fn input_statistics(
    subject: Subject<'_>,
    data: Calibration<'_>,
    layers: &[Layer],
    detail: Detail,
) -> Result<Vec<InputStatistics>> {
    let layers: Vec<(&Layer, Option<&[Product]>)> = layers.iter().map(|layer| (layer, None)).collect();
    statistics(subject, data, &layers, detail)
}

/// Statistics of the inputs of layers of the original model or, where a weight for each group is given, of the products with
/// it.
///
/// # Errors
/// If reading the data or running the model fails.
pub(crate) fn statistics(
    subject: Subject<'_>,
    data: Calibration<'_>,
    layers: &[(&Layer, Option<&[Product]>)],
    detail: Detail,
) -> Result<Vec<InputStatistics>> {
    let kept = Kept::of(subject, data);
    let mut sources: Vec<Source<'_>> = Vec::new();
    let mut used = Vec::with_capacity(layers.len());
    for &(layer, products) in layers {
        let is_known =
            |other: &Source<'_>| other.products.is_none() && products.is_none() && other.layer.reads_like(layer);
        let known = sources.iter().position(is_known);
        used.push(known.unwrap_or(sources.len()));
        if known.is_none() {
            let width = products.and_then(<[Product]>::first).map_or_else(|| layer.inputs(), Product::width);
            let sampler = Sampler::of_inputs(layer, width, data.data.samples(), data.seed);
            sources.push(Source { layer, sampler, products });
        }
    }
    let mut done: Vec<Option<InputStatistics>> = Vec::with_capacity(sources.len());
    for &source in &sources {
        done.push(kept.as_ref().map(|kept| kept.sums(source, detail)).transpose()?.flatten());
    }
    let missing = sources.iter().zip(&done).filter(|(_, known)| known.is_none());
    let mut accumulators: Vec<Accumulator<'_>> =
        missing.map(|(&source, _)| Accumulator::of(source, detail, data)).collect();
    if !accumulators.is_empty() {
        let layers: Vec<&Layer> = accumulators.iter().map(Accumulator::layer).collect();
        let model = exposed(subject.model, layers.iter().copied())?;
        pass(&model, data, layers.into_iter().flat_map(Layer::all_data), |found, at| {
            accumulators.par_iter_mut().try_for_each(|a| a.add(found, at))
        })?;
    }
    let unknown = done.iter_mut().filter(|known| known.is_none());
    for (slot, accumulator) in unknown.zip(accumulators) {
        *slot = Some(accumulator.finish(kept.as_ref())?);
    }
    Ok(used.into_iter().filter_map(|at| done.get(at)?.clone()).collect())
}

/// What earlier passes over some samples found, and how its records are named.
pub(crate) struct Kept<'d> {
    stats: &'d Stats,
    key: Key,
}

impl<'d> Kept<'d> {
    /// Of a model on these samples; `None` where nothing is kept.
    pub(crate) fn of(subject: Subject<'_>, data: Calibration<'d>) -> Option<Self> {
        let key = || Key::of("rows").model(subject.model).on("samples", data.data.identity());
        data.data.stats().map(|stats| Self { stats, key: key() })
    }

    /// The key of what is known of the rows that a layer reads.
    fn key(&self, kind: &str, layer: &Layer, sampler: Sampler, detail: &impl std::fmt::Debug) -> String {
        let reads = (
            layer.all_data().collect::<Vec<_>>(),
            layer.linear.data_axis,
            layer.groups,
            layer.channels,
            layer.taps,
            &layer.window,
        );
        self.key.clone().on(kind, detail).on("reads", &reads).on("chosen by", &sampler).done()
    }

    /// The key of sums.
    fn key_of_sums(&self, Source { layer, sampler, products }: Source<'_>, detail: Detail) -> String {
        match products {
            // A model has one weight of this name.
            Some(_) => self.key(SUMS, layer, sampler, &("products with", &layer.weight)),
            None => self.key(SUMS, layer, sampler, &detail),
        }
    }

    /// Sums that are kept.
    ///
    /// # Errors
    /// If they are damaged.
    fn sums(&self, source: Source<'_>, detail: Detail) -> Result<Option<InputStatistics>> {
        let read = |detail: Detail| {
            self.stats.get(&self.key_of_sums(source, detail), |record| {
                let mut matrices = record.into_iter();
                let groups = source.widths().into_iter().map(|width| Sums::from_record(&mut matrices, width, detail));
                groups.collect::<Option<Vec<Sums>>>()
            })
        };
        let found = match (read(detail)?, detail) {
            // Those with all products hold the others too.
            (None, Detail::Diagonal) => {
                read(Detail::Covariance)?.map(|sums| sums.into_iter().map(Sums::without_products).collect())
            }
            (found, _) => found,
        };
        Ok(found.map(InputStatistics::from))
    }

    /// The sums over the inputs of a layer.
    ///
    /// # Errors
    /// If they are damaged.
    pub(crate) fn sums_of(&self, layer: &Layer, sampler: Sampler, detail: Detail) -> Result<Option<InputStatistics>> {
        self.sums(Source { layer, sampler, products: None }, detail)
    }

    /// Keeps sums.
    ///
    /// # Errors
    /// If they cannot be written.
    fn put_sums(&self, source: Source<'_>, statistics: &InputStatistics) -> Result<()> {
        let Some(detail) = statistics.first().map(Sums::detail) else { return Ok(()) };
        let record: Record = statistics.iter().flat_map(Sums::to_record).collect();
        self.stats.put(&self.key_of_sums(source, detail), &record)
    }

    /// What `read` makes of the record on the rows that a layer reads, of some `kind` other than sums.
    ///
    /// # Errors
    /// If it is damaged.
    pub(crate) fn get<T>(
        &self,
        (kind, layer, sampler): (&str, &Layer, Sampler),
        read: impl FnOnce(Record) -> Option<T>,
    ) -> Result<Option<T>> {
        self.stats.get(&self.key(kind, layer, sampler, &layer.weight), read)
    }

    /// Keeps such a record: of all samples, or of one portion of them where other machines see the others.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn put(
        &self,
        (kind, layer, sampler): (&str, &Layer, Sampler),
        leaf: usize,
        record: &Record,
    ) -> Result<()> {
        let key = self.key(kind, layer, sampler, &layer.weight);
        let is_shared = self.stats.leaves().is_some();
        self.stats.put(&if is_shared { portion(&key, kind, leaf) } else { key }, record)
    }
}

/// Runs a model over all samples, or over the share of them that is this machine's, and calls `visit` with some of its
/// values, sample after sample.
///
/// # Errors
/// If reading the data or running the model fails; that of `visit`.
pub(crate) fn pass<'n>(
    model: &ModelProto,
    data: Calibration<'_>,
    values: impl IntoIterator<Item = &'n String>,
    visit: impl FnMut(&Activations, At<'_>) -> Result<()> + Send,
) -> Result<()> {
    pass_over(model, (data, data.own()), values, visit)
}

/// [`pass`] over some of the samples.
///
/// # Errors
/// As [`pass`].
pub(crate) fn pass_over<'n>(
    model: &ModelProto,
    (data, samples): (Calibration<'_>, Range<usize>),
    values: impl IntoIterator<Item = &'n String>,
    mut visit: impl FnMut(&Activations, At<'_>) -> Result<()> + Send,
) -> Result<()> {
    let values: BTreeSet<&String> = values.into_iter().collect();
    let values: Vec<String> = values.into_iter().cloned().collect();
    let mut stream = Stream::default();
    let segment = stream.segment(model, &[], &values)?;
    let total = data.data.samples();
    let mut first = samples.start;
    let run = |index: usize, batch: &Batch| stream.run(&segment, index, &batch.inputs);
    in_turn(data.batches(samples), (data.runs, data.limits), run, |batch, found| {
        let samples = batch.samples();
        let padding = Padding::of(&batch);
        visit(&found, At { samples, first, total, padding: padding.as_ref() })?;
        first += samples;
        Ok(())
    })
}
