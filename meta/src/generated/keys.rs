//! The keys of a generated namespace: each is a function of its page's number.

use foreword_proto::checksum::shard_checksum;
use foreword_proto::key::ParentHint;
use foreword_proto::location::Checksums;
use foreword_proto::records::PageRecord;
use foreword_proto::workload::{SplitMix, page};
use foreword_proto::{Location, Namespace, PageKey, SlotRef};

/// Pages of one chain: page `i` is the child of page `i - 1`, unless `i` is a multiple of it.
pub const CHAIN_PAGES: u64 = 64;

/// Bytes of a page, which is one shard.
pub const PAGE_BYTES: usize = 4096;

/// Between the numbers of two pages; odd, and not SplitMix's own step, so that no page's words are another's.
const STRIDE: u64 = 0xd1b5_4a32_d192_ed03;

/// A generated namespace, by its place in the plan: a page is one shard of [`PAGE_BYTES`].
pub fn namespace(at: usize) -> Namespace {
    Namespace::simple(&format!("generated-{at}"), 64, vec![PAGE_BYTES as u64])
}

/// Keys of one namespace. They spread as digests do; page numbers that the plan does not have give keys that are not
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    base: u64,
    namespace: u64,
}

impl Keys {
    pub(super) fn new(seed: u64, namespace: usize) -> Self {
        let (base, namespace) = (SplitMix::new(seed).next(), namespace as u64);
        Self { base: SplitMix::new(base ^ namespace).next(), namespace }
    }

    /// The key of a page.
    pub fn page(self, number: u64) -> PageKey {
        let mut words = SplitMix::new(self.base.wrapping_add(number.wrapping_mul(STRIDE)));
        let mut key = [0; 32];
        let (chunks, _) = key.as_chunks_mut::<8>();
        chunks.iter_mut().for_each(|chunk| *chunk = words.next().to_le_bytes());
        PageKey(key)
    }

    /// What a page's record says of the page before it in its chain.
    pub fn parent(self, number: u64) -> ParentHint {
        if number.is_multiple_of(CHAIN_PAGES) { 0 } else { self.page(number - 1).entry().parent_hint() }
    }

    /// A page's record, with its number as its checksum.
    pub fn record(self, number: u64, slot: SlotRef) -> PageRecord {
        self.record_with(number, slot, number)
    }

    /// A page's record, with the checksum of what [`Self::bytes`] are.
    pub fn written_record(self, number: u64, slot: SlotRef) -> PageRecord {
        let checksum = shard_checksum(&self.page(number).entry(), 0, &self.bytes(number));
        self.record_with(number, slot, checksum)
    }

    fn record_with(self, number: u64, slot: SlotRef, checksum: u64) -> PageRecord {
        let location = Location { slot, checksums: Checksums::new(&[checksum]) };
        PageRecord { key: self.page(number).entry(), parent: self.parent(number), location }
    }

    /// The bytes of a page that was written, by a writer whose nonce is the page's number below its namespace's place
    /// in the plan.
    pub fn bytes(self, number: u64) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        page::fill(&mut bytes, &self.page(number), 0, self.namespace << 48 | number);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_of_two_namespaces_are_all_different_and_stay_what_they_are() {
        let of = |namespace| (0..2000).map(move |number| Keys::new(7, namespace).page(number).entry());
        assert_eq!(of(0).chain(of(1)).collect::<BTreeSet<_>>().len(), 4000);
        assert_eq!(Keys::new(7, 0).page(5), Keys::new(7, 0).page(5));
        assert_ne!(Keys::new(7, 0).page(5), Keys::new(8, 0).page(5));
    }

    #[test]
    fn a_written_page_has_the_checksum_of_its_bytes() {
        let (keys, slot) = (Keys::new(1, 2), SlotRef { slab: 1, slot: 3, generation: 1 });
        assert_eq!(page::verify(&keys.bytes(9), &keys.page(9), 0), Ok(2 << 48 | 9));
        let checksum = shard_checksum(&keys.page(9).entry(), 0, &keys.bytes(9));
        assert_eq!(keys.written_record(9, slot).location.checksums.as_slice(), [checksum]);
        assert_eq!(keys.record(9, slot).location.checksums.as_slice(), [9]);
    }

    #[test]
    fn a_page_names_the_one_before_it_but_at_the_start_of_a_chain() {
        let keys = Keys::new(1, 0);
        assert_eq!(keys.parent(0), 0);
        assert_eq!(keys.parent(CHAIN_PAGES), 0);
        assert_eq!(keys.parent(CHAIN_PAGES - 1), keys.page(CHAIN_PAGES - 2).entry().parent_hint());
    }
}
