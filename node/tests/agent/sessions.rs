//! Leases, fencing, room: what the group can do to an agent.

use std::sync::Arc;

use foreword_node::api::EngineApi;
use foreword_node::store::NoFaults;
use foreword_proto::Namespace;
use foreword_proto::wire::node as wire;

use crate::fake_meta::Settings;
use crate::harness::{Cluster, eventually, key, keys};

const BYTES: usize = 4096;

fn namespace() -> Namespace {
    Namespace::simple("m", 64, vec![BYTES as u64])
}

fn refusals(put: &[wire::PagePut]) -> Vec<&str> {
    put.iter().filter(|page| page.outcome() == wire::PutOutcome::Refused).map(|page| page.reason.as_str()).collect()
}

#[tokio::test]
async fn a_lost_session_is_replaced_and_its_slots_are_not_used_again() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..10), 1, BYTES).await;
    cluster.meta.expire_sessions();
    // Written to slots of the session that is over: the group refuses them, and nobody is told otherwise.
    let put = a.put(ns, &keys(10..20), 1, BYTES).await;
    assert!(refusals(&put).iter().all(|reason| *reason == "fenced"), "{put:?}");
    let mut later = Vec::new();
    while later.is_empty() || !refusals(&later).is_empty() {
        later = a.put(ns, &keys(20..30), 1, BYTES).await;
    }
    assert_eq!(a.counters().sessions_opened, 2);
    // What was acknowledged is there, and nothing else.
    let found = keys(0..30).iter().filter(|key| cluster.meta.location(ns, &key.entry()).is_some()).count();
    assert_eq!(found, 30 - refusals(&put).len());
}

#[tokio::test]
async fn an_agent_that_cannot_renew_writes_nothing() {
    let cluster = Cluster::with(Settings { lease_ms: 300, ..Settings::default() }).await;
    let mut config = cluster.config("a");
    config.publish_wait_ms = 300;
    let a = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..5), 1, BYTES).await;
    let written = a.counters().l3_writes;
    cluster.meta.set(|settings| settings.unavailable = true);
    eventually("the agent fences itself", || a.handle.api().stats().fenced).await;
    let put = a.put(ns, &keys(10..15), 1, BYTES).await;
    assert_eq!(refusals(&put), ["fenced"; 5]);
    assert_eq!(a.counters().l3_writes, written);
    // Reads go on.
    let got = a.get(ns, &keys(0..5), |get| get.bypass_cache = true).await;
    assert!(got.iter().all(|page| page.hit));
    cluster.meta.set(|settings| settings.unavailable = false);
    eventually("the agent renews", || !a.handle.api().stats().fenced).await;
    let put = a.put(ns, &keys(10..15), 1, BYTES).await;
    assert_eq!(refusals(&put), [""; 0]);
}

#[tokio::test]
async fn a_full_l3_refuses_after_the_wait_and_takes_pages_again_when_there_is_room() {
    let cluster = Cluster::with(Settings { slots: 8, ..Settings::default() }).await;
    let mut config = cluster.config("a");
    config.put_room_wait_ms = 200;
    let a = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = a.open(&namespace()).await;
    let put = a.put(ns, &keys(0..12), 1, BYTES).await;
    assert_eq!(refusals(&put), ["l3_full"; 4]);
    cluster.meta.retire(ns, &key(0).entry(), foreword_proto::RetireReason::Evicted);
    cluster.meta.retire(ns, &key(1).entry(), foreword_proto::RetireReason::Evicted);
    let put = a.put(ns, &keys(20..22), 1, BYTES).await;
    assert_eq!(refusals(&put), [""; 0]);
    let http = a.handle.api().stats().counters;
    assert_eq!(http.puts_refused, 4);
}

#[tokio::test]
async fn unused_slots_of_an_existing_page_are_used_for_the_next() {
    // Each agent is granted 64 slots and there are no more.
    let cluster = Cluster::with(Settings { slots: 128, ..Settings::default() }).await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    b.open(&namespace()).await;
    cluster.meta.set(|settings| settings.hold_watches = true);
    a.put(ns, &keys(0..10), 1, BYTES).await;
    b.put(ns, &keys(0..10), 1, BYTES).await;
    assert_eq!((b.counters().l3_writes, b.counters().puts_existing), (10, 10));
    let put = b.put(ns, &keys(100..164), 1, BYTES).await;
    assert_eq!(refusals(&put), [""; 0]);
}

