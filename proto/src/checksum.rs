//! The checksum that decides whether L3's bytes are the page that was asked for.

use std::hash::Hasher;

use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::EntryKey;

/// Bytes that are summed up right after they were copied: they are still in the core's own cache then.
const COPY_STEP_BYTES: usize = 64 << 10;

/// xxh3-64 of a shard's bytes, seeded by (key, shard): the bytes of another page, or of another shard of this one, do
/// not pass.
pub fn shard_checksum(key: &EntryKey, shard: u32, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed(key, shard), bytes)
}

/// [`shard_checksum`] of bytes that come one after the other.
pub struct ShardSum(XxHash3_64);

impl ShardSum {
    /// No byte of the shard yet.
    pub fn new(key: &EntryKey, shard: u32) -> Self {
        Self(XxHash3_64::with_seed(seed(key, shard)))
    }

    /// Copies the shard's next bytes, and sums up what was copied: whoever changes `from` meanwhile changes both or
    /// none.
    ///
    /// Panics if the lengths differ.
    pub fn copy(&mut self, to: &mut [u8], from: &[u8]) {
        assert_eq!(to.len(), from.len(), "bytes to copy");
        self.fill(to, |at, to| to.copy_from_slice(&from[at..at + to.len()]));
    }

    /// The same, of bytes that `fill` writes: it is given where they lie among these, and what to write them to.
    pub fn fill(&mut self, to: &mut [u8], mut fill: impl FnMut(usize, &mut [u8])) {
        for (step, to) in to.chunks_mut(COPY_STEP_BYTES).enumerate() {
            fill(step * COPY_STEP_BYTES, to);
            self.0.write(to);
        }
    }

    /// The checksum of the bytes so far.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

fn seed(key: &EntryKey, shard: u32) -> u64 {
    let mut seed = [0; 20];
    seed[..16].copy_from_slice(&key.0);
    seed[16..].copy_from_slice(&shard.to_le_bytes());
    xxh3_64_with_seed(&seed, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pages outlive the program that wrote them: whatever computes it, the checksum stays.
    #[test]
    fn the_checksum_is_xxh3_64_of_the_algorithms_authors() {
        let key = EntryKey(std::array::from_fn(|i| i as u8));
        for bytes in [0, 1, 16, 100, 240, 241, 1000, 4096, 70_000] {
            let shard: Vec<u8> = (0..bytes).map(|i: usize| (i * 31 + i / 251) as u8).collect();
            assert_eq!(shard_checksum(&key, 3, &shard), xxh3_64_with_seed(&shard, seed(&key, 3)), "{bytes} bytes");
        }
    }

    proptest! {
        #[test]
        fn pieces_sum_up_to_the_whole(
            shard in prop::collection::vec(any::<u8>(), 0..200_000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let key = EntryKey([7; 16]);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(shard.len() + 1)).collect();
            cuts.extend([0, shard.len()]);
            cuts.sort_unstable();
            let mut copy = vec![0; shard.len()];
            let mut sum = ShardSum::new(&key, 1);
            for piece in cuts.windows(2) {
                sum.copy(&mut copy[piece[0]..piece[1]], &shard[piece[0]..piece[1]]);
            }
            prop_assert_eq!(sum.finish(), shard_checksum(&key, 1, &shard));
            prop_assert_eq!(copy, shard);
        }
    }
}
