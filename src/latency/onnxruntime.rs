//! ONNX Runtime, loaded when it is needed: nothing of it is there at build time.
//!
//! A few functions of its C API are enough: make an environment, load a model, feed it, run it. The API is a table of function
//! pointers that only ever grows at its end, so that the position of each is the same in every release.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::rc::Rc;

use libloading::Library;
use prost::Message;

use super::find;
use super::timing::{RuntimeLatency, by_turns};
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::latency::{Fed, least_times};
use crate::runtime::{NamedTensor, Tensor, Watch};

/// What every session computes on: the provider that every build of the library has.
const PROVIDER: &str = "CPUExecutionProvider";

/// Version of the API that is asked for. All functions below are in it, and newer libraries still offer it.
const API_VERSION: u32 = 7;

/// `ORT_LOGGING_LEVEL_ERROR`.
const LOG_ERRORS: c_int = 3;

/// `ORT_ENABLE_ALL`, which is what sessions do by default.
const OPTIMIZE_ALL: c_int = 99;

/// Things of the library that are only ever held by a pointer.
#[repr(C)]
struct Opaque {
    _private: [u8; 0],
    _not_send: PhantomData<*mut ()>,
}

/// A status: null where all went well.
type Status = *mut Opaque;

#[repr(C)]
struct ApiBase {
    api: unsafe extern "system" fn(u32) -> *const c_void,
    version: unsafe extern "system" fn() -> *const c_char,
}

/// The functions that are used, by their names in `onnxruntime_c_api.h`.
struct Api {
    get_error_message: unsafe extern "system" fn(Status) -> *const c_char,
    create_env: unsafe extern "system" fn(c_int, *const c_char, *mut *mut Opaque) -> Status,
    create_session: unsafe extern "system" fn(*const Opaque, *const OrtChar, *const Opaque, *mut *mut Opaque) -> Status,
    create_session_from_array:
        unsafe extern "system" fn(*const Opaque, *const c_void, usize, *const Opaque, *mut *mut Opaque) -> Status,
    run: unsafe extern "system" fn(
        *mut Opaque,
        *const Opaque,
        *const *const c_char,
        *const *const Opaque,
        usize,
        *const *const c_char,
        usize,
        *mut *mut Opaque,
    ) -> Status,
    create_session_options: unsafe extern "system" fn(*mut *mut Opaque) -> Status,
    set_optimization_level: unsafe extern "system" fn(*mut Opaque, c_int) -> Status,
    set_intra_op_threads: unsafe extern "system" fn(*mut Opaque, c_int) -> Status,
    set_inter_op_threads: unsafe extern "system" fn(*mut Opaque, c_int) -> Status,
    add_config_entry: unsafe extern "system" fn(*mut Opaque, *const c_char, *const c_char) -> Status,
    create_tensor: unsafe extern "system" fn(
        *const Opaque,
        *mut c_void,
        usize,
        *const i64,
        usize,
        c_int,
        *mut *mut Opaque,
    ) -> Status,
    create_cpu_memory_info: unsafe extern "system" fn(c_int, c_int, *mut *mut Opaque) -> Status,
    release_env: unsafe extern "system" fn(*mut Opaque),
    release_status: unsafe extern "system" fn(*mut Opaque),
    release_memory_info: unsafe extern "system" fn(*mut Opaque),
    release_session: unsafe extern "system" fn(*mut Opaque),
    release_value: unsafe extern "system" fn(*mut Opaque),
    release_session_options: unsafe extern "system" fn(*mut Opaque),
}

/// Entry `index` of a table of functions.
///
/// # Safety
/// The table has this entry, and it is a function of type `F`.
unsafe fn entry<F: Copy>(table: *const *const c_void, index: usize) -> F {
    const { assert!(size_of::<F>() == size_of::<*const c_void>()) }
    // SAFETY: the caller vouches for the entry and its type, and the sizes agree.
    unsafe { std::mem::transmute_copy(&*table.add(index)) }
}

/// A character of a path, as the library takes it.
#[cfg(windows)]
type OrtChar = u16;
#[cfg(not(windows))]
type OrtChar = c_char;

