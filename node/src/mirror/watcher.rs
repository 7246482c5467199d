//! Keeps the mirrors of an agent up to date from one watch stream of any replica.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::pin::pin;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use foreword_client::watch::{self as stream, WatchStream};
use foreword_client::{Backoff, Group};
use foreword_proto::limits::META_MESSAGE_BYTES_MAX;
use foreword_proto::records::{self, EntryEvents, NamespaceEvent, PageRecord, Record};
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, EntryKey, Epoch, Location, NamespaceId};
use foreword_seams::{Marker, sometimes};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wire::watch_request::Kind as Ask;
use wire::watch_response::Kind;

use super::feed::Feed;
use super::table::Table;
use super::view::{OutOfOrder, View};
use super::{Mirror, let_go};

/// Digests that are added up in one go, each of some thousand pages at most that have one sum a few hundred.
const DIGESTS_AT_ONCE: u32 = 256;

/// What the watcher tells the agent of one namespace.
pub trait WatchEvents: Send + Sync + 'static {
    /// Copies of these pages must go: the pages were deleted or cleared, or may have been.
    fn purged(&self, keys: &[EntryKey]);
    /// Copies of all pages that the mirror does not have must go: some were deleted, and it was not told which.
    fn purge_absent(&self) -> BoxFuture<'_, ()>;
    /// The namespace is in this epoch now: everything of an older one must go.
    fn epoch_began(&self, epoch: Epoch);
    /// A resync is on its way because the stream could not be continued.
    fn resynced(&self);
    /// There is no such namespace any more.
    fn dropped(&self);
}

/// A namespace that is watched.
pub struct Subscription {
    pub namespace: NamespaceId,
    pub shards: usize,
    pub mirror: Arc<Mirror>,
    pub events: Box<dyn WatchEvents>,
}

