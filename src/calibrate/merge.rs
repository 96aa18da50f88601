//! One file of statistics from several: the sums of all portions of the samples, added up in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ndarray::Array2;

use super::leaves::LEAVES;
use super::stats::{Record, Records, SUMS, Writer, fits, portion_of};
use super::sums::Sums;
use crate::error::{Error, Result};

/// What came of a merger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Number of results in the merged file.
    pub results: usize,
    /// The eighths of the samples that no file covers, counted from 1; empty if the file is complete.
    pub missing: Vec<usize>,
}

/// Merges files of statistics that were gathered from shares of the same samples with the same model, in any order. A file of
/// some of the shares can be merged with the others later.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for fewer than two files, [`Input`](crate::ErrorKind::Input) if a file is damaged or was
/// gathered from something else, [`Output`](crate::ErrorKind::Output) if the result cannot be written.
pub fn merge_stats<P: AsRef<Path>>(files: &[P], output: impl AsRef<Path>) -> Result<Merged> {
    let files: Vec<Records> = files.iter().map(|path| Records::open(path.as_ref())).collect::<Result<_>>()?;
    let [first, _, ..] = files.as_slice() else {
        return Err(Error::usage("a merger takes at least two files of statistics"));
    };
    for file in &files {
        fits(file.origin(), first.origin(), "another of these files").map_err(|e| e.in_file(file.path()))?;
    }
    let mut writer = Writer::new(output.as_ref())?;
    let covered: BTreeSet<usize> = files.iter().flat_map(|file| file.leaves()).copied().collect();
    let missing: Vec<usize> = (0..LEAVES).filter(|leaf| !covered.is_empty() && !covered.contains(leaf)).collect();
    // Files that hold each key, or each portion of it.
    let mut portions: BTreeMap<(&str, &str), BTreeMap<usize, &Records>> = BTreeMap::new();
    for file in &files {
        for key in file.keys() {
            if let Some((base, kind, leaf)) = portion_of(key) {
                portions.entry((base, kind)).or_default().entry(leaf).or_insert(file);
            } else if !writer.has(key) {
                copy(file, key, &mut writer)?;
            }
        }
    }
    // Sums of some of the portions would look like those of all.
    let most = portions.values().map(BTreeMap::len).max().unwrap_or(0);
    let is_partial =
        |((base, _), found): &(&(&str, &str), &BTreeMap<usize, &Records>)| found.len() < most && !writer.has(base);
    let partial = portions.iter().filter(is_partial).count();
    if missing.is_empty() && partial > 0 {
        return Err(Error::input(format!(
            "{partial} of {} sums are not in the files of all shares: gather every share again with the same options and the same program",
            portions.len()
        )));
    }
    for ((base, kind), found) in portions {
        if writer.has(base) {
            continue;
        }
        let key = |leaf: usize| super::stats::portion(base, kind, leaf);
        if missing.is_empty() {
            let mut all: Option<Parts> = None;
            for (&leaf, file) in &found {
                let misfit =
                    || Error::input("holds sums of sizes that do not fit those of the others").in_file(file.path());
                let next = file.get(&key(leaf))?.and_then(|record| Parts::of(kind, record)).ok_or_else(misfit)?;
                match &mut all {
                    Some(all) => all.add(&next).ok_or_else(misfit)?,
                    none => *none = Some(next),
                }
            }
            if let Some(all) = all {
                writer.put(base, &all.record())?;
            }
        } else {
            for (&leaf, file) in &found {
                copy(file, &key(leaf), &mut writer)?;
            }
        }
    }
    let results = writer.len();
    let covered = if missing.is_empty() { Vec::new() } else { covered.into_iter().collect() };
    writer.finish(first.origin().clone(), covered)?;
    Ok(Merged { results, missing: missing.into_iter().map(|leaf| leaf + 1).collect() })
}

fn copy(file: &Records, key: &str, writer: &mut Writer) -> Result<()> {
    file.bytes(key)?.map_or(Ok(()), |bytes| writer.put_bytes(key, &bytes))
}

/// The sums of a record, each with the matrix in front of it, if its kind has one.
struct Parts(Vec<(Option<Array2<f64>>, Sums)>);

impl Parts {
    fn of(kind: &str, record: Record) -> Option<Self> {
        let mut matrices = record.into_iter().peekable();
        let mut parts = Vec::new();
        while matrices.peek().is_some() {
            let front = if kind == SUMS { None } else { matrices.next() };
            parts.push((front, Sums::from_matrices(&mut matrices)?));
        }
        Some(Self(parts))
    }

    /// Adds those of the next portion; `None` if they are of other matrices.
    fn add(&mut self, other: &Self) -> Option<()> {
        if self.0.len() != other.0.len() {
            return None;
        }
        for ((front, sums), (other_front, other)) in self.0.iter_mut().zip(&other.0) {
            if front != other_front || !sums.is_like(other) {
                return None;
            }
            sums.merge(other);
        }
        Some(())
    }

    fn record(self) -> Record {
        self.0.into_iter().flat_map(|(front, sums)| front.into_iter().chain(sums.finish().to_record())).collect()
    }
}
