//! Keeps a mirror up to date from the watch stream of any replica.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::bad_input::field_of;
use foreword_proto::limits::META_MESSAGE_BYTES_MAX;
use foreword_proto::records::{self, EntryEvents, NamespaceEvent, PageRecord, Record};
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, EntryKey, Epoch, NamespaceId};
use foreword_seams::{Marker, sometimes};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use wire::watch_response::Kind;

use super::Mirror;
use super::view::{OutOfOrder, View};
use crate::meta_client::{Backoff, MetaClient};

/// How long a replica may say nothing while the group is known to have more.
const STANDSTILL_MAX: Duration = Duration::from_secs(3);
/// How long a replica may take to answer a watch call with a stream.
const WATCH_START: Duration = Duration::from_secs(5);

/// What the watcher tells the agent.
pub trait WatchEvents: Send + Sync + 'static {
    /// These pages were deleted or cleared: copies of them must go.
    fn purged(&self, keys: &[EntryKey]);
    /// The namespace is in this epoch now: everything of an older one must go.
    fn epoch_began(&self, epoch: Epoch);
    /// A snapshot is on its way because the stream could not be continued.
    fn resynced(&self);
    /// There is no such namespace any more.
    fn dropped(&self);
}

/// Which namespace is watched.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    pub namespace: NamespaceId,
    pub shards: usize,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Status(#[from] Status),
    #[error("the replica closed the stream")]
    Closed,
    #[error("the replica says nothing, and the group has more")]
    StandsStill,
    #[error("the replica asks for a resync: {0}")]
    Resync(String),
    #[error("{0}")]
    OutOfOrder(#[from] OutOfOrder),
    #[error("{0}")]
    BadInput(#[from] BadInput),
}

impl Ended {
    /// A replica that has everything acknowledged before it was asked does not know the namespace. Ids are given out once: it was dropped.
    fn says_dropped(&self) -> bool {
        matches!(self, Self::Status(status)
            if status.code() == Code::NotFound && field_of(status) == Some("namespace_id"))
    }
}

/// Follows the watch stream until stopped or the namespace is dropped; goes to another replica whenever one fails.
pub async fn follow(
    mirror: Arc<Mirror>,
    watched: Watched,
    meta: MetaClient,
    events: Arc<dyn WatchEvents>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let (messages, ended) = tokio::select! {
            () = stop.cancelled() => return,
            heard = follow_once(&mirror, watched, &meta, &*events) => heard,
        };
        if ended.says_dropped() {
            mirror.write(View::close);
            events.dropped();
            return;
        }
        // After a mere failure the tail goes on where it was.
        let failed = matches!(
            ended,
            Ended::Status(_) | Ended::Closed | Ended::StandsStill | Ended::OutOfOrder(OutOfOrder::Behind { .. })
        );
        let distrusted = !failed;
        mirror.write(|view| view.stream_broke(distrusted));
        if distrusted {
            events.resynced();
        }
        if messages > 0 {
            backoff = Backoff::default();
        }
        tracing::debug!(namespace = watched.namespace, %ended, "watch stream ended");
        let pause = backoff.next(meta.entropy());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One stream from one replica: the messages taken, and why it ended.
async fn follow_once(mirror: &Mirror, watched: Watched, meta: &MetaClient, events: &dyn WatchEvents) -> (u64, Ended) {
    let (replica, mut client) = meta.client();
    let (from_revision, epoch) = mirror.read(|view| (view.resume_from(), view.epoch()));
    let request = wire::WatchRequest { namespace_id: watched.namespace, from_revision, epoch };
    let mut messages = 0;
    let ended = async {
        let started = tokio::time::timeout(WATCH_START, client.watch(request)).await;
        let started = started.map_err(|_| Status::deadline_exceeded("the replica did not begin a watch stream"))?;
        let mut stream = started?.into_inner();
        loop {
            let message = tokio::select! {
                message = stream.message() => message?,
                () = mirror.stands_still(STANDSTILL_MAX) => {
                    sometimes(Marker::WatcherLeftStandstill);
                    return Err::<(), Ended>(Ended::StandsStill);
                }
            };
            let Some(message) = message else { return Err(Ended::Closed) };
            mirror.heard();
            take(mirror, watched, events, message)?;
            messages += 1;
        }
    }
    .await;
    let ended = ended.err().unwrap_or(Ended::Closed);
    if !matches!(ended, Ended::Resync(_)) {
        meta.failed(replica);
    }
    (messages, ended)
}

fn take(
    mirror: &Mirror,
    watched: Watched,
    events: &dyn WatchEvents,
    message: wire::WatchResponse,
) -> Result<(), Ended> {
    let records_max = META_MESSAGE_BYTES_MAX / PageRecord::bytes(watched.shards);
    match message.kind {
        Some(Kind::Begin(begin)) => {
            let before = mirror.read(View::epoch);
            mirror.write(|view| view.begin_snapshot(begin.epoch, begin.revision, begin.entries))?;
            if begin.epoch != before {
                events.epoch_began(begin.epoch);
            }
        }
        Some(Kind::Part(part)) => {
            let pages = records::decode::<PageRecord>("entries", &part.entries, watched.shards, records_max)?;
            mirror.write(|view| view.snapshot_part(&pages))?;
        }
        Some(Kind::End(end)) => {
            if mirror.read(View::synced) {
                sometimes(Marker::WatcherResynced);
            }
            mirror.write(|view| view.end_snapshot(end.revision))?;
        }
        Some(Kind::Events(message)) => {
            let entries = decode_events(&message, watched.shards)?;
            let purged = mirror.write(|view| view.apply(message.revision, &entries))?;
            if !purged.is_empty() {
                events.purged(&purged);
            }
        }
        Some(Kind::Resync(resync)) => return Err(Ended::Resync(resync.reason)),
        None => return Err(BadInput::new("kind", "a known kind of watch message").into()),
    }
    Ok(())
}

fn decode_events(message: &wire::Events, shards: usize) -> Result<Vec<EntryEvents>, BadInput> {
    let decode = |entry: &wire::EntryEvents| {
        let events = NamespaceEvent::decode_all(&entry.events, shards)?;
        Ok(EntryEvents { revision: entry.revision, events })
    };
    message.entries.iter().map(decode).collect()
}
