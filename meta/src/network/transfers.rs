//! Snapshots on their way to other replicas.
//!
//! The file goes as it is, in chunks. Of a stream that broke the receiver keeps what has come, and is asked for its
//! length and checksum before the next one: if the same bytes stand at the start of the file here, the stream goes on
//! behind them. So a file that another replica sends, or one that was built anew under the same name, begins anew.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use foreword_proto::limits::SNAPSHOT_CHUNK_BYTES;
use foreword_proto::wire::raft as wire;
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::{Counter, Gauge};
use openraft::error::{Fatal, NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::{Snapshot, Vote};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::address::Peer;
use super::messages::to_body;
use super::peers::Peers;
use crate::consensus::types::{SnapshotHandle, SnapshotMeta, TypeConfig};

/// A whole snapshot of the largest index, over a slow link. A stream that takes longer breaks, and the next one goes
/// on.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);
/// The receiver looks into its memory.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// For so long after a stream broke, the snapshot stays the newest and the log after it is kept, so that the transfer
/// can go on.
const RESUMABLE_FOR: Duration = Duration::from_secs(60);

/// A small file goes in some chunks as well: what of it has come need not come again.
const CHUNKS_MIN: u64 = 16;
const CHUNK_BYTES_MIN: usize = 16 << 10;

fn chunk_bytes(file_bytes: u64) -> usize {
    ((file_bytes / CHUNKS_MIN) as usize).clamp(CHUNK_BYTES_MIN, SNAPSHOT_CHUNK_BYTES)
}

/// The first frame of a snapshot stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotOffer {
    pub vote: Vote<u64>,
    pub meta: SnapshotMeta,
    /// Bytes of the file.
    pub bytes: u64,
    /// Where in the file this stream begins.
    pub offset: u64,
}

/// A transfer to one replica.
struct Transfer {
    streams: usize,
    /// The last entry that the snapshot covers.
    covers: u64,
    /// When the last stream broke.
    broke: Instant,
}

impl Transfer {
    fn is_on(&self) -> bool {
        self.streams > 0 || self.broke.elapsed() < RESUMABLE_FOR
    }
}

/// The transfers of one replica, by the replica that receives.
pub(crate) struct Transfers {
    to: Mutex<BTreeMap<u64, Transfer>>,
    running: Gauge,
    sent_bytes: Counter,
    failed: Counter,
    resumed: Counter,
}

impl Transfers {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        Self {
            to: Mutex::default(),
            running: telemetry.gauge("foreword_meta_snapshot_transfers", "Snapshots on their way to other replicas"),
            sent_bytes: telemetry
                .counter("foreword_meta_snapshot_sent_bytes_total", "Bytes of snapshots sent to other replicas"),
            failed: telemetry.counter(
                "foreword_meta_snapshot_transfer_failures_total",
                "Streams of snapshots to other replicas that broke or were refused",
            ),
            resumed: telemetry.counter(
                "foreword_meta_snapshot_transfers_resumed_total",
                "Streams of snapshots that went on where an earlier one had broken",
            ),
        }
    }

    /// Whether a stream runs to a replica: its log gets no further meanwhile.
    pub(crate) fn runs_to(&self, replica_id: u64) -> bool {
        self.to.lock().get(&replica_id).is_some_and(|transfer| transfer.streams > 0)
    }

    /// The last entry of the snapshot that a replica receives, or may go on with.
    pub(crate) fn covers(&self, replica_id: u64) -> Option<u64> {
        self.to.lock().get(&replica_id).filter(|transfer| transfer.is_on()).map(|transfer| transfer.covers)
    }

    /// Whether any replica receives one, or may go on with one.
    pub(crate) fn any(&self) -> bool {
        self.to.lock().values().any(Transfer::is_on)
    }

    fn begin(&self, replica_id: u64, covers: u64) {
        let mut to = self.to.lock();
        let transfer = to.entry(replica_id).or_insert(Transfer { streams: 0, covers, broke: Instant::now() });
        transfer.streams += 1;
        transfer.covers = covers;
        self.running.increment(1.0);
    }

    fn end(&self, replica_id: u64, done: bool) {
        let mut to = self.to.lock();
        self.running.decrement(1.0);
        if !done {
            self.failed.increment(1);
        }
        let Some(transfer) = to.get_mut(&replica_id) else { return };
        transfer.streams = transfer.streams.saturating_sub(1);
        transfer.broke = Instant::now();
        if done && transfer.streams == 0 {
            to.remove(&replica_id);
        }
    }
}

/// A stream that runs until this is dropped.
struct Running<'a> {
    transfers: &'a Transfers,
    replica_id: u64,
    done: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.transfers.end(self.replica_id, self.done);
    }
}

type Sent = Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>>;

