//! The library of ONNX Runtime, loaded when it is needed: nothing of it is there at build time.
//!
//! A few functions of its C API are enough: make an environment, load a model, feed it, run it. The API is a table of function
//! pointers that only ever grows at its end, so that the position of each is the same in every release.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::null_mut;

/// Version of the API that is asked for. All functions below are in it, and newer libraries still offer it.
const API_VERSION: u32 = 7;

/// `ORT_LOGGING_LEVEL_ERROR`.
const LOG_ERRORS: c_int = 3;

/// Things of the library that are only ever held by a pointer.
#[repr(C)]
pub(super) struct Opaque {
    _private: [u8; 0],
    _not_send: PhantomData<*mut ()>,
}

/// A status: null where all went well.
pub(super) type Status = *mut Opaque;

#[repr(C)]
struct ApiBase {
    api: unsafe extern "system" fn(u32) -> *const c_void,
    version: unsafe extern "system" fn() -> *const c_char,
}

/// The functions that are used, by their names in `onnxruntime_c_api.h`.
pub(super) struct Api {
    pub(super) get_error_message: unsafe extern "system" fn(Status) -> *const c_char,
    pub(super) create_env: unsafe extern "system" fn(c_int, *const c_char, *mut *mut Opaque) -> Status,
    pub(super) create_session:
        unsafe extern "system" fn(*const Opaque, *const OrtChar, *const Opaque, *mut *mut Opaque) -> Status,
    pub(super) create_session_from_array:
        unsafe extern "system" fn(*const Opaque, *const c_void, usize, *const Opaque, *mut *mut Opaque) -> Status,
    pub(super) run: unsafe extern "system" fn(
        *mut Opaque,
        *const Opaque,
        *const *const c_char,
        *const *const Opaque,
        usize,
        *const *const c_char,
        usize,
        *mut *mut Opaque,
    ) -> Status,
    pub(super) create_session_options: unsafe extern "system" fn(*mut *mut Opaque) -> Status,
    pub(super) set_optimization_level: unsafe extern "system" fn(*mut Opaque, c_int) -> Status,
    pub(super) set_intra_op_threads: unsafe extern "system" fn(*mut Opaque, c_int) -> Status,
    pub(super) set_inter_op_threads: unsafe extern "system" fn(*mut Opaque, c_int) -> Status,
    pub(super) add_config_entry: unsafe extern "system" fn(*mut Opaque, *const c_char, *const c_char) -> Status,
    pub(super) create_tensor: unsafe extern "system" fn(
        *const Opaque,
        *mut c_void,
        usize,
        *const i64,
        usize,
        c_int,
        *mut *mut Opaque,
    ) -> Status,
    pub(super) create_cpu_memory_info: unsafe extern "system" fn(c_int, c_int, *mut *mut Opaque) -> Status,
    pub(super) release_env: unsafe extern "system" fn(*mut Opaque),
    pub(super) release_status: unsafe extern "system" fn(*mut Opaque),
    pub(super) release_memory_info: unsafe extern "system" fn(*mut Opaque),
    pub(super) release_session: unsafe extern "system" fn(*mut Opaque),
    pub(super) release_value: unsafe extern "system" fn(*mut Opaque),
    pub(super) release_session_options: unsafe extern "system" fn(*mut Opaque),
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
pub(super) type OrtChar = u16;
#[cfg(not(windows))]
pub(super) type OrtChar = c_char;

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
    pub(super) fn check(&self, status: Status) -> std::result::Result<(), String> {
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
    pub(super) fn made(
        &self,
        make: impl FnOnce(*mut *mut Opaque) -> Status,
    ) -> std::result::Result<*mut Opaque, String> {
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
pub(super) struct Library {
    _loaded: ManuallyDrop<libloading::Library>,
    pub(super) api: Api,
    pub(super) env: *mut Opaque,
    /// Version of the library: `1.22.0`.
    pub(super) version: String,
}

impl Library {
    /// Loads the library at `path`.
    ///
    /// # Errors
    /// Why it does not load, or is not ONNX Runtime, or too old, in words.
    pub(super) fn load(path: &Path) -> std::result::Result<Self, String> {
        // SAFETY: loading a library runs its initializers. Those of ONNX Runtime register its own tables only; a library that is
        // named by the user is trusted as any program that they name.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|e| format!("the library does not load: {e}"))?;
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
        Ok(Self { _loaded: library, api, env, version })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: sessions hold a count of this library, so that none is left.
        unsafe { (self.api.release_env)(self.env) };
    }
}
