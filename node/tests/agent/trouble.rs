//! Barriers, and an L3 of which only a part is in trouble: nothing stale, and no more misses than that part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foreword_node::api::EngineApi;
use foreword_node::store::{Decision, Faults, IoView};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as wire;
use foreword_proto::{Namespace, PageKey, RetireReason};
use tonic::Request;

use crate::fake_meta::Settings;
use crate::harness::{Cluster, TestAgent, entry, eventually, expected, key, keys};

const BYTES: usize = 4096;
const CHUNK: u64 = 4096;

fn namespace() -> Namespace {
    Namespace::simple("m", 64, vec![BYTES as u64])
}

/// What L3 does, to be changed while it runs.
#[derive(Default)]
struct Trouble {
    reads_take_ms: AtomicU64,
    reads: AtomicU64,
    writes_find_no_room: AtomicBool,
    /// Reads of this slab fail; 0: none.
    bad_slab: AtomicU64,
    /// Reads at this place fail: slab and offset; 0, 0: none.
    bad_page: (AtomicU64, AtomicU64),
}

impl Faults for Trouble {
    fn on(&self, io: &IoView) -> Decision {
        if io.write {
            let full = self.writes_find_no_room.load(Ordering::SeqCst);
            return if full { Decision::Errno(libc::ENOSPC) } else { Decision::Proceed };
        }
        self.reads.fetch_add(1, Ordering::SeqCst);
        let slab = u64::from(io.slab);
        let (bad_slab, bad_offset) = (self.bad_page.0.load(Ordering::SeqCst), self.bad_page.1.load(Ordering::SeqCst));
        let bad_page = (bad_slab, bad_offset) != (0, 0) && (slab, io.offset) == (bad_slab, bad_offset);
        if bad_page || slab == self.bad_slab.load(Ordering::SeqCst) {
            return Decision::Errno(libc::EIO);
        }
        match self.reads_take_ms.load(Ordering::SeqCst) {
            0 => Decision::Proceed,
            ms => Decision::Delay(Duration::from_millis(ms)),
        }
    }
}

/// Pages written by one agent, and another one with this L3 that knows them.
struct Bench {
    cluster: Cluster,
    writer: TestAgent,
    reader: TestAgent,
    trouble: Arc<Trouble>,
    ns: u32,
}

impl Bench {
    async fn start(pages: u64, slots_a_slab: u64) -> Self {
        let settings = Settings { slab_bytes: slots_a_slab * CHUNK, ..Settings::default() };
        let (cluster, trouble) = (Cluster::with(settings).await, Arc::new(Trouble::default()));
        let writer = cluster.agent("writer").await;
        let reader = cluster.agent_with(cluster.config("reader"), trouble.clone()).await;
        let ns = writer.open(&namespace()).await;
        reader.open(&namespace()).await;
        let put = writer.put(ns, &keys(0..pages), 1, BYTES).await;
        let revision = put.iter().map(|page| page.revision).max().unwrap();
        reader.lookup(ns, &[], revision).await;
        Self { cluster, writer, reader, trouble, ns }
    }

    fn slab_of(&self, key: &PageKey) -> u32 {
        self.cluster.meta.location(self.ns, &entry(key)).unwrap().slot.slab
    }

    async fn hits(&self, keys: &[PageKey], bypass_cache: bool) -> Vec<bool> {
        let got = self.reader.get(self.ns, keys, |get| get.bypass_cache = bypass_cache).await;
        for (page, key) in got.iter().zip(keys).filter(|(page, _)| page.hit) {
            assert_eq!(page.bytes, expected(key, 1, BYTES));
        }
        got.iter().map(|page| page.hit).collect()
    }
}

