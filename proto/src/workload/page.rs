//! What a page holds: bytes that follow from (key, shard, writer nonce), with the nonce among them.
//!
//! A reader that knows only key and shard checks every byte, and two writers of one key write different pages, as two
//! engines do: a mixture of their bytes never passes.
//!
//! ```text
//! 0        8                                  len
//! | nonce  | SplitMix64 stream of xxh3(key ‖ shard; nonce), u64 little-endian |
//! ```

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::splitmix::SplitMix;
use crate::PageKey;

const NONCE_BYTES: usize = 8;

/// The first byte that is not what key, shard and the nonce in the page call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page differs from what its key, shard and nonce call for at byte {offset}")]
pub struct Mismatch {
    pub offset: usize,
}

/// Fills one shard of a page.
///
/// Any length works; from 16 bytes on a wrong byte escapes [`verify`] with odds of 2^-64 at most. A shorter page keeps
/// the lowest bytes of the nonce in its first half, and checks as much as the rest can hold.
pub fn fill(page: &mut [u8], key: &PageKey, shard: u32, nonce: u64) {
    let (head, body) = page.split_at_mut(nonce_len(page.len()));
    head.copy_from_slice(&nonce.to_le_bytes()[..head.len()]);
    let mut stream = stream(key, shard, nonce_of(head));
    let (words, rest) = body.as_chunks_mut::<8>();
    for word in words {
        *word = stream.next().to_le_bytes();
    }
    let last = stream.next().to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// Checks every byte of one shard of a page; the nonce of its writer when all are right.
pub fn verify(page: &[u8], key: &PageKey, shard: u32) -> Result<u64, Mismatch> {
    let (head, body) = page.split_at(nonce_len(page.len()));
    let nonce = nonce_of(head);
    let mut stream = stream(key, shard, nonce);
    let (words, rest) = body.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        check(word, stream.next(), head.len() + 8 * index)?;
    }
    check(rest, stream.next(), head.len() + 8 * words.len())?;
    Ok(nonce)
}

#[inline]
fn check(bytes: &[u8], expected: u64, start: usize) -> Result<(), Mismatch> {
    let expected = &expected.to_le_bytes()[..bytes.len()];
    if bytes == expected {
        return Ok(());
    }
    let at = bytes.iter().zip(expected).take_while(|(got, want)| got == want).count();
    Err(Mismatch { offset: start + at })
}

fn nonce_len(page_len: usize) -> usize {
    NONCE_BYTES.min(page_len / 2)
}

fn nonce_of(head: &[u8]) -> u64 {
    let mut bytes = [0; NONCE_BYTES];
    bytes[..head.len()].copy_from_slice(head);
    u64::from_le_bytes(bytes)
}

fn stream(key: &PageKey, shard: u32, nonce: u64) -> SplitMix {
    let mut name = [0; 36];
    name[..32].copy_from_slice(&key.0);
    name[32..].copy_from_slice(&shard.to_le_bytes());
    SplitMix::new(xxh3_64_with_seed(&name, nonce))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(len: usize, key: &PageKey, shard: u32, nonce: u64) -> Vec<u8> {
        let mut page = vec![0; len];
        fill(&mut page, key, shard, nonce);
        page
    }

    #[test]
    fn short_pages_verify_too() {
        let key = PageKey::opaque(b"short");
        for len in 0..16 {
            let page = filled(len, &key, 1, 0x0807_0605_0403_0201);
            let nonce = verify(&page, &key, 1).unwrap();
            assert_eq!(nonce.to_le_bytes()[..len / 2], [1, 2, 3, 4, 5, 6, 7, 8][..len / 2]);
        }
    }

    #[test]
    fn zeros_are_no_page() {
        let key = PageKey::opaque(b"zeros");
        assert_eq!(verify(&[0; 4096], &key, 0), Err(Mismatch { offset: 8 }));
    }

    proptest! {
        #[test]
        fn what_fill_writes_verify_accepts(len in 16usize..300, name: [u8; 8], shard in 0u32..4, nonce: u64) {
            let key = PageKey::opaque(&name);
            prop_assert_eq!(verify(&filled(len, &key, shard, nonce), &key, shard), Ok(nonce));
        }

        #[test]
        fn any_flipped_byte_is_found(len in 16usize..300, at: prop::sample::Index, flip in 1u8.., nonce: u64) {
            let key = PageKey::opaque(b"flip");
            let mut page = filled(len, &key, 0, nonce);
            let at = at.index(len);
            page[at] ^= flip;
            // A wrong nonce shows in the bytes that follow from it.
            let found = verify(&page, &key, 0).unwrap_err().offset;
            prop_assert!(if at < NONCE_BYTES { found >= NONCE_BYTES } else { found == at }, "flipped {at}, found {found}");
        }

        #[test]
        fn another_key_or_shard_or_length_does_not_pass(len in 16usize..300, nonce: u64) {
            let (key, other) = (PageKey::opaque(b"a"), PageKey::opaque(b"b"));
            let page = filled(len, &key, 1, nonce);
            prop_assert!(verify(&page, &other, 1).is_err());
            prop_assert!(verify(&page, &key, 0).is_err());
        }

        #[test]
        fn two_writers_never_mix(len in 32usize..300, cut: prop::sample::Index, nonce: u64) {
            let key = PageKey::opaque(b"mix");
            let (one, two) = (filled(len, &key, 0, nonce), filled(len, &key, 0, nonce.wrapping_add(1)));
            let cut = NONCE_BYTES + 1 + cut.index(len - NONCE_BYTES - 8);
            let mixed: Vec<u8> = one[..cut].iter().chain(&two[cut..]).copied().collect();
            prop_assert!(verify(&mixed, &key, 0).is_err());
        }
    }
}
