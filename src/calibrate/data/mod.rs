//! Samples to calibrate and to judge a model on, a batch at a time.
//!
//! | given | is |
//! |---|---|
//! | `.npz` | arrays named as the graph's inputs, and perhaps `labels`: integers are classes, real numbers what an output should be |
//! | `.npy` | the samples of the only input |
//! | a directory of those | each file one batch, or one run; sizes of open axes may differ between files |
//! | `test_data_set_*` | ONNX's test data: `input_0.pb` …, by name or in order |
//! | a directory of images | see [`images`] |
//! | nothing | synthetic: [`Dataset::synthetic`] |
//!
//! Where samples lie in an array, its shape says: along an axis of the input where the graph has an axis of samples, in
//! front of the input's own axes where a sample is one run of the graph (`placement.rs`).
//!
//! Everything is checked against the graph and read once when a data set is opened: a wrong name, shape or type, a
//! value that is not a number, a label below zero are errors then, not later. Memory holds one batch.

mod archive;
mod batch;
mod batch_axes;
mod convert;
mod crop;
mod held_out;
pub mod images;
mod labels;
mod npy;
mod part;
mod placement;
mod rows;
mod schema;
mod test_sets;
mod unpadded;
#[cfg(test)]
mod unpadded_tests;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::stats::Stats;
use crate::onnx::proto::GraphProto;
use crate::progress::Progress;
use crate::runtime::inputs::DimSizes;
use crate::runtime::probes::Prober;
use crate::texts::hexadecimal;
use crate::{Error, Result};
pub use batch::Batch;
pub use batch_axes::BatchAxes;
use crop::{Crop, TOGETHER};
pub(crate) use held_out::{HELD_OUT, is_held_out};
use images::ImageOptions;
use labels::LabelKind;
pub use labels::Labels;
pub(crate) use labels::Spread;
use part::{Part, Synthetic};
use rows::Rows;
use schema::Schema;

/// Rows that are read first while a data set is checked; then as many as fill [`CHECKED_BYTES`].
const CHECKED_ROWS: usize = 16;

/// Bytes of inputs that are read at once while a data set is checked, where one row is not more.
const CHECKED_BYTES: usize = 4 << 20;

/// Where samples come from, checked against a graph.
#[derive(Debug)]
pub struct Dataset {
    schema: Schema,
    /// Each part and the number of its rows.
    parts: Vec<(Part, usize)>,
    /// The samples of all parts that belong to this set.
    range: Range<usize>,
    /// Samples that the graph runs at once, if that is fixed.
    fixed: Option<usize>,
    /// The part that was read last, which is most often the one to be read next.
    open: Mutex<Option<(usize, Arc<dyn Rows>)>>,
    hash: String,
    has_labels: bool,
    is_synthetic: bool,
    warnings: Vec<String>,
    /// Ends an iteration over batches.
    progress: Progress,
    /// The temporary directory that the samples are read from, deleted with the last data set that reads it.
    files: Option<Arc<TempDir>>,
    /// What tells these samples from other ones.
    identity: String,
    /// What passes over the samples found already.
    stats: Option<Arc<Stats>>,
    /// How samples are cropped to what is no padding.
    crop: Option<Crop>,
}

impl Dataset {
    /// The samples at `path` for the inputs of `graph`: a file, a directory of files, or ONNX test data.
    ///
    /// # Errors
    /// [`ErrorKind::Input`](crate::ErrorKind::Input), naming file and array, when something does not fit the graph, cannot be read, contains
    /// NaN or infinity, or holds no sample.
    pub fn open(path: &Path, graph: &GraphProto) -> Result<Self> {
        Self::open_along(path, graph, &BatchAxes::default())
    }

    /// [`open`](Self::open), where `axes` say which axes of inputs count samples.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`ErrorKind::Usage`](crate::ErrorKind::Usage) when `axes` name something that the graph lacks.
    pub fn open_along(path: &Path, graph: &GraphProto, axes: &BatchAxes) -> Result<Self> {
        let parts = parts_at(path).map_err(|e| e.in_file(path))?;
        Self::check(parts, Schema::new(graph, axes)?).map_err(|e| e.in_file(path))
    }

    /// The images in the directory `path`, for a graph with one input.
    ///
    /// # Errors
    /// As [`Dataset::open`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the options do not fit the input.
    pub fn images(path: &Path, graph: &GraphProto, options: &ImageOptions) -> Result<Self> {
        let schema = Schema::new(graph, &BatchAxes::default())?;
        let images = images::open(path, &schema.inputs, options).map_err(|e| e.in_file(path))?;
        Self::check(vec![Part::Images(Arc::new(images))], schema).map_err(|e| e.in_file(path))
    }