impl Api {
    /// # Safety
    /// `table` points to the API table of version [`API_VERSION`] or later, which lives as long as the library is loaded.
    unsafe fn read(table: *const c_void) -> Self {
        let table = table.cast::<*const c_void>();
        // SAFETY: positions and signatures are those of `struct OrtApi` in `onnxruntime_c_api.h`, which keeps the order of its
        // members from release to release; the last one that is read is in version 7.
        unsafe {
            Self {
                get_error_message: entry(table, 2),
                create_env: entry(table, 3),
                create_session: entry(table, 7),
                create_session_from_array: entry(table, 8),
                run: entry(table, 9),
                create_session_options: entry(table, 10),
                set_optimization_level: entry(table, 23),
                set_intra_op_threads: entry(table, 24),
                set_inter_op_threads: entry(table, 25),
                create_tensor: entry(table, 49),
                create_cpu_memory_info: entry(table, 69),
                release_env: entry(table, 92),
                release_status: entry(table, 93),
                release_memory_info: entry(table, 94),
                release_session: entry(table, 95),
                release_value: entry(table, 96),
                release_session_options: entry(table, 100),
                add_config_entry: entry(table, 130),
            }
        }
    }

    /// The error that a status stands for. The status is released.
    fn check(&self, status: Status) -> std::result::Result<(), String> {
        if status.is_null() {
            return Ok(());
        }
        // SAFETY: a status that is not null is valid until it is released, and so is its message, a string with a zero at its
        // end. Nothing else holds the status.
        let message = unsafe { text((self.get_error_message)(status)) };
        unsafe { (self.release_status)(status) };
        Err(message)
    }

    /// What `make` puts in the place that it is given.
    fn made(&self, make: impl FnOnce(*mut *mut Opaque) -> Status) -> std::result::Result<*mut Opaque, String> {
        let mut made = null_mut();
        self.check(make(&raw mut made))?;
        if made.is_null() { Err("the library returned nothing".to_owned()) } else { Ok(made) }
    }
}

/// # Safety
/// `message` is null or a string with a zero at its end.
unsafe fn text(message: *const c_char) -> String {
    if message.is_null() {
        return String::new();
    }
    // SAFETY: as the caller vouches for.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

/// A loaded library with its environment. It stays loaded until the process ends: threads of it may outlive everything that is
/// released here.
pub struct OnnxRuntime {
    _library: ManuallyDrop<Library>,
    api: Api,
    env: *mut Opaque,
    version: String,
}

impl fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxRuntime").field("version", &self.version).finish_non_exhaustive()
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
        // SAFETY: loading a library runs its initializers. Those of ONNX Runtime register its own tables only; a library that is
        // named by the user is trusted as any program that they name.
        let library = unsafe { Library::new(path) }.map_err(|e| format!("the library does not load: {e}"))?;
        let library = ManuallyDrop::new(library);
        // SAFETY: `OrtGetApiBase` is a function of this type in every release that has it.
        let base = unsafe { library.get::<unsafe extern "system" fn() -> *const ApiBase>(b"OrtGetApiBase\0") };
        let base = base.map_err(|_| "the library is not ONNX Runtime: it has no OrtGetApiBase".to_owned())?;
        // SAFETY: the function takes nothing and returns a table of two functions that lives as long as the library, which is
        // never unloaded.
        let (version, table) = unsafe {
            let base = base();
            if base.is_null() {
                return Err("the library offers no API".to_owned());
            }
            (text(((*base).version)()), ((*base).api)(API_VERSION))
        };
        if table.is_null() {
            return Err(format!("ONNX Runtime {version} is too old: it lacks version {API_VERSION} of its API"));
        }
        // SAFETY: the library says that this is its table of that version.
        let api = unsafe { Api::read(table) };
        // SAFETY: the name is a string with a zero at its end, and the place for the environment is valid.
        let env = api.made(|env| unsafe { (api.create_env)(LOG_ERRORS, c"paredown".as_ptr(), env) })?;
        Ok(Self { _library: library, api, env, version })
    }

    /// Version of the library: `1.22.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Times two files that take the same `inputs`, each run on `threads` threads.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input), with the library's words, if it does not load or run one of them.
    pub fn compare(
        self: &Rc<Self>,
        before: &Path,
        after: &Path,
        (inputs, outputs): (&[NamedTensor], &[String]),
        threads: usize,
    ) -> Result<RuntimeLatency> {
        let session = |path: &Path| {
            let open = Session::open(self, &File::At(path), threads);
            let mut session = open.map_err(|why| Error::input(why).in_file(path))?;
            session.feed(inputs, outputs).map_err(|why| Error::input(why).in_file(path))?;
            Ok::<_, Error>(session)
        };
        let (before, after) = (session(before)?, session(after)?);
        let run = |session: &Session| session.run().map_err(Error::input);
        let [before, after] = by_turns(Watch::of(threads), || run(&before), || run(&after))?;
        let runtime = format!("ONNX Runtime {}", self.version);
        Ok(RuntimeLatency { runtime, provider: Some(PROVIDER.to_owned()), threads: Some(threads), before, after })
    }
}

