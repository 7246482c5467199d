//! A resync: what a mirror lacks, bucket by bucket.
//!
//! Nothing is frozen for it. Each bucket is read off the applied state as it stands when its turn comes, and the events
//! of all entries since the resync began go out beside. The mirror applies them in order to what it has: a bucket that
//! was read later than an event already has its effect, and the last event of each page decides. So the mirror is whole
//! once it has every bucket that differed, and every event up to the revision at which the last one was read; what a
//! slow watcher holds up is nobody else's, and a tail that is longer than what the hub keeps is no harm, because it is
//! told meanwhile.

use bytes::{Buf, Bytes, BytesMut};
use foreword_proto::buckets::{BUCKET_BITS_MAX, bits_for, folded};
use foreword_proto::limits::{META_MESSAGE_BYTES_MAX, SHARDS_MAX, WATCH_BUCKET_PAGES, WATCH_DIGEST_BITS_MAX};
use foreword_proto::records::Record;
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, Epoch, NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use metrics::Counter;
use tokio::sync::OwnedSemaphorePermit;

use super::measures::{Counted, Measures};
use crate::state::{NamespaceInfo, State};

/// Pages of one bucket, above which it is sent in halves: the namespace has grown since the resync began. Who applies
/// entries waits while they are read: a millisecond at most.
const BUCKET_PAGES_MAX: usize = 4 * WATCH_BUCKET_PAGES as usize;
/// Digests of the state's buckets that are read at a time, to be compared: some tenths of a millisecond.
const DIGESTS_AT_ONCE: u32 = 4096;

const _: () = assert!(BUCKET_PAGES_MAX * (48 + 8 * SHARDS_MAX) + (64 << 10) <= META_MESSAGE_BYTES_MAX);

/// What a mirror said it has.
#[derive(Debug)]
pub(super) struct Mirrored {
    epoch: Epoch,
    /// Of its 2^n buckets; none: it has nothing worth comparing.
    digests: Vec<u64>,
}

impl Mirrored {
    /// Errors name `bucket_bits` and `digests`.
    pub(super) fn parse(open: &wire::WatchOpen) -> Result<Self, BadInput> {
        let bits = open.bucket_bits;
        if bits > WATCH_DIGEST_BITS_MAX {
            return Err(BadInput::new("bucket_bits", format!("at most {WATCH_DIGEST_BITS_MAX}, got {bits}")));
        }
        let (mut bytes, expected) = (open.digests.clone(), 8usize << bits);
        if !bytes.is_empty() && bytes.len() != expected {
            let expected = format!("none, or {expected} bytes for {bits} bits, got {}", bytes.len());
            return Err(BadInput::new("digests", expected));
        }
        let digests = (0..bytes.len() / 8).map(|_| bytes.get_u64_le()).collect();
        Ok(Self { epoch: open.epoch, digests })
    }

    fn bits(&self) -> Option<u32> {
        (!self.digests.is_empty()).then(|| self.digests.len().trailing_zeros())
    }
}

/// One bucket, where there are 2^bits of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    bits: u32,
    bucket: u32,
}

/// What is left to compare: of 2^`bits` buckets those from `next` on.
#[derive(Debug)]
struct Comparing {
    theirs: Vec<u64>,
    bits: u32,
    next: u32,
}

/// A resync under way.
pub(super) struct Resync {
    namespace: NamespaceId,
    epoch: Epoch,
    comparing: Option<Comparing>,
    /// Bits of the buckets that are sent, at least.
    bits: u32,
    /// Last first.
    todo: Vec<Bucket>,
    /// Of no later revision anything is in the buckets that were read.
    read_at: Revision,
    equal: Counter,
    _running: Counted,
    /// Others wait for it.
    _turn: OwnedSemaphorePermit,
}

/// What the next step of a resync is.
#[derive(Debug)]
pub(super) enum Step {
    Bucket(wire::ResyncBucket),
    /// Some digests were compared, or a bucket was divided: nothing to send.
    More,
    /// All buckets were sent; it ends with the tail's next revision from this one on.
    EndAt(Revision),
    /// The namespace was cleared or dropped meanwhile, which the tail is about to say.
    Over,
}

