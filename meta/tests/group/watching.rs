//! Watch: resync, tail, many namespaces on one stream, resume elsewhere, and what a slow or lost watcher is told.

use std::collections::BTreeMap;

use foreword_proto::buckets::{bits_for, bucket_of, hash_of_page};
use foreword_proto::limits::{WATCH_BUCKET_PAGES, WATCH_FRAMES_WAITING_MAX, WATCH_RESYNCS_MAX};
use foreword_proto::records::{self, NamespaceEvent, PageRecord, Record};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_request::Kind as Ask;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{EntryKey, Location, Namespace, RetireReason, bad_input};
use foreword_seams::rpc::held_open;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::cluster::{Agent, Cluster, PATIENCE, entry, key};

/// One stream that watches one namespace.
pub(crate) struct Watch(Streaming<wire::WatchResponse>);

impl Watch {
    pub(crate) async fn open(cluster: &Cluster, replica: u64, namespace: u32, from_revision: u64, epoch: u32) -> Self {
        let open = wire::WatchOpen { namespace_id: namespace, from_revision, epoch, ..wire::WatchOpen::default() };
        Self::opened(cluster.channel(replica), open).await
    }

    /// From nothing, even at a replica that is alone.
    pub(crate) async fn open_even_alone(cluster: &Cluster, replica: u64, namespace: u32) -> Self {
        let open = wire::WatchOpen { namespace_id: namespace, ..wire::WatchOpen::default() };
        Self::begun(cluster.channel(replica), open, true).await
    }

    async fn opened(channel: Channel, open: wire::WatchOpen) -> Self {
        Self::begun(channel, open, false).await
    }

    async fn begun(channel: Channel, open: wire::WatchOpen, even_alone: bool) -> Self {
        let first = wire::WatchRequest { kind: Some(Ask::Open(open)), node: "test".into(), even_alone };
        let requests = held_open(vec![first], wire::WatchRequest::default());
        Self(MetaClient::new(channel).watch(requests).await.unwrap().into_inner())
    }

    /// What it says next of its namespace, or of all.
    pub(crate) async fn next(&mut self) -> Result<Kind, Status> {
        let message = tokio::time::timeout(PATIENCE, self.0.message()).await.expect("it says something");
        Ok(message?.expect("the stream goes on").kind.expect("a kind that is known"))
    }
}

type MetaClient = wire::meta_client::MetaClient<Channel>;

/// A channel on which little is under way that was not read: an agent that is busy.
async fn narrow(cluster: &Cluster, replica: u64) -> Channel {
    const WINDOW_BYTES: u32 = 64 << 10;
    let target = format!("http://{}", cluster.sites[&replica].endpoint);
    let target = tonic::transport::Endpoint::from_shared(target).unwrap();
    let target = target.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    target.connect().await.unwrap()
}

/// A mirror of one namespace, as a watcher would keep it.
struct Mirror {
    stream: Watch,
    namespace: u32,
    entries: BTreeMap<EntryKey, Location>,
    revision: u64,
    epoch: u32,
    resyncs: u32,
    resyncing: bool,
    /// Progress is this namespace's, too: something was told of it on this stream.
    told: bool,
    buckets: u32,
    retired: Vec<(EntryKey, RetireReason)>,
}

impl Mirror {
    async fn open(cluster: &Cluster, replica: u64, namespace: u32) -> Self {
        Self::of(Watch::open(cluster, replica, namespace, 0, 0).await, namespace)
    }

    fn of(stream: Watch, namespace: u32) -> Self {
        Self {
            stream,
            namespace,
            entries: BTreeMap::new(),
            revision: 0,
            epoch: 0,
            resyncs: 0,
            resyncing: false,
            told: false,
            buckets: 0,
            retired: Vec::new(),
        }
    }

    async fn resume(&mut self, cluster: &Cluster, replica: u64) {
        self.stream = Watch::open(cluster, replica, self.namespace, self.revision, self.epoch).await;
        self.told = false;
    }

    /// Asks for what it lacks.
    async fn resync(&mut self, cluster: &Cluster, replica: u64) {
        let bits = bits_for(self.entries.len() as u64, WATCH_BUCKET_PAGES);
        let mut digests = vec![0u64; 1 << bits];
        for (key, location) in &self.entries {
            let hash = hash_of_page(key, location.slot, location.checksums.as_slice()[0], &[]);
            let digest = &mut digests[bucket_of(key, bits) as usize];
            *digest = digest.wrapping_add(hash);
        }
        let open = wire::WatchOpen {
            namespace_id: self.namespace,
            from_revision: self.revision,
            epoch: self.epoch,
            resync: true,
            bucket_bits: bits,
            digests: digests.iter().flat_map(|digest| digest.to_le_bytes()).collect::<Vec<_>>().into(),
        };
        self.stream = Watch::opened(cluster.channel(replica), open).await;
        self.told = false;
    }

