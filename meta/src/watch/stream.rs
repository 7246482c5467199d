//! Watch: a snapshot bucket by bucket when the mirror needs one, then the tail, for as long as the watcher keeps up.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::bad_input::status_for;
use foreword_proto::records::Record;
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::hub::{StartOver, Tail, WatchHub};
use crate::refusal::refused;
use crate::replica::group::Group;
use crate::state::Frozen;
use crate::state::command::Refusal;

/// Frames that wait for a watcher; beyond them it falls behind, and past what the hub keeps it gets `Resync`.
const FRAMES_WAITING_MAX: usize = 8;
/// Bytes of events in one frame.
const FRAME_BYTES: usize = 256 << 10;
/// A frame without events, so that a mirror's revision moves on although its namespace rests.
const PROGRESS: Duration = Duration::from_millis(20);

type Frame = Result<wire::WatchResponse, Status>;

struct Watcher {
    namespace: NamespaceId,
    hub: Arc<WatchHub>,
    frames: mpsc::Sender<Frame>,
}

/// Starts a watch.
///
/// Errors: NOT_FOUND `namespace_id`, which says that it was dropped or never registered: this replica has everything that was
/// acknowledged before the call; FAILED_PRECONDITION `behind` when it has not applied `from_revision` yet; UNAVAILABLE when it cannot
/// make sure by `deadline`.
pub(crate) async fn watch(
    group: &Arc<Group>,
    hub: &Arc<WatchHub>,
    request: wire::WatchRequest,
    deadline: Instant,
) -> Result<BoxStream<'static, Frame>, Status> {
    let namespace = request.namespace_id;
    let look = || group.applied.read(|state| (state.namespace(namespace).map(|n| n.epoch), state.revision()));
    let (mut epoch, mut revision) = look();
    if epoch.is_none() {
        // Registered a moment ago, elsewhere: a watcher that was told otherwise would give it up.
        group.catch_up(deadline).await?;
        (epoch, revision) = look();
    }
    if revision < request.from_revision {
        sometimes(Marker::WatchRefusedBehind);
        let message = format!("behind: revision {} is not applied here, only {revision}", request.from_revision);
        return Err(status_for(Code::FailedPrecondition, "behind", message));
    }
    let Some(epoch) = epoch else {
        return Err(refused(Refusal::NoNamespace { namespace }));
    };
    let resumes = request.from_revision > 0 && request.epoch == epoch;
    let start = if resumes && matches!(hub.tail(request.from_revision, 0), Tail::Entries { .. }) {
        Start::Tail(request.from_revision)
    } else {
        Start::Snapshot(Box::new(group.applied.read(|state| state.freeze())))
    };
    let (frames, stream) = mpsc::channel(FRAMES_WAITING_MAX);
    let watcher = Watcher { namespace, hub: hub.clone(), frames };
    tokio::spawn(async move {
        // A watcher that left ends its task; there is no one to tell.
        let _ = watcher.run(start).await;
    });
    Ok(ReceiverStream::new(stream).boxed())
}

enum Start {
    Tail(Revision),
    Snapshot(Box<Frozen>),
}

/// The watcher is gone.
struct Left;

impl Watcher {
    async fn run(self, start: Start) -> Result<(), Left> {
        let from = match start {
            Start::Tail(from) => from,
            Start::Snapshot(frozen) => self.snapshot(*frozen).await?,
        };
        self.tail(from).await
    }

    async fn send(&self, kind: Kind) -> Result<(), Left> {
        self.frames.send(Ok(wire::WatchResponse { kind: Some(kind) })).await.map_err(|_| Left)
    }

    async fn snapshot(&self, frozen: Frozen) -> Result<Revision, Left> {
        let revision = frozen.state().revision();
        let (epoch, entries) = frozen.state().namespace(self.namespace).map_or((0, 0), |n| (n.epoch, n.pages()));
        self.send(Kind::Begin(wire::SnapshotBegin { revision, epoch, entries })).await?;
        let mut out = BytesMut::new();
        let mut last_bucket = 0;
        for (bucket, records) in frozen.entries_of(self.namespace).into_iter().flatten() {
            for record in &records {
                record.put(&mut out);
            }
            last_bucket = bucket;
            if out.len() >= FRAME_BYTES {
                self.send(Kind::Part(wire::SnapshotPart { bucket, entries: out.split().freeze() })).await?;
            }
        }
        if !out.is_empty() {
            self.send(Kind::Part(wire::SnapshotPart { bucket: last_bucket, entries: out.freeze() })).await?;
        }
        self.send(Kind::End(wire::SnapshotEnd { revision })).await?;
        Ok(revision)
    }

    async fn tail(&self, mut from: Revision) -> Result<(), Left> {
        let mut revisions = self.hub.revisions();
        let mut told = from;
        let mut told_at = Instant::now();
        loop {
            tokio::select! {
                moved = revisions.wait_for(|revision| *revision != from) => {
                    if moved.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(told_at + PROGRESS), if told < from => {}
                () = self.frames.closed() => return Err(Left),
            }
            let Tail::Entries { upto, entries } = self.hub.tail(from, FRAME_BYTES) else {
                sometimes(Marker::WatcherFellBehind);
                return self.resync("the watcher fell behind the events that are kept").await;
            };
            let mut batch = Vec::new();
            for entry in &entries {
                let Some(change) = entry.of(self.namespace) else { continue };
                match change.over {
                    Some(StartOver::Cleared(_)) => {
                        sometimes(Marker::WatcherMetClear);
                        return self.resync("the namespace was cleared").await;
                    }
                    Some(StartOver::Dropped) => return self.resync("the namespace was dropped").await,
                    None => {}
                }
                batch.push(wire::EntryEvents { revision: entry.revision, events: Bytes::clone(&change.events) });
            }
            from = upto;
            // Entries of other namespaces only move the revision: told soon, in one frame for many.
            if !batch.is_empty() || told_at.elapsed() >= PROGRESS {
                self.send(Kind::Events(wire::Events { revision: upto, entries: batch })).await?;
                told = upto;
                told_at = Instant::now();
            }
        }
    }

    async fn resync(&self, reason: &str) -> Result<(), Left> {
        self.send(Kind::Resync(wire::Resync { reason: reason.into() })).await
    }
}
