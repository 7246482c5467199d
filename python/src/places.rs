//! Where pages lie in this process's memory.
//!
//! Addresses come from the engine, which owns the memory and keeps it while a call lasts. Nothing here makes a
//! reference to it: other threads of the engine may write there at any time.

use std::ptr;

use bytes::BytesMut;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::exported::Exported;

/// Where the pages of a get or a put lie. A page is its parts one after another; the memory is touched within a get or
/// a put only.
#[pyclass(frozen, module = "foreword._native")]
pub(crate) struct Places {
    pages: usize,
    /// Parts of one page.
    parts: usize,
    kind: Kind,
    /// False: memory that its owner exported read-only.
    writable: bool,
}

enum Kind {
    /// Part j of a page begins at `bases[j] + start * strides[j]`.
    Strided { bases: Vec<usize>, strides: Vec<usize>, lens: Vec<usize>, starts: Vec<usize> },
    /// Every part by itself, page after page.
    Explicit { addresses: Vec<usize>, lens: Vec<usize> },
    /// One object's memory, page after page.
    Buffer { memory: Exported, page_bytes: usize },
}

#[pymethods]
impl Places {
    #[staticmethod]
    fn strided(
        bases: Vec<usize>,
        strides: Vec<usize>,
        lens: Vec<usize>,
        indices: &Bound<'_, PyAny>,
        page_size: usize,
    ) -> PyResult<Self> {
        same_length("strides", strides.len(), "bases", bases.len())?;
        same_length("lens", lens.len(), "bases", bases.len())?;
        if page_size == 0 {
            return Err(PyValueError::new_err("page_size: expected at least 1, got 0"));
        }
        let starts = page_starts(indices, page_size)?;
        let furthest = starts.iter().max().copied().unwrap_or(0);
        for (part, base) in bases.iter().enumerate() {
            let end = furthest.checked_mul(strides[part]).and_then(|at| at.checked_add(*base));
            if *base == 0 || end.and_then(|at| at.checked_add(lens[part])).is_none() {
                let got = format!("{base} with stride {} and index {furthest}", strides[part]);
                return Err(PyValueError::new_err(format!("bases[{part}]: expected an address, got {got}")));
            }
        }
        let (pages, parts) = (starts.len(), bases.len());
        Ok(Self { pages, parts, kind: Kind::Strided { bases, strides, lens, starts }, writable: true })
    }

    #[staticmethod]
    fn explicit(ptrs: Vec<usize>, sizes: Vec<usize>, parts: usize) -> PyResult<Self> {
        same_length("sizes", sizes.len(), "ptrs", ptrs.len())?;
        if parts == 0 || !ptrs.len().is_multiple_of(parts) {
            let expected = format!("parts: expected a divisor of the {} ptrs, got {parts}", ptrs.len());
            return Err(PyValueError::new_err(expected));
        }
        let bad = ptrs.iter().zip(&sizes).position(|(at, len)| *at == 0 || at.checked_add(*len).is_none());
        if let Some(bad) = bad {
            return Err(PyValueError::new_err(format!("ptrs[{bad}]: expected an address, got {}", ptrs[bad])));
        }
        Ok(Self {
            pages: ptrs.len() / parts,
            parts,
            kind: Kind::Explicit { addresses: ptrs, lens: sizes },
            writable: true,
        })
    }

    #[staticmethod]
    fn buffer(obj: &Bound<'_, PyAny>, page_bytes: usize) -> PyResult<Self> {
        let memory = Exported::of("obj", obj)?;
        if page_bytes == 0 || !memory.bytes().is_multiple_of(page_bytes) {
            let expected = format!("obj: expected whole pages of {page_bytes} bytes, got {} bytes", memory.bytes());
            return Err(PyValueError::new_err(expected));
        }
        let (pages, writable) = (memory.bytes() / page_bytes, memory.writable());
        Ok(Self { pages, parts: 1, kind: Kind::Buffer { memory, page_bytes }, writable })
    }

    fn addresses(&self) -> Vec<(usize, usize)> {
        (0..self.pages).flat_map(|page| self.parts_of(page)).collect()
    }

    #[getter]
    fn pages(&self) -> usize {
        self.pages
    }

    #[getter]
    fn page_bytes(&self) -> usize {
        if self.pages == 0 { 0 } else { self.bytes_of(0) }
    }

    fn __repr__(&self) -> String {
        format!("Places(pages={}, parts={}, page_bytes={})", self.pages, self.parts, self.page_bytes())
    }
}

impl Places {
    /// Pages that have a place.
    pub(crate) fn count(&self) -> usize {
        self.pages
    }

    /// Whether a get may write here.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// The first of so many pages whose place has another size.
    pub(crate) fn misfit(&self, pages: usize, bytes: usize) -> Option<usize> {
        match self.kind {
            // All of one size.
            Kind::Strided { .. } | Kind::Buffer { .. } => (pages > 0 && self.bytes_of(0) != bytes).then_some(0),
            Kind::Explicit { .. } => (0..pages).find(|page| self.bytes_of(*page) != bytes),
        }
    }

