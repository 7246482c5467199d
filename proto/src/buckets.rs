//! How a namespace's pages are divided, the same everywhere: which bucket a key falls into, and what a page adds to its
//! bucket's digest. A mirror that compares digests with a replica fetches only the buckets that differ.

use xxhash_rust::xxh3::xxh3_64;

use crate::{EntryKey, SlotRef};

/// Most bits by which buckets are told apart.
pub const BUCKET_BITS_MAX: u32 = 20;

/// Spreads a key over 64 bits. Keys are digests already; a caller that names its own need not be.
pub fn spread(key: &EntryKey) -> u64 {
    let halves = u128::from_le_bytes(key.0);
    let (low, high) = (halves as u64, (halves >> 64) as u64);
    let product = u128::from(low ^ 0xa076_1d64_78bd_642f) * u128::from(high ^ 0xd6e8_feb8_6659_fd93);
    product as u64 ^ (product >> 64) as u64
}

/// The bucket of a key where there are 2^`bits` of them (`bits` at most [`BUCKET_BITS_MAX`]): the lowest bits of its
/// spread. The bucket at fewer bits holds whole buckets at more.
pub fn bucket_of(key: &EntryKey, bits: u32) -> u32 {
    spread(key) as u32 & ((1 << bits) - 1)
}

/// The hash of one page, by its slot and one checksum a shard. A bucket's digest is the wrapping sum over its pages.
pub fn hash_of_page(key: &EntryKey, slot: SlotRef, first: u64, further: &[u64]) -> u64 {
    let mut bytes = [0; 36];
    bytes[..16].copy_from_slice(&key.0);
    bytes[16..20].copy_from_slice(&slot.slab.to_le_bytes());
    bytes[20..24].copy_from_slice(&slot.slot.to_le_bytes());
    bytes[24..28].copy_from_slice(&slot.generation.to_le_bytes());
    bytes[28..].copy_from_slice(&first.to_le_bytes());
    let fold = |hash: u64, checksum: &u64| hash.rotate_left(13).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ *checksum;
    further.iter().fold(xxh3_64(&bytes), fold)
}

/// The bits at which `pages` pages lie about `per_bucket` to a bucket, or a few less.
pub fn bits_for(pages: u64, per_bucket: u64) -> u32 {
    pages.div_ceil(per_bucket).max(1).next_power_of_two().trailing_zeros().min(BUCKET_BITS_MAX)
}

/// Digests of buckets (2^n of them) as those of 2^`bits` buckets, which are not more.
pub fn folded(digests: &[u64], bits: u32) -> Vec<u64> {
    let mut folded = vec![0u64; 1 << bits];
    for (bucket, digest) in digests.iter().enumerate() {
        let of = &mut folded[bucket & ((1 << bits) - 1)];
        *of = of.wrapping_add(*digest);
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> EntryKey {
        EntryKey(xxhash_rust::xxh3::xxh3_128(&number.to_le_bytes()).to_le_bytes())
    }

    #[test]
    fn a_bucket_at_fewer_bits_holds_whole_buckets_at_more() {
        for number in 0..1000 {
            let fine = bucket_of(&key(number), 12);
            assert!(fine < 4096);
            assert_eq!(bucket_of(&key(number), 5), fine & 31);
            assert_eq!(bucket_of(&key(number), 0), 0);
        }
    }

    #[test]
    fn folded_digests_are_those_of_the_coarser_buckets() {
        let at = |bits| {
            let mut digests = vec![0u64; 1usize << bits];
            for number in 0..1000 {
                let key = key(number);
                let slot = SlotRef { slab: 1, slot: number as u32, generation: 1 };
                let digest = &mut digests[bucket_of(&key, bits) as usize];
                *digest = digest.wrapping_add(hash_of_page(&key, slot, number, &[]));
            }
            digests
        };
        for bits in 0..=8 {
            assert_eq!(folded(&at(8), bits), at(bits));
        }
    }

    #[test]
    fn bits_follow_the_pages() {
        let bits = [0, 1, 1000, 1001, 2000, 5_000_000, u64::MAX >> 1].map(|pages| bits_for(pages, 1000));
        assert_eq!(bits, [0, 0, 0, 1, 1, 13, BUCKET_BITS_MAX]);
    }

    #[test]
    fn keys_that_differ_in_their_ends_only_are_spread_alike() {
        let mut counts = [0; 16];
        for number in 0..16_000u64 {
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&number.to_le_bytes());
            counts[bucket_of(&EntryKey(bytes), 4) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (500..1500).contains(count)), "{counts:?}");
    }

    #[test]
    fn each_part_of_a_page_counts() {
        let slot = SlotRef { slab: 1, slot: 2, generation: 3 };
        let hash = hash_of_page(&key(1), slot, 4, &[5, 6]);
        assert_ne!(hash, hash_of_page(&key(2), slot, 4, &[5, 6]));
        assert_ne!(hash, hash_of_page(&key(1), SlotRef { generation: 4, ..slot }, 4, &[5, 6]));
        assert_ne!(hash, hash_of_page(&key(1), slot, 5, &[5, 6]));
        assert_ne!(hash, hash_of_page(&key(1), slot, 4, &[6, 5]));
    }
}
