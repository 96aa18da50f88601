//! ONNX Runtime: two models timed in alternation, and compared with tract.

use std::fmt;
use std::path::Path;
use std::rc::Rc;

use prost::Message;

use super::find;
use super::library::Library;
use super::session::{Difference, File, Session};
use super::timing::{RuntimeLatency, by_turns};
use crate::error::{Error, Result};
use crate::runtime::latency::{Fed, least_times};
use crate::runtime::{NamedTensor, Watch};

/// What every session computes on: the provider that every build of the library has.
const PROVIDER: &str = "CPUExecutionProvider";

/// The library of ONNX Runtime; a clone shares it.
#[derive(Clone)]
pub struct OnnxRuntime(Rc<Library>);

/// A file, and what tract computes with its model.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The file.
    pub file: &'a Path,
    /// Outputs in tract for the inputs that both files take; empty if tract does not run the model.
    pub expected: &'a [NamedTensor],
}

/// Times of two files in ONNX Runtime, and how far their outputs are from tract's.
#[derive(Debug)]
pub struct Compared {
    /// The times.
    pub latency: RuntimeLatency,
    /// The output that is farthest from tract's, before and after; `None` if there is nothing to compare, an error in the
    /// library's words if there is, and it cannot.
    pub differences: [std::result::Result<Option<Difference>, String>; 2],
}

impl fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxRuntime").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl OnnxRuntime {
    /// Loads the library that `path` or `ORT_DYLIB_PATH` names; `None` if neither is given.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if there is no library, [`Input`](crate::ErrorKind::Input) if it cannot be loaded
    /// or is too old.
    pub fn named(path: Option<&Path>) -> Result<Option<Self>> {
        let Some(path) = find::named(path)? else { return Ok(None) };
        Self::load(&path).map(Some).map_err(|why| Error::input(why).in_file(&path))
    }

    /// Loads the library of the Python package, or of the system.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn find() -> std::result::Result<Self, String> {
        Self::load(&find::anywhere())
    }

    fn load(path: &Path) -> std::result::Result<Self, String> {
        Library::load(path).map(|library| Self(Rc::new(library)))
    }

    /// Version of the library: `1.22.0`.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Times two files that take the same `inputs`, each run on `threads` threads, and compares their outputs with tract's.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input), with the library's words, if it does not load or run one of them.
    pub fn compare(
        &self,
        [before, after]: [Candidate<'_>; 2],
        (inputs, outputs): (&[NamedTensor], &[String]),
        threads: usize,
    ) -> Result<Compared> {
        let open = |file: &Path| {
            let session = Session::open(&self.0, &File::At(file), threads);
            let fed = session.and_then(|session| session.fed(inputs, outputs));
            fed.map_err(|why| Error::input(why).in_file(file))
        };
        let sessions = [open(before.file)?, open(after.file)?];
        let run = |session: &Session| session.run().map_err(Error::input);
        let [old, new] = by_turns(Watch::of(threads), || run(&sessions[0]), || run(&sessions[1]))?;
        let differences = [sessions[0].difference(before.expected), sessions[1].difference(after.expected)];
        let difference = differences.iter().flatten().flatten().map(|found| found.relative).reduce(f64::max);
        let (runtime, provider) = (format!("ONNX Runtime {}", self.version()), Some(PROVIDER.to_owned()));
        let latency = RuntimeLatency { runtime, provider, threads: Some(threads), before: old, after: new, difference };
        Ok(Compared { latency, differences })
    }

    /// The least time of one run of each model, in milliseconds, run in alternation on `threads` threads; `None` for those that
    /// do not run.
    pub(crate) fn times(&self, models: &[Fed], threads: usize) -> Vec<Option<f64>> {
        let open = |fed: &Fed| {
            let session = Session::open(&self.0, &File::Bytes(&fed.model.encode_to_vec()), threads).ok()?;
            session.fed(&fed.inputs, &fed.outputs()).ok()
        };
        let sessions: Vec<Option<Session>> = models.iter().map(open).collect();
        let run = |index: usize| match &sessions[index] {
            Some(session) => session.run().map_err(Error::input),
            None => Err(Error::input("the model does not load")),
        };
        least_times(Watch::of(threads), models.len(), run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sample_models::mlp;
    use crate::runtime::{RunOptions, Runnable, Tensor};

    #[test]
    fn what_is_no_library_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        std::fs::write(&path, "no library").unwrap();
        let error = OnnxRuntime::named(Some(&path)).unwrap_err();
        assert!(error.to_string().contains("libonnxruntime.so"), "{error}");
    }

    /// Where there is a library: two models are timed and compared, and a file that is no model is told.
    #[test]
    fn two_models_are_timed_where_there_is_a_library() {
        let Ok(runtime) = OnnxRuntime::find() else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mlp.onnx");
        let model = crate::onnx::Model::from_proto(mlp());
        model.save(&path, &crate::onnx::SaveOptions::default()).unwrap();
        let inputs = [("x".to_owned(), Tensor::new(&[1, 3], &[1_f32; 3]).unwrap())];
        let outputs = [mlp().graph.unwrap().output[0].name().to_owned()];
        let expected = Runnable::new(&mlp(), &RunOptions::default()).unwrap().run(&inputs).unwrap();
        let wrong: Vec<NamedTensor> = expected
            .iter()
            .map(|(name, tensor)| {
                let doubled: Vec<f32> = tensor.to_vec::<f32>().unwrap().iter().map(|value| 2.0 * value).collect();
                (name.clone(), Tensor::new(tensor.shape(), &doubled).unwrap())
            })
            .collect();
        let candidates = [Candidate { file: &path, expected: &expected }, Candidate { file: &path, expected: &wrong }];
        let found = runtime.compare(candidates, (&inputs, &outputs), 1).unwrap();
        let [before, after] = found.differences.map(|difference| difference.unwrap().unwrap().relative);
        assert!(before < 1e-6 && (after - 0.5).abs() < 1e-6, "{before} {after}");
        let latency = found.latency;
        assert!(latency.before.median_ms > 0.0 && latency.after.runs == latency.before.runs);
        assert!(latency.runtime.starts_with("ONNX Runtime 1."), "{}", latency.runtime);
        assert_eq!(latency.difference, Some(after));
        // An output of another shape is no reason to lose the times.
        let other = [(outputs[0].clone(), Tensor::new(&[1, 1], &[1_f32]).unwrap())];
        let candidates_of_other = candidates.map(|candidate| Candidate { expected: &other, ..candidate });
        let found = runtime.compare(candidates_of_other, (&inputs, &outputs), 1).unwrap();
        assert!(found.differences[0].is_err() && found.latency.difference.is_none());
        let missing = runtime.compare(candidates, (&inputs, &["nothing".to_owned()]), 1).unwrap_err();
        assert!(missing.to_string().contains("nothing"), "{missing}");
        std::fs::write(&path, "no model").unwrap();
        let error = runtime.compare(candidates, (&inputs, &outputs), 1).unwrap_err();
        assert!(error.to_string().contains("mlp.onnx"), "{error}");
    }
}
