//! Who waits for what: room, the group, another rank. Nobody waits without end, and nobody for what cannot come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_node::NodeConfig;
use foreword_node::store::{Decision, Faults, IoView, NoFaults};
use foreword_proto::wire::node as wire;
use foreword_proto::{Namespace, PageKey};
use tokio::time::Instant;

use crate::harness::{Cluster, SOON, TestAgent, eventually, keys, page_bytes};

/// Two shards a page; a frame of 32 KiB.
const BYTES: usize = 16 << 10;
/// Pages for which the smallest arena has room: half of it is for puts.
const ROOM_PAGES: u64 = 16;

async fn agent(change: impl FnOnce(&mut NodeConfig)) -> (Cluster, TestAgent, u32) {
    let cluster = Cluster::start().await;
    let mut config = cluster.config("a");
    config.arena_bytes = 1 << 20;
    change(&mut config);
    let agent = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = agent.open(&Namespace::simple("two", 64, vec![BYTES as u64; 2])).await;
    (cluster, agent, ns)
}

async fn put(agent: &TestAgent, ns: u32, shard: u32, keys: &[PageKey], wait: bool) -> Vec<wire::PagePut> {
    let pages: Vec<Vec<u8>> = keys.iter().map(|key| page_bytes(key, shard, BYTES)).collect();
    agent.put_shard(ns, shard, keys, &pages, wait).await.unwrap()
}

fn reasons(put: &[wire::PagePut]) -> Vec<&str> {
    put.iter().filter(|page| page.outcome() == wire::PutOutcome::Refused).map(|page| page.reason.as_str()).collect()
}

#[tokio::test]
async fn a_call_waits_for_room_once_and_not_for_each_of_its_pages() {
    const WAIT: Duration = Duration::from_secs(4);
    let (_cluster, agent, ns) = agent(|config| {
        config.put_room_wait_ms = WAIT.as_millis() as u64;
        config.gather_deadline_ms = 3_600_000;
    })
    .await;
    let (keys, began) = (keys(0..ROOM_PAGES + 8), Instant::now());
    let putting = put(&agent, ns, 0, &keys, false);
    let put = tokio::time::timeout(8 * WAIT - Duration::from_secs(1), putting).await.expect("one wait, not eight");
    assert_eq!(reasons(&put), ["queue_full"; 8]);
    assert!(began.elapsed() >= WAIT, "it waited once");
}

#[tokio::test]
async fn ranks_that_put_in_opposite_orders_do_not_wait_for_each_other() {
    let (cluster, agent, ns) = agent(|config| {
        // Longer than a test may take: only who gives way ends a wait.
        (config.put_room_wait_ms, config.gather_deadline_ms) = (3_600_000, 3_600_000);
    })
    .await;
    // Each request alone has room, both together have not.
    let requests = [keys(0..ROOM_PAGES), keys(100..100 + ROOM_PAGES)];
    let rank = |shard: u32, order: [usize; 2]| {
        let (agent, requests) = (&agent, &requests);
        async move {
            for request in order {
                put(agent, ns, shard, &requests[request], false).await;
            }
        }
    };
    let both = async { tokio::join!(rank(0, [0, 1]), rank(1, [1, 0])) };
    tokio::time::timeout(SOON, both).await.expect("no rank waits for the other");
    let pages = requests[0].len();
    eventually("one request's pages are published", || cluster.meta.pages(ns) >= pages).await;
    eventually("no room is held for pages that cannot become whole", || agent.handle.api().held().put_room_used == 0)
        .await;
}

