//! Copies out of the agent's segments and into staging memory.
//!
//! A large copy out of a segment goes past the caches where the processor can: the engine's device reads the
//! destination, not this core, and a store that need not fetch its line first saves a third of the traffic.

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

/// From here on a store past the caches wins.
const STREAM_BYTES_MIN: usize = 32 << 10;

/// Copies `bytes` bytes to where the engine will not look at once.
///
/// # Safety
/// `from` is readable and `to` writable for `bytes` bytes, they do not overlap, and nobody else touches `to`. Another
/// process may write `from` meanwhile: what is copied may be torn then, which the caller finds out by other means.
pub(super) unsafe fn copy_out(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    if bytes >= STREAM_BYTES_MIN && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; the rest is the caller's promise.
        return unsafe { stream(from.as_ptr(), to.as_ptr(), bytes) };
    }
    // SAFETY: by the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), bytes) };
}

/// What was copied is in memory before what the caller writes or reads next.
pub(super) fn copied() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a fence touches no memory; every x86-64 processor has it.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
    fence(Ordering::SeqCst);
}

/// # Safety
/// As [`copy_out`], on a processor with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn stream(mut from: *const u8, mut to: *mut u8, mut bytes: usize) {
    use std::arch::x86_64::{__m256i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm256_stream_si256};
    const STEP: usize = 128;
    let head = to.align_offset(32).min(bytes);
    // SAFETY: all three parts lie within the caller's `bytes`; `to` is aligned to 32 after the first. A prefetch may
    // name any address.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, head);
        (from, to, bytes) = (from.add(head), to.add(head), bytes - head);
        while bytes >= STEP {
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(8 * STEP).cast());
            let words = from.cast::<__m256i>();
            let (a, b) = (_mm256_loadu_si256(words), _mm256_loadu_si256(words.add(1)));
            let (c, d) = (_mm256_loadu_si256(words.add(2)), _mm256_loadu_si256(words.add(3)));
            let into = to.cast::<__m256i>();
            _mm256_stream_si256(into, a);
            _mm256_stream_si256(into.add(1), b);
            _mm256_stream_si256(into.add(2), c);
            _mm256_stream_si256(into.add(3), d);
            (from, to, bytes) = (from.add(STEP), to.add(STEP), bytes - STEP);
        }
        std::ptr::copy_nonoverlapping(from, to, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

        /// Every byte, and none beside it, whatever the alignment.
        #[test]
        fn a_copy_is_a_copy(bytes in 0..200_000usize, from_at in 0..64usize, to_at in 0..64usize) {
            let from: Vec<u8> = (0..bytes + 64).map(|i| (i * 31 % 251) as u8).collect();
            let mut to = vec![0xEE; bytes + 128];
            let (source, into) = (NonNull::from(&from[from_at..]).cast(), NonNull::from(&mut to[to_at..]).cast());
            // SAFETY: both ranges lie within their vectors, which are not otherwise used meanwhile.
            unsafe { copy_out(source, into, bytes) };
            copied();
            prop_assert_eq!(&to[to_at..to_at + bytes], &from[from_at..from_at + bytes]);
            prop_assert!(to[..to_at].iter().chain(&to[to_at + bytes..]).all(|byte| *byte == 0xEE));
        }
    }
}
