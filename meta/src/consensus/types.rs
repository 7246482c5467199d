//! The types openraft works with here.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_proto::DirectoryId;
use foreword_seams::Files;
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state::State;
use crate::state::command::Outcome;

openraft::declare_raft_types!(
    /// One replica's view of the metadata group.
    pub TypeConfig:
        D = EntryBatch,
        R = EntryOutcome,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotHandle,
        AsyncRuntime = EntropyRuntime,
);

/// A log entry of the metadata group.
pub type Entry = openraft::Entry<TypeConfig>;
/// Position of a log entry.
pub type LogId = openraft::LogId<u64>;
/// Who a replica has voted for, or follows.
pub type Vote = openraft::Vote<u64>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
/// A membership and the entry that set it.
pub type StoredMembership = openraft::StoredMembership<u64, Member>;
/// What openraft wants to hear about a failing disk.
pub type StorageError = openraft::StorageError<u64>;

/// A voter or learner of the group, as memberships in the log and in snapshots hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The gRPC endpoint at which the other replicas reach it.
    pub peer: String,
    /// The gRPC endpoint at which agents reach it.
    pub client: String,
    /// Its data directory: the only one that its id ever belongs to.
    pub directory: DirectoryId,
}

/// No member; openraft wants one to start from.
impl Default for Member {
    fn default() -> Self {
        Self { peer: String::new(), client: String::new(), directory: DirectoryId([0; 16]) }
    }
}

/// A batch of commands as `state::codec` encodes them: the payload of one log entry.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EntryBatch(pub Bytes);

impl fmt::Debug for EntryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryBatch({} bytes)", self.0.len())
    }
}

impl fmt::Display for EntryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for EntryBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BatchVisitor)
    }
}

struct BatchVisitor;

impl<'de> serde::de::Visitor<'de> for BatchVisitor {
    type Value = EntryBatch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<EntryBatch, E> {
        Ok(EntryBatch(Bytes::copy_from_slice(bytes)))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<EntryBatch, E> {
        Ok(EntryBatch(bytes.into()))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut bytes: A) -> Result<EntryBatch, A::Error> {
        let mut batch = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            batch.push(byte);
        }
        Ok(EntryBatch(batch.into()))
    }
}

/// What became of the commands of one entry, in order; empty for entries without commands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryOutcome(pub Vec<Outcome>);

const OUTCOMES_STAY: &str = "outcomes travel by state::codec only, never by serde";

/// openraft asks for serde and never uses it: outcomes leave their replica through the wire's own codec.
impl Serialize for EntryOutcome {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(OUTCOMES_STAY))
    }
}

impl<'de> Deserialize<'de> for EntryOutcome {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(OUTCOMES_STAY))
    }
}

/// A sealed snapshot file.
pub struct SnapshotHandle {
    /// Its name in `files`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    pub files: Arc<dyn Files>,
    /// Of one that was received: what is in it, restored while it came.
    pub state: Option<Box<State>>,
}

impl SnapshotHandle {
    /// One to be read from its file.
    pub fn sealed(name: String, bytes: u64, files: Arc<dyn Files>) -> Self {
        Self { name, bytes, files, state: None }
    }
}

impl fmt::Debug for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotHandle({:?}, {} bytes)", self.name, self.bytes)
    }
}

thread_local! {
    static THREAD_RNG: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Makes everything openraft draws on this thread follow from `seed`. A thread that never calls it draws its seed from
/// the operating system.
pub fn seed_thread(seed: u64) {
    THREAD_RNG.with(|rng| *rng.borrow_mut() = Some(StdRng::seed_from_u64(seed)));
}

/// The random numbers of the current thread; see [`seed_thread`].
#[derive(Debug, Default, Clone, Copy)]
pub struct ThreadRng;

impl ThreadRng {
    fn with<T>(draw: impl FnOnce(&mut StdRng) -> T) -> T {
        THREAD_RNG.with(|rng| draw(rng.borrow_mut().get_or_insert_with(StdRng::from_entropy)))
    }
}

impl RngCore for ThreadRng {
    fn next_u32(&mut self) -> u32 {
        Self::with(StdRng::next_u32)
    }

    fn next_u64(&mut self) -> u64 {
        Self::with(StdRng::next_u64)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        Self::with(|rng| rng.fill_bytes(dest));
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand::Error> {
        Self::with(|rng| rng.try_fill_bytes(dest))
    }
}

/// openraft gives up no call before this. It would give an append one heartbeat's time, though the peer flushes before
/// it answers; each kind of call has a deadline of its own in `network::client`, below this.
pub const CALL_TIMEOUT_MIN: Duration = Duration::from_secs(4);

/// tokio, but with randomness that can be seeded, so that elections replay in the simulator, and with
/// [`CALL_TIMEOUT_MIN`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EntropyRuntime;

impl AsyncRuntime for EntropyRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ThreadRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration.max(CALL_TIMEOUT_MIN), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> ThreadRng {
        ThreadRng
    }

    fn oneshot<T>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>)
    where
        T: OptionalSend,
    {
        TokioRuntime::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_repeats_itself() {
        let draw = || [ThreadRng.next_u64(), ThreadRng.next_u64()];
        seed_thread(7);
        let first = draw();
        assert_ne!(first, draw());
        seed_thread(7);
        assert_eq!(first, draw());
        let fresh = || std::thread::spawn(|| ThreadRng.next_u64()).join().unwrap();
        assert_ne!(fresh(), fresh());
    }

    #[test]
    fn a_batch_survives_json() {
        let batch = EntryBatch(Bytes::from_static(b"\x00\xff commands"));
        let text = serde_json::to_string(&batch).unwrap();
        assert_eq!(serde_json::from_str::<EntryBatch>(&text).unwrap(), batch);
        assert_eq!(format!("{batch}"), "EntryBatch(11 bytes)");
    }
}