    /// Takes one message; false when the watcher has to start over.
    async fn step(&mut self) -> bool {
        match self.stream.next().await.unwrap() {
            Kind::Begin(begin) => {
                self.resyncs += 1;
                self.resyncing = true;
                if begin.epoch != self.epoch {
                    self.entries.clear();
                }
                self.epoch = begin.epoch;
            }
            Kind::Bucket(bucket) => {
                self.buckets += 1;
                self.entries.retain(|key, _| bucket_of(key, bucket.bits) != bucket.bucket);
                for page in records::decode::<PageRecord>("entries", &bucket.entries, 1, usize::MAX).unwrap() {
                    assert_eq!(bucket_of(&page.key, bucket.bits), bucket.bucket);
                    self.entries.insert(page.key, page.location);
                }
            }
            Kind::End(end) => {
                self.revision = end.revision;
                (self.resyncing, self.told) = (false, true);
            }
            Kind::Events(events) => {
                for entry in events.entries {
                    assert!(self.resyncing || entry.revision > self.revision && entry.revision <= events.revision);
                    self.apply(NamespaceEvent::decode_all(&entry.events, 1).unwrap());
                }
                self.told = true;
                self.progress(events.revision);
            }
            Kind::Progress(progress) => self.progress(progress.revision),
            Kind::Resync(_) | Kind::Dropped(_) => return false,
        }
        true
    }

    fn progress(&mut self, revision: u64) {
        if self.told && !self.resyncing {
            self.revision = self.revision.max(revision);
        }
    }

    fn apply(&mut self, events: Vec<NamespaceEvent>) {
        for event in events {
            match event {
                NamespaceEvent::Published { key, location, .. } => _ = self.entries.insert(key, location),
                NamespaceEvent::Retired { key, slot, reason } => {
                    let there = self.entries.get(&key).is_some_and(|location| location.slot == slot);
                    assert!(there || self.resyncing, "a retire names an entry that was there");
                    if there {
                        self.entries.remove(&key);
                    }
                    self.retired.push((key, reason));
                }
            }
        }
    }

