//! Page bytes to and from an agent: who wrote what comes back, and at what pace a rank sends.

use std::time::Duration;

use foreword_client::transfer::{self, ShardPut, messages};
use foreword_proto::PageKey;
use foreword_proto::wire::node as wire;
use futures::StreamExt;
use futures::stream::{self, Stream};

use crate::history::GotPage;

/// What a writer leaves in each page: its namespace's place in the load, itself, and a count. A page of another
/// namespace that has the same key is told from the right one by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce {
    pub space: u16,
    pub client: u16,
    pub put: u32,
}

impl Nonce {
    /// As 64 bits.
    pub fn word(self) -> u64 {
        u64::from(self.space) << 48 | u64::from(self.client) << 32 | u64::from(self.put)
    }

    /// From 64 bits.
    pub fn from_word(word: u64) -> Self {
        Self { space: (word >> 48) as u16, client: (word >> 32) as u16, put: word as u32 }
    }
}

/// A page as the history has it: also right by the namespace in which it was written.
pub(super) fn got_page(key: PageKey, page: transfer::GotPage, space: u16) -> GotPage {
    let transfer::GotPage { hit, tier, revision, reason, shards } = page;
    let written_here = |nonces: Vec<u64>| {
        let elsewhere = nonces.iter().map(|nonce| Nonce::from_word(*nonce).space).position(|other| other != space);
        match elsewhere {
            Some(shard) => {
                let other = Nonce::from_word(nonces[shard]).space;
                Err(format!("shard {shard} byte 6: written in namespace {other} of the load"))
            }
            None => Ok(nonces),
        }
    };
    let tier = if hit { tier as u8 } else { 0 };
    GotPage { key, hit, tier, revision, reason, shards: shards.and_then(written_here) }
}

/// One shard of some pages, as a rank sends it.
#[derive(Debug, Clone)]
pub(super) struct Paced {
    pub(super) put: ShardPut,
    pub(super) keys: Vec<PageKey>,
    /// Before the first message, and before each further one.
    pub(super) starts_after: Duration,
    pub(super) pause: Duration,
}

impl Paced {
    /// The messages of the call.
    pub(super) fn messages(self) -> impl Stream<Item = wire::PutRequest> + Send + 'static {
        let Self { put, keys, starts_after, pause } = self;
        let waits = std::iter::once(starts_after).chain(std::iter::repeat(pause));
        stream::iter(waits.zip(messages(put, keys))).then(|(wait, message)| async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            message
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_namespace_does_not_pass() {
        let nonce = Nonce { space: 3, client: 1, put: 2 }.word();
        let key = PageKey::opaque(b"key");
        let page = || transfer::GotPage {
            hit: true,
            tier: wire::Tier::L3,
            revision: 9,
            reason: String::new(),
            shards: Ok(vec![nonce]),
        };
        assert_eq!(got_page(key, page(), 3).shards, Ok(vec![nonce]));
        assert!(got_page(key, page(), 4).shards.unwrap_err().contains("namespace 3"));
    }
}
