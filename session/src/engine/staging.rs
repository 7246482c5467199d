//! Staging memory: where the bytes of puts lie until the agent has copied them.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{Deadline, clock};
use crate::wire::Mapping;

/// Pieces begin at multiples of this.
const ALIGN_BYTES: u64 = 4096;

/// The session's staging memory.
pub(super) struct Staging(Arc<Inner>);

struct Inner {
    mapping: Mapping,
    /// Free pieces: offset, bytes.
    free: Mutex<BTreeMap<u64, u64>>,
    freed: Condvar,
}

/// A piece of it; free again on drop.
pub(super) struct Staged {
    inner: Arc<Inner>,
    offset: u64,
    bytes: u64,
}

impl Staging {
    pub(super) fn new(mapping: Mapping) -> Self {
        let bytes = mapping.bytes() as u64 / ALIGN_BYTES * ALIGN_BYTES;
        let free = Mutex::new(BTreeMap::from([(0, bytes)]));
        Self(Arc::new(Inner { mapping, free, freed: Condvar::new() }))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.mapping.bytes() as u64
    }

    /// A piece, if there is one now.
    pub(super) fn take_now(&self, bytes: u64) -> Option<Staged> {
        self.0.take(&mut self.0.free.lock(), bytes)
    }

    /// A piece; waits until other calls give theirs back. None: not before the deadline.
    pub(super) fn take(&self, bytes: u64, deadline: Deadline) -> Option<Staged> {
        let mut free = self.0.free.lock();
        loop {
            if let Some(staged) = self.0.take(&mut free, bytes) {
                return Some(staged);
            }
            self.0.freed.wait_until(&mut free, clock::now() + deadline.left()?);
        }
    }
}

impl Inner {
    fn take(self: &Arc<Self>, free: &mut BTreeMap<u64, u64>, bytes: u64) -> Option<Staged> {
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGN_BYTES)?;
        let (offset, has) = free.iter().map(|(offset, has)| (*offset, *has)).find(|(_, has)| *has >= bytes)?;
        free.remove(&offset);
        if has > bytes {
            free.insert(offset + bytes, has - bytes);
        }
        Some(Staged { inner: self.clone(), offset, bytes })
    }
}

impl Staged {
    /// Where it lies in the staging memory.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The address of some of its bytes. Panics if they do not lie within it.
    pub(super) fn at(&self, offset: u64, bytes: u64) -> NonNull<u8> {
        assert!(offset + bytes <= self.bytes, "{bytes} bytes at {offset} of {}", self.bytes);
        self.inner.mapping.at(self.offset + offset, bytes).expect("a piece lies within its memory")
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut free = self.inner.free.lock();
        let (mut offset, mut bytes) = (self.offset, self.bytes);
        if let Some(after) = free.remove(&(offset + bytes)) {
            bytes += after;
        }
        if let Some((before, has)) = free.range(..offset).next_back().map(|(before, has)| (*before, *has))
            && before + has == offset
        {
            free.remove(&before);
            (offset, bytes) = (before, bytes + has);
        }
        free.insert(offset, bytes);
        self.inner.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::SharedMemory;

    const BYTES: u64 = 64 << 10;

    proptest! {
        /// Pieces never overlap, and when all are given back there is one piece again.
        #[test]
        fn pieces_never_overlap_and_come_together_again(steps in proptest::collection::vec((any::<bool>(), 1..20_000u64), 1..60)) {
            let memory = SharedMemory::create("foreword-test", BYTES as usize).unwrap();
            let staging = Staging::new(memory.map_writable().unwrap());
            let mut held: Vec<Staged> = Vec::new();
            for (take, bytes) in steps {
                if take || held.is_empty() {
                    held.extend(staging.take_now(bytes));
                } else {
                    held.swap_remove(bytes as usize % held.len());
                }
                let mut ranges: Vec<_> = held.iter().map(|staged| (staged.offset, staged.bytes)).collect();
                ranges.sort_unstable();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
                prop_assert!(ranges.last().is_none_or(|last| last.0 + last.1 <= BYTES));
            }
            held.clear();
            prop_assert_eq!(staging.0.free.lock().clone(), BTreeMap::from([(0, BYTES)]));
        }
    }
}