impl OnnxRuntime {
    /// The least time of one run of each model, in milliseconds, run in alternation on `threads` threads; `None` for those that
    /// do not run.
    pub(crate) fn times(self: &Rc<Self>, models: &[Fed], threads: usize) -> Vec<Option<f64>> {
        let open = |fed: &Fed| -> Option<Session> {
            let mut session = Session::open(self, &File::Bytes(&fed.model.encode_to_vec()), threads).ok()?;
            session.feed(&fed.inputs, &fed.outputs()).ok()?;
            Some(session)
        };
        let sessions: Vec<Option<Session>> = models.iter().map(open).collect();
        let run = |index: usize| match &sessions[index] {
            Some(session) => session.run().map_err(Error::input),
            None => Err(Error::input("the model does not load")),
        };
        least_times(Watch::of(threads), models.len(), run)
    }
}

impl Drop for OnnxRuntime {
    fn drop(&mut self) {
        // SAFETY: sessions hold a count of this environment, so that none is left.
        unsafe { (self.api.release_env)(self.env) };
    }
}

/// The file of a model.
enum File<'a> {
    At(&'a Path),
    Bytes(&'a [u8]),
}

/// A loaded model and what it is fed with.
struct Session {
    runtime: Rc<OnnxRuntime>,
    session: *mut Opaque,
    names: Vec<CString>,
    feeds: Vec<Feed>,
    outputs: Vec<CString>,
}

/// A tensor of the library over memory of ours.
struct Feed {
    runtime: Rc<OnnxRuntime>,
    value: *mut Opaque,
    /// What the value points to: in whole words, so that every element is aligned.
    _data: Vec<u64>,
}

impl Session {
    fn open(runtime: &Rc<OnnxRuntime>, file: &File<'_>, threads: usize) -> std::result::Result<Self, String> {
        let api = &runtime.api;
        // SAFETY: the place for the options is valid.
        let options = Options { api, options: api.made(|options| unsafe { (api.create_session_options)(options) })? };
        let count = c_int::try_from(threads.max(1)).unwrap_or(1);
        // SAFETY: the options are valid until they are released at the end of this function.
        unsafe {
            api.check((api.set_optimization_level)(options.options, OPTIMIZE_ALL))?;
            api.check((api.set_intra_op_threads)(options.options, count))?;
            api.check((api.set_inter_op_threads)(options.options, 1))?;
            // Threads of the model whose turn it is not would wait in busy loops and take the cores from the other.
            let (key, value) = (c"session.intra_op.allow_spinning", c"0");
            api.check((api.add_config_entry)(options.options, key.as_ptr(), value.as_ptr()))?;
        }
        let session = match file {
            File::At(path) => {
                let path = ort_path(path)?;
                // SAFETY: environment and options are valid, and the path is a string with a zero at its end.
                api.made(|session| unsafe {
                    (api.create_session)(runtime.env, path.as_ptr(), options.options, session)
                })?
            }
            // SAFETY: environment and options are valid, and the bytes are as many as is said.
            File::Bytes(bytes) => api.made(|session| unsafe {
                let (start, length) = (bytes.as_ptr().cast(), bytes.len());
                (api.create_session_from_array)(runtime.env, start, length, options.options, session)
            })?,
        };
        let (names, feeds, outputs) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { runtime: Rc::clone(runtime), session, names, feeds, outputs })
    }

    fn feed(&mut self, inputs: &[NamedTensor], outputs: &[String]) -> std::result::Result<(), String> {
        let name = |name: &String| CString::new(name.as_str()).map_err(|_| format!("the name '{name}' holds a zero"));
        self.names = inputs.iter().map(|(given, _)| name(given)).collect::<std::result::Result<_, _>>()?;
        self.outputs = outputs.iter().map(name).collect::<std::result::Result<_, _>>()?;
        let feed = |(_, tensor): &NamedTensor| Feed::new(&self.runtime, tensor);
        self.feeds = inputs.iter().map(feed).collect::<std::result::Result<_, _>>()?;
        Ok(())
    }

    /// One run on the inputs that were fed; the outputs are dropped.
    fn run(&self) -> std::result::Result<(), String> {
        let api = &self.runtime.api;
        let names: Vec<*const c_char> = self.names.iter().map(|name| name.as_ptr()).collect();
        let values: Vec<*const Opaque> = self.feeds.iter().map(|feed| feed.value.cast_const()).collect();
        let outputs: Vec<*const c_char> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let mut results: Vec<*mut Opaque> = vec![null_mut(); outputs.len()];
        // SAFETY: the session is valid; names and values are as many as is said, and live until the call returns; there is a
        // place for each result. Null options of the run are those by default.
        let status = unsafe {
            (api.run)(
                self.session,
                null(),
                names.as_ptr(),
                values.as_ptr(),
                values.len(),
                outputs.as_ptr(),
                outputs.len(),
                results.as_mut_ptr(),
            )
        };
        for result in results.into_iter().filter(|result| !result.is_null()) {
            // SAFETY: the library made this value in the call above, and nothing else holds it.
            unsafe { (api.release_value)(result) };
        }
        api.check(status)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session is valid, and nothing else holds it. Its environment lives on until `runtime` is dropped.
        unsafe { (self.runtime.api.release_session)(self.session) };
    }
}