    /// Bytes of one page.
    pub(crate) fn bytes_of(&self, page: usize) -> usize {
        self.parts_of(page).map(|(_, bytes)| bytes).sum()
    }

    /// Parts of each page.
    pub(crate) fn parts(&self) -> usize {
        self.parts
    }

    /// Address and bytes of a part of a page.
    pub(crate) fn part(&self, page: usize, part: usize) -> (usize, usize) {
        assert!(page < self.pages && part < self.parts, "part {part} of page {page}");
        match &self.kind {
            Kind::Strided { bases, strides, lens, starts } => (bases[part] + starts[page] * strides[part], lens[part]),
            Kind::Explicit { addresses, lens } => {
                let at = page * self.parts + part;
                (addresses[at], lens[at])
            }
            Kind::Buffer { memory, page_bytes } => (memory.address() + page * page_bytes, *page_bytes),
        }
    }

    fn parts_of(&self, page: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.parts).map(move |part| self.part(page, part))
    }

    /// Copies bytes of a page into its place, from `offset` on. They must lie within the page.
    pub(crate) fn write(&self, page: usize, offset: usize, bytes: &[u8]) {
        assert!(self.writable, "read-only memory");
        self.runs(page, offset, bytes.len(), |address, run| {
            // SAFETY: the engine says that its memory is there and that nobody relies on what is in it while the call
            // lasts; the run lies within one part. `bytes` are ours.
            unsafe { ptr::copy_nonoverlapping(bytes[run.clone()].as_ptr(), address as *mut u8, run.len()) }
        });
    }

    /// Appends `len` bytes of a page, from `offset` on. They must lie within the page.
    pub(crate) fn append(&self, page: usize, offset: usize, len: usize, out: &mut BytesMut) {
        out.reserve(len);
        let spare = out.spare_capacity_mut();
        self.runs(page, offset, len, |address, run| {
            // SAFETY: the engine says that its memory is there; whatever another thread writes there meanwhile, bytes
            // are copied. The run lies within one part; `spare` is ours and has room for `len`.
            unsafe { ptr::copy_nonoverlapping(address as *const u8, spare[run.clone()].as_mut_ptr().cast(), run.len()) }
        });
        // SAFETY: `runs` has covered all of them.
        unsafe { out.set_len(out.len() + len) }
    }

    /// Visits the runs of contiguous memory that hold `len` bytes from `offset` on: an address, and which of the bytes
    /// lie there.
    fn runs(&self, page: usize, offset: usize, len: usize, mut each: impl FnMut(usize, std::ops::Range<usize>)) {
        let (mut before, mut done) = (0, 0);
        for (address, bytes) in self.parts_of(page) {
            let skip = (offset + done).saturating_sub(before).min(bytes);
            let run = (bytes - skip).min(len - done);
            if run > 0 {
                each(address + skip, done..done + run);
                done += run;
            }
            before += bytes;
        }
        assert_eq!(done, len, "bytes {offset}..{} of a page of {before}", offset + len);
    }
}

fn same_length(field: &str, got: usize, other: &str, expected: usize) -> PyResult<()> {
    match got == expected {
        true => Ok(()),
        false => Err(PyValueError::new_err(format!("{field}: expected as many as {other}, {expected}, got {got}"))),
    }
}

/// Each page's first index: every `page_size`th of an object with memory of int64, or of `(address, count)`.
fn page_starts(indices: &Bound<'_, PyAny>, page_size: usize) -> PyResult<Vec<usize>> {
    if let Ok((address, count)) = indices.extract::<(usize, usize)>() {
        if address == 0 && count > 0 {
            return Err(PyValueError::new_err("indices: expected an address, got 0"));
        }
        return starts_at(address, count, page_size);
    }
    let memory = Exported::of("indices", indices)
        .map_err(|_| PyTypeError::new_err("indices: expected memory of int64, or (address, count)"))?;
    if memory.item_bytes() != 8 || !matches!(memory.format(), "q" | "l" | "n") {
        let got = format!("{} bytes of format {:?}", memory.item_bytes(), memory.format());
        return Err(PyTypeError::new_err(format!("indices: expected members of int64, got {got}")));
    }
    starts_at(memory.address(), memory.bytes() / 8, page_size)
}

fn starts_at(address: usize, count: usize, page_size: usize) -> PyResult<Vec<usize>> {
    if !count.is_multiple_of(page_size) {
        return Err(PyValueError::new_err(format!(
            "indices: expected whole pages of {page_size}, got {count} indices"
        )));
    }
    let start = |at: usize| {
        // SAFETY: the caller says that so many int64 lie there; they are read one by one, aligned or not.
        let index = unsafe { ptr::read_unaligned((address as *const i64).add(at)) };
        usize::try_from(index)
            .map_err(|_| PyValueError::new_err(format!("indices[{at}]: expected 0 or more, got {index}")))
    };
    (0..count).step_by(page_size).map(start).collect()
}
