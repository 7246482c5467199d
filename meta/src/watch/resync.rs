//! A resync: what a mirror lacks, bucket by bucket.
//!
//! Nothing is frozen for it. Each bucket is read off the applied state as it stands when its turn comes, and the events of all entries
//! since the resync began go out beside. The mirror applies them in order to what it has: a bucket that was read later than an event
//! already has its effect, and the last event of each page decides. So the mirror is whole once it has every bucket that differed, and
//! every event up to the revision at which the last one was read; what a slow watcher holds up is nobody else's, and a tail that is
//! longer than what the hub keeps is no harm, because it is told meanwhile.

use bytes::{Buf, Bytes, BytesMut};
use foreword_proto::buckets::{BUCKET_BITS_MAX, bits_for, folded};
use foreword_proto::limits::{META_MESSAGE_BYTES_MAX, WATCH_BUCKET_PAGES, WATCH_DIGEST_BITS_MAX};
use foreword_proto::records::Record;
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, Epoch, NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use tokio::sync::OwnedSemaphorePermit;

use super::measures::{Counted, Measures};
use crate::state::State;

/// Bytes of one bucket's pages, above which it is sent in halves: the namespace has grown since the resync began.
const BUCKET_BYTES_MAX: usize = META_MESSAGE_BYTES_MAX / 4;

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

/// A resync under way.
pub(super) struct Resync {
    namespace: NamespaceId,
    epoch: Epoch,
    /// Last first.
    todo: Vec<Bucket>,
    /// At which the last bucket was read.
    read_at: Revision,
    _running: Counted,
    /// Others wait for it.
    _turn: OwnedSemaphorePermit,
}

/// What the next step of a resync is.
#[derive(Debug)]
pub(super) enum Step {
    Bucket(wire::ResyncBucket),
    /// All buckets were sent; it ends with the tail's next revision from this one on.
    EndAt(Revision),
    /// The namespace was cleared or dropped meanwhile, which the tail is about to say.
    Over,
}

impl Resync {
    /// Compares the mirror with the state. None: the namespace is not registered any more.
    pub(super) fn begin(
        state: &State,
        namespace: NamespaceId,
        mirrored: &Mirrored,
        measures: &Measures,
        turn: OwnedSemaphorePermit,
    ) -> Option<(wire::ResyncBegin, Self)> {
        let info = state.namespace(namespace)?;
        let (epoch, entries, revision) = (info.epoch, info.pages(), state.revision());
        let (differing, equal) = match mirrored.bits() {
            Some(bits) if mirrored.epoch == epoch => {
                let (bits, ours) = state.bucket_digests(namespace, bits);
                let theirs = folded(&mirrored.digests, bits);
                let differs = |bucket: &u32| ours[*bucket as usize] != theirs[*bucket as usize];
                let differing: Vec<Bucket> = buckets(bits).filter(|bucket| differs(&bucket.bucket)).collect();
                let equal = ours.len() - differing.len();
                (differing, equal as u64)
            }
            _ => (buckets(bits_for(entries, WATCH_BUCKET_PAGES)).collect(), 0),
        };
        measures.resyncs.increment(1);
        measures.buckets_equal.increment(equal);
        if equal > 0 && entries > 0 {
            sometimes(Marker::ResyncByDigests);
        }
        let resync = Self {
            namespace,
            epoch,
            todo: differing.into_iter().rev().collect(),
            read_at: revision,
            _running: Counted::one(&measures.resyncs_running),
            _turn: turn,
        };
        Some((wire::ResyncBegin { revision, epoch, entries }, resync))
    }

    /// Reads the next bucket off the state: a slice of work of at most [`BUCKET_BYTES_MAX`].
    pub(super) fn step(&mut self, state: &State) -> Step {
        if state.namespace(self.namespace).is_none_or(|info| info.epoch != self.epoch) {
            self.todo.clear();
            return Step::Over;
        }
        while let Some(Bucket { bits, bucket }) = self.todo.pop() {
            self.read_at = state.revision();
            if let Some(entries) = read(state, self.namespace, Bucket { bits, bucket }) {
                return Step::Bucket(wire::ResyncBucket { entries, bits, bucket });
            }
            let halves = [bucket, bucket | 1 << bits].map(|bucket| Bucket { bits: bits + 1, bucket });
            self.todo.extend(halves.into_iter().rev());
        }
        Step::EndAt(self.read_at)
    }
}

fn buckets(bits: u32) -> impl Iterator<Item = Bucket> {
    (0..1 << bits).map(move |bucket| Bucket { bits, bucket })
}

/// The records of a bucket's pages. None: they are too many for one message, and it can be divided.
fn read(state: &State, namespace: NamespaceId, Bucket { bits, bucket }: Bucket) -> Option<Bytes> {
    let mut out = BytesMut::new();
    for page in state.pages_in_bucket(namespace, bits, bucket) {
        page.put(&mut out);
        if out.len() > BUCKET_BYTES_MAX && bits < BUCKET_BITS_MAX {
            return None;
        }
    }
    Some(out.freeze())
}
