//! A snapshot that another replica sends: checked, written and restored while it comes, and kept when the stream
//! breaks.
//!
//! There is one at a time. What has come of it is a file that nobody sees before it is whole, and a state that is built
//! up beside the live one; both are fed aside from the runtime's workers. A stream of another snapshot takes its place,
//! and so does a newer stream of the same one, whose sender may not have noticed yet that the older is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foreword_proto::ClusterId;
use foreword_seams::{Files, Runner};
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Mutex as TurnMutex, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::RECEIVED;
use super::load::{LoadError, Restoring};
use crate::consensus::types::{SnapshotHandle, SnapshotMeta};
use crate::network::SnapshotOffer;
use crate::replica::halt::Halt;
use crate::state::State;
use crate::storage::SnapshotReceiver;

/// What has come of a snapshot is kept for so long without a stream.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// After a fault of its own (a full disk), a replica takes no snapshot for so long: each try would cost the sender a
/// transfer.
const PAUSE: Duration = Duration::from_secs(5);
/// Chunks on their way to the file.
const CHUNKS_WAITING: usize = 2;

/// Of a file, its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Spooled {
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

/// A snapshot of which something has come.
struct Spool {
    /// Of the file once it is sealed.
    name: String,
    meta: SnapshotMeta,
    file_bytes: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
    chunks: mpsc::Sender<Bytes>,
    whole: oneshot::Receiver<Result<(SnapshotMeta, State), LoadError>>,
    last: Instant,
}

impl Spool {
    fn is_of(&self, offer: &SnapshotOffer) -> bool {
        self.meta == offer.meta && self.file_bytes == offer.bytes
    }

    /// Takes the next bytes. False: they cannot be taken, and `whole` says why.
    async fn take(&mut self, chunk: Bytes) -> bool {
        let (bytes, mut crc) = (self.bytes + chunk.len() as u64, self.crc.clone());
        crc.update(&chunk);
        let taken = self.chunks.send(chunk).await.is_ok();
        if taken {
            (self.bytes, self.crc, self.last) = (bytes, crc, Instant::now());
        }
        taken
    }
}

/// Receives snapshots, one at a time.
pub struct Receiving {
    files: Arc<dyn Files>,
    cluster_id: ClusterId,
    aside: Runner,
    halt: Arc<Halt>,
    /// Whoever holds it has the turn.
    spool: TurnMutex<Option<Spool>>,
    /// Ends the stream whose turn it is.
    turn: Mutex<CancellationToken>,
    not_before: Mutex<Option<Instant>>,
    /// Spools so far: each has a name of its own, since one may wait to be installed while the next comes.
    spools: AtomicU64,
}

impl Receiving {
    /// Into `files`; whole bytes of another version go to `halt`.
    pub(crate) fn new(files: Arc<dyn Files>, cluster_id: ClusterId, aside: Runner, halt: Arc<Halt>) -> Self {
        let (spool, turn, not_before) = (TurnMutex::default(), Mutex::default(), Mutex::default());
        Self { files, cluster_id, aside, halt, spool, turn, not_before, spools: AtomicU64::new(0) }
    }

    /// What is here of the snapshot that is offered, once the stream that runs has ended.
    pub(crate) async fn spooled(&self, offer: &SnapshotOffer) -> Spooled {
        let spool = self.take_turn().await.0;
        let of_this = spool.as_ref().filter(|spool| spool.is_of(offer));
        of_this.map_or_else(Spooled::default, |spool| Spooled { bytes: spool.bytes, crc: spool.crc.clone().finalize() })
    }

    async fn take_turn(&self) -> (tokio::sync::MutexGuard<'_, Option<Spool>>, CancellationToken) {
        let turn = CancellationToken::new();
        std::mem::replace(&mut *self.turn.lock(), turn.clone()).cancel();
        (self.spool.lock().await, turn)
    }