impl Feed {
    fn new(runtime: &Rc<OnnxRuntime>, tensor: &Tensor) -> std::result::Result<Self, String> {
        let (element, mut data, bytes) = elements(tensor)?;
        let shape: Vec<i64> = tensor.shape().iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let api = &runtime.api;
        // SAFETY: the place for the description is valid. 1 is `OrtArenaAllocator`, 0 is `OrtMemTypeDefault`.
        let memory = api.made(|memory| unsafe { (api.create_cpu_memory_info)(1, 0, memory) })?;
        // SAFETY: `data` holds `bytes` bytes, is moved with this value only (its buffer stays where it is), and is dropped after
        // the library's value; the shape is as long as is said.
        let value = api.made(|value| unsafe {
            let start = data.as_mut_ptr().cast::<c_void>();
            (api.create_tensor)(memory, start, bytes, shape.as_ptr(), shape.len(), element, value)
        });
        // SAFETY: the description is valid, and the value has a copy of its own.
        unsafe { (api.release_memory_info)(memory) };
        Ok(Self { runtime: Rc::clone(runtime), value: value?, _data: data })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // SAFETY: the value is valid, and no run is going on.
        unsafe { (self.runtime.api.release_value)(self.value) };
    }
}

/// Options of a session, released in the end.
struct Options<'a> {
    api: &'a Api,
    options: *mut Opaque,
}

impl Drop for Options<'_> {
    fn drop(&mut self) {
        // SAFETY: the options are valid; a session has a copy of its own.
        unsafe { (self.api.release_session_options)(self.options) };
    }
}

#[cfg(windows)]
fn ort_path(path: &Path) -> std::result::Result<Vec<u16>, String> {
    use std::os::windows::ffi::OsStrExt;
    Ok(path.as_os_str().encode_wide().chain([0]).collect())
}

