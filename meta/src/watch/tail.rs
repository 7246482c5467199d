//! What a stream tells of entries: in one pass over what the hub keeps, for all its namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::limits::WATCH_FRAME_BYTES;
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use tokio::time::Instant;

use super::encoded::{EncodedEntry, StartOver};
use super::hub::Tail;
use super::measures::Counted;
use super::stream::{Ended, Space, Watcher};

impl Watcher {
    /// Tells of a namespace's entries between the mirror's revision and what the others on the stream were told.
    pub(super) async fn catch_up(&mut self, namespace: NamespaceId, from: Revision) -> Result<(), Ended> {
        let mut at = from;
        while at < self.cursor {
            let Tail::Entries { upto, entries } = self.hub.tail(at, WATCH_FRAME_BYTES) else {
                return self.fell_behind(namespace).await;
            };
            at = upto.min(self.cursor);
            let mut told = Vec::new();
            for entry in entries.iter().take_while(|entry| entry.revision <= at) {
                let Some(change) = entry.of(namespace) else { continue };
                if let Some(why) = change.over {
                    return self.over(namespace, why).await;
                }
                told.push(wire::EntryEvents { revision: entry.revision, events: Bytes::clone(&change.events) });
            }
            if !told.is_empty() {
                self.send(namespace, Kind::Events(wire::Events { revision: at, entries: told })).await?;
            }
        }
        // Said even without any entries: from now on progress is the namespace's, too.
        self.send(namespace, Kind::Events(wire::Events { revision: at, entries: Vec::new() })).await?;
        if let Some((space, _)) = self.spaces.get_mut(&namespace) {
            *space = Space::Tail { after: from };
        }
        Ok(())
    }

    /// Tells of the next entries. True: there are more.
    pub(super) async fn pass(&mut self) -> Result<bool, Ended> {
        let upto = self.hub.revision();
        if self.wake.touched() <= self.cursor {
            self.cursor = self.cursor.max(upto);
            return Ok(false);
        }
        let Tail::Entries { upto, entries } = self.hub.tail(self.cursor, WATCH_FRAME_BYTES) else {
            self.cursor = self.hub.revision();
            let told = |(namespace, (space, _)): (&NamespaceId, &(Space, Counted))| {
                (!matches!(space, Space::Waiting { .. })).then_some(*namespace)
            };
            let behind: Vec<NamespaceId> = self.spaces.iter().filter_map(told).collect();
            for namespace in behind {
                self.fell_behind(namespace).await?;
            }
            return Ok(true);
        };
        self.tell(upto, &entries).await?;
        self.cursor = upto;
        Ok(self.wake.touched() > upto && self.hub.revision() > upto)
    }

    async fn tell(&mut self, upto: Revision, entries: &[Arc<EncodedEntry>]) -> Result<(), Ended> {
        let mut told: BTreeMap<NamespaceId, Vec<wire::EntryEvents>> = BTreeMap::new();
        let mut over: BTreeMap<NamespaceId, StartOver> = BTreeMap::new();
        for entry in entries {
            for (namespace, change) in entry.changes() {
                let after = match self.spaces.get(&namespace) {
                    Some((Space::Tail { after }, _)) => *after,
                    Some((Space::Resyncing(_), _)) => 0,
                    Some((Space::Waiting { .. }, _)) | None => continue,
                };
                if entry.revision <= after || over.contains_key(&namespace) {
                    continue;
                }
                if let Some(why) = change.over {
                    told.remove(&namespace);
                    over.insert(namespace, why);
                    continue;
                }
                let events = wire::EntryEvents { revision: entry.revision, events: Bytes::clone(&change.events) };
                told.entry(namespace).or_default().push(events);
            }
        }
        for (namespace, entries) in told {
            self.send(namespace, Kind::Events(wire::Events { revision: upto, entries })).await?;
            self.events_at = Some(Instant::now());
        }
        for (namespace, why) in over {
            self.over(namespace, why).await?;
        }
        Ok(())
    }

    /// The mirror starts over.
    pub(super) async fn over(&mut self, namespace: NamespaceId, why: StartOver) -> Result<(), Ended> {
        self.close(namespace);
        match why {
            StartOver::Cleared(_) => {
                sometimes(Marker::WatcherMetClear);
                self.send(namespace, Kind::Resync(wire::Resync { reason: "the namespace was cleared".into() })).await
            }
            StartOver::Dropped => self.send(namespace, Kind::Dropped(wire::Dropped {})).await,
        }
    }

    async fn fell_behind(&mut self, namespace: NamespaceId) -> Result<(), Ended> {
        sometimes(Marker::WatcherFellBehind);
        self.hub.measures.fell_behind.increment(1);
        self.close(namespace);
        let reason = "the watcher fell behind the events that are kept".into();
        self.send(namespace, Kind::Resync(wire::Resync { reason })).await
    }
}