    async fn reach(&mut self, revision: u64) {
        while self.revision < revision {
            assert!(self.step().await, "no resync was expected");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_follows_resync_and_tail_and_resumes_at_another_replica() {
    let mut cluster = Cluster::started(3).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let first = agent.publish(0..500).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    // The watched replica is the one that dies.
    let mut mirror = Mirror::open(&cluster, leader, agent.namespace).await;
    mirror.reach(first).await;
    assert_eq!((mirror.entries.len(), mirror.resyncs), (500, 1));
    let mut agent = Agent { client: cluster.meta(follower), ..agent };
    let second = agent.publish(500..600).await;
    mirror.reach(second).await;
    assert_eq!(mirror.entries.len(), 600);

    cluster.crash(leader).await;
    let third = agent.publish(600..700).await;
    mirror.resume(&cluster, follower).await;
    mirror.reach(third).await;
    assert_eq!((mirror.entries.len(), mirror.resyncs), (700, 1), "the tail went on, without a second resync");

    let keys = foreword_proto::key::page_keys_to_wire(&[key(5)]);
    let request = wire::DeleteRequest { namespace_id: agent.namespace, keys };
    let deleted = agent.client.delete(request).await.unwrap().into_inner().revision;
    mirror.reach(deleted).await;
    assert_eq!(mirror.retired, [(entry(5), RetireReason::Deleted)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_past_what_is_kept_or_cleared_starts_over() {
    let mut cluster = Cluster::new(1).await;
    cluster.watch_bytes_max = 16 << 10;
    cluster.start_all().await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let first = agent.publish(0..10).await;
    let mut mirror = Mirror::open(&cluster, 1, agent.namespace).await;
    mirror.reach(first).await;
    // The hub keeps far less than this.
    let second = agent.publish(10..1000).await;
    agent.publish(1000..1500).await;
    mirror.resume(&cluster, 1).await;
    while mirror.step().await {}
    mirror.resync(&cluster, 1).await;
    mirror.reach(second).await;
    assert_eq!((mirror.resyncs, mirror.entries.len()), (2, 1500));

    agent.client.clear(wire::ClearRequest { namespace_id: agent.namespace }).await.unwrap();
    while mirror.step().await {}
    mirror.resync(&cluster, 1).await;
    mirror.reach(mirror.revision + 1).await;
    assert_eq!((mirror.resyncs, mirror.epoch, mirror.entries.len()), (3, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ahead_of_this_replica_is_told_so() {
    let cluster = Cluster::started(1).await;
    let agent = Agent::open(&cluster, 1, "a").await;
    let mut ahead = Watch::open(&cluster, 1, agent.namespace, 1 << 40, 1).await;
    let error = ahead.next().await.unwrap_err();
    assert_eq!((error.code(), bad_input::field_of(&error)), (Code::FailedPrecondition, Some("behind")));
    // Of a namespace that is not there, its stream says no more than that.
    let mut unknown = Watch::open(&cluster, 1, 99, 0, 0).await;
    assert!(matches!(unknown.next().await.unwrap(), Kind::Dropped(_)));
}

/// One agent's stream: entries of one of its namespaces reach it at once, and of the others it learns how far they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_namespaces_of_an_agent_share_one_stream() {
    let cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let other = Namespace::simple("other", 64, vec![4096]);
    let request = wire::RegisterNamespaceRequest { namespace: Some((&other).into()) };
    let other = agent.client.register_namespace(request).await.unwrap().into_inner().namespace_id;

    let (asks, asked) = mpsc::channel(8);
    let ask = async |kind| {
        asks.send(wire::WatchRequest { kind: Some(kind), node: "a".into(), ..Default::default() }).await.unwrap()
    };
    let open = |namespace_id| Ask::Open(wire::WatchOpen { namespace_id, ..wire::WatchOpen::default() });
    let mut stream = agent.client.watch(ReceiverStream::new(asked)).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
    ask(open(agent.namespace)).await;
    ask(open(other)).await;
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let message = next().await;
        if let Some(Kind::End(_)) = message.kind {
            ended.push(message.namespace_id);
        }
    }
    assert_eq!(ended, [agent.namespace, other], "one after the other, as they were asked for");
    let published = agent.publish(0..10).await;
    ask(Ask::Need(wire::WatchNeed { revision: published })).await;
    let mut told = BTreeMap::from([(agent.namespace, 0), (other, 0)]);
    while told.values().any(|revision| *revision < published) {
        let message = next().await;
        match message.kind.unwrap() {
            Kind::Progress(progress) => told.values_mut().for_each(|revision| *revision = progress.revision),
            Kind::Events(events) => {
                let some = events.entries.iter().any(|entry| !entry.events.is_empty());
                assert!(!some || message.namespace_id == agent.namespace);
                told.insert(message.namespace_id, events.revision);
            }
            other => panic!("{other:?}"),
        }
    }
    // What it closed is told no more.
    ask(Ask::Close(wire::WatchClose { namespace_id: agent.namespace })).await;
    let again = agent.publish(10..20).await;
    ask(Ask::Need(wire::WatchNeed { revision: again })).await;
    let mut late = 0;
    loop {
        match next().await.kind.unwrap() {
            Kind::Progress(progress) if progress.revision >= again => break,
            Kind::Events(_) => late += 1,
            _ => {}
        }
    }
    assert!(late <= 1, "the close may have met the entry on its way");
}

/// Pages that make buckets enough to fill a narrow channel and all that may wait before it, twice.
const MANY: u64 = 24 * WATCH_BUCKET_PAGES;

/// A group with [`MANY`] pages.
async fn large(watch_bytes_max: u64, watch_stuck_ms: u64) -> (Cluster, Agent) {
    let mut cluster = Cluster::new(1).await;
    (cluster.watch_bytes_max, cluster.watch_stuck_ms) = (watch_bytes_max, watch_stuck_ms);
    cluster.l3_bytes = 4 * MANY * 4096;
    cluster.start_all().await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    for from in (0..MANY).step_by(1024) {
        agent.publish(from..from + 1024).await;
    }
    (cluster, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_lost_its_place_is_sent_the_buckets_that_differ() {
    const DOOMED: u64 = 7;
    let (cluster, mut agent) = large(16 << 10, 30_000).await;
    let mut mirror = Mirror::open(&cluster, 1, agent.namespace).await;
    mirror.reach(agent.publish(MANY..MANY + 1).await).await;
    let whole = std::mem::take(&mut mirror.buckets);
    assert!(whole >= 16, "{whole} buckets");
    // More than is kept.
    agent.publish(MANY + 1..MANY + 1000).await;
    mirror.resync(&cluster, 1).await;
    mirror.reach(agent.publish(MANY + 1000..MANY + 1001).await).await;
    assert_eq!(mirror.entries.len() as u64, MANY + 1001);

    mirror.buckets = 0;
    let keys = foreword_proto::key::page_keys_to_wire(&[key(DOOMED)]);
    let request = wire::DeleteRequest { namespace_id: agent.namespace, keys };
    let deleted = agent.client.delete(request).await.unwrap().into_inner().revision;
    mirror.resync(&cluster, 1).await;
    mirror.reach(deleted).await;
    assert_eq!((mirror.buckets, mirror.entries.len() as u64), (1, MANY + 1000));
    assert!(!mirror.entries.contains_key(&entry(DOOMED)));
}

/// It knows the epoch and has no page: one digest, which says nothing of how much it lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_has_nothing_yet_is_sent_buckets_of_few_pages_each() {
    let (cluster, mut agent) = large(16 << 10, 30_000).await;
    let mut mirror = Mirror::open(&cluster, 1, agent.namespace).await;
    assert!(mirror.step().await && mirror.epoch > 0);
    (mirror.buckets, mirror.entries) = (0, BTreeMap::new());
    mirror.resync(&cluster, 1).await;
    mirror.reach(agent.publish(MANY..MANY + 1).await).await;
    assert_eq!(mirror.entries.len() as u64, MANY + 1);
    assert!(u64::from(mirror.buckets) >= MANY / WATCH_BUCKET_PAGES, "{} buckets", mirror.buckets);
}

/// A resync that takes longer than what is kept of events covers: it used to end where the tail was gone, and to begin
/// again, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_ends_under_a_load_that_overflows_what_is_kept_meanwhile() {
    const KEPT_BYTES: u64 = 256 << 10;
    const PER_BUCKET: u64 = 512;
    let (cluster, mut agent) = large(KEPT_BYTES, 30_000).await;
    let open = wire::WatchOpen { namespace_id: agent.namespace, ..wire::WatchOpen::default() };
    let stream = Watch::opened(narrow(&cluster, 1).await, open).await;
    let mut mirror = Mirror::of(stream, agent.namespace);
    let (mut published, mut revision) = (MANY, 0);
    while revision == 0 || mirror.revision == 0 {
        let buckets = mirror.buckets;
        assert!(mirror.step().await, "it is told to begin again");
        if mirror.buckets > buckets {
            revision = agent.publish(published..published + PER_BUCKET).await;
            published += PER_BUCKET;
        }
    }
    let bytes = (published - MANY) * PageRecord::bytes(1) as u64;
    assert!(bytes > KEPT_BYTES, "only {bytes} bytes were published meanwhile");
    mirror.reach(revision).await;
    assert_eq!((mirror.entries.len() as u64, mirror.resyncs), (published, 1));
}

fn metric(cluster: &Cluster, name: &str) -> f64 {
    let rendered = cluster.telemetry[&1].render();
    let line = rendered.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resyncs_beyond_those_served_at_once_wait_for_their_turn() {
    let (cluster, agent) = large(64 << 20, 30_000).await;
    let open = || wire::WatchOpen { namespace_id: agent.namespace, ..wire::WatchOpen::default() };
    let mut idle = Vec::new();
    for _ in 0..WATCH_RESYNCS_MAX {
        let mut watch = Watch::opened(narrow(&cluster, 1).await, open()).await;
        assert!(matches!(watch.next().await.unwrap(), Kind::Begin(_)));
        idle.push(watch);
    }
    let mut late = Mirror::of(Watch::opened(cluster.channel(1), open()).await, agent.namespace);
    let waits = async || (metric(&cluster, "foreword_meta_watch_resyncs_waiting") > 0.0).then_some(());
    cluster.eventually("a resync that waits", waits).await;
    assert_eq!(metric(&cluster, "foreword_meta_watch_resyncs_running"), WATCH_RESYNCS_MAX as f64);
    idle.pop();
    late.reach(1).await;
    assert_eq!((late.entries.len() as u64, late.resyncs), (MANY, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_takes_nothing_is_dropped() {
    let (cluster, agent) = large(64 << 20, 200).await;
    let open = wire::WatchOpen { namespace_id: agent.namespace, ..wire::WatchOpen::default() };
    let mut watch = Watch::opened(narrow(&cluster, 1).await, open).await;
    assert!(matches!(watch.next().await.unwrap(), Kind::Begin(_)));
    let dropped = async || (metric(&cluster, "foreword_meta_watch_stuck_total") > 0.0).then_some(());
    cluster.eventually("a watcher that is dropped", dropped).await;
    assert_eq!(metric(&cluster, "foreword_meta_watch_resyncs_running"), 0.0);
    // What was on its way still comes, and then the end.
    let mut buckets = 0;
    while let Some(message) = watch.0.message().await.unwrap() {
        buckets += usize::from(matches!(message.kind, Some(Kind::Bucket(_))));
    }
    assert!(buckets <= 2 * WATCH_FRAMES_WAITING_MAX, "{buckets} buckets");
}