#[tokio::test]
async fn a_page_that_was_published_anew_is_read_anew() {
    let bench = Bench::start(1, 1024).await;
    bench.trouble.reads_take_ms.store(500, Ordering::SeqCst);
    let asked = keys(0..1);
    let (first, second) = futures::future::join(bench.hits(&asked, false), async {
        eventually("the first read is under way", || bench.trouble.reads.load(Ordering::SeqCst) == 1).await;
        bench.cluster.meta.clear_namespace(bench.ns);
        bench.writer.lookup(bench.ns, &[], bench.cluster.meta.revision()).await;
        let put = bench.writer.put(bench.ns, &asked, 1, BYTES).await;
        assert_eq!(put[0].outcome(), wire::PutOutcome::Published);
        let got = bench.reader.get(bench.ns, &asked, |get| get.min_revision = put[0].revision).await;
        got[0].hit
    })
    .await;
    assert!(first[0] && second);
    let counters = bench.reader.counters();
    assert_eq!((bench.trouble.reads.load(Ordering::SeqCst), counters.l3_reads_coalesced), (2, 0));
}

#[tokio::test]
async fn a_revision_that_is_asked_for_holds_back_hits_too() {
    let bench = Bench::start(2, 1024).await;
    assert_eq!(bench.hits(&keys(0..2), false).await, [true, true]);
    bench.cluster.meta.set(|settings| settings.hold_watches = true);
    bench.cluster.meta.retire(bench.ns, &entry(&key(0)), RetireReason::Deleted);
    let asked = keys(0..2);
    let mut request = Request::new(wire::GetRequest {
        namespace_id: bench.ns,
        keys: page_keys_to_wire(&asked),
        every_key: true,
        min_revision: bench.cluster.meta.revision(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let mut answers = bench.reader.client.clone().get(request).await.unwrap().into_inner();
    let mut reasons = Vec::new();
    while let Ok(Some(message)) = answers.message().await {
        reasons.extend(message.ends.into_iter().map(|end| (end.hit, end.reason)));
    }
    assert!(reasons.iter().all(|(hit, reason)| !hit && reason == "behind"), "{reasons:?}");
    bench.cluster.meta.set(|settings| settings.hold_watches = false);
    let revision = bench.cluster.meta.revision();
    let got = bench.reader.get(bench.ns, &asked, |get| get.min_revision = revision).await;
    assert_eq!(got.iter().map(|page| page.hit).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn a_resync_takes_a_copy_of_what_may_have_been_deleted_and_of_nothing_else() {
    let bench = Bench::start(3, 1024).await;
    assert_eq!(bench.hits(&keys(0..3), false).await, [true; 3]);
    let meta = &bench.cluster.meta;
    let resync = async |retired: u64, reason| {
        meta.set(|settings| settings.hold_watches = true);
        meta.retire(bench.ns, &entry(&key(retired)), reason);
        meta.forget_events(bench.ns);
        meta.set(|settings| settings.hold_watches = false);
        bench.reader.lookup(bench.ns, &[], meta.revision()).await;
    };
    // Both are gone from the index before the stream breaks: nobody will say more of them.
    meta.retire(bench.ns, &entry(&key(0)), RetireReason::Evicted);
    bench.reader.lookup(bench.ns, &[], meta.revision()).await;
    resync(1, RetireReason::Evicted).await;
    assert!(bench.hits(&keys(0..1), false).await[0], "an evicted page's copy is as good as it was");
    resync(2, RetireReason::Deleted).await;
    assert_eq!(bench.hits(&keys(0..3), false).await, [false; 3]);
}

#[tokio::test]
async fn a_full_l3_stops_no_read() {
    let bench = Bench::start(40, 1024).await;
    bench.trouble.writes_find_no_room.store(true, Ordering::SeqCst);
    for round in 0..5 {
        let put = bench.reader.put(bench.ns, &keys(1000 + round * 8..1008 + round * 8), 1, BYTES).await;
        assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Refused), "{put:?}");
        assert_eq!(bench.hits(&keys(0..40), true).await, [true; 40]);
    }
    let stats = bench.reader.handle.api().stats();
    assert_eq!((stats.l3_breaker.as_str(), stats.l3_write_breaker.as_str()), ("closed", "closed"));
}

#[tokio::test]
async fn a_bad_slab_costs_its_own_pages_only_and_is_asked_again() {
    let bench = Bench::start(64, 16).await;
    let bad = bench.slab_of(&key(20));
    let (theirs, others): (Vec<_>, Vec<_>) = keys(0..64).into_iter().partition(|key| bench.slab_of(key) == bad);
    assert!(!theirs.is_empty() && others.len() >= theirs.len());
    bench.trouble.bad_slab.store(u64::from(bad), Ordering::SeqCst);
    for _ in 0..4 {
        assert!(bench.hits(&theirs, true).await.iter().all(|hit| !hit));
        assert!(bench.hits(&others, true).await.iter().all(|hit| *hit));
    }
    assert_eq!(bench.reader.handle.api().stats().l3_breaker, "closed");
    assert_eq!(bench.reader.counters().breaker_openings, 0);
    let promised = bench.reader.lookup(bench.ns, &theirs, 0).await;
    assert_eq!(promised.pages, 0, "what would not be given is not promised");
    bench.trouble.bad_slab.store(0, Ordering::SeqCst);
    let mirrored = || bench.reader.handle.api().stats().counters.slab_breaker_openings > 0;
    eventually("the slab was given up", mirrored).await;
    loop {
        let promised = bench.reader.lookup(bench.ns, &theirs, 0).await.pages as usize;
        assert_eq!(bench.hits(&theirs[..promised], true).await, vec![true; promised], "a lookup keeps its word");
        if promised == theirs.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_page_that_cannot_be_read_is_not_promised_and_its_writer_may_bring_it_again() {
    let bench = Bench::start(3, 1024).await;
    let slot = bench.cluster.meta.location(bench.ns, &entry(&key(1))).unwrap().slot;
    bench.trouble.bad_page.0.store(u64::from(slot.slab), Ordering::SeqCst);
    bench.trouble.bad_page.1.store(u64::from(slot.slot) * CHUNK, Ordering::SeqCst);
    assert_eq!(bench.reader.lookup(bench.ns, &keys(0..3), 0).await.pages, 3, "nobody knows yet");
    assert_eq!(bench.hits(&keys(0..3), false).await, [true, false, true]);
    assert_eq!(bench.reader.lookup(bench.ns, &keys(0..3), 0).await.pages, 1);
    // The agent takes the bytes, though the index has the page: its own L1 gives them from now on.
    bench.reader.put(bench.ns, &keys(1..2), 1, BYTES).await;
    assert_eq!(bench.hits(&keys(0..3), false).await, [true; 3]);
    assert_eq!(bench.reader.lookup(bench.ns, &keys(0..3), 0).await.pages, 3);
    // By a try of its own it finds out that L3 gives the page again.
    let third = keys(1..2);
    bench.trouble.bad_page.1.store(u64::MAX, Ordering::SeqCst);
    let wait = async {
        while !bench.hits(&third, true).await[0] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::harness::SOON, wait).await.expect("L3 is tried again");
}

#[tokio::test]
async fn a_namespace_that_nobody_uses_is_closed_and_what_was_deleted_meanwhile_stays_gone() {
    let (cluster, trouble) = (Cluster::start().await, Arc::new(Trouble::default()));
    let mut config = cluster.config("reader");
    (config.namespace_idle_ms, config.gather_deadline_ms) = (3000, 500);
    let (writer, reader) = (cluster.agent("writer").await, cluster.agent_with(config, trouble).await);
    let ns = writer.open(&namespace()).await;
    writer.put(ns, &keys(0..3), 1, BYTES).await;
    reader.open(&namespace()).await;
    assert!(reader.get(ns, &keys(0..3), |_| {}).await.iter().all(|page| page.hit));
    let open = || reader.handle.api().stats().namespaces.len();
    eventually("it is closed", || open() == 0).await;
    let request = wire::LookupRequest { namespace_id: ns, ..Default::default() };
    assert_eq!(reader.client.clone().lookup(request).await.unwrap_err().code(), tonic::Code::NotFound);
    // Its copies are in L1 still, and nobody tells this agent of one that is deleted.
    assert_eq!(reader.handle.api().stats().arena.pages, 3);
    cluster.meta.retire(ns, &entry(&key(1)), RetireReason::Deleted);
    assert_eq!(reader.open(&namespace()).await, ns);
    let hits: Vec<bool> = reader.get(ns, &keys(0..3), |_| {}).await.iter().map(|page| page.hit).collect();
    assert_eq!(hits, [true, false, true]);
    assert_eq!(open(), 1);
}