impl Resync {
    /// Begins with what the mirror has. None: the namespace is not registered any more.
    pub(super) fn begin(
        state: &State,
        namespace: NamespaceId,
        mirrored: &Mirrored,
        measures: &Measures,
        turn: OwnedSemaphorePermit,
    ) -> Option<(wire::ResyncBegin, Self)> {
        let info = state.namespace(namespace)?;
        let (epoch, entries, revision, deleted_at) = (info.epoch, info.pages(), state.revision(), info.deleted_at);
        let bits = bits_for(entries, WATCH_BUCKET_PAGES);
        let comparable = mirrored.bits().filter(|_| mirrored.epoch == epoch);
        let comparing = comparable.map(|theirs| {
            let bits = info.whole_bits().min(theirs);
            Comparing { theirs: folded(&mirrored.digests, bits), bits, next: 0 }
        });
        let todo = if comparing.is_none() { buckets(bits).rev().collect() } else { Vec::new() };
        measures.resyncs.increment(1);
        let resync = Self {
            namespace,
            epoch,
            comparing,
            bits,
            todo,
            read_at: revision,
            equal: measures.buckets_equal.clone(),
            _running: Counted::one(&measures.resyncs_running),
            _turn: turn,
        };
        Some((wire::ResyncBegin { revision, epoch, entries, deleted_at }, resync))
    }

    /// One slice of work on the state: some digests, or the pages of one bucket. Of no revision above `shows` anything
    /// may show in it.
    pub(super) fn step(&mut self, state: &State, shows: Revision) -> Step {
        let Some(info) = state.namespace(self.namespace).filter(|info| info.epoch == self.epoch) else {
            return Step::Over;
        };
        let Some(Bucket { bits, bucket }) = self.todo.pop() else {
            return if self.compare(info) { Step::More } else { Step::EndAt(self.read_at) };
        };
        self.read_at = shows;
        if let Some(entries) = read(state, self.namespace, Bucket { bits, bucket }) {
            return Step::Bucket(wire::ResyncBucket { entries, bits, bucket });
        }
        let halves = [bucket, bucket | 1 << bits].map(|bucket| Bucket { bits: bits + 1, bucket });
        self.todo.extend(halves.into_iter().rev());
        Step::More
    }

    /// Compares the next few buckets with the mirror's, and notes those that differ, divided as finely as they are
    /// sent. One that is equal now differs later by events that the mirror is told of beside. False: there are none
    /// left.
    fn compare(&mut self, info: &NamespaceInfo) -> bool {
        let Some(Comparing { theirs, bits, next }) = &mut self.comparing else { return false };
        let at_once = (DIGESTS_AT_ONCE >> (info.whole_bits() - *bits)).max(1);
        let (some, finer) = (*next..(*next + at_once).min(1 << *bits), self.bits.saturating_sub(*bits));
        let (bits, compared) = (*bits, some.len());
        *next = some.end;
        let last = some.end == 1 << bits;
        let differing: Vec<u32> =
            some.rev().filter(|bucket| info.bucket_digest(bits, *bucket) != theirs[*bucket as usize]).collect();
        let equal = (compared - differing.len()) as u64;
        if equal > 0 && info.pages() > 0 {
            sometimes(Marker::ResyncByDigests);
        }
        self.equal.increment(equal);
        let parts =
            differing.into_iter().flat_map(|bucket| (0..1 << finer).rev().map(move |part| bucket | part << bits));
        self.todo.extend(parts.map(|bucket| Bucket { bits: bits + finer, bucket }));
        if last {
            self.comparing = None;
        }
        true
    }
}

fn buckets(bits: u32) -> impl DoubleEndedIterator<Item = Bucket> {
    (0..1 << bits).map(move |bucket| Bucket { bits, bucket })
}

/// The records of a bucket's pages. None: they are too many at once, and it can be divided.
fn read(state: &State, namespace: NamespaceId, Bucket { bits, bucket }: Bucket) -> Option<Bytes> {
    let mut out = BytesMut::new();
    for (number, page) in state.pages_in_bucket(namespace, bits, bucket).enumerate() {
        if number == BUCKET_PAGES_MAX && bits < BUCKET_BITS_MAX {
            return None;
        }
        page.put(&mut out);
    }
    Some(out.freeze())
}
