//! Page keys as Python writes them.

use std::ops::Range;

use bytes::Bytes;
use foreword_proto::PageKey;
use foreword_proto::limits::PAGE_KEY_BYTES;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

/// The keys of one call, 32 bytes each, as they travel.
#[derive(Debug, Clone)]
pub(crate) struct Keys(Bytes);

impl Keys {
    /// Reads `bytes` of 32 a key; or a sequence whose members are `str` of 64 hexadecimal digits, `bytes` of 32, or any other `str`, an
    /// opaque name that is hashed as `foreword put --opaque` does.
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
        PageKey(std::array::from_fn(|at| self.0[index * PAGE_KEY_BYTES + at]))
    }

    /// All of them, one after another.
    pub(crate) fn wire(&self) -> Bytes {
        self.0.clone()
    }
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
