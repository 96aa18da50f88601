//! Times of operators in a file, by where they were measured and by signature.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::alone::small;
use crate::error::{Error, Result};
use crate::latency::{RuntimeOptions, Stopwatch, Where};
use crate::onnx::declared;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::runtime::Tensor;
use crate::runtime::latency::Fed;
use crate::texts::{folder, write_text};

/// Version of the file.
const VERSION: u32 = 1;

/// Most models that are timed in alternation.
const TOGETHER: usize = 32;

/// Bytes of weights and inputs that they hold together, at most.
pub(super) const HELD_BYTES: usize = 256 << 20;

/// What is measured to know what a run of any model takes.
const EMPTY: &str = "nothing";

/// Milliseconds that a run of an operator may take.
const POSSIBLE: RangeInclusive<f64> = 1e-9..=1e9;

/// The file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Table {
    version: u32,
    places: Vec<Section>,
}

/// Times that were measured in one place.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Section {
    #[serde(flatten)]
    place: Where,
    /// Least time of one run in milliseconds, by signature.
    milliseconds: BTreeMap<String, f64>,
}

impl Table {
    /// An empty table if there is no file.
    fn load(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::input(error.to_string()).in_file(path)),
        };
        let table: Self =
            serde_json::from_str(&text).map_err(|e| Error::input(format!("no table of times: {e}")).in_file(path))?;
        if table.version != VERSION {
            let message = format!("a table of times of version {}, not {VERSION}", table.version);
            return Err(Error::input(message).in_file(path));
        }
        let times = table.places.iter().flat_map(|section| &section.milliseconds);
        if let Some((signature, ms)) = times.into_iter().find(|(_, ms)| !POSSIBLE.contains(*ms)) {
            let message = format!("the time of '{signature}' is {ms} ms; record the table again with `bench-table`");
            return Err(Error::input(message).in_file(path));
        }
        Ok(table)
    }

    fn save(&self, path: &Path) -> Result<()> {
        let fail = |error: std::io::Error| Error::output(error.to_string()).in_file(path);
        std::fs::create_dir_all(folder(path)).map_err(fail)?;
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::output(e.to_string()).in_file(path))?;
        write_text(path, &(text + "\n"))
    }

    fn section(&mut self, place: &Where) -> &mut Section {
        let at = self.places.iter().position(|section| section.place == *place).unwrap_or_else(|| {
            self.places.push(Section { place: place.clone(), milliseconds: BTreeMap::new() });
            self.places.len() - 1
        });
        &mut self.places[at]
    }
}

/// A runtime with the times that are known of it.
#[derive(Debug)]
pub(crate) struct Meter {
    /// What measures; `None` if the times are those of another machine.
    stopwatch: Option<Stopwatch>,
    place: Where,
    path: Option<PathBuf>,
    known: RefCell<BTreeMap<String, f64>>,
    measured: Cell<usize>,
    notes: RefCell<Vec<String>>,
}

impl Meter {
    /// The runtime that `options` ask for, and its table. A table that was named and holds times of other places only is used
    /// as it is.
    ///
    /// # Errors
    /// As [`Stopwatch::open`]; [`Input`](crate::ErrorKind::Input) if the table is malformed or holds the times of several other
    /// places.
    pub(crate) fn open(options: &RuntimeOptions) -> Result<Self> {
        let (stopwatch, note) = Stopwatch::open(options)?;
        let place = stopwatch.place();
        let path = options.table.clone().or_else(cached);
        let mut table = match (&path, &options.table) {
            (Some(path), Some(_)) => Table::load(path)?,
            // A cache that cannot be read is made again.
            (Some(path), None) => Table::load(path).unwrap_or_default(),
            (None, _) => Table::default(),
        };
        let is_here = table.places.iter().any(|section| section.place == place);
        if let (Some(file), false, false) = (&options.table, is_here, table.places.is_empty()) {
            let [section] = table.places.as_slice() else {
                let message = "the table holds the times of several machines, and this is none of them";
                return Err(Error::input(message).in_file(file));
            };
            let note = format!(
                "operators were timed elsewhere ({}): the latency is a prediction for there and was not measured",
                section.place
            );
            return Ok(Self {
                stopwatch: None,
                place: section.place.clone(),
                path: None,
                known: RefCell::new(section.milliseconds.clone()),
                measured: Cell::new(0),
                notes: RefCell::new(vec![note]),
            });
        }
        let known = RefCell::new(std::mem::take(&mut table.section(&place).milliseconds));
        let notes = RefCell::new(note.into_iter().collect());
        Ok(Self { stopwatch: Some(stopwatch), place, path, known, measured: Cell::new(0), notes })
    }

    /// What the user should know about the times.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    /// What measures here, if the times are of this machine.
    pub(crate) fn stopwatch(&self) -> Option<&Stopwatch> {
        self.stopwatch.as_ref()
    }

    /// Where the times were measured.
    pub(crate) fn place(&self) -> &Where {
        &self.place
    }

    /// How many operators were timed now.
    pub(crate) fn measured(&self) -> usize {
        self.measured.get()
    }

    /// How many operators there are times of.
    pub(crate) fn len(&self) -> usize {
        self.known.borrow().len()
    }

    /// The time of a model, in milliseconds.
    pub(crate) fn known(&self, signature: &str) -> Option<f64> {
        self.known.borrow().get(signature).copied()
    }

