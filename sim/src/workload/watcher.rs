//! Watchers of a namespace at the replicas: one that misses nothing, and those that do not keep up.

use std::time::Duration;

use foreword_client::watch::{self as stream, Cursor, WatchStream};
use foreword_proto::records::{self, EntryEvents, NamespaceEvent, PageRecord};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_seams::Entropy;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{CALL_DEADLINE, Client, Space};
use super::{ClientParts, stopped};
use crate::history::{SharedHistory, WatchFrame, Watched};
use crate::world::context;

/// Before a stream that ended is opened again.
const AGAIN: Duration = Duration::from_millis(100);
/// A watcher that hears nothing for this long asks another replica.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is noted that nothing changed.
const PROGRESS_NOTED: Duration = Duration::from_secs(1);

/// How a watcher reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As fast as it is told.
    Diligent,
    /// Slowly, with stalls, and it leaves now and then.
    Slow,
}

/// Why a watcher leaves its stream.
enum Left {
    Stopped,
    Again,
}

/// One watcher.
pub(super) struct Watcher {
    client: Client,
    space: Space,
    pace: Pace,
    history: SharedHistory,
    replica: u64,
    streams: u32,
    /// What it has seen; none before the namespace is open.
    cursor: Option<Cursor>,
    noted_at: Instant,
    /// The revision noted last.
    noted: u64,
}

impl Watcher {
    pub(super) fn new(number: u32, space: Space, pace: Pace, parts: ClientParts) -> Self {
        let history = parts.history.clone();
        Self {
            client: Client::new(number, parts),
            space,
            pace,
            history,
            replica: 0,
            streams: 0,
            cursor: None,
            noted_at: Instant::now(),
            noted: 0,
        }
    }

    /// Watches until it is told to stop.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if self.cursor.is_none() {
                let agent = self.client.random().below(u64::from(self.client.agents())) as u32;
                self.client.open_namespace(agent, &self.space).await;
                self.cursor = self.client.id_of(&self.space).map(Cursor::new);
            } else if let Some(stream) = self.open().await
                && matches!(self.read(stream, &mut stop).await, Left::Stopped)
            {
                return;
            }
            sleep(AGAIN).await;
        }
    }

    async fn open(&mut self) -> Option<WatchStream> {
        self.replica = self.client.any_replica();
        let (mut replica, node) = (self.client.replica(self.replica), format!("watcher-{}", self.client.number()));
        let who = stream::Watcher { node: &node, even_alone: self.pace == Pace::Slow };
        let opening = WatchStream::of(&mut replica, who, self.cursor.as_mut()?);
        let stream = timeout(CALL_DEADLINE, opening).await.ok()?.ok()?;
        self.streams += 1;
        Some(stream)
    }

    fn revision(&self) -> u64 {
        self.cursor.as_ref().map_or(0, Cursor::revision)
    }

    async fn read(&mut self, mut stream: WatchStream, stop: &mut watch::Receiver<bool>) -> Left {
        let mut first = true;
        let left = loop {
            let heard = tokio::select! {
                biased;
                () = stopped(stop) => break Left::Stopped,
                heard = stream.next_within(SILENCE) => heard,
            };
            let Ok((_, kind)) = heard else { break Left::Again };
            if first && matches!(kind, Kind::Progress(_)) {
                continue;
            }
            if first && !matches!(kind, Kind::Begin(_)) {
                let epoch = self.cursor.as_ref().map_or(0, Cursor::epoch);
                self.note(WatchFrame::Resumed { epoch, revision: self.revision() });
            }
            first = false;
            if self.told(kind).is_none() {
                return Left::Again;
            }
            if self.pace == Pace::Slow && self.dawdles(stop).await {
                break Left::Again;
            }
        };
        if self.noted < self.revision() {
            self.note(WatchFrame::Events { revision: self.revision(), entries: Vec::new() });
        }
        left
    }

    /// One message. None: the stream is of no further use.
    fn told(&mut self, kind: Kind) -> Option<()> {
        let shards = self.space.namespace.shards();
        let cursor = self.cursor.as_mut()?;
        let goes_on = cursor.take(&kind);
        let resyncing = cursor.resyncing();
        match kind {
            Kind::Begin(begin) => {
                self.note(WatchFrame::ResyncBegin { epoch: begin.epoch, revision: begin.revision });
            }
            Kind::Bucket(wire::ResyncBucket { entries, bits, bucket }) => {
                let pages = records::decode::<PageRecord>("entries", &entries, shards, usize::MAX).ok()?;
                self.note(WatchFrame::Bucket { bits, bucket, pages });
            }
            Kind::End(end) => self.note(WatchFrame::ResyncEnd { revision: end.revision }),
            // Nothing is told of a resync's revision before its end.
            Kind::Progress(_) => {
                if !resyncing && self.noted_at.elapsed() >= PROGRESS_NOTED {
                    self.note(WatchFrame::Events { revision: self.revision(), entries: Vec::new() });
                }
            }
            Kind::Events(wire::Events { revision, entries }) => {
                let decoded = entries.iter().map(|entry| {
                    let events = NamespaceEvent::decode_all(&entry.events, shards).ok()?;
                    Some(EntryEvents { revision: entry.revision, events })
                });
                let entries: Vec<EntryEvents> = decoded.collect::<Option<_>>()?;
                if !entries.is_empty() || self.noted_at.elapsed() >= PROGRESS_NOTED {
                    self.note(WatchFrame::Events { revision, entries });
                }
            }
            Kind::Resync(_) | Kind::Dropped(_) => self.note(WatchFrame::Resync),
        }
        goes_on.then_some(())
    }

    fn note(&mut self, frame: WatchFrame) {
        (self.noted_at, self.noted) = (Instant::now(), self.revision());
        let (number, namespace) = (self.client.number(), self.cursor.as_ref().map_or(0, Cursor::namespace));
        let stream = u64::from(number) << 32 | u64::from(self.streams);
        let watched = Watched { stream, namespace, at: context::now(), frame };
        self.history.lock().watch(number, watched);
    }

    /// Reads no further for a while. True: it leaves the stream.
    async fn dawdles(&self, stop: &mut watch::Receiver<bool>) -> bool {
        let random = self.client.random();
        let (drawn, millis) = (random.below(100), random.below(400));
        let pause = match drawn {
            0..3 => Duration::from_millis(3_000 + 10 * millis),
            3..40 => Duration::from_millis(millis),
            _ => Duration::ZERO,
        };
        if !pause.is_zero() {
            tokio::select! {
                biased;
                () = stopped(stop) => {}
                () = sleep(pause) => {}
            }
        }
        drawn >= 98
    }
}
