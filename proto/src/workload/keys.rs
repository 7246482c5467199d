//! Keys for the blocks of a trace.

use crate::PageKey;

const CONTEXT: &str = "foreword 2026 workload block chain v1";

/// One key a block: `key_i = BLAKE3 keyed by key_{i-1} of block i (u64 little-endian)`, the first keyed by a constant.
/// Two requests have the same key at i exactly when their blocks 0..=i are equal.
pub fn chain_keys(blocks: &[u64]) -> Vec<PageKey> {
    let mut digest = blake3::derive_key(CONTEXT, b"");
    let next = |block: &u64| {
        digest = *blake3::keyed_hash(&digest, &block.to_le_bytes()).as_bytes();
        PageKey(digest)
    };
    blocks.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_stay_what_they_are() {
        let keys: Vec<String> = chain_keys(&[0, 1, u64::MAX]).iter().map(PageKey::to_string).collect();
        assert_eq!(keys, GOLDEN);
    }

    /// Frozen: a store filled by one version is replayed against by another.
    const GOLDEN: [&str; 3] = [
        "b67d5f5cae77ba4224e0c7d3277cb81bcb9a0d62af3ba4899b4df72f3a6bff0f",
        "cc35e52696ab3cef8a0604a3cae894b047eebf1ad0d6c0e73fd2699da9105377",
        "c1a0a8a65101150ca23d16712b706fc320ce66e8eb515402952bcb4bc3629e54",
    ];

    proptest! {
        #[test]
        fn equal_prefixes_and_only_they_have_equal_keys(
            a in prop::collection::vec(0u64..3, 0..12),
            b in prop::collection::vec(0u64..3, 0..12),
        ) {
            let (keys_a, keys_b) = (chain_keys(&a), chain_keys(&b));
            for i in 0..a.len().min(b.len()) {
                prop_assert_eq!(keys_a[i] == keys_b[i], a[..=i] == b[..=i]);
            }
        }
    }
}
