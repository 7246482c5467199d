//! Engines of logs that do not do what they say.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use foreword_meta::consensus::entry_codec::{decode_entry, encode_entry};
use foreword_meta::consensus::types::EntryBatch;
use foreword_meta::state::codec::{decode_batch, encode_batch, encode_command};
use foreword_meta::state::command::{Command, SessionOperation};
use foreword_meta::storage::engine::Item;
use foreword_meta::storage::{LogEngine, MetaKey};
use foreword_proto::limits::FORMAT_VERSION;
use futures::future::BoxFuture;
use openraft::EntryPayload;

/// One in so many syncs is left out.
const LEFT_OUT: u64 = 2;

/// What is wrong with an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Some syncs answer without having synced.
    Syncs,
    /// Entries that are read have lost their publishes, and their checksums are right.
    Entries,
}

/// An engine with something wrong.
pub(super) struct WrongEngine {
    pub(super) inner: Box<dyn LogEngine>,
    pub(super) wrong: Wrong,
    pub(super) syncs: u64,
}

/// The entry without its publishes.
fn without_publishes((index, item): &Item) -> Item {
    let publishes =
        |command: &Command| matches!(command, Command::Session { operation: SessionOperation::Publish { .. }, .. });
    let change = || {
        let mut entry = decode_entry(*index, item).ok()?;
        let EntryPayload::Normal(EntryBatch(batch)) = &mut entry.payload else { return None };
        let mut commands = decode_batch(batch.clone()).ok()?;
        commands.retain(|command| !publishes(command));
        let encoded = |command: &Command| {
            let mut out = BytesMut::new();
            encode_command(command, &mut out);
            out.freeze()
        };
        let commands: Vec<Bytes> = commands.iter().map(encoded).collect();
        *batch = encode_batch(FORMAT_VERSION, &commands);
        Some(encode_entry(FORMAT_VERSION, &entry))
    };
    (*index, change().unwrap_or_else(|| item.clone()))
}

impl LogEngine for WrongEngine {
    fn append(&mut self, items: &[Item]) -> io::Result<()> {
        self.inner.append(items)
    }

    fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        self.inner.truncate_from(index)
    }

    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool> {
        self.inner.purge_to(index, items_max)
    }

    fn put_meta(&mut self, key: MetaKey, value: Bytes) -> io::Result<()> {
        self.inner.put_meta(key, value)
    }

    fn get_meta(&mut self, key: MetaKey) -> io::Result<Option<Bytes>> {
        self.inner.get_meta(key)
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<Item>> {
        let items = self.inner.read(range)?;
        Ok(match self.wrong {
            Wrong::Entries => items.iter().map(without_publishes).collect(),
            Wrong::Syncs => items,
        })
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        self.inner.bounds()
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.syncs += 1;
        if self.wrong == Wrong::Syncs && self.syncs.is_multiple_of(LEFT_OUT) {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.inner.sync()
    }

    fn bytes_used(&self) -> u64 {
        self.inner.bytes_used()
    }
}
