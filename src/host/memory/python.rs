//! The Python interpreter that app_python3 brings into the process: how many blocks of memory it holds.
//! Forbidden here: linking against Python; starting an interpreter; calls that run a script's code.
//!
//! Found by name among what is loaded (app_python3 loads its library globally: RTLD_GLOBAL in its exports), once,
//! before the fork. `sys.getallocatedblocks` is the one way to the number that 3.11 and 3.13 share: the C function
//! below it is gone from 3.13's library. It counts every block, small and large, of all interpreters of the process;
//! app_python3 has one, the main one (5.6.3 and 6.0.1: Py_Initialize, never Py_NewInterpreter).

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};

type Object = *mut c_void;

/// Python's C API as far as it is needed; the same in every 3.9 and later (docs.python.org/3/c-api, stable ABI).
#[derive(Clone, Copy)]
struct Interpreter {
    is_initialized: unsafe extern "C" fn() -> c_int,
    lock: unsafe extern "C" fn() -> c_int,
    unlock: unsafe extern "C" fn(c_int),
    pending_error: unsafe extern "C" fn() -> Object,
    clear_error: unsafe extern "C" fn(),
    of_sys: unsafe extern "C" fn(*const c_char) -> Object,
    call: unsafe extern "C" fn(Object) -> Object,
    to_number: unsafe extern "C" fn(Object) -> isize,
    release: unsafe extern "C" fn(Object),
}

struct Found(Cell<Option<Interpreter>>);
// SAFETY: written before the first fork, while there is one thread; only read after that.
unsafe impl Sync for Found {}
static LOCAL_FOUND: Found = Found(Cell::new(None));

/// A function of the interpreter by its name.
///
/// # Safety
/// `F` is the type of that function.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: a plain look-up among the libraries that are loaded globally.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: the caller's promise; same size, and never null.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

/// Looks for an interpreter; whether there is one. Process: main, in PROC_INIT, when all modules are initialised.
pub fn find() -> bool {
    // SAFETY: the types are those of Python's documentation.
    let found = unsafe {
        (|| {
            Some(Interpreter {
                is_initialized: function(c"Py_IsInitialized")?,
                lock: function(c"PyGILState_Ensure")?,
                unlock: function(c"PyGILState_Release")?,
                pending_error: function(c"PyErr_Occurred")?,
                clear_error: function(c"PyErr_Clear")?,
                of_sys: function(c"PySys_GetObject")?,
                call: function(c"PyObject_CallNoArgs")?,
                to_number: function(c"PyLong_AsSsize_t")?,
                release: function(c"Py_DecRef")?,
            })
        })()
    };
    LOCAL_FOUND.0.set(found);
    found.is_some()
}

/// How many blocks the interpreter holds; `None` without one, or when it does not say.
///
/// Called at the end of a message, by the main thread of a process that ran child_init: there app_python3 has told the
/// interpreter of the fork (PyOS_AfterFork_Child) and has left the script, or it holds the lock already and we are
/// called from inside the script. Taking the lock waits for another thread of the script at most as long as the next
/// message would. Where app_python3 keeps the lock all the time (5.6.3, and 6.0.1 with `threads_mode` 0) there is
/// nothing to wait for.
pub fn blocks() -> Option<u64> {
    let python = LOCAL_FOUND.0.get()?;
    // SAFETY: functions of the library that is loaded; no need of the lock.
    if unsafe { (python.is_initialized)() } == 0 {
        return None;
    }
    // SAFETY: an interpreter is there; each Ensure has its Release, also nested (c-api/init).
    unsafe {
        let held = (python.lock)();
        let blocks = counted(&python);
        (python.unlock)(held);
        blocks
    }
}

/// # Safety
/// Under the interpreter's lock.
unsafe fn counted(python: &Interpreter) -> Option<u64> {
    // SAFETY: under the lock; `of_sys` borrows, `call` gives an object that is released.
    unsafe {
        if !(python.pending_error)().is_null() {
            return None; // somebody else's: leave it to him
        }
        let function = (python.of_sys)(c"getallocatedblocks".as_ptr());
        if function.is_null() {
            return None;
        }
        let object = (python.call)(function);
        let number = if object.is_null() {
            -1
        } else {
            let number = (python.to_number)(object);
            (python.release)(object);
            number
        };
        if number < 0 {
            (python.clear_error)();
        }
        u64::try_from(number).ok()
    }
}
