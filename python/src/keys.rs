//! Page keys as Python writes them.

use std::ops::Range;
use std::slice;

use bytes::Bytes;
use foreword_proto::PageKey;
use foreword_proto::limits::PAGE_KEY_BYTES;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

/// The keys of one call, 32 bytes each, as they travel.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Bytes);

impl Keys {
    /// Reads `bytes` of 32 a key; or a sequence whose members are `str` of 64 hexadecimal digits, `bytes` of 32, or any
    /// other `str`, an opaque name that is hashed as `foreword put --opaque` does.
    ///
    /// Errors: TypeError or ValueError, naming the member.
    pub(crate) fn parse(keys: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = keys.cast::<PyBytes>() {
            let bytes = bytes.as_bytes();
            if !bytes.len().is_multiple_of(PAGE_KEY_BYTES) {
                let expected = format!("keys: expected a multiple of {PAGE_KEY_BYTES} bytes, got {}", bytes.len());
                return Err(PyValueError::new_err(expected));
            }
            return Ok(Self(Bytes::copy_from_slice(bytes)));
        }
        let mut out = Vec::with_capacity(keys.len().unwrap_or(0) * PAGE_KEY_BYTES);
        if let Ok(list) = keys.cast::<PyList>() {
            if let Some(keys) = all_digits(list) {
                return Ok(Self(keys.into()));
            }
            for (index, key) in list.iter().enumerate() {
                push(&mut out, index, &key)?;
            }
        } else if keys.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("keys: expected a list of keys, got one str"));
        } else {
            for (index, key) in keys.try_iter()?.enumerate() {
                push(&mut out, index, &key?)?;
            }
        }
        Ok(Self(out.into()))
    }

    /// One key, as a member of [`Self::parse`]'s list.
    pub(crate) fn parse_one(field: &str, key: &Bound<'_, PyAny>) -> PyResult<PageKey> {
        let mut out = Vec::with_capacity(PAGE_KEY_BYTES);
        push(&mut out, 0, key).map_err(|_| PyTypeError::new_err(format!("{field}: expected str or 32 bytes")))?;
        Ok(PageKey(std::array::from_fn(|at| out[at])))
    }

    /// Keys that were made here.
    pub(crate) fn of(keys: &[PageKey]) -> Self {
        Self(foreword_proto::key::page_keys_to_wire(keys))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len() / PAGE_KEY_BYTES
    }

    /// Those of a range; nothing is copied.
    pub(crate) fn range(&self, range: Range<usize>) -> Self {
        Self(self.0.slice(range.start * PAGE_KEY_BYTES..range.end * PAGE_KEY_BYTES))
    }

    /// One key.
    pub(crate) fn key(&self, index: usize) -> PageKey {
        PageKey(self.arrays()[index])
    }

    /// Each of them.
    pub(crate) fn arrays(&self) -> &[[u8; PAGE_KEY_BYTES]] {
        self.0.as_chunks().0
    }

    /// All of them, one after another.
    pub(crate) fn wire(&self) -> Bytes {
        self.0.clone()
    }
}

/// The keys of a list of nothing but 64 hexadecimal digits, as SGLang's are; None for any other. Some 10 ns a key, less
/// than half of what the safe way costs, which takes a reference to each member and looks at its type.
fn all_digits(list: &Bound<'_, PyList>) -> Option<Vec<u8>> {
    let mut keys = vec![0; list.len() * PAGE_KEY_BYTES];
    // As many at a time as stay in the nearest cache.
    let mut digits = [[0; 2 * PAGE_KEY_BYTES]; 64];
    for (part, keys) in keys.chunks_mut(digits.len() * PAGE_KEY_BYTES).enumerate() {
        let digits = &mut digits[..keys.len() / PAGE_KEY_BYTES];
        for (index, digits) in digits.iter_mut().enumerate() {
            digits.copy_from_slice(digits_at(list, part * 64 + index)?);
        }
        faster_hex::hex_decode(digits.as_flattened(), keys).ok()?;
    }
    Some(keys)
}

/// A member of a list, if it is a str of 64 bytes.
fn digits_at<'a>(list: &'a Bound<'_, PyList>, index: usize) -> Option<&'a [u8]> {
    let mut len = 0;
    // SAFETY: Python's lock is held, and nothing that could change the list runs before its members were read.
    let text =
        unsafe { ffi::PyUnicode_AsUTF8AndSize(ffi::PyList_GetItem(list.as_ptr(), index as isize), &raw mut len) };
    if text.is_null() {
        // No str, or one without UTF-8: the other way says so.
        drop(PyErr::take(list.py()));
        return None;
    }
    // SAFETY: Python keeps so many bytes there as long as the member.
    (len as usize == 2 * PAGE_KEY_BYTES).then(|| unsafe { slice::from_raw_parts(text.cast(), 2 * PAGE_KEY_BYTES) })
}

fn push(out: &mut Vec<u8>, index: usize, key: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(text) = key.cast::<PyString>() {
        push_text(out, text.to_str()?.as_bytes());
        return Ok(());
    }
    match key.cast::<PyBytes>() {
        Ok(bytes) if bytes.as_bytes().len() == PAGE_KEY_BYTES => {
            out.extend_from_slice(bytes.as_bytes());
            Ok(())
        }
        Ok(bytes) => {
            let got = bytes.as_bytes().len();
            Err(PyValueError::new_err(format!(
                "keys[{index}]: expected {PAGE_KEY_BYTES} bytes or a str, got {got} bytes"
            )))
        }
        Err(_) => {
            let got = key.get_type().name()?;
            Err(PyTypeError::new_err(format!("keys[{index}]: expected a str or {PAGE_KEY_BYTES} bytes, got {got}")))
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() == 2 * PAGE_KEY_BYTES {
        let start = out.len();
        out.resize(start + PAGE_KEY_BYTES, 0);
        if faster_hex::hex_decode(text, &mut out[start..]).is_ok() {
            return;
        }
        out.truncate(start);
    }
    out.extend_from_slice(&PageKey::opaque(text).0);
}
