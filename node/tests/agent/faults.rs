//! What L3 can do to an agent: never wrong bytes, and no more misses than needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foreword_node::api::EngineApi;
use foreword_node::store::{Decision, Faults, IoView};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as wire;
use foreword_proto::{Namespace, RetireReason};

use crate::harness::{Cluster, SOON, TestAgent, entry, eventually, expected, key, keys};

const BYTES: usize = 5000;

fn namespace() -> Namespace {
    Namespace::simple("m", 64, vec![BYTES as u64])
}

/// Decides by a function, and counts.
struct Script<F> {
    decide: F,
    on: AtomicBool,
    decided: AtomicU64,
}

impl<F: Fn(&IoView, u64) -> Decision + Send + Sync> Script<F> {
    /// `decide` sees each I/O and how many it saw before, while the script is on.
    fn new(on: bool, decide: F) -> Arc<Self> {
        Arc::new(Self { decide, on: AtomicBool::new(on), decided: AtomicU64::new(0) })
    }

    fn turn(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }
}

impl<F: Fn(&IoView, u64) -> Decision + Send + Sync> Faults for Script<F> {
    fn on(&self, io: &IoView) -> Decision {
        if !self.on.load(Ordering::SeqCst) {
            return Decision::Proceed;
        }
        (self.decide)(io, self.decided.fetch_add(1, Ordering::SeqCst))
    }
}

/// A cluster with a page 0..n written by a healthy agent, and a second agent with this L3.
async fn reader_of(pages: u64, faults: Arc<dyn Faults>) -> (Cluster, TestAgent, TestAgent, u32) {
    let cluster = Cluster::start().await;
    let writer = cluster.agent("writer").await;
    let mut config = cluster.config("reader");
    config.l3_deadline_ms = 300;
    let reader = cluster.agent_with(config, faults).await;
    let ns = writer.open(&namespace()).await;
    reader.open(&namespace()).await;
    let put = writer.put(ns, &keys(0..pages), 1, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    reader.lookup(ns, &[], revision).await;
    (cluster, writer, reader, ns)
}

#[tokio::test]
async fn a_flipped_bit_is_a_miss_and_a_report_and_never_bytes() {
    let faults = Script::new(true, |io, _| if io.write { Decision::Proceed } else { Decision::FlipBit(777) });
    let (cluster, _writer, reader, ns) = reader_of(3, faults.clone()).await;
    let got = reader.get(ns, &keys(0..3), |_| {}).await;
    assert!(got.iter().all(|page| !page.hit && page.bytes.is_empty() && page.reason == "checksum"), "{got:?}");
    let meta = cluster.meta.clone();
    eventually("the pages are reported", || meta.state.lock().suspects.len() == 3).await;
    let counters = reader.counters();
    // Each was read three times before it was called bad.
    assert_eq!((counters.l3_reads, counters.checksum_mismatches), (9, 9));
    assert_eq!(reader.handle.api().stats().l3_breaker, "closed");
    // The next writer fills the pages again.
    faults.turn(false);
    reader.lookup(ns, &[], cluster.meta.revision()).await;
    let put = reader.put(ns, &keys(0..3), 1, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published), "{put:?}");
    let audit = reader.get(ns, &keys(0..3), |get| get.bypass_cache = true).await;
    assert!(audit.iter().zip(keys(0..3)).all(|(page, key)| page.bytes == expected(&key, 1, BYTES)));
}

#[tokio::test]
async fn an_avoided_page_is_not_promised() {
    let faults = Script::new(true, |_, _| Decision::FlipBit(1));
    let (cluster, _writer, reader, ns) = reader_of(2, faults).await;
    // The report is void: the group keeps the pages.
    cluster.meta.set(|settings| settings.hold_watches = true);
    assert_eq!(reader.lookup(ns, &keys(0..2), 0).await.pages, 2);
    reader.get(ns, &keys(0..1), |_| {}).await;
    assert_eq!(reader.lookup(ns, &keys(0..2), 0).await.pages, 0);
    let got = reader.get(ns, &keys(0..1), |_| {}).await;
    assert_eq!(got[0].reason, "absent");
    assert_eq!(reader.counters().l3_reads, 3);
}

