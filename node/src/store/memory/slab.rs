//! The bytes of a slab in memory.

use std::collections::BTreeMap;

/// Bytes of a hole that is filled at once: slabs are as sparse as files.
const BLOCK_BYTES: u64 = 64 << 10;

/// A sparse file.
#[derive(Default)]
pub(super) struct Slab {
    pub(super) bytes: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
    /// The order of the write whose bytes start at each offset.
    orders: BTreeMap<u64, u64>,
}

impl Slab {
    /// Bytes read: up to the end of the file.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> u64 {
        let len = (out.len() as u64).min(self.bytes.saturating_sub(offset));
        for (block, within, done) in pieces(offset, len) {
            let out = &mut out[done..done + within.len()];
            match self.blocks.get(&block) {
                Some(bytes) => out.copy_from_slice(&bytes[within]),
                None => out.fill(0),
            }
        }
        len
    }

    /// Notes a write's order; gives that of the write before it at this offset.
    pub(super) fn written(&mut self, offset: u64, order: u64) -> Option<u64> {
        self.orders.insert(offset, order)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        let len = bytes.len() as u64;
        for (block, within, done) in pieces(offset, len) {
            let from = &bytes[done..done + within.len()];
            let hole = || vec![0; BLOCK_BYTES as usize].into_boxed_slice();
            self.blocks.entry(block).or_insert_with(hole)[within].copy_from_slice(from);
        }
        self.bytes = self.bytes.max(offset + len);
        len
    }
}

/// Cuts a range at block ends: block, range within it, bytes before it.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done;
        let start = at % BLOCK_BYTES;
        let step = (BLOCK_BYTES - start).min(len - done);
        (step > 0).then(|| {
            let piece = (at / BLOCK_BYTES, start as usize..(start + step) as usize, done as usize);
            done += step;
            piece
        })
    })
}
