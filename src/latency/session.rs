//! A model in ONNX Runtime, and the tensors that it reads and writes.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::rc::Rc;

use super::library::{Api, Library, Opaque};
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::{NamedTensor, Tensor};

/// `ORT_ENABLE_ALL`, which is what sessions do by default.
const OPTIMIZE_ALL: c_int = 99;

/// The file of a model.
pub(super) enum File<'a> {
    At(&'a Path),
    Bytes(&'a [u8]),
}

/// A loaded model and what it is fed with.
pub(super) struct Session {
    library: Rc<Library>,
    session: *mut Opaque,
    names: Vec<CString>,
    feeds: Vec<Feed>,
    outputs: Vec<CString>,
}

/// A tensor of the library over memory of ours.
struct Feed {
    library: Rc<Library>,
    value: *mut Opaque,
    /// What the value points to: in whole words, so that every element is aligned.
    data: Vec<u64>,
}

impl Session {
    /// Loads a model, to run on `threads` threads.
    pub(super) fn open(library: &Rc<Library>, file: &File<'_>, threads: usize) -> std::result::Result<Self, String> {
        let api = &library.api;
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
                    (api.create_session)(library.env, path.as_ptr(), options.options, session)
                })?
            }
            // SAFETY: environment and options are valid, and the bytes are as many as is said.
            File::Bytes(bytes) => api.made(|session| unsafe {
                let (start, length) = (bytes.as_ptr().cast(), bytes.len());
                (api.create_session_from_array)(library.env, start, length, options.options, session)
            })?,
        };
        let (names, feeds, outputs) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { library: Rc::clone(library), session, names, feeds, outputs })
    }

    /// The session with what its runs read and give.
    pub(super) fn fed(mut self, inputs: &[NamedTensor], outputs: &[String]) -> std::result::Result<Self, String> {
        let name = |name: &String| CString::new(name.as_str()).map_err(|_| format!("the name '{name}' holds a zero"));
        self.names = inputs.iter().map(|(given, _)| name(given)).collect::<std::result::Result<_, _>>()?;
        self.outputs = outputs.iter().map(name).collect::<std::result::Result<_, _>>()?;
        let feed = |(_, tensor): &NamedTensor| Feed::of(&self.library, tensor);
        self.feeds = inputs.iter().map(feed).collect::<std::result::Result<_, _>>()?;
        Ok(self)
    }

    /// One run on the inputs that were fed; the outputs are dropped.
    pub(super) fn run(&self) -> std::result::Result<(), String> {
        let mut results: Vec<*mut Opaque> = vec![null_mut(); self.outputs.len()];
        let done = self.run_into(&self.outputs, &mut results);
        for result in results.into_iter().filter(|result| !result.is_null()) {
            // SAFETY: the library made this value in the call above, and nothing else holds it.
            unsafe { (self.library.api.release_value)(result) };
        }
        done
    }

    /// Runs once and compares the outputs with `expected`: the floating-point output that is farthest from it. `None` if there
    /// is none, or one that is not finite.
    pub(super) fn difference(&self, expected: &[NamedTensor]) -> std::result::Result<Option<Difference>, String> {
        let wanted = |name: &CString| {
            let found =
                expected.iter().find(|(known, tensor)| known.as_bytes() == name.as_bytes() && tensor.is_float());
            found.map(|found| (name.clone(), found))
        };
        let (names, expected): (Vec<CString>, Vec<&NamedTensor>) = self.outputs.iter().filter_map(wanted).unzip();
        let place = |(_, tensor): &&NamedTensor| Feed::place(&self.library, tensor);
        let places = expected.iter().map(place).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut results: Vec<*mut Opaque> = places.iter().map(|place| place.value).collect();
        if !names.is_empty() {
            self.run_into(&names, &mut results)?;
        }
        let differences = expected.into_iter().zip(&places).filter_map(|((name, tensor), place)| {
            let relative = relative(&tensor.to_vec::<f64>().ok()?, &place.values(tensor))?;
            Some(Difference { output: name.clone(), relative })
        });
        Ok(differences.max_by(|a, b| a.relative.total_cmp(&b.relative)))
    }

    /// One run that gives these outputs. A result that is not null is a value that the library writes into.
    fn run_into(&self, outputs: &[CString], results: &mut [*mut Opaque]) -> std::result::Result<(), String> {
        let api = &self.library.api;
        let names: Vec<*const c_char> = self.names.iter().map(|name| name.as_ptr()).collect();
        let values: Vec<*const Opaque> = self.feeds.iter().map(|feed| feed.value.cast_const()).collect();
        let outputs: Vec<*const c_char> = outputs.iter().map(|name| name.as_ptr()).collect();
        assert_eq!(outputs.len(), results.len(), "a place for each output");
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
        api.check(status)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session is valid, and nothing else holds it. Its environment lives on until `library` is dropped.
        unsafe { (self.library.api.release_session)(self.session) };
    }
}

/// How far an output is from what tract computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Name of the output.
    pub output: String,
    /// Largest difference of an element, as a share of the largest magnitude that tract computes.
    pub relative: f64,
}

/// max |a − b| / max |a|; `None` unless all elements are finite.
fn relative(a: &[f64], b: &[f64]) -> Option<f64> {
    let all_finite = a.iter().chain(b).all(|value| value.is_finite());
    let delta = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let largest = a.iter().map(|value| value.abs()).fold(0.0, f64::max);
    all_finite.then(|| if delta == 0.0 { 0.0 } else { delta / largest.max(f64::MIN_POSITIVE) })
}

impl Feed {
    /// A value with the elements of `tensor`.
    fn of(library: &Rc<Library>, tensor: &Tensor) -> std::result::Result<Self, String> {
        Self::over(library, tensor.shape(), elements(tensor)?)
    }

    /// A value of the type and shape of `tensor`, for the library to write into: zeros until then.
    fn place(library: &Rc<Library>, tensor: &Tensor) -> std::result::Result<Self, String> {
        let (element, mut data, bytes) = elements(tensor)?;
        data.fill(0);
        Self::over(library, tensor.shape(), (element, data, bytes))
    }

    fn over(
        library: &Rc<Library>,
        shape: &[usize],
        (element, mut data, bytes): (c_int, Vec<u64>, usize),
    ) -> std::result::Result<Self, String> {
        let shape: Vec<i64> = shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let api = &library.api;
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
        Ok(Self { library: Rc::clone(library), value: value?, data })
    }

    /// The elements, which are of the floating-point type of `tensor` and as many; empty for another type.
    fn values(&self, tensor: &Tensor) -> Vec<f64> {
        let bytes: Vec<u8> = self.data.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let count = tensor.len();
        if tensor.is::<f32>() {
            bytes.as_chunks().0.iter().take(count).map(|&element| f64::from(f32::from_ne_bytes(element))).collect()
        } else if tensor.is::<f64>() {
            bytes.as_chunks().0.iter().take(count).map(|&element| f64::from_ne_bytes(element)).collect()
        } else if tensor.is::<half::f16>() {
            bytes.as_chunks().0.iter().take(count).map(|&element| half::f16::from_ne_bytes(element).to_f64()).collect()
        } else {
            Vec::new()
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // SAFETY: the value is valid, and no run is going on.
        unsafe { (self.library.api.release_value)(self.value) };
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
    fn differences_are_shares_of_the_largest_value() {
        assert_eq!(relative(&[1.0, -4.0], &[1.5, -4.0]), Some(0.125));
        assert_eq!(relative(&[0.0], &[0.0]), Some(0.0));
        assert_eq!(relative(&[1.0], &[f64::NAN]), None);
    }
}