/// A fault after which openraft waits before it tries again.
fn lost(error: &(impl std::error::Error + 'static)) -> StreamingError<TypeConfig, Fatal<u64>> {
    StreamingError::Unreachable(Unreachable::new(error))
}

/// Sends a snapshot to a peer, from where an earlier stream of it broke.
pub(super) async fn send_snapshot(
    peers: &Peers,
    peer: &Peer,
    vote: Vote<u64>,
    snapshot: Snapshot<TypeConfig>,
    cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
) -> Sent {
    let transfers = peers.transfers();
    let replica_id = peer.address.replica_id;
    let Snapshot { meta, snapshot: handle } = snapshot;
    transfers.begin(replica_id, meta.last_log_id.map_or(0, |id| id.index));
    let mut running = Running { transfers, replica_id, done: false };
    let sending = async {
        let mut offer = SnapshotOffer { vote, meta, bytes: handle.bytes, offset: 0 };
        offer.offset = resume_at(peers, peer, &offer, &handle).await?;
        stream(peers, peer, offer, &handle).await
    };
    let sent = tokio::select! {
        closed = cancel => Err(StreamingError::Closed(closed)),
        sent = tokio::time::timeout(SNAPSHOT_DEADLINE, sending) => {
            sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("the snapshot took too long"))).map_err(|why| lost(&why))
        }
    };
    let sent = sent.inspect_err(|_| sometimes(Marker::SnapshotTransferFailed))?;
    running.done = true;
    serde_json::from_slice(&sent.body).map_err(|error| StreamingError::Network(NetworkError::new(&error)))
}

/// How much of the file the peer has already.
async fn resume_at(peers: &Peers, peer: &Peer, offer: &SnapshotOffer, handle: &SnapshotHandle) -> Result<u64, Status> {
    let body = to_body(offer).map_err(|error| Status::internal(error.to_string()))?;
    let mut client = peers.raft_client(peer);
    let asked = tokio::time::timeout(ASK_DEADLINE, client.spooled_snapshot(wire::SpooledSnapshotRequest { body }));
    let spooled = asked.await.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner();
    if spooled.bytes == 0 || spooled.bytes > handle.bytes {
        return Ok(0);
    }
    let same = checksum_of(handle, spooled.bytes).await.map_err(|error| unreadable(handle, &error))?;
    if same != spooled.crc {
        return Ok(0);
    }
    sometimes(Marker::SnapshotTransferResumed);
    peers.transfers().resumed.increment(1);
    Ok(spooled.bytes)
}

fn unreadable(handle: &SnapshotHandle, error: &io::Error) -> Status {
    tracing::warn!(%error, name = handle.name, "a snapshot could not be read to be sent");
    Status::unavailable(format!("snapshot {}: {error}", handle.name))
}

/// Of the file's first bytes.
async fn checksum_of(handle: &SnapshotHandle, bytes: u64) -> io::Result<u32> {
    let mut file = handle.files.open(&handle.name).await?;
    let (mut crc, mut offset) = (crc32fast::Hasher::new(), 0);
    while offset < bytes {
        let wanted = (bytes - offset).min(SNAPSHOT_CHUNK_BYTES as u64) as usize;
        let chunk = file.read_at(offset, wanted).await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        crc.update(&chunk);
        offset += chunk.len() as u64;
    }
    Ok(crc.finalize())
}

async fn stream(
    peers: &Peers,
    peer: &Peer,
    offer: SnapshotOffer,
    handle: &SnapshotHandle,
) -> Result<wire::SnapshotResponse, Status> {
    let header = to_body(&offer).map_err(|error| Status::internal(error.to_string()))?;
    // Two frames wait while one is on its way: the file is read no faster than the peer takes it.
    let (frames, stream) = mpsc::channel(2);
    let mut client = peers.raft_client(peer);
    let reading = send_frames(handle, header, offer.offset, frames, &peers.transfers().sent_bytes);
    let calling = client.install_snapshot(ReceiverStream::new(stream));
    tokio::pin!(calling);
    tokio::select! {
        answered = &mut calling => return answered.map(tonic::Response::into_inner),
        read = reading => read.map_err(|error| unreadable(handle, &error))?,
    }
    // All is sent, or nobody takes more of it.
    calling.await.map(tonic::Response::into_inner)
}

async fn send_frames(
    handle: &SnapshotHandle,
    header: Bytes,
    from: u64,
    frames: mpsc::Sender<wire::SnapshotFrame>,
    sent_bytes: &Counter,
) -> io::Result<()> {
    let mut file = handle.files.open(&handle.name).await?;
    let (mut header, mut offset) = (header, from);
    while offset < file.len() || !header.is_empty() {
        let chunk = file.read_at(offset, chunk_bytes(file.len())).await?;
        offset += chunk.len() as u64;
        sent_bytes.increment(chunk.len() as u64);
        let frame = wire::SnapshotFrame { header: std::mem::take(&mut header), chunk };
        if frames.send(frame).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_that_broke_is_on_for_a_while_and_one_that_is_done_is_not() {
        let transfers = Transfers::new(&Telemetry::new());
        assert!(!transfers.any());
        transfers.begin(2, 50);
        assert!(transfers.runs_to(2) && transfers.any() && transfers.covers(3).is_none());
        transfers.end(2, false);
        assert_eq!((transfers.runs_to(2), transfers.covers(2)), (false, Some(50)));
        tokio::time::advance(RESUMABLE_FOR).await;
        assert_eq!((transfers.any(), transfers.covers(2)), (false, None));
        transfers.begin(2, 70);
        transfers.end(2, true);
        assert!(!transfers.any());
    }
}
