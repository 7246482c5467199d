//! Both engines pass the suite, and engines with a planted fault do not.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use foreword_meta::storage::conformance::{World, check_engine};
use foreword_meta::storage::engine::Item;
use foreword_meta::storage::memory_engine::MemoryEngine;
use foreword_meta::storage::{LogEngine, MetaKey};
use futures::future::BoxFuture;

use crate::support::{MemoryWorld, SledWorld};

#[tokio::test]
async fn memory_conforms() {
    for seed in 0..12 {
        check_engine(MemoryWorld::default, seed, 120).await.unwrap();
    }
}

#[tokio::test]
async fn sled_conforms() {
    for seed in 0..2 {
        check_engine(SledWorld::new, seed, 60).await.unwrap();
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    None,
    /// Acknowledges before its sync.
    SyncsNothing,
    /// Removes the first of the truncated items only.
    LeavesAHole,
    /// Forgets its bytes when it truncates.
    MiscountsBytes,
    /// Deletes before the purged id, which is written to the disk later.
    PurgesFirst,
    /// Loses one named value.
    ForgetsTheVote,
    /// Takes any index.
    TakesHoles,
}

/// A memory engine with one planted fault.
pub(crate) struct Flawed {
    engine: MemoryEngine,
    flaw: Flaw,
    purged: Option<Bytes>,
    extra: u64,
}

impl Flawed {
    pub(crate) fn new(engine: MemoryEngine, flaw: Flaw) -> Self {
        Self { engine, flaw, purged: None, extra: 0 }
    }
}

impl LogEngine for Flawed {
    fn append(&mut self, items: &[Item]) -> io::Result<()> {
        match self.engine.append(items) {
            Err(_) if self.flaw == Flaw::TakesHoles => Ok(()),
            appended => appended,
        }
    }

    fn truncate_from(&mut self, index: u64) -> io::Result<()> {
        if self.flaw == Flaw::LeavesAHole {
            return match self.engine.bounds() {
                Some((first, last)) if (first..last).contains(&index) => {
                    let tail = self.engine.read(index + 1..last + 1)?;
                    self.engine.truncate_from(index + 1)?;
                    drop(tail);
                    Ok(())
                }
                _ => Ok(()),
            };
        }
        if self.flaw == Flaw::MiscountsBytes {
            self.extra += 1;
        }
        self.engine.truncate_from(index)
    }

    fn purge_to(&mut self, index: u64, items_max: usize) -> io::Result<bool> {
        let done = self.engine.purge_to(index, items_max)?;
        if let Some(purged) = self.purged.take() {
            self.engine.put_meta(MetaKey::Purged, purged)?;
        }
        Ok(done)
    }

    fn put_meta(&mut self, key: MetaKey, value: Bytes) -> io::Result<()> {
        match (self.flaw, key) {
            (Flaw::PurgesFirst, MetaKey::Purged) => self.purged = Some(value),
            (Flaw::ForgetsTheVote, MetaKey::Vote) => {}
            _ => return self.engine.put_meta(key, value),
        }
        Ok(())
    }

    fn get_meta(&mut self, key: MetaKey) -> io::Result<Option<Bytes>> {
        match (&self.purged, key) {
            (Some(purged), MetaKey::Purged) => Ok(Some(purged.clone())),
            _ => self.engine.get_meta(key),
        }
    }

    fn read(&mut self, range: Range<u64>) -> io::Result<Vec<Item>> {
        self.engine.read(range)
    }

    fn bounds(&self) -> Option<(u64, u64)> {
        self.engine.bounds()
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        match self.flaw {
            Flaw::SyncsNothing => Box::pin(async { Ok(()) }),
            _ => self.engine.sync(),
        }
    }

    fn bytes_used(&self) -> u64 {
        self.engine.bytes_used() + self.extra
    }
}

struct FlawedWorld(MemoryWorld, Flaw);

impl World for FlawedWorld {
    fn open(&mut self) -> io::Result<Box<dyn LogEngine>> {
        Ok(Box::new(Flawed::new(self.0.open_engine(), self.1)))
    }

    fn crash(&mut self, engine: Box<dyn LogEngine>) {
        self.0.crash(engine);
    }
}

async fn check_named(flaw: Flaw) -> Option<&'static str> {
    check_engine(|| FlawedWorld(MemoryWorld::default(), flaw), 1, 120).await.err().map(|violation| violation.check)
}

#[tokio::test]
async fn planted_flaws_are_found_by_the_check_that_looks_for_them() {
    assert_eq!(check_named(Flaw::None).await, None);
    assert_eq!(check_named(Flaw::TakesHoles).await, Some("refuses_holes"));
    assert_eq!(check_named(Flaw::ForgetsTheVote).await, Some("keeps_what_was_synced"));
    assert_eq!(check_named(Flaw::LeavesAHole).await, Some("truncates_without_holes"));
    assert_eq!(check_named(Flaw::MiscountsBytes).await, Some("truncates_without_holes"));
    assert!(check_named(Flaw::PurgesFirst).await.is_some());
}

#[tokio::test]
async fn a_store_that_acknowledges_before_its_sync_is_rejected() {
    let rejected = check_engine(|| FlawedWorld(MemoryWorld::default(), Flaw::SyncsNothing), 1, 120).await.unwrap_err();
    println!("{rejected}");
    assert!(["reads_back", "keeps_what_was_synced"].contains(&rejected.check), "{rejected}");
}