    /// `samples` synthetic samples, open axes sized by `sizes`; see [`Prober`] for how.
    ///
    /// # Errors
    /// As [`Prober::new`] and [`Prober::batch`].
    pub fn synthetic(graph: &GraphProto, sizes: &DimSizes, samples: usize, seed: u64) -> Result<Self> {
        let synthetic = Synthetic { prober: Prober::new(graph, sizes, seed)?, samples };
        let schema = Schema::new(graph, &BatchAxes::default())?;
        let mut made_up = Self::check(vec![Part::Synthetic(Arc::new(synthetic))], schema)?;
        made_up.is_synthetic = true;
        Ok(made_up)
    }

    /// Reads every part once: counts rows, checks values, hashes contents.
    fn check(parts: Vec<Part>, schema: Schema) -> Result<Self> {
        let mut warnings = Vec::new();
        let mut hasher = Sha256::new();
        let mut counted = Vec::new();
        let (mut kinds, mut sizes) = (BTreeSet::new(), BTreeSet::new());
        for part in parts {
            let Checked { rows, labels, fixed } = check_part(&part, &schema, &mut hasher, &mut warnings)?;
            kinds.insert(labels);
            sizes.insert(fixed);
            let whole = rows - rows % fixed.unwrap_or(1);
            if whole < rows {
                warnings.push(format!(
                    "{} samples are left over: the model runs {} at a time",
                    rows - whole,
                    fixed.unwrap_or(1)
                ));
            }
            counted.push((part, whole));
        }
        let fixed = sizes.first().copied().flatten();
        if sizes.len() > 1 {
            return Err(Error::input(
                "some files hold samples along an axis of the model's inputs and some whole runs; give all of them one form",
            ));
        }
        if counted.iter().all(|(_, rows)| *rows == 0) {
            let wanted = fixed.map(|n| format!(": the model runs {n} at a time")).unwrap_or_default();
            return Err(Error::input(format!("there are no samples{wanted}")));
        }
        if kinds.len() > 1 {
            let problem = if kinds.contains(&None) {
                "some files have labels and some do not; give all of them labels or none"
            } else {
                "labels are classes (integers) in some files and real values in others; give all of them one kind"
            };
            return Err(Error::input(problem));
        }
        let has_labels = !kinds.contains(&None);
        warnings.sort();
        warnings.dedup();
        let hash = hexadecimal(&hasher.finalize()[..8]);
        let range = 0..counted.iter().map(|(_, rows)| rows).sum();
        let open = Mutex::new(None);
        Ok(Self {
            schema,
            parts: counted,
            range,
            fixed,
            open,
            identity: hash.clone(),
            hash,
            has_labels,
            is_synthetic: false,
            warnings,
            progress: Progress::default(),
            files: None,
            stats: None,
            crop: None,
        })
    }

