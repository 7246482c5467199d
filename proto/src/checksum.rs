//! The checksum that decides whether L3's bytes are the page that was asked for.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::EntryKey;

/// xxh3-64 of a shard's bytes, seeded by (key, shard): the bytes of another page, or of another shard of this one, do not pass.
pub fn shard_checksum(key: &EntryKey, shard: u32, bytes: &[u8]) -> u64 {
    let mut seed = [0; 20];
    seed[..16].copy_from_slice(&key.0);
    seed[16..].copy_from_slice(&shard.to_le_bytes());
    xxh3_64_with_seed(bytes, xxh3_64_with_seed(&seed, 0))
}
