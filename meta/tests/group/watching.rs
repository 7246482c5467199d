//! Watch: snapshot, tail, resume elsewhere, and what a slow or lost watcher is told.

use std::collections::BTreeMap;

use foreword_proto::records::{self, NamespaceEvent, PageRecord};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{EntryKey, Location, RetireReason, bad_input};
use tonic::{Code, Streaming};

use crate::cluster::{Agent, Cluster, PATIENCE, entry, key};

/// A mirror of one namespace, as a watcher would keep it.
struct Mirror {
    stream: Streaming<wire::WatchResponse>,
    entries: BTreeMap<EntryKey, Location>,
    revision: u64,
    epoch: u32,
    snapshots: u32,
    retired: Vec<(EntryKey, RetireReason)>,
}

impl Mirror {
    async fn open(cluster: &Cluster, replica: u64, namespace: u32) -> Self {
        let request = wire::WatchRequest { namespace_id: namespace, from_revision: 0, epoch: 0 };
        let stream = cluster.meta(replica).watch(request).await.unwrap().into_inner();
        let (entries, retired) = (BTreeMap::new(), Vec::new());
        Self { stream, entries, revision: 0, epoch: 0, snapshots: 0, retired }
    }

    async fn resume(&mut self, cluster: &Cluster, replica: u64, namespace: u32) {
        let request = wire::WatchRequest { namespace_id: namespace, from_revision: self.revision, epoch: self.epoch };
        self.stream = cluster.meta(replica).watch(request).await.unwrap().into_inner();
    }

    /// Takes one frame; false when the server wants the watcher to start over.
    async fn step(&mut self) -> bool {
        let frame = tokio::time::timeout(PATIENCE, self.stream.message()).await.unwrap().unwrap().unwrap();
        match frame.kind.unwrap() {
            Kind::Begin(begin) => {
                self.snapshots += 1;
                self.entries.clear();
                self.epoch = begin.epoch;
            }
            Kind::Part(part) => {
                for page in records::decode::<PageRecord>("entries", &part.entries, 1, usize::MAX).unwrap() {
                    self.entries.insert(page.key, page.location);
                }
            }
            Kind::End(end) => self.revision = end.revision,
            Kind::Events(events) => {
                for entry in events.entries {
                    assert!(entry.revision > self.revision && entry.revision <= events.revision);
                    self.apply(NamespaceEvent::decode_all(&entry.events, 1).unwrap());
                }
                assert!(events.revision >= self.revision);
                self.revision = events.revision;
            }
            Kind::Resync(_) => return false,
        }
        true
    }

    fn apply(&mut self, events: Vec<NamespaceEvent>) {
        for event in events {
            match event {
                NamespaceEvent::Published { key, location, .. } => _ = self.entries.insert(key, location),
                NamespaceEvent::Retired { key, reason, .. } => {
                    assert!(self.entries.remove(&key).is_some(), "a retire names an entry that was there");
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
async fn a_mirror_follows_snapshot_and_tail_and_resumes_at_another_replica() {
    let mut cluster = Cluster::started(3).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let first = agent.publish(0..500).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    // The watched replica is the one that dies.
    let mut mirror = Mirror::open(&cluster, leader, agent.namespace).await;
    mirror.reach(first).await;
    assert_eq!((mirror.entries.len(), mirror.snapshots), (500, 1));
    let mut agent = Agent { client: cluster.meta(follower), ..agent };
    let second = agent.publish(500..600).await;
    mirror.reach(second).await;
    assert_eq!(mirror.entries.len(), 600);

    cluster.crash(leader).await;
    let third = agent.publish(600..700).await;
    mirror.resume(&cluster, follower, agent.namespace).await;
    mirror.reach(third).await;
    assert_eq!((mirror.entries.len(), mirror.snapshots), (700, 1), "the tail went on, without a second snapshot");

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
    // The hub keeps far less than this: a watcher that resumes gets a snapshot again.
    let second = agent.publish(10..1000).await;
    agent.publish(1000..1500).await;
    mirror.resume(&cluster, 1, agent.namespace).await;
    mirror.reach(second).await;
    assert_eq!(mirror.snapshots, 2);

    agent.client.clear(wire::ClearRequest { namespace_id: agent.namespace }).await.unwrap();
    while mirror.step().await {}
    mirror.resume(&cluster, 1, agent.namespace).await;
    mirror.reach(mirror.revision + 1).await;
    assert_eq!((mirror.snapshots, mirror.epoch, mirror.entries.len()), (3, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ahead_of_this_replica_is_told_so() {
    let cluster = Cluster::started(1).await;
    let agent = Agent::open(&cluster, 1, "a").await;
    let request = wire::WatchRequest { namespace_id: agent.namespace, from_revision: 1 << 40, epoch: 1 };
    let error = cluster.meta(1).watch(request).await.unwrap_err();
    assert_eq!((error.code(), bad_input::field_of(&error)), (Code::FailedPrecondition, Some("behind")));
    let request = wire::WatchRequest { namespace_id: 99, from_revision: 0, epoch: 0 };
    let error = cluster.meta(1).watch(request).await.unwrap_err();
    assert_eq!((error.code(), bad_input::field_of(&error)), (Code::NotFound, Some("namespace_id")));
}