    /// The samples of `range` as a data set of their own; where the graph fixes its batch axis, the whole batches of it.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let batch = self.fixed.unwrap_or(1);
        let position = |sample: usize| self.range.start + sample.min(self.range.len()) / batch * batch;
        let range = position(range.start)..position(range.end);
        let identity = if range == self.range { self.identity.clone() } else { self.identity_of(&range) };
        Self {
            schema: self.schema.clone(),
            parts: self.parts.clone(),
            range,
            fixed: self.fixed,
            open: Mutex::new(None),
            hash: self.hash.clone(),
            has_labels: self.has_labels,
            is_synthetic: self.is_synthetic,
            warnings: self.warnings.clone(),
            progress: self.progress.clone(),
            files: self.files.clone(),
            identity,
            stats: self.stats.clone(),
            crop: self.crop.clone(),
        }
    }

    /// The same samples, which keep the temporary directory that they are read from.
    pub(crate) fn keeping(mut self, files: &Arc<TempDir>) -> Self {
        self.files = Some(Arc::clone(files));
        self
    }

    /// The same samples; iterating over them ends with an error once the job of `progress` is cancelled.
    pub(crate) fn within(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// The same samples, and what passes over them found already.
    pub(crate) fn with_stats(mut self, stats: Stats) -> Self {
        self.stats = Some(Arc::new(stats));
        self
    }

    /// What passes over the samples found already, where that is kept.
    pub(crate) fn stats(&self) -> Option<&Stats> {
        self.stats.as_deref()
    }

    /// Whether other machines sum up some of the samples.
    pub(crate) fn is_shared(&self) -> bool {
        self.stats().is_some_and(|stats| stats.leaves().is_some())
    }

    /// Whether sums of portions of the samples are kept apart.
    pub(crate) fn is_apart(&self) -> bool {
        self.stats().is_some_and(Stats::is_apart)
    }

    /// A text that tells these samples from all others, and from the same ones in another order.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// The identity of some of the samples: a range of them, or a list.
    fn identity_of(&self, samples: &(impl Debug + ?Sized)) -> String {
        hexadecimal(&Sha256::digest(format!("{} {samples:?}", self.identity))[..16])
    }

    /// This data set without the samples that training holds out.
    #[must_use]
    pub fn without_held_out(&self) -> Self {
        let batch = self.fixed.unwrap_or(1);
        self.only(|sample| !is_held_out(sample, batch))
    }

    /// Every `every`th sample apart (of whole batches, where the graph fixes its batch axis): the others, and those. The
    /// second set is empty where there are fewer samples than that.
    pub(crate) fn split(&self, every: usize) -> [Self; 2] {
        let batch = self.fixed.unwrap_or(1);
        let is_apart = |sample: usize| sample / batch % every.max(1) == every.max(1) - 1;
        [self.only(|sample| !is_apart(sample)), self.only(is_apart)]
    }

    /// The samples whose number in this data set qualifies.
    fn only(&self, stays: impl Fn(usize) -> bool) -> Self {
        let stays = |sample: usize| self.range.contains(&sample) && stays(sample - self.range.start);
        let mut first = 0;
        let mut parts = Vec::new();
        for (part, rows) in &self.parts {
            let kept: Arc<[usize]> = (0..*rows).filter(|row| stays(first + row)).collect();
            first += rows;
            parts.push((Part::Chosen { of: Box::new(part.clone()), kept: kept.clone() }, kept.len()));
        }
        let range = 0..parts.iter().map(|(_, rows)| rows).sum();
        let all: Vec<usize> = (self.range.clone()).filter(|&sample| stays(sample)).collect();
        let crop = self.crop.as_ref().map(|crop| crop.only(&all));
        Self { parts, range, crop, identity: self.identity_of(&all), ..self.part(0..self.samples()) }
    }

    /// Number of samples that [`Dataset::batches`] gives.
    pub fn samples(&self) -> usize {
        self.range.len()
    }

    /// Samples that the graph runs at once, if that is fixed; 1 where a sample is one run.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fixed
    }

    /// Samples that must stay together: those of one run where the graph fixes its batch axis, and those that are cropped to one length.
    pub(crate) fn together(&self) -> usize {
        self.fixed.unwrap_or(if self.crop.is_some() { TOGETHER } else { 1 })
    }

    /// The number of a sample whose run takes the most memory, as far as lengths differ.
    pub(crate) fn largest(&self) -> usize {
        let longest = self.crop.as_ref().and_then(|crop| crop.longest(self.range.clone()));
        longest.map_or(0, |sample| (sample - self.range.start) / TOGETHER * TOGETHER)
    }

    /// Samples that run at once at most.
    pub(crate) fn most_at_once(&self) -> Option<usize> {
        self.crop.is_some().then_some(TOGETHER)
    }

    /// The first 16 hexadecimal digits of the SHA-256 of the contents: names, types, shapes, values, labels.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether batches have labels.
    pub fn has_labels(&self) -> bool {
        self.has_labels
    }

    /// Whether the samples are synthetic.
    pub fn is_synthetic(&self) -> bool {
        self.is_synthetic
    }

    /// What the user should know: ignored arrays, samples left over.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// All samples in order, at most `size` at a time; exactly as many as the graph wants where it fixes its batch axis.
    pub fn batches(&self, size: usize) -> Batches<'_> {
        self.batches_of(0..self.samples(), size)
    }

    /// The samples of `range` in order, as [`Dataset::batches`]; with a fixed batch axis, whole batches that lie in the range.
    pub fn batches_of(&self, range: Range<usize>, size: usize) -> Batches<'_> {
        let fixed = self.fixed;
        let first = self.range.start;
        let next = first + fixed.map_or(range.start, |fixed| range.start.div_ceil(fixed) * fixed);
        Batches {
            dataset: self,
            next,
            end: first + range.end.min(self.samples()),
            size: fixed.unwrap_or(size.max(1)),
            fixed: fixed.is_some(),
        }
    }

    /// The samples that are cropped to one length with sample `next` of all parts.
    fn window(&self, next: usize) -> Range<usize> {
        let first = next - (next - self.range.start) % TOGETHER;
        first..self.range.end.min(first + TOGETHER)
    }

    fn read(&self, part: usize, start: usize, end: usize) -> Result<Batch> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = match &*open {
            Some((index, rows)) if *index == part => rows.clone(),
            _ => {
                let rows: Arc<dyn Rows> = self.parts[part].0.open(&self.schema)?.0;
                *open = Some((part, rows.clone()));
                rows
            }
        };
        drop(open);
        rows.read(start, end)
    }
}