#[tokio::test]
async fn a_page_whose_shards_do_not_all_come_is_given_up() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config("a");
    config.gather_deadline_ms = 200;
    let a = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = a.open(&Namespace::simple("two", 64, vec![100, 100])).await;
    let put = a.put_shard(ns, 0, &keys(0..3), &[vec![1; 100], vec![2; 100], vec![3; 100]], true).await.unwrap();
    assert_eq!(refusals(&put), ["incomplete"; 3]);
    assert_eq!(a.handle.api().stats().arena.frame_bytes_used, 0);
    assert_eq!(a.counters().puts_aborted, 3);
    let put = a.put(ns, &keys(0..3), 2, 100).await;
    assert_eq!(refusals(&put), [""; 0]);
}

#[tokio::test]
async fn a_put_that_does_not_wait_is_answered_when_the_bytes_are_taken() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    cluster.meta.set(|settings| settings.unavailable = true);
    let put = a.put_shard(ns, 0, &keys(0..2), &[vec![1; BYTES], vec![2; BYTES]], false).await.unwrap();
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Taken));
    cluster.meta.set(|settings| settings.unavailable = false);
    eventually("the pages are published", || cluster.meta.pages(ns) == 2).await;
}

#[tokio::test]
async fn the_arena_is_smaller_than_what_is_put_and_got() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config("a");
    config.arena_bytes = 1 << 20;
    let a = cluster.agent_with(config.clone(), Arc::new(NoFaults)).await;
    config.node = "b".into();
    let b = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = a.open(&Namespace::simple("two", 64, vec![4096, 4096])).await;
    b.open(&Namespace::simple("two", 64, vec![4096, 4096])).await;
    let writers = (0..8u64).map(|writer| {
        let a = &a;
        async move { a.put(ns, &keys(writer * 100..writer * 100 + 100), 2, 4096).await }
    });
    let put: Vec<_> = futures::future::join_all(writers).await.concat();
    assert_eq!(refusals(&put), [""; 0]);
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    b.lookup(ns, &[], revision).await;
    let readers = (0..16u64).map(|reader| {
        let b = &b;
        async move { b.get(ns, &keys(reader * 50..reader * 50 + 50), |_| {}).await }
    });
    let got = futures::future::join_all(readers).await.concat();
    let missed: Vec<_> = got.iter().filter(|page| !page.hit).map(|page| &page.reason).collect();
    assert_eq!(missed, [""; 0]);
}

/// The session was there once: engines have their namespaces open, and put.
#[tokio::test]
async fn a_put_waits_for_no_session_that_the_group_refuses() {
    let cluster = Cluster::with(Settings { lease_ms: 300, ..Settings::default() }).await;
    let mut config = cluster.config("a");
    // Longer than a test may take: only a refusal ends the wait.
    config.publish_wait_ms = 3_600_000;
    let a = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = a.open(&namespace()).await;
    cluster.meta.set(|settings| settings.name_taken = true);
    cluster.meta.expire_sessions();
    eventually("the session is over", || a.handle.api().stats().fenced).await;
    let put = a.put(ns, &keys(0..5), 1, BYTES).await;
    assert_eq!(refusals(&put), ["fenced"; 5]);
    assert!(!a.handle.ready(), "it was, before its name was taken");
    cluster.meta.set(|settings| settings.name_taken = false);
    eventually("it is ready again", || a.handle.ready()).await;
}

#[tokio::test]
async fn an_agent_whose_name_is_taken_is_not_ready_and_keeps_trying() {
    let cluster = Cluster::with(Settings { name_taken: true, ..Settings::default() }).await;
    let a = cluster.agent("a").await;
    let asked = || cluster.meta.state.lock().asked.clone();
    eventually("it asks again", || asked().len() >= 3).await;
    assert!(!a.handle.ready());
    assert!(asked().iter().all(|one| *one == asked()[0]), "one agent, one process: {:?}", asked());
    cluster.meta.set(|settings| settings.name_taken = false);
    eventually("it is ready", || a.handle.ready()).await;
}