#[tokio::test]
async fn a_read_that_was_torn_once_is_read_again() {
    let faults = Script::new(true, |_, seen| if seen == 0 { Decision::FlipBit(5) } else { Decision::Proceed });
    let (cluster, _writer, reader, ns) = reader_of(1, faults).await;
    let got = reader.get(ns, &keys(0..1), |_| {}).await;
    assert_eq!(got[0].bytes, expected(&key(0), 1, BYTES));
    assert_eq!(reader.counters().checksum_mismatches, 1);
    assert!(cluster.meta.state.lock().suspects.is_empty());
}

#[tokio::test]
async fn short_reads_are_misses_and_do_not_open_the_breaker() {
    let faults = Script::new(true, |_, _| Decision::Short(4096));
    let (_cluster, _writer, reader, ns) = reader_of(10, faults).await;
    let got = reader.get(ns, &keys(0..10), |_| {}).await;
    assert!(got.iter().all(|page| !page.hit && page.reason == "read_failed"), "{got:?}");
    assert_eq!(reader.handle.api().stats().l3_breaker, "closed");
}

/// Found by the simulator (seed 0): the breaker's lock was taken again by its own holder, and the agent stood still for
/// good.
#[tokio::test]
async fn a_write_that_the_breaker_refuses_leaves_the_agent_alive() {
    let faults = Script::new(true, |_, _| Decision::Errno(libc::EIO));
    let cluster = Cluster::start().await;
    let agent = cluster.agent_with(cluster.config("writer"), faults.clone()).await;
    let ns = agent.open(&namespace()).await;
    eventually_open(&agent, ns).await;
    let refused = agent.put(ns, &keys(500..510), 1, BYTES).await;
    assert!(refused.iter().all(|page| page.revision == 0), "{refused:?}");
    faults.turn(false);
    let wait = async {
        while agent.put(ns, &keys(600..601), 1, BYTES).await[0].revision == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("a write is let through again");
}

/// Puts until enough writes have failed.
async fn eventually_open(agent: &TestAgent, ns: u32) {
    let mut next = 0;
    while agent.counters().slab_breaker_openings == 0 {
        assert!(next < 400, "the breaker never opened");
        agent.put(ns, &keys(next..next + 8), 1, BYTES).await;
        next += 8;
    }
}

#[tokio::test]
async fn errnos_open_the_breaker_and_a_probe_of_the_agents_own_closes_it() {
    let faults = Script::new(true, |_, _| Decision::Errno(5));
    let (_cluster, _writer, reader, ns) = reader_of(20, faults.clone()).await;
    // One after the other: what fails together is one failure.
    let mut got = Vec::new();
    for number in 0..20 {
        got.extend(reader.get(ns, &keys(number..number + 1), |_| {}).await);
    }
    assert!(got.iter().all(|page| !page.hit));
    assert!(got.iter().any(|page| page.reason == "read_failed") && got[19].reason == "breaker_open");
    assert_eq!(reader.lookup(ns, &keys(0..20), 0).await.pages, 0, "what L3 cannot deliver is not promised");
    assert_eq!(reader.counters().slab_breaker_openings, 1);
    faults.turn(false);
    let mut promised = 0;
    let wait = async {
        while promised < 20 {
            promised = reader.lookup(ns, &keys(0..20), 0).await.pages;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("nobody asks but the agent, and L3 is read again");
    let got = reader.get(ns, &keys(0..20), |_| {}).await;
    assert!(got.iter().all(|page| page.hit));
}

#[tokio::test]
async fn a_read_that_is_never_answered_is_a_miss_by_its_deadline() {
    let faults = Script::new(true, |_, _| Decision::Drop { done: false });
    let (_cluster, _writer, reader, ns) = reader_of(1, faults).await;
    let got = reader.get(ns, &keys(0..1), |_| {}).await;
    assert_eq!((got[0].hit, got[0].reason.as_str()), (false, "deadline"));
}

#[tokio::test]
async fn many_gets_of_one_page_share_one_read() {
    let faults = Script::new(true, |_, _| Decision::Delay(Duration::from_millis(100)));
    let (_cluster, _writer, reader, ns) = reader_of(1, faults).await;
    let asked = keys(0..1);
    let gets = (0..10).map(|_| reader.get(ns, &asked, |_| {}));
    let got = futures::future::join_all(gets).await;
    for page in got.iter().map(|pages| &pages[0]) {
        assert_eq!(page.bytes, expected(&key(0), 1, BYTES));
        assert_eq!(page.tier, wire::Tier::L3 as i32);
    }
    let counters = reader.counters();
    assert_eq!((counters.l3_reads, counters.l3_reads_coalesced), (1, 9));
}

#[tokio::test]
async fn a_reader_that_leaves_does_not_end_the_read() {
    let faults = Script::new(true, |_, _| Decision::Delay(Duration::from_millis(100)));
    let (_cluster, _writer, reader, ns) = reader_of(1, faults.clone()).await;
    let request = wire::GetRequest { namespace_id: ns, keys: page_keys_to_wire(&keys(0..1)), ..Default::default() };
    let stream = reader.client.clone().get(request).await.unwrap();
    let seen = faults.clone();
    eventually("the read is under way", || seen.decided.load(Ordering::SeqCst) == 1).await;
    drop(stream);
    eventually("the page is in L1", || reader.handle.api().stats().arena.pages == 1).await;
    let got = reader.get(ns, &keys(0..1), |_| {}).await;
    assert_eq!((got[0].hit, got[0].tier), (true, wire::Tier::L1 as i32));
}

#[tokio::test]
async fn a_reused_slot_is_never_mistaken_for_the_old_page() {
    let cluster = Cluster::with(crate::fake_meta::Settings { slots: 64, ..Default::default() }).await;
    let (writer, reader) = (cluster.agent("writer").await, cluster.agent("reader").await);
    let ns = writer.open(&namespace()).await;
    reader.open(&namespace()).await;
    let put = writer.put(ns, &keys(0..64), 1, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    reader.lookup(ns, &[], revision).await;
    // The reader's mirror stands still while every slot gets another page, without any rest.
    cluster.meta.set(|settings| settings.hold_watches = true);
    for old in keys(0..64) {
        cluster.meta.retire(ns, &entry(&old), RetireReason::Evicted);
    }
    let put = writer.put(ns, &keys(100..164), 1, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published));
    let got = reader.get(ns, &keys(0..64), |_| {}).await;
    assert!(got.iter().all(|page| !page.hit && page.bytes.is_empty()));
    cluster.meta.set(|settings| settings.hold_watches = false);
    reader.lookup(ns, &[], cluster.meta.revision()).await;
    let got = reader.get(ns, &keys(100..164), |_| {}).await;
    assert!(got.iter().zip(keys(100..164)).all(|(page, key)| page.bytes == expected(&key, 1, BYTES)));
}

#[tokio::test]
async fn a_write_without_a_known_result_is_repeated_elsewhere_and_its_slot_rests() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config("a");
    config.l3_deadline_ms = 200;
    let faults = Script::new(true, |io, seen| match (io.write, seen) {
        (true, 0) => Decision::Drop { done: true },
        (true, 1) => Decision::Errno(5),
        _ => Decision::Proceed,
    });
    let a = cluster.agent_with(config, faults).await;
    let ns = a.open(&namespace()).await;
    let put = a.put(ns, &keys(0..6), 1, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published), "{put:?}");
    assert_eq!(a.counters().l3_writes_repeated, 2);
    let meta = cluster.meta.clone();
    eventually("the slots rest", || meta.state.lock().aborted_unknown.len() == 2).await;
    let again = a.put(ns, &keys(0..6), 1, BYTES).await;
    assert!(again.iter().all(|page| page.outcome() != wire::PutOutcome::Refused), "{again:?}");
    let unknown = cluster.meta.state.lock().aborted_unknown.clone();
    for key in keys(0..6) {
        let slot = cluster.meta.location(ns, &entry(&key)).unwrap().slot;
        assert!(!unknown.contains(&slot), "a slot with an unknown write was used again");
    }
}

#[tokio::test]
async fn a_prefetch_reads_ahead_of_the_gets() {
    let faults = Script::new(false, |_, _| Decision::Proceed);
    let (_cluster, _writer, reader, ns) = reader_of(20, faults).await;
    let request = wire::PrefetchRequest { namespace_id: ns, keys: page_keys_to_wire(&keys(0..20)) };
    assert_eq!(reader.client.clone().prefetch(request).await.unwrap().into_inner().started, 20);
    eventually("the pages are in L1", || reader.handle.api().stats().arena.pages == 20).await;
    let got = reader.get(ns, &keys(0..20), |_| {}).await;
    assert!(got.iter().all(|page| page.tier == wire::Tier::L1 as i32));
    assert_eq!(reader.counters().l3_reads, 20);
}

#[tokio::test]
async fn a_restart_of_l3_costs_no_page_that_is_there() {
    let cluster = Cluster::start().await;
    let (writer, (reader, store)) = (cluster.agent("writer").await, cluster.agent_and_store("reader").await);
    let ns = writer.open(&namespace()).await;
    reader.open(&namespace()).await;
    let put = writer.put(ns, &keys(0..20), 1, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    reader.lookup(ns, &[], revision).await;
    assert!(reader.get(ns, &keys(0..10), |_| {}).await.iter().all(|page| page.hit));
    store().restart();
    let got = reader.get(ns, &keys(0..20), |_| {}).await;
    let tiers: Vec<i32> = got.iter().map(|page| page.tier).collect();
    let (l1, l3) = (wire::Tier::L1 as i32, wire::Tier::L3 as i32);
    assert_eq!(tiers, [[l1; 10], [l3; 10]].concat(), "L1 serves on, and slabs are opened again");
    assert!(got.iter().zip(keys(0..20)).all(|(page, key)| page.bytes == expected(&key, 1, BYTES)));
    let put = reader.put(ns, &keys(50..60), 1, BYTES).await;
    assert!(put.iter().all(|page| page.revision > 0), "{put:?}");
    assert_eq!((reader.counters().l3_epochs, reader.counters().breaker_openings), (1, 0));
}

#[tokio::test]
async fn lost_completions_do_not_use_up_the_arena() {
    let cluster = Cluster::start().await;
    let writer = cluster.agent("writer").await;
    let mut config = cluster.config("reader");
    (config.arena_bytes, config.l3_deadline_ms, config.gather_deadline_ms) = (1 << 20, 50, 200);
    let faults = Script::new(true, |_, seen| match seen % 2 {
        0 => Decision::Drop { done: false },
        _ => Decision::Proceed,
    });
    let reader = cluster.agent_with(config, faults.clone()).await;
    let ns = writer.open(&namespace()).await;
    reader.open(&namespace()).await;
    let put = writer.put(ns, &keys(0..100), 1, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    reader.lookup(ns, &[], revision).await;
    let waiting = async {
        while reader.counters().segments_replaced == 0 {
            reader.get(ns, &keys(0..100), |_| {}).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("a segment is replaced");
    faults.turn(false);
    let working = async {
        while !reader.get(ns, &keys(0..100), |_| {}).await.iter().all(|page| page.hit) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, working).await.expect("the arena has room again");
}
