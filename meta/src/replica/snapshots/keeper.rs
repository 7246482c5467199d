//! Keeps the newest snapshot new and the log short.
//!
//! openraft never decides that: it is told of a snapshot when its file is sealed, and which part of the log may go.
//! What fails here is logged, counted and done again.

use std::sync::Arc;
use std::time::Duration;

use foreword_seams::{Marker, Runner, Telemetry, sometimes};
use metrics::{Counter, Gauge, Histogram};
use openraft::RaftMetrics;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::build::{BuildError, View};
use super::policy::{Purge, Sizes};
use super::receiving::Receiving;
use super::{Sealed, Snapshots, pauses};
use crate::consensus::types::Member;
use crate::replica::group::Group;
use crate::storage::LogReader;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// The log is kept for a follower that acknowledged within this time: one whose process starts again needs no snapshot.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);
/// Operators who wait for a snapshot at once.
const ASKS_MAX: usize = 16;

/// Told the last entry that the newest snapshot covers, or why there is none.
type Answer = oneshot::Sender<Result<u64, String>>;

/// Asks for a snapshot now.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotAsks(mpsc::Sender<Answer>);

impl SnapshotAsks {
    /// Resolves when everything that was applied before is in a snapshot on disk: with the last entry it covers, or why
    /// not.
    pub(crate) async fn snapshot(&self) -> Result<u64, String> {
        let stopped = || "the replica stops".to_owned();
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.map_err(|_| stopped())?;
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// What is counted.
struct Counts {
    built: Counter,
    failed: Counter,
    seconds: Histogram,
    bytes: Gauge,
    age: Gauge,
    log_kept: Gauge,
}

impl Counts {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            built: telemetry.counter("foreword_meta_snapshots_total", "Snapshots of its own state on disk"),
            failed: telemetry
                .counter("foreword_meta_snapshot_failures_total", "Snapshots that could not be written; tried again"),
            seconds: telemetry.seconds("foreword_meta_snapshot_seconds", "How long writing a snapshot took"),
            bytes: telemetry.gauge("foreword_meta_snapshot_bytes", "Bytes of the newest snapshot"),
            age: telemetry.gauge(
                "foreword_meta_snapshot_age_seconds",
                "Time since the newest snapshot was sealed, or since the start",
            ),
            log_kept: telemetry.gauge(
                "foreword_meta_snapshot_log_bytes",
                "Bytes of the log after the newest snapshot: what a start applies again",
            ),
        }
    }
}

/// The task.
pub(crate) struct Keeper {
    parts: KeeperParts,
    counts: Counts,
    asks: mpsc::Receiver<Answer>,
    /// Keeps `asks` open.
    _asked: SnapshotAsks,
}

/// What it is made with.
pub(crate) struct KeeperParts {
    pub(crate) group: Arc<Group>,
    pub(crate) log: LogReader,
    pub(crate) snapshots: Snapshots,
    pub(crate) receiving: Arc<Receiving>,
    /// Where files are written.
    pub(crate) aside: Runner,
    /// Bytes of log between two snapshots at least.
    pub(crate) floor: u64,
}

impl Keeper {
    /// With the handle that asks it.
    pub(crate) fn new(parts: KeeperParts, telemetry: &Telemetry) -> (Self, SnapshotAsks) {
        let (sender, asks) = mpsc::channel(ASKS_MAX);
        let asked = SnapshotAsks(sender);
        (Self { parts, counts: Counts::new(telemetry), asks, _asked: asked.clone() }, asked)
    }