    /// Keeps the time of something else, in milliseconds, beside those of operators.
    pub(crate) fn note(&self, signature: String, ms: f64) {
        self.known.borrow_mut().insert(signature, ms);
        self.measured.set(self.measured.get() + 1);
    }

    /// What a run of any model takes, in milliseconds.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub(crate) fn overhead(&self) -> Result<f64> {
        self.measure(BTreeMap::from([(EMPTY.to_owned(), nothing()?)]))?;
        Ok(self.known(EMPTY).unwrap_or(0.0))
    }

    /// Times those models whose signatures are not known. What does not run has no time.
    ///
    /// # Errors
    /// If the runtime cannot be started.
    pub(crate) fn measure(&self, models: BTreeMap<String, Fed>) -> Result<()> {
        let Some(stopwatch) = &self.stopwatch else { return Ok(()) };
        let mut wanted: Vec<(String, Fed)> = Vec::new();
        let mut held = 0;
        let mut batches = Vec::new();
        let is_new = |(signature, _): &(String, Fed)| !self.known.borrow().contains_key(signature);
        for (signature, fed) in models.into_iter().filter(is_new) {
            let bytes = bytes(&fed);
            if wanted.len() == TOGETHER || (held + bytes > HELD_BYTES && !wanted.is_empty()) {
                batches.push(std::mem::take(&mut wanted));
                held = 0;
            }
            held += bytes;
            wanted.push((signature, fed));
        }
        batches.push(wanted);
        for batch in batches {
            let (signatures, models): (Vec<String>, Vec<Fed>) = batch.into_iter().unzip();
            let times = stopwatch.times(&models)?;
            for (signature, ms) in signatures.into_iter().zip(times) {
                if let Some(ms) = ms.filter(|ms| POSSIBLE.contains(ms)) {
                    self.note(signature, ms);
                }
            }
        }
        Ok(())
    }

    /// Writes new times to the table's file, and keeps what other processes have written since. It does not fail if a
    /// cache cannot be written.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if the file was named by the user and cannot be written.
    pub(crate) fn keep(&self) -> Result<()> {
        let Some(path) = self.path.clone().filter(|_| self.measured.get() > 0) else { return Ok(()) };
        let mut table = Table::load(&path).unwrap_or_default();
        table.version = VERSION;
        let section = table.section(&self.place);
        section.milliseconds.extend(self.known.borrow().iter().map(|(signature, ms)| (signature.clone(), *ms)));
        match table.save(&path) {
            Err(error) if cached().as_ref() == Some(&path) => {
                self.notes.borrow_mut().push(format!("the times of operators are not kept for the next job: {error}"));
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Bytes of the weights and inputs of an operator.
pub(super) fn bytes(fed: &Fed) -> usize {
    let weights = fed.model.graph.iter().flat_map(|graph| &graph.initializer);
    let inputs = fed.inputs.iter().map(|(_, tensor)| tensor.as_bytes().len());
    weights.map(|tensor| tensor.raw_data().len()).chain(inputs).sum()
}

/// The table in the user's cache directory.
fn cached() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            variable("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            variable("HOME").map(|home| home.join("Library/Caches"))
        } else {
            variable("HOME").map(|home| home.join(".cache"))
        }
    })?;
    Some(folder.join("paredown").join("operator-times.json"))
}

/// A model that returns its single number.
fn nothing() -> Result<Fed> {
    let value = |name: &str| declared(name, DataType::Float as i32, None);
    let node = NodeProto {
        op_type: Some("Neg".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        name: Some(EMPTY.to_owned()),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    Ok(Fed { model: small(graph), inputs: vec![("x".to_owned(), Tensor::new(&[1], &[1.0_f32])?)] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::RuntimeName;

    fn options(path: &Path) -> RuntimeOptions {
        RuntimeOptions {
            runtime: Some(RuntimeName::Tract),
            table: Some(path.to_path_buf()),
            ..RuntimeOptions::default()
        }
    }

    #[test]
    fn what_is_measured_is_kept_and_not_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/times.json");
        let meter = Meter::open(&options(&path)).unwrap();
        assert!(meter.overhead().unwrap() > 0.0 && meter.measured() == 1);
        meter.keep().unwrap();
        let again = Meter::open(&options(&path)).unwrap();
        assert_eq!(again.overhead().unwrap(), meter.overhead().unwrap());
        assert_eq!((again.measured(), again.len()), (0, 1));
    }

    #[test]
    fn a_table_of_another_machine_is_used_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("times.json");
        let meter = Meter::open(&options(&path)).unwrap();
        meter.overhead().unwrap();
        meter.keep().unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace(&meter.place().device, "a board");
        std::fs::write(&path, &text).unwrap();
        let elsewhere = Meter::open(&options(&path)).unwrap();
        assert!(elsewhere.stopwatch().is_none() && elsewhere.notes()[0].contains("a board"));
        assert_eq!(elsewhere.overhead().unwrap(), meter.overhead().unwrap());
        // A time of nothing would make an operator free at every size.
        let ms = meter.overhead().unwrap().to_string();
        std::fs::write(&path, text.replace(&ms, "0.0")).unwrap();
        let error = Meter::open(&options(&path)).unwrap_err().to_string();
        assert!(error.contains("times.json") && error.contains("the time of 'nothing' is 0 ms"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        let error = Meter::open(&options(&path)).unwrap_err();
        assert!(error.to_string().contains("times.json"), "{error}");
    }
}
