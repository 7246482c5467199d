//! Memory for pages: a tenant that needs more of it keeps nobody else waiting.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foreword_node::api::EngineApi;
use foreword_node::arena::{HeapRegions, Region, RegionProvider};
use foreword_node::store::NoFaults;
use foreword_node::{NodeConfig, serve};
use foreword_proto::Namespace;
use foreword_proto::wire::node as wire;
use parking_lot::{Condvar, Mutex};

use crate::harness::{Cluster, SOON, TestAgent, client, expected, keys};

const BYTES: usize = 4096;
/// A region that nobody lets come is made after this: the test fails, and does not hang.
const GIVEN_UP: Duration = Duration::from_secs(10);

fn namespace(tenant: &str) -> Namespace {
    Namespace { tenant: tenant.to_owned(), ..Namespace::simple("m", 64, vec![BYTES as u64]) }
}

/// Memory of the heap, as slow and as short as a test wants it.
#[derive(Default)]
struct Regions {
    /// Regions wait while this is set.
    held: Mutex<bool>,
    changed: Condvar,
    /// No region can be made.
    fail: AtomicBool,
    asked: AtomicUsize,
    made: AtomicUsize,
}

impl Regions {
    fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.changed.notify_all();
    }

    fn under_way(&self) -> bool {
        self.asked.load(Ordering::SeqCst) > self.made.load(Ordering::SeqCst)
    }
}

impl RegionProvider for Regions {
    fn region(&self, bytes: u64) -> io::Result<Region> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock();
        self.changed.wait_while_for(&mut held, |held| *held, GIVEN_UP);
        if self.fail.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.made.fetch_add(1, Ordering::SeqCst);
        HeapRegions.region(bytes)
    }
}

async fn agent(change: impl FnOnce(&mut NodeConfig)) -> (Cluster, TestAgent, Arc<Regions>) {
    let (cluster, regions) = (Cluster::start().await, Arc::new(Regions::default()));
    let mut deps = cluster.deps(Arc::new(NoFaults));
    deps.regions = regions.clone();
    let mut config = cluster.config("a");
    change(&mut config);
    let handle = serve(config, deps).await.unwrap();
    let client = client(handle.endpoint());
    (cluster, TestAgent { handle, client }, regions)
}

fn pages_in_l1(agent: &TestAgent) -> u64 {
    agent.handle.api().stats().arena.pages
}

fn published(put: &[wire::PagePut]) -> bool {
    put.iter().all(|page| page.outcome() == wire::PutOutcome::Published)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tenants_first_segment_keeps_nobody_else_waiting() {
    let (_cluster, agent, regions) = agent(|_| {}).await;
    let ours = agent.open(&namespace("ours")).await;
    assert!(published(&agent.put(ours, &keys(0..256), 1, BYTES).await));
    regions.hold(true);
    let theirs = agent.open(&namespace("theirs")).await;
    let their_keys = keys(0..1);
    let put = agent.put(theirs, &their_keys, 1, BYTES);
    let meanwhile = async {
        crate::harness::eventually("their segment is being made", || regions.under_way()).await;
        let found = agent.lookup(ours, &keys(0..256), 0).await;
        let got = agent.get(ours, &keys(0..256), |_| {}).await;
        assert!(regions.under_way(), "the lookup and the get waited for another tenant's segment");
        assert_eq!(found.l1_pages, 256);
        assert!(got.iter().zip(keys(0..256)).all(|(page, key)| page.bytes == expected(&key, 1, BYTES)));
        assert!(got.iter().all(|page| page.tier == wire::Tier::L1 as i32));
        regions.hold(false);
    };
    let both = async { tokio::join!(put, meanwhile) };
    let (put, ()) = tokio::time::timeout(SOON, both).await.expect("nobody hangs");
    assert!(published(&put), "{put:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_that_cannot_be_had_evicts_nothing() {
    let (_cluster, agent, regions) = agent(|config| config.put_room_wait_ms = 300).await;
    let ours = agent.open(&namespace("ours")).await;
    assert!(published(&agent.put(ours, &keys(0..256), 1, BYTES).await));
    assert_eq!(pages_in_l1(&agent), 256);
    regions.fail.store(true, Ordering::SeqCst);
    let theirs = agent.open(&namespace("theirs")).await;
    for round in 0..3 {
        let put = agent.put(theirs, &keys(round..round + 1), 1, BYTES).await;
        assert_eq!((put[0].outcome(), put[0].reason.as_str()), (wire::PutOutcome::Refused, "queue_full"));
    }
    assert_eq!(pages_in_l1(&agent), 256, "another tenant's pages went for memory that did not come");
    assert!(agent.counters().segments_failed > 0);
    regions.fail.store(false, Ordering::SeqCst);
    let waiting = async { while !published(&agent.put(theirs, &keys(9..10), 1, BYTES).await) {} };
    tokio::time::timeout(SOON, waiting).await.expect("it is tried again");
    assert_eq!(pages_in_l1(&agent), 257);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_dozen_tenants_keep_their_pages_side_by_side() {
    const TENANTS: u64 = 24;
    let (_cluster, agent, regions) = agent(|_| {}).await;
    let mut spaces = Vec::new();
    for tenant in 0..TENANTS {
        spaces.push(agent.open(&namespace(&format!("tenant-{tenant}"))).await);
    }
    for round in 0..4 {
        for space in &spaces {
            assert!(published(&agent.put(*space, &keys(round..round + 1), 1, BYTES).await));
        }
    }
    assert_eq!(pages_in_l1(&agent), 4 * TENANTS);
    let made = regions.made.load(Ordering::SeqCst) as u64;
    assert!(made <= TENANTS, "{made} segments for {TENANTS} tenants with four pages each");
}