#[tokio::test]
async fn a_publish_that_the_group_does_not_answer_ends_and_gives_its_room_back() {
    let (cluster, agent, ns) = agent(|config| (config.publish_wait_ms, config.gather_deadline_ms) = (500, 1_000)).await;
    // Slots are there already: what is written only has to be published.
    assert_eq!(reasons(&agent.put(ns, &keys(0..1), 2, BYTES).await), [""; 0]);
    cluster.meta.set(|settings| settings.unavailable = true);
    let asked = keys(10..14);
    let putting = agent.put(ns, &asked, 2, BYTES);
    let put = tokio::time::timeout(SOON, putting).await.expect("wait_published returns");
    assert_eq!(reasons(&put), ["group_gone"; 4]);
    let held = agent.handle.api().held();
    assert_eq!((held.put_room_used, held.pages_under_way), (0, 0));
    cluster.meta.set(|settings| settings.unavailable = false);
    let waiting = async { while !reasons(&agent.put(ns, &keys(20..24), 2, BYTES).await).is_empty() {} };
    tokio::time::timeout(SOON, waiting).await.expect("it publishes again");
    // Those that the group has all the same are where they were written.
    eventually("the old publish is answered", || cluster.meta.pages(ns) == 9).await;
    let got = agent.get(ns, &keys(10..14), |get| get.min_revision = cluster.meta.revision()).await;
    assert!(got.iter().all(|page| page.hit), "{got:?}");
}

#[tokio::test]
async fn a_group_that_grants_no_slot_is_not_a_full_l3() {
    let (cluster, agent, ns) = agent(|config| (config.publish_wait_ms, config.put_room_wait_ms) = (1_000, 300)).await;
    cluster.meta.set(|settings| settings.unavailable = true);
    let asked = keys(0..4);
    let putting = agent.put(ns, &asked, 2, BYTES);
    let put = tokio::time::timeout(SOON, putting).await.expect("it ends");
    assert_eq!(reasons(&put), ["group_gone"; 4]);
}

/// Reads take longer than a test may, while this is set.
#[derive(Default)]
struct Slow(AtomicBool);

impl Faults for Slow {
    fn on(&self, io: &IoView) -> Decision {
        let slow = !io.write && self.0.load(Ordering::SeqCst);
        if slow { Decision::Delay(4 * SOON) } else { Decision::Proceed }
    }
}

/// A reader that knows these pages, written by another agent; the first of them is in its L1, and no other read is
/// answered.
async fn slow_reader(pages: u64) -> (Cluster, TestAgent, TestAgent, u32) {
    let (cluster, slow) = (Cluster::start().await, Arc::new(Slow::default()));
    let writer = cluster.agent("writer").await;
    let mut config = cluster.config("reader");
    (config.arena_bytes, config.l3_deadline_ms) = (1 << 20, 3_600_000);
    let reader = cluster.agent_with(config, slow.clone()).await;
    let namespace = Namespace::simple("two", 64, vec![BYTES as u64; 2]);
    let ns = writer.open(&namespace).await;
    reader.open(&namespace).await;
    let put = writer.put(ns, &keys(0..pages), 2, BYTES).await;
    reader.lookup(ns, &[], put.iter().map(|page| page.revision).max().unwrap()).await;
    assert!(reader.get(ns, &keys(0..1), |_| {}).await[0].hit);
    slow.0.store(true, Ordering::SeqCst);
    (cluster, writer, reader, ns)
}

#[tokio::test]
async fn a_page_of_l1_does_not_wait_for_slow_reads() {
    let (_cluster, _writer, reader, ns) = slow_reader(20).await;
    let asked: Vec<Vec<PageKey>> = (1..20).map(|number| keys(number..number + 1)).collect();
    let slow = futures::future::join_all(asked.iter().map(|key| reader.get(ns, key, |_| {})));
    let meanwhile = async {
        let room_pages = 8;
        let units = BYTES as u64 * 2 / 4096;
        eventually("the room for reads is taken", || reader.handle.api().held().get_room_used >= room_pages * units)
            .await;
        reader.get(ns, &keys(0..1), |_| {}).await
    };
    let got = tokio::select! {
        got = meanwhile => got,
        _ = slow => panic!("the reads were not slow"),
        () = tokio::time::sleep(SOON) => panic!("the page of L1 waited for reads"),
    };
    assert_eq!((got[0].hit, got[0].tier), (true, wire::Tier::L1 as i32));
}