    /// Keeps them for as long as the replica runs.
    pub(crate) async fn keep(mut self) {
        let mut sealed_at = Instant::now();
        // After a failure: when it is tried again, and the pauses after the next ones.
        let mut retry: Option<(Instant, Box<dyn Iterator<Item = Duration> + Send>)> = None;
        loop {
            let ask = tokio::select! {
                ask = self.asks.recv() => ask,
                () = sleep(LOOK) => None,
            };
            let held_back = retry.as_ref().is_some_and(|(at, _)| Instant::now() < *at);
            let built = match ask.is_some() || (!held_back && self.is_due()) {
                true if self.is_behind() => Some(self.build().await),
                _ => None,
            };
            match &built {
                Some(Ok(())) => (sealed_at, retry) = (Instant::now(), None),
                Some(Err(_)) => {
                    let mut pauses = retry.take().map_or_else(|| Box::new(pauses()) as Box<_>, |(_, pauses)| pauses);
                    retry = pauses.next().map(|pause| (Instant::now() + pause, pauses));
                }
                None => {}
            }
            self.tell_openraft().await;
            if let Some(answer) = ask {
                let covers = self.parts.snapshots.newest().map_or(0, |sealed| sealed.covers());
                let result = built.unwrap_or(Ok(())).map(|()| covers);
                let _ = answer.send(result.map_err(|error| error.to_string()));
            }
            self.parts.receiving.forget_old();
            self.counts.age.set(sealed_at.elapsed().as_secs_f64());
            self.counts.bytes.set(self.parts.snapshots.newest().map_or(0, |sealed| sealed.bytes) as f64);
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes::new(self.parts.floor, self.parts.snapshots.newest().map_or(0, |sealed| sealed.bytes))
    }

    /// Whether entries were applied that the newest snapshot does not cover.
    fn is_behind(&self) -> bool {
        let covers = self.parts.snapshots.newest().and_then(|sealed| sealed.meta.last_log_id);
        self.parts.group.applied.read_with_position(|_, position| position.last_applied) > covers
    }

    fn is_due(&self) -> bool {
        let covers = self.parts.snapshots.newest().map_or(0, |sealed| sealed.covers());
        let after = self.parts.log.bytes_after(covers);
        self.counts.log_kept.set(after as f64);
        self.sizes().is_due(after, self.parts.group.peers.transfers().any())
    }

    /// Builds one, aside.
    async fn build(&self) -> Result<(), BuildError> {
        let since = Instant::now();
        let built = self.written().await;
        match &built {
            Ok(sealed) => {
                tracing::info!(name = sealed.name, bytes = sealed.bytes, took = ?since.elapsed(), "a snapshot is sealed");
                self.counts.built.increment(1);
                self.counts.seconds.record(since.elapsed().as_secs_f64());
            }
            Err(error) => {
                sometimes(Marker::SnapshotFailed);
                tracing::error!(%error, "a snapshot could not be written; the log stays, and it is tried again");
                self.counts.failed.increment(1);
            }
        }
        self.parts.snapshots.is_sealed(built?);
        self.parts.snapshots.remove_old().await;
        Ok(())
    }

    async fn written(&self) -> Result<Sealed, BuildError> {
        let (sender, built) = oneshot::channel();
        let view = View::of(&self.parts.group.applied);
        (self.parts.aside)(Box::pin(self.parts.snapshots.clone().build(view, sender))).map_err(BuildError::NoThread)?;
        built.await.unwrap_or(Err(BuildError::Died))
    }

    /// Tells openraft of the newest snapshot, and of the log that may go.
    async fn tell_openraft(&self) {
        let mut watched = self.parts.group.raft.metrics();
        let known = watched.borrow().snapshot;
        let newest = self.parts.snapshots.newest().and_then(|sealed| sealed.meta.last_log_id);
        if newest > known {
            match self.parts.group.raft.trigger().snapshot().await {
                Ok(()) => _ = timeout(LOOK, watched.wait_for(|metrics| metrics.snapshot >= newest)).await,
                Err(error) => tracing::warn!(%error, "openraft was not told of a snapshot"),
            }
        }
        let metrics = watched.borrow().clone();
        let upto = self.may_go(&metrics).filter(|upto| Some(*upto) > metrics.purged.map(|id| id.index));
        if let Some(upto) = upto
            && let Err(error) = self.parts.group.raft.trigger().purge_log(upto).await
        {
            tracing::warn!(%error, "openraft was not told to purge the log");
        }
    }

    fn may_go(&self, metrics: &RaftMetrics<u64, Member>) -> Option<u64> {
        let covered = metrics.snapshot?.index;
        let sizes = self.sizes();
        let purge = Purge {
            covered,
            before: self.parts.log.index_before(self.parts.log.bytes_after(covered) + sizes.kept_before()),
            needed_after: self.needed_after(metrics),
            too_long: self.parts.log.index_before(sizes.kept_for_followers()),
        };
        purge.upto()
    }

    /// The least that a follower has which gets a snapshot, may go on with one, or was heard lately. None where this
    /// replica does not lead, or no follower needs any of the log.
    fn needed_after(&self, metrics: &RaftMetrics<u64, Member>) -> Option<u64> {
        let others = metrics.replication.as_ref()?.iter().filter(|(id, _)| **id != self.parts.group.replica_id);
        let has = others.filter_map(|(id, matched)| {
            let receives = self.parts.group.peers.transfers().covers(*id);
            let follows = || matched.filter(|_| self.parts.group.hears(*id, FOLLOWS_WITHIN)).map(|id| id.index);
            receives.or_else(follows)
        });
        has.min()
    }
}
