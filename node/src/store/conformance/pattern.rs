//! Bytes that say whose they are: a function of a stamp and of the position, so that no two pages share a word.

/// Fills `bytes` with the pattern of `stamp`.
pub(super) fn fill(bytes: &mut [u8], stamp: u64) {
    for (at, word) in bytes.chunks_mut(8).enumerate() {
        word.copy_from_slice(&word_of(stamp, at)[..word.len()]);
    }
}

/// Where `bytes` first differ from the pattern.
pub(super) fn first_difference(bytes: &[u8], stamp: u64) -> Option<usize> {
    let differs = |(at, word): (usize, &[u8])| (*word != word_of(stamp, at)[..word.len()]).then_some(at * 8);
    bytes.chunks(8).enumerate().find_map(differs)
}

/// SplitMix64 of stamp and position.
fn word_of(stamp: u64, at: usize) -> [u8; 8] {
    let mut z = stamp.wrapping_add((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}