/// What a part was found to hold.
struct Checked {
    rows: usize,
    labels: Option<LabelKind>,
    /// Samples that the graph runs at once, if that is fixed.
    fixed: Option<usize>,
}

/// Reads all of `part`, its contents added to `hasher`.
fn check_part(part: &Part, schema: &Schema, hasher: &mut Sha256, warnings: &mut Vec<String>) -> Result<Checked> {
    let (rows, noted) = part.open(schema)?;
    warnings.extend(noted);
    let mut kind = None;
    let fixed = if rows.are_runs() { Some(1) } else { schema.fixed_batch()? };
    let mut step = fixed.unwrap_or(CHECKED_ROWS);
    let mut start = 0;
    while start < rows.count() {
        let end = rows.count().min(start + step);
        let batch = rows.read(start, end).map_err(|e| part.locate(e))?;
        schema.check_labels(batch.labels.as_ref(), start).map_err(|e| part.locate(e))?;
        kind = batch.labels.as_ref().map(Labels::kind).or(kind);
        for ((name, tensor), axis) in batch.inputs.iter().zip(&batch.axes) {
            let shape = tensor.shape().iter().enumerate();
            let each: Vec<usize> = shape.filter(|(at, _)| Some(*at) != *axis).map(|(_, &size)| size).collect();
            hasher.update(format!(
                "{name} {} {:?}\n",
                tensor.type_name(),
                (!tensor.shape().is_empty()).then_some(each)
            ));
            hasher.update(tensor.as_bytes());
        }
        match &batch.labels {
            Some(Labels::Classes(classes)) => classes.iter().for_each(|label| hasher.update(label.to_le_bytes())),
            Some(Labels::Values(values)) => hasher.update(values.as_bytes()),
            None => {}
        }
        if fixed.is_none() {
            let bytes: usize = batch.inputs.iter().map(|(_, tensor)| tensor.as_bytes().len()).sum();
            step = (CHECKED_BYTES / (bytes / (end - start)).max(1)).max(1);
        }
        start = end;
    }
    Ok(Checked { rows: rows.count(), labels: kind, fixed })
}

/// The parts that a path stands for.
fn parts_at(path: &Path) -> Result<Vec<Part>> {
    if path.is_file() {
        return match archive::extension(path).as_str() {
            "npz" | "npy" => Ok(vec![Part::Arrays(path.to_owned())]),
            "png" | "jpg" | "jpeg" | "bmp" => Err(Error::input("is an image; give the directory with `images`")),
            _ => Err(Error::input("is no data that paredown reads: .npz, .npy, or a directory of them")),
        };
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::input(format!("cannot be read: {e}")))?;
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    entries.sort();
    if entries.iter().any(|entry| test_sets::is_input(entry)) {
        return Ok(vec![Part::TestSet(path.to_owned())]);
    }
    let sets = entries.iter().filter(|entry| entry.is_dir() && test_sets::is_set(entry));
    let arrays = entries.iter().filter(|entry| matches!(archive::extension(entry).as_str(), "npz" | "npy"));
    let parts: Vec<Part> = sets.cloned().map(Part::TestSet).chain(arrays.cloned().map(Part::Arrays)).collect();
    if !parts.is_empty() {
        return Ok(parts);
    }
    let is_image = |entry: &PathBuf| images::is_image(entry);
    let hint = if entries.iter().any(is_image) { "; for a directory of images use `images`" } else { "" };
    Err(Error::input(format!("has no .npz, .npy or test_data_set_* inside{hint}")))
}

/// Iterator over the batches of a [`Dataset`].
#[derive(Debug)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    next: usize,
    end: usize,
    size: usize,
    fixed: bool,
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if let Err(cancelled) = self.dataset.progress.check() {
            return Some(Err(cancelled));
        }
        let mut first = 0;
        for (index, (_, rows)) in self.dataset.parts.iter().enumerate() {
            if self.next < first + rows {
                let start = self.next - first;
                let window = self.dataset.window(self.next);
                let crop = self.dataset.crop.as_ref();
                let last = crop.map_or(self.end, |_| self.end.min(window.end)).saturating_sub(first);
                let end = (*rows).min(start + self.size).min(last);
                if end <= start || (self.fixed && end - start < self.size) {
                    return None;
                }
                self.next = first + end;
                let batch = self.dataset.read(index, start, end);
                return Some(batch.and_then(|batch| match crop {
                    Some(crop) => crop.cropped(batch, window),
                    None => Ok(batch),
                }));
            }
            first += rows;
        }
        None
    }
}

#[cfg(test)]
mod tests;