    /// Takes the chunks of a stream that begins at `offer.offset`. Returns the whole snapshot.
    ///
    /// Errors: FAILED_PRECONDITION when it does not begin where what is here ends; DATA_LOSS for what is no snapshot of
    /// this cluster, or could not be written here, and UNAVAILABLE for a while after that; ABORTED when another stream
    /// has come. What came of a stream that broke stays.
    pub(crate) async fn receive(
        &self,
        offer: &SnapshotOffer,
        chunks: impl Stream<Item = Result<Bytes, Status>>,
    ) -> Result<SnapshotHandle, Status> {
        if self.not_before.lock().is_some_and(|at| Instant::now() < at) {
            return Err(Status::unavailable("snapshot: the last one could not be written here a moment ago"));
        }
        let (mut kept, turn) = self.take_turn().await;
        let mut spool = match kept.take().filter(|spool| offer.offset > 0 && spool.is_of(offer)) {
            Some(spool) => spool,
            None => self.begin(offer)?,
        };
        if spool.bytes != offer.offset {
            let message = format!("offset: expected {}, which has come, got {}", spool.bytes, offer.offset);
            *kept = Some(spool);
            return Err(Status::failed_precondition(message));
        }
        tokio::pin!(chunks);
        loop {
            let next = tokio::select! {
                next = chunks.next() => next,
                () = turn.cancelled() => Some(Err(Status::aborted("snapshot: another stream has come"))),
            };
            match next {
                None => break,
                // One that cannot be taken ends it: why is said below.
                Some(Ok(chunk)) => {
                    if !spool.take(chunk).await {
                        break;
                    }
                }
                Some(Err(broken)) => {
                    *kept = Some(spool);
                    return Err(broken);
                }
            }
        }
        self.finish(spool, offer).await
    }

    /// A new spool in the place of any other.
    fn begin(&self, offer: &SnapshotOffer) -> Result<Spool, Status> {
        let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING);
        let (told, whole) = oneshot::channel();
        let name = format!("{RECEIVED}{}", self.spools.fetch_add(1, Ordering::Relaxed));
        let (files, cluster_id, to) = (self.files.clone(), self.cluster_id, name.clone());
        let spooling = async move { _ = told.send(spool(&*files, &to, cluster_id, waiting).await) };
        (self.aside)(Box::pin(spooling))
            .map_err(|error| Status::unavailable(format!("snapshot: no thread to receive it on: {error}")))?;
        Ok(Spool {
            name,
            meta: offer.meta.clone(),
            file_bytes: offer.bytes,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
            chunks,
            whole,
            last: Instant::now(),
        })
    }

    async fn finish(&self, spool: Spool, offer: &SnapshotOffer) -> Result<SnapshotHandle, Status> {
        let Spool { name, chunks, whole, bytes, .. } = spool;
        drop(chunks);
        let whole =
            whole.await.unwrap_or_else(|_| Err(LoadError::Unusable("receiving it ended without an answer".into())));
        let (meta, state) = whole.map_err(|error| {
            *self.not_before.lock() = Some(Instant::now() + PAUSE);
            if let LoadError::OtherVersion(other) = &error {
                self.halt.stop(other.clone());
            }
            tracing::warn!(%error, "a snapshot was not received");
            Status::data_loss(format!("snapshot: {error}"))
        })?;
        if meta != offer.meta {
            return Err(Status::data_loss(format!("snapshot: the file is {meta}, its offer said {}", offer.meta)));
        }
        let handle = SnapshotHandle::sealed(name, bytes, self.files.clone());
        Ok(SnapshotHandle { state: Some(Box::new(state)), ..handle })
    }

    /// Removes the file of a snapshot that was offered to openraft; one that was installed has another name by now.
    pub(crate) async fn remove(&self, name: &str) {
        if let Err(error) = self.files.remove(name).await {
            tracing::warn!(%error, name, "a snapshot that was not installed could not be removed");
        }
    }

    /// Lets go of what nobody went on with.
    pub(crate) fn forget_old(&self) {
        if let Ok(mut kept) = self.spool.try_lock() {
            kept.take_if(|spool| spool.last.elapsed() >= KEPT_FOR);
        }
    }
}

/// Writes and restores a snapshot from its chunks. When they end before it is whole, nothing of it stays.
async fn spool(
    files: &dyn Files,
    name: &str,
    cluster_id: ClusterId,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<(SnapshotMeta, State), LoadError> {
    let mut receiver = SnapshotReceiver::create(files, name, cluster_id).await?;
    let mut restoring = Restoring::new(name);
    while let Some(chunk) = chunks.recv().await {
        for frame in receiver.chunk(chunk).await? {
            restoring.push(frame)?;
        }
    }
    let meta = receiver.finish().await?;
    Ok((meta, restoring.finish()?))
}