/// The namespaces that are watched, on one stream.
pub struct Subscriptions {
    all: Mutex<BTreeMap<NamespaceId, Arc<Subscription>>>,
    changed: watch::Sender<()>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self { all: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Subscriptions {
    /// Watches a namespace from now on, until it is dropped.
    pub fn add(&self, subscription: Subscription) {
        self.all.lock().insert(subscription.namespace, Arc::new(subscription));
        self.changed.send_replace(());
    }

    /// Watches a namespace no longer; what it knew is let go of.
    pub fn remove(&self, namespace: NamespaceId) {
        let removed = self.all.lock().remove(&namespace);
        if let Some(subscription) = removed {
            tokio::spawn(let_go(subscription.mirror.write(View::close)));
            self.changed.send_replace(());
        }
    }

    fn list(&self) -> Vec<Arc<Subscription>> {
        self.all.lock().values().cloned().collect()
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Stream(#[from] stream::Ended),
    #[error("the replica tells less than the group has")]
    StandsStill,
    #[error("namespace {namespace}: {why}")]
    OutOfOrder { namespace: NamespaceId, why: OutOfOrder },
    #[error("namespace {namespace}: {why}")]
    BadInput { namespace: NamespaceId, why: BadInput },
}

impl Ended {
    /// As the failure of a replica.
    fn status(&self) -> Status {
        match self {
            Self::Stream(ended) => ended.status(),
            ended => Status::unavailable(ended.to_string()),
        }
    }

    /// The namespace that cannot go on from its revision. After a mere failure the tail goes on where it was.
    fn distrusted(&self) -> Option<NamespaceId> {
        match self {
            Self::Stream(_) | Self::StandsStill => None,
            Self::OutOfOrder { why: OutOfOrder::Behind { .. }, .. } => None,
            Self::OutOfOrder { namespace, .. } | Self::BadInput { namespace, .. } => Some(*namespace),
        }
    }
}

/// Follows the watch stream until stopped; goes to another replica whenever one fails. `node` is who the replicas are
/// told to be watching.
pub async fn follow(
    subscriptions: Arc<Subscriptions>,
    feed: Arc<Feed>,
    meta: Group,
    node: String,
    stop: CancellationToken,
) {
    // What is wrong with a stream is not wrong with calls.
    let meta = meta.apart();
    let mut backoff = Backoff::default();
    let mut changed = subscriptions.changed.subscribe();
    loop {
        changed.borrow_and_update();
        if subscriptions.list().is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = changed.changed() => continue,
            }
        }
        let (messages, ended) = tokio::select! {
            () = stop.cancelled() => return,
            heard = follow_once(&subscriptions, &feed, &meta, &node) => heard,
        };
        for subscription in subscriptions.list() {
            let distrusted = ended.distrusted() == Some(subscription.namespace);
            subscription.mirror.write(|view| view.stream_broke(distrusted));
            if distrusted {
                subscription.events.resynced();
            }
        }
        if messages > 0 {
            backoff = Backoff::default();
        }
        tracing::debug!(%ended, "watch stream ended");
        let pause = backoff.next(meta.entropy());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One stream from one replica: the messages taken, and why it ended.
async fn follow_once(subscriptions: &Subscriptions, feed: &Feed, meta: &Group, node: &str) -> (u64, Ended) {
    let member = meta.member();
    let mut one = OneStream { subscriptions, feed, open: BTreeMap::new(), asks: VecDeque::new(), messages: 0 };
    // A replica that hears nobody is better than none.
    let who = stream::Watcher { node, even_alone: meta.went_round() };
    let ended = match WatchStream::begin(&mut member.connection.clone().replica(), who).await {
        Ok(stream) => one.run(stream).await,
        Err(ended) => ended.into(),
    };
    if one.messages > 0 {
        meta.answered();
    }
    meta.failed(&member, &ended.status());
    (one.messages, ended)
}

/// What a namespace's revision is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing yet.
    Asked,
    /// `deleted`: pages were deleted since the mirror's revision, and nobody may ever say which.
    Resync {
        deleted: bool,
    },
    Tail,
}

struct OneStream<'a> {
    subscriptions: &'a Subscriptions,
    feed: &'a Feed,
    open: BTreeMap<NamespaceId, (Arc<Subscription>, Told)>,
    /// What is to be asked, in order.
    asks: VecDeque<Asking>,
    messages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    Open(NamespaceId),
    Close(NamespaceId),
    Need,
}

impl OneStream<'_> {
    /// Follows the stream until it ends.
    async fn run(&mut self, mut stream: WatchStream) -> Ended {
        let (mut changed, mut needs, asks) = (self.subscriptions.changed.subscribe(), self.feed.needs(), stream.asks());
        changed.mark_changed();
        let mut standstill = pin!(self.feed.stands_still());
        loop {
            tokio::select! {
                message = stream.next() => {
                    let taken = match message {
                        Ok((namespace, kind)) => self.take(namespace, kind).await,
                        Err(ended) => return ended.into(),
                    };
                    if let Err(ended) = taken {
                        return ended;
                    }
                    self.messages += 1;
                }
                Ok(room) = asks.reserve(), if !self.asks.is_empty() => {
                    if let Some(ask) = self.asks.pop_front()
                        && let Some(ask) = self.request(ask).await
                    {
                        room.send(ask);
                    }
                }
                Ok(()) = changed.changed() => self.open_and_close(),
                Ok(()) = needs.changed() => self.ask(Asking::Need),
                () = &mut standstill => {
                    sometimes(Marker::WatcherLeftStandstill);
                    return Ended::StandsStill;
                }
            }
        }
    }

    fn ask(&mut self, ask: Asking) {
        if !self.asks.contains(&ask) {
            self.asks.push_back(ask);
        }
    }

    fn open_and_close(&mut self) {
        let wanted = self.subscriptions.list();
        let is_wanted = |open: &Arc<Subscription>| wanted.iter().any(|wanted| Arc::ptr_eq(wanted, open));
        let closed: Vec<NamespaceId> =
            self.open.values().filter(|(open, _)| !is_wanted(open)).map(|(open, _)| open.namespace).collect();
        for namespace in closed {
            self.open.remove(&namespace);
            self.asks.retain(|ask| *ask != Asking::Open(namespace));
            self.asks.push_back(Asking::Close(namespace));
        }
        for subscription in wanted {
            let namespace = subscription.namespace;
            if let Entry::Vacant(new) = self.open.entry(namespace) {
                new.insert((subscription, Told::Asked));
                self.ask(Asking::Open(namespace));
            }
        }
    }

    /// None: there is nothing to ask any more.
    async fn request(&self, ask: Asking) -> Option<Ask> {
        match ask {
            Asking::Need => {
                let revision = *self.feed.needs().borrow();
                (revision > self.feed.told()).then_some(Ask::Need(wire::WatchNeed { revision }))
            }
            Asking::Close(namespace) => Some(Ask::Close(wire::WatchClose { namespace_id: namespace })),
            Asking::Open(namespace) => {
                let (subscription, _) = self.open.get(&namespace)?;
                Some(Ask::Open(open_request(namespace, &subscription.mirror).await?))
            }
        }
    }

    /// What every mirror has was told: one message tells of one namespace only.
    fn tell_of_all(&self) {
        let tailing = self.open.values().filter(|(_, told)| *told == Told::Tail);
        if let Some(revision) = tailing.map(|(subscription, _)| subscription.mirror.read(View::revision)).min() {
            self.feed.tells(revision);
        }
    }

    async fn take(&mut self, namespace: NamespaceId, kind: Kind) -> Result<(), Ended> {
        if let Kind::Progress(progress) = kind {
            self.feed.tells(progress.revision);
            for (subscription, told) in self.open.values() {
                if *told == Told::Tail {
                    subscription.mirror.write(|view| view.progress(progress.revision));
                }
            }
            return Ok(());
        }
        if matches!(kind, Kind::Begin(_) | Kind::Bucket(_) | Kind::End(_)) {
            self.feed.fills();
        }
        let Some((subscription, told)) = self.open.get_mut(&namespace) else { return Ok(()) };
        let subscription = subscription.clone();
        match kind {
            Kind::Resync(resync) => {
                tracing::debug!(namespace, resync.reason, "a mirror is resynced");
                *told = Told::Asked;
                subscription.mirror.write(|view| view.stream_broke(true));
                subscription.events.resynced();
                self.ask(Asking::Open(namespace));
                Ok(())
            }
            Kind::Dropped(_) => {
                self.open.remove(&namespace);
                self.subscriptions.remove(namespace);
                subscription.events.dropped();
                Ok(())
            }
            kind => {
                let taken = subscription.take(kind, told).await;
                taken.map_err(|broken| match broken {
                    Broken::OutOfOrder(why) => Ended::OutOfOrder { namespace, why },
                    Broken::BadInput(why) => Ended::BadInput { namespace, why },
                })?;
                if self.feed.is_behind() {
                    self.tell_of_all();
                }
                Ok(())
            }
        }
    }
}

/// Where the mirror goes on, or what it has; None for one that was closed meanwhile. Until a resync begins, nothing
/// else changes the table of a mirror that needs one.
async fn open_request(namespace_id: NamespaceId, mirror: &Mirror) -> Option<wire::WatchOpen> {
    let (open, resume_from, revision, bucket_bits) = mirror.read(|view| {
        let open = wire::WatchOpen { namespace_id, epoch: view.epoch(), ..wire::WatchOpen::default() };
        (open, view.resume_from(), view.revision(), view.digest_bits())
    });
    if resume_from > 0 {
        return Some(wire::WatchOpen { from_revision: resume_from, ..open });
    }
    let mut digests = BytesMut::with_capacity(8 << bucket_bits);
    for from in (0..1 << bucket_bits).step_by(DIGESTS_AT_ONCE as usize) {
        let is_same = mirror.read(|view| {
            let some = from..(from + DIGESTS_AT_ONCE).min(1 << bucket_bits);
            let is_same = view.digest_bits() == bucket_bits;
            if is_same {
                view.digests(some).for_each(|digest| digests.put_u64_le(digest));
            }
            is_same
        });
        if !is_same {
            return None;
        }
        tokio::task::yield_now().await;
    }
    // Whatever answers must not be older than the mirror.
    Some(wire::WatchOpen { from_revision: revision, resync: true, bucket_bits, digests: digests.freeze(), ..open })
}

/// Why a message of one namespace cannot be taken.
enum Broken {
    OutOfOrder(OutOfOrder),
    BadInput(BadInput),
}

impl From<OutOfOrder> for Broken {
    fn from(why: OutOfOrder) -> Self {
        Self::OutOfOrder(why)
    }
}

impl From<BadInput> for Broken {
    fn from(why: BadInput) -> Self {
        Self::BadInput(why)
    }
}

impl Subscription {
    async fn take(&self, kind: Kind, told: &mut Told) -> Result<(), Broken> {
        match kind {
            Kind::Begin(begin) => {
                let (before, known) = self.mirror.read(|view| (view.epoch(), view.revision()));
                let old = self.mirror.write(|view| view.begin_resync(begin.epoch, begin.revision, begin.entries))?;
                *told = Told::Resync { deleted: begin.deleted_at > known };
                self.free(old);
                if begin.epoch != before {
                    self.events.epoch_began(begin.epoch);
                }
            }
            Kind::Bucket(bucket) => {
                let records_max = META_MESSAGE_BYTES_MAX / PageRecord::bytes(self.shards);
                let pages = records::decode::<PageRecord>("entries", &bucket.entries, self.shards, records_max)?;
                check_bucket(&bucket)?;
                let pages: Vec<(EntryKey, Location)> =
                    pages.into_iter().map(|page| (page.key, page.location)).collect();
                let changed = self.mirror.write(|view| view.resync_bucket(bucket.bits, bucket.bucket, &pages))?;
                self.purged(&changed);
            }
            Kind::End(end) => {
                if self.mirror.read(View::synced) {
                    sometimes(Marker::WatcherResynced);
                }
                // Before the revision rises: nobody finds a copy at it that should be gone.
                if *told != (Told::Resync { deleted: false }) {
                    self.events.purge_absent().await;
                }
                self.mirror.write(|view| view.end_resync(end.revision))?;
                *told = Told::Tail;
            }
            Kind::Events(message) => {
                let entries = decode_events(&message, self.shards)?;
                let purged = self.mirror.write(|view| view.apply(message.revision, &entries))?;
                if *told == Told::Asked {
                    *told = Told::Tail;
                }
                self.purged(&purged);
            }
            Kind::Resync(_) | Kind::Dropped(_) | Kind::Progress(_) => unreachable!("taken by the stream"),
        }
        Ok(())
    }

    fn purged(&self, keys: &[EntryKey]) {
        if !keys.is_empty() {
            self.events.purged(keys);
        }
    }

    fn free(&self, table: Option<Table>) {
        if let Some(table) = table {
            tokio::spawn(let_go(table));
        }
    }
}

fn check_bucket(bucket: &wire::ResyncBucket) -> Result<(), BadInput> {
    use foreword_proto::buckets::BUCKET_BITS_MAX;
    if bucket.bits > BUCKET_BITS_MAX || bucket.bucket >> bucket.bits != 0 {
        let expected =
            format!("one of 2^bits, bits at most {BUCKET_BITS_MAX}, got {} of {}", bucket.bucket, bucket.bits);
        return Err(BadInput::new("bucket", expected));
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