#[tokio::test]
async fn a_page_takes_room_once_however_many_ranks_read_it() {
    let (_cluster, _writer, reader, ns) = slow_reader(2).await;
    let asked = keys(1..2);
    let slow = futures::future::join_all((0..8).map(|_| reader.get(ns, &asked, |_| {})));
    let meanwhile = async {
        eventually("all eight wait for the page", || reader.counters().l3_reads_coalesced == 7).await;
        reader.handle.api().held().get_room_used
    };
    let used = tokio::select! {
        used = meanwhile => used,
        _ = slow => panic!("the reads were not slow"),
    };
    assert_eq!(used, BYTES as u64 * 2 / 4096);
}

#[tokio::test]
async fn a_tenant_whose_reads_hang_leaves_room_to_another() {
    let (cluster, slow) = (Cluster::start().await, Arc::new(Slow::default()));
    let writer = cluster.agent("writer").await;
    let mut config = cluster.config("reader");
    (config.arena_bytes, config.l3_deadline_ms) = (1 << 20, 3_600_000);
    let reader = cluster.agent_with(config, slow.clone()).await;
    let mut spaces = Vec::new();
    for tenant in ["hangs", "works"] {
        let namespace = Namespace { tenant: tenant.into(), ..Namespace::simple("two", 64, vec![BYTES as u64; 2]) };
        let ns = writer.open(&namespace).await;
        reader.open(&namespace).await;
        let put = writer.put(ns, &keys(0..20), 2, BYTES).await;
        reader.lookup(ns, &[], put.iter().map(|page| page.revision).max().unwrap()).await;
        spaces.push(ns);
    }
    slow.0.store(true, Ordering::SeqCst);
    let asked: Vec<Vec<PageKey>> = (0..20).map(|number| keys(number..number + 1)).collect();
    let hang = futures::future::join_all(asked.iter().map(|key| reader.get(spaces[0], key, |_| {})));
    let meanwhile = async {
        // Three quarters of the room, which has eight pages.
        let units = 6 * BYTES as u64 * 2 / 4096;
        eventually("the first tenant has its part", || reader.handle.api().held().get_room_used >= units).await;
        slow.0.store(false, Ordering::SeqCst);
        reader.get(spaces[1], &keys(0..20), |_| {}).await
    };
    let got = tokio::select! {
        got = meanwhile => got,
        _ = hang => panic!("the reads did not hang"),
        () = tokio::time::sleep(SOON) => panic!("one tenant waited for the other's reads"),
    };
    assert!(got.iter().all(|page| page.hit));
}

#[tokio::test]
async fn a_model_with_a_dead_rank_leaves_room_to_its_tenants_other_models() {
    let (cluster, agent, dead) = agent(|config| {
        (config.put_room_wait_ms, config.gather_deadline_ms) = (3_600_000, 3_600_000);
    })
    .await;
    let works = agent.open(&Namespace::simple("works", 64, vec![BYTES as u64; 2])).await;
    // More than there is room for, and rank 1 never comes.
    let stuck = keys(0..2 * ROOM_PAGES);
    let stuck = put(&agent, dead, 0, &stuck, false);
    let meanwhile = async {
        eventually("its pages have what they may have", || agent.handle.api().held().pages_under_way >= 12).await;
        agent.put(works, &keys(0..8), 2, BYTES).await
    };
    let put = tokio::select! {
        put = meanwhile => put,
        _ = stuck => panic!("there was room for all"),
        () = tokio::time::sleep(SOON) => panic!("one model waited for another one's dead rank"),
    };
    assert_eq!(reasons(&put), [""; 0]);
    assert_eq!(cluster.meta.pages(works), 8);
}