#[cfg(not(windows))]
fn ort_path(path: &Path) -> std::result::Result<CString, String> {
    let name = path.as_os_str().as_encoded_bytes();
    CString::new(name).map_err(|_| format!("the path {} holds a zero", path.display()))
}

/// Code of the element type, the elements in whole words, and how many bytes of these count.
fn elements(tensor: &Tensor) -> std::result::Result<(c_int, Vec<u64>, usize), String> {
    macro_rules! packed_as {
        ($($element:ty => $code:ident),*) => {
            $(if let Some(values) = tensor.as_slice::<$element>() {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
                return Ok((DataType::$code as c_int, words(&bytes), bytes.len()));
            })*
        };
    }
    packed_as!(f32 => Float, u8 => Uint8, i8 => Int8, u16 => Uint16, i16 => Int16, i32 => Int32, i64 => Int64,
        half::f16 => Float16, f64 => Double, u32 => Uint32, u64 => Uint64);
    if let Some(values) = tensor.as_slice::<bool>() {
        let bytes: Vec<u8> = values.iter().map(|&value| u8::from(value)).collect();
        return Ok((DataType::Bool as c_int, words(&bytes), bytes.len()));
    }
    Err(format!("elements of type {} cannot be fed", tensor.type_name()))
}

/// Bytes in whole words, the last one filled up with zeros.
fn words(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        let mut word = [0; size_of::<u64>()];
        word.iter_mut().zip(chunk).for_each(|(to, &from)| *to = from);
        u64::from_ne_bytes(word)
    };
    // A value of no elements still needs a place to point to.
    bytes.chunks(size_of::<u64>()).map(word).chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sample_models::mlp;

    #[test]
    fn elements_keep_their_bytes() {
        let (code, data, bytes) = elements(&Tensor::new(&[3], &[1.5_f32, -2.0, 3.0]).unwrap()).unwrap();
        let read: Vec<u8> = data.iter().flat_map(|word| word.to_ne_bytes()).take(bytes).collect();
        let expected: Vec<u8> = [1.5_f32, -2.0, 3.0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        assert_eq!((code, read), (1, expected));
        assert_eq!(elements(&Tensor::new(&[2], &[true, false]).unwrap()).unwrap().2, 2);
        assert_eq!(elements(&Tensor::new::<f32>(&[0], &[]).unwrap()).unwrap().2, 0);
    }

    #[test]
    fn what_is_no_library_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libonnxruntime.so");
        std::fs::write(&path, "no library").unwrap();
        let error = OnnxRuntime::named(Some(&path)).unwrap_err();
        assert!(error.to_string().contains("libonnxruntime.so"), "{error}");
    }

    /// Where there is a library: two models are timed, and a file that is no model is told.
    #[test]
    fn two_models_are_timed_where_there_is_a_library() {
        let Ok(runtime) = OnnxRuntime::find().map(Rc::new) else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mlp.onnx");
        let model = crate::onnx::Model::from_proto(mlp());
        model.save(&path, &crate::onnx::SaveOptions::default()).unwrap();
        let inputs = [("x".to_owned(), Tensor::new(&[1, 3], &[1_f32; 3]).unwrap())];
        let outputs = [mlp().graph.unwrap().output[0].name().to_owned()];
        let found = runtime.compare(&path, &path, (&inputs, &outputs), 1).unwrap();
        assert!(found.before.median_ms > 0.0 && found.after.runs == found.before.runs);
        assert!(found.runtime.starts_with("ONNX Runtime 1."), "{}", found.runtime);
        let missing = runtime.compare(&path, &path, (&inputs, &["nothing".to_owned()]), 1).unwrap_err();
        assert!(missing.to_string().contains("nothing"), "{missing}");
        std::fs::write(&path, "no model").unwrap();
        let error = runtime.compare(&path, &path, (&inputs, &outputs), 1).unwrap_err();
        assert!(error.to_string().contains("mlp.onnx"), "{error}");
    }
}
