//! Memory of Python objects: the buffer protocol.
//!
//! It is in Python's stable ABI from 3.11 on, and unchanged since 3.0: the declarations stand here so that one wheel
//! serves 3.10 too.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

/// Python's `Py_buffer`.
#[repr(C)]
struct View {
    buf: *mut c_void,
    obj: *mut PyObject,
    len: isize,
    itemsize: isize,
    readonly: c_int,
    ndim: c_int,
    format: *mut c_char,
    shape: *mut isize,
    strides: *mut isize,
    suboffsets: *mut isize,
    internal: *mut c_void,
}

unsafe extern "C" {
    fn PyObject_GetBuffer(object: *mut PyObject, view: *mut View, flags: c_int) -> c_int;
    fn PyBuffer_Release(view: *mut View);
}

const WRITABLE: c_int = 0x1;
/// Contiguous in C's order, with the format of its members.
const CONTIGUOUS: c_int = 0x20 | 0x10 | 0x8 | 0x4;

/// One object's memory, held in place until this is dropped. The view stays where it is: it may point into itself.
pub(crate) struct Exported(Box<View>);

// SAFETY: plain addresses; the only call that needs Python, the release, attaches itself.
unsafe impl Send for Exported {}
// SAFETY: as above; nothing is changed through a reference.
unsafe impl Sync for Exported {}

impl Exported {
    /// The object's memory, writable where the object allows it.
    ///
    /// Errors: ValueError naming `field` for an object without contiguous memory.
    pub(crate) fn of(field: &str, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::view(object, CONTIGUOUS | WRITABLE).or_else(|_| Self::view(object, CONTIGUOUS)).map_err(|error| {
            let why = error.value(object.py()).to_string();
            PyValueError::new_err(format!("{field}: expected an object with contiguous memory: {why}"))
        })
    }

    fn view(object: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Self> {
        let mut view = Box::new(View {
            buf: ptr::null_mut(),
            obj: ptr::null_mut(),
            len: 0,
            itemsize: 0,
            readonly: 0,
            ndim: 0,
            format: ptr::null_mut(),
            shape: ptr::null_mut(),
            strides: ptr::null_mut(),
            suboffsets: ptr::null_mut(),
            internal: ptr::null_mut(),
        });
        // SAFETY: the object is alive and Python's lock is held, which `Bound` says; the view is ours.
        if unsafe { PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self(view))
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> usize {
        self.0.buf as usize
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len.unsigned_abs()
    }

    /// Whether it may be written.
    pub(crate) fn writable(&self) -> bool {
        self.0.readonly == 0
    }

    /// How a member is encoded, as the `struct` module writes it, without a sign for this machine's byte order.
    pub(crate) fn format(&self) -> &str {
        if self.0.format.is_null() {
            return "B";
        }
        // SAFETY: Python's protocol says that it ends with a NUL, and lives as long as the view.
        let format = unsafe { CStr::from_ptr(self.0.format) };
        format.to_str().unwrap_or_default().trim_start_matches(['@', '=', '<'])
    }

    /// Bytes of a member.
    pub(crate) fn item_bytes(&self) -> usize {
        self.0.itemsize.unsigned_abs()
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        // Without Python, at its end, there is nobody to give it back to.
        let _ = Python::try_attach(|_| {
            // SAFETY: the view came from Python, which is attached, and is released once.
            unsafe { PyBuffer_Release(&raw mut *self.0) };
        });
    }
}
