//! The straight path: what one agent put, another gets.

use foreword_node::api::EngineApi;
use foreword_proto::bad_input::field_of;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as wire;
use foreword_proto::{Namespace, RetireReason};
use tonic::Code;

use crate::harness::{Cluster, entry, eventually, expected, key, keys, page_bytes};

const BYTES: usize = 3000;

fn namespace() -> Namespace {
    Namespace::simple("m", 64, vec![BYTES as u64, BYTES as u64])
}

#[tokio::test]
async fn a_page_put_through_one_agent_is_got_through_another() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    assert_eq!(b.open(&namespace()).await, ns);
    let keys = keys(0..40);
    let put = a.put(ns, &keys, 2, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published), "{put:?}");
    let revision = put.iter().map(|page| page.revision).max().unwrap();

    let found = b.lookup(ns, &keys, revision).await;
    assert_eq!((found.pages, found.l1_pages, found.l3_pages), (40, 0, 40));
    assert!(found.revision >= revision);
    let own = a.lookup(ns, &keys, 0).await;
    assert_eq!((own.pages, own.l1_pages), (40, 40));

    for (agent, tier) in [(&b, wire::Tier::L3), (&b, wire::Tier::L1), (&a, wire::Tier::L1)] {
        let got = agent.get(ns, &keys, |_| {}).await;
        assert_eq!(got.len(), 40);
        for (page, key) in got.iter().zip(&keys) {
            assert!(page.hit, "{}", page.reason);
            assert_eq!(page.tier, tier as i32);
            assert_eq!(page.bytes, expected(key, 2, BYTES));
        }
    }
    let audit = a.get(ns, &keys, |get| get.bypass_cache = true).await;
    assert!(audit.iter().all(|page| page.hit && page.tier == wire::Tier::L3 as i32));
}

#[tokio::test]
async fn a_page_put_again_exists_and_costs_no_write() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    b.open(&namespace()).await;
    let put = a.put(ns, &keys(0..5), 2, BYTES).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    b.lookup(ns, &keys(0..5), revision).await;
    for agent in [&a, &b] {
        let again = agent.put(ns, &keys(0..5), 2, BYTES).await;
        assert!(again.iter().all(|page| page.outcome() == wire::PutOutcome::Exists), "{again:?}");
        assert!(again.iter().all(|page| page.revision >= 1));
    }
    assert_eq!((a.counters().l3_writes, b.counters().l3_writes), (5, 0));
}

#[tokio::test]
async fn two_agents_that_put_the_same_pages_at_once_share_one_entry_each() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    b.open(&namespace()).await;
    // Neither sees the other's publishes before its own are answered.
    cluster.meta.set(|settings| settings.hold_watches = true);
    let keys = keys(0..30);
    let (of_a, of_b) = tokio::join!(a.put(ns, &keys, 2, BYTES), b.put(ns, &keys, 2, BYTES));
    for (x, y) in of_a.iter().zip(&of_b) {
        let mut outcomes = [x.outcome() as i32, y.outcome() as i32];
        outcomes.sort_unstable();
        assert_eq!(outcomes, [wire::PutOutcome::Published as i32, wire::PutOutcome::Exists as i32]);
    }
    assert_eq!(cluster.meta.pages(ns), 30);
    // The loser reads its own copy or the winner's: both are right.
    for agent in [&a, &b] {
        let got = agent.get(ns, &keys, |_| {}).await;
        assert!(got.iter().zip(&keys).all(|(page, key)| page.bytes == expected(key, 2, BYTES)));
    }
}

#[tokio::test]
async fn large_pages_travel_in_pieces() {
    const LARGE: usize = 2_500_001;
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let large = Namespace::simple("large", 64, vec![LARGE as u64, LARGE as u64]);
    let ns = a.open(&large).await;
    b.open(&large).await;
    let put = a.put(ns, &keys(0..3), 2, LARGE).await;
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    let got = b.get(ns, &keys(0..3), |get| get.min_revision = revision).await;
    for (page, key) in got.iter().zip(keys(0..3)) {
        assert!(page.hit, "{}", page.reason);
        assert!(page.bytes == expected(&key, 2, LARGE));
    }
}

#[tokio::test]
async fn a_get_ends_at_the_first_miss_unless_every_key_is_wanted() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &[key(0), key(2)], 2, BYTES).await;
    let some = a.get(ns, &keys(0..3), |get| get.every_key = false).await;
    assert_eq!(some.iter().map(|page| page.hit).collect::<Vec<_>>(), [true, false]);
    assert_eq!(some[1].reason, "absent");
    let all = a.get(ns, &keys(0..3), |_| {}).await;
    assert_eq!(all.iter().map(|page| page.hit).collect::<Vec<_>>(), [true, false, true]);
    let one_shard = a.get(ns, &[key(0)], |get| get.shards = vec![1]).await;
    assert_eq!(one_shard[0].bytes, [vec![], page_bytes(&key(0), 1, BYTES)]);
}

#[tokio::test]
async fn own_publishes_are_seen_before_the_watch_stream_brings_them() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    cluster.meta.set(|settings| settings.hold_watches = true);
    a.put(ns, &keys(0..3), 2, BYTES).await;
    assert_eq!(a.lookup(ns, &keys(0..3), 0).await.pages, 3);
    let audit = a.get(ns, &keys(0..3), |get| get.bypass_cache = true).await;
    assert!(audit.iter().all(|page| page.hit));
}

#[tokio::test]
async fn a_lookup_waits_for_the_revision_it_demands() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    b.open(&namespace()).await;
    cluster.meta.set(|settings| settings.hold_watches = true);
    let revision = a.put(ns, &keys(0..3), 2, BYTES).await.iter().map(|page| page.revision).max().unwrap();
    let asked = keys(0..3);
    assert_eq!(b.lookup(ns, &asked, 0).await.pages, 0);
    let waiting = b.lookup(ns, &asked, revision);
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    cluster.meta.set(|settings| settings.hold_watches = false);
    let found = waiting.await;
    assert_eq!(found.pages, 3);
    assert!(found.revision >= revision);
}

#[tokio::test]
async fn a_linearizable_lookup_sees_every_publish_acknowledged_before_it() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    b.open(&namespace()).await;
    for round in 0..20 {
        let asked = keys(round * 10..round * 10 + 3);
        a.put(ns, &asked, 2, BYTES).await;
        let freshness = Some(foreword_proto::wire::common::Freshness { min_revision: 0, linearizable: true });
        let keys = foreword_proto::key::page_keys_to_wire(&asked);
        let request = wire::LookupRequest { namespace_id: ns, keys, tokens: None, freshness };
        assert_eq!(b.client.clone().lookup(request).await.unwrap().into_inner().pages, 3);
    }
}

#[tokio::test]
async fn a_router_learns_which_tier_has_what() {
    let cluster = Cluster::start().await;
    let (a, b) = (cluster.agent("a").await, cluster.agent("b").await);
    let ns = a.open(&namespace()).await;
    b.open(&namespace()).await;
    a.put(ns, &keys(0..3), 2, BYTES).await;
    b.lookup(ns, &[], cluster.meta.revision()).await;
    b.get(ns, &[key(1)], |_| {}).await;
    cluster.meta.retire(ns, &entry(&key(2)), RetireReason::Evicted);
    for (agent, tiers) in [(&a, [5, 5, 1, 0]), (&b, [4, 5, 0, 0])] {
        agent.lookup(ns, &[], cluster.meta.revision()).await;
        let keys = foreword_proto::key::page_keys_to_wire(&keys(0..4));
        let request = wire::LocateRequest { namespace_id: ns, keys, tokens: None, freshness: None };
        let located = agent.client.clone().locate(request).await.unwrap().into_inner();
        assert_eq!(&located.tiers[..], tiers);
    }
}

#[tokio::test]
async fn retired_deleted_and_cleared_pages_are_gone_as_each_should_be() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..3), 2, BYTES).await;
    cluster.meta.retire(ns, &entry(&key(0)), RetireReason::Evicted);
    cluster.meta.retire(ns, &entry(&key(1)), RetireReason::Deleted);
    let revision = cluster.meta.revision();
    a.lookup(ns, &[], revision).await;
    let hits = || async { a.get(ns, &keys(0..3), |_| {}).await.iter().map(|page| page.hit).collect::<Vec<_>>() };
    // Evicted from L3 only: L1 still has it. Deleted: nobody may have it.
    assert_eq!(hits().await, [true, false, true]);
    // Nor is the evicted one's slot another's yet: what was promised a moment ago is given. Who asks for more than was
    // known then gets a miss.
    assert_eq!(a.lookup(ns, &keys(0..1), 0).await.l3_pages, 0);
    let from_l3 = async |min_revision| {
        let ask = |request: &mut wire::GetRequest| (request.bypass_cache, request.min_revision) = (true, min_revision);
        a.get(ns, &keys(0..3), ask).await.iter().map(|page| page.hit).collect::<Vec<_>>()
    };
    assert_eq!(from_l3(0).await, [true, false, true]);
    assert_eq!(from_l3(revision).await, [false, false, true]);
    cluster.meta.clear_namespace(ns);
    a.lookup(ns, &[], cluster.meta.revision()).await;
    assert_eq!(hits().await, [false, false, false]);
    let put = a.put(ns, &keys(0..3), 2, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published), "{put:?}");
    assert_eq!(hits().await, [true, true, true]);
}

/// The agent was away for longer than what is kept of events: nobody tells it why pages went. It used to give their
/// copies in L1.
#[tokio::test]
async fn copies_of_what_went_while_nobody_told_are_gone_after_the_resync() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..5), 2, BYTES).await;
    cluster.meta.retire(ns, &entry(&key(4)), RetireReason::Evicted);
    a.lookup(ns, &[], cluster.meta.revision()).await;
    assert_eq!(a.lookup(ns, &[key(4)], 0).await.pages, 1, "a copy of what was evicted");

    cluster.meta.set(|settings| settings.hold_watches = true);
    for number in 0..3 {
        cluster.meta.retire(ns, &entry(&key(number)), RetireReason::Deleted);
    }
    // One of them comes back, by another agent.
    let b = cluster.agent("b").await;
    b.open(&namespace()).await;
    b.put(ns, &[key(2)], 2, BYTES).await;
    let reads_before = a.handle.api().stats().counters.l3_reads;
    cluster.meta.forget_events(ns);
    cluster.meta.set(|settings| settings.hold_watches = false);
    a.lookup(ns, &[], cluster.meta.revision()).await;
    let mut found = Vec::new();
    for number in 0..5 {
        found.push(a.lookup(ns, &[key(number)], 0).await.pages);
    }
    // What had been evicted may have come again and been deleted meanwhile: its copy is not given, either.
    assert_eq!(found, [0, 0, 1, 1, 0]);
    let hits: Vec<bool> = a.get(ns, &keys(0..5), |_| {}).await.iter().map(|page| page.hit).collect();
    assert_eq!(hits, [false, false, true, true, false]);
    assert_eq!(
        a.handle.api().stats().counters.l3_reads,
        reads_before + 1,
        "the other writer's page is read, its forerunner's copy gone"
    );
    assert!(a.handle.api().stats().counters.watch_resyncs > 0);
}

#[tokio::test]
async fn a_dropped_namespace_is_closed_and_begins_again_under_a_new_id() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..3), 2, BYTES).await;
    assert!(a.get(ns, &keys(0..3), |_| {}).await.iter().all(|page| page.hit));
    cluster.meta.drop_namespace(ns);
    let mut client = a.client.clone();
    let refused = loop {
        let request =
            wire::LookupRequest { namespace_id: ns, keys: page_keys_to_wire(&keys(0..3)), ..Default::default() };
        match client.lookup(request).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    assert_eq!((refused.code(), field_of(&refused)), (Code::NotFound, Some("namespace_id")));
    let again = a.open(&namespace()).await;
    assert_ne!(again, ns);
    assert_eq!(a.lookup(again, &keys(0..3), 0).await.pages, 0);
    assert!(a.get(again, &keys(0..3), |_| {}).await.iter().all(|page| !page.hit), "no copy of its earlier life");
    a.put(again, &keys(0..3), 2, BYTES).await;
    assert!(a.get(again, &keys(0..3), |_| {}).await.iter().all(|page| page.hit));
}

#[tokio::test]
async fn what_is_used_is_reported_with_the_root_as_the_newest() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    a.put(ns, &keys(0..3), 2, BYTES).await;
    a.get(ns, &keys(0..3), |_| {}).await;
    let meta = cluster.meta.clone();
    eventually("heat is reported", || meta.state.lock().heat.len() >= 3).await;
    let newest: Vec<_> = meta.state.lock().heat.iter().rev().take(3).copied().collect();
    assert_eq!(newest, keys(0..3).iter().map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_agent_without_accesses_says_so() {
    let cluster = Cluster::start().await;
    let _idle = cluster.agent("a").await;
    let meta = cluster.meta.clone();
    eventually("a report without keys", || meta.state.lock().cold_reports > 0).await;
    assert!(meta.state.lock().heat.is_empty());
}

#[tokio::test]
async fn an_answer_lost_on_the_way_is_asked_for_again_and_nothing_is_done_twice() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let ns = a.open(&namespace()).await;
    cluster.meta.set(|settings| settings.lose_answers = 6);
    let put = a.put(ns, &keys(0..20), 2, BYTES).await;
    assert!(put.iter().all(|page| page.outcome() == wire::PutOutcome::Published), "{put:?}");
    assert_eq!(cluster.meta.pages(ns), 20);
    assert_eq!(cluster.meta.settings.lock().lose_answers, 0);
}

/// What the agent says about itself to an observer in its process: the mirror, the session, and that nothing stays in
/// use.
#[tokio::test]
async fn when_nothing_is_asked_every_frame_is_a_page_of_l1() {
    let cluster = Cluster::start().await;
    let a = cluster.agent("a").await;
    let api = a.handle.api();
    let ns = a.open(&namespace()).await;
    let put = a.put(ns, &keys(0..20), 2, BYTES).await;
    a.get(ns, &keys(0..30), |get| get.bypass_cache = true).await;
    // One shard of two: the page is under way until it is given up.
    let half = page_bytes(&key(50), 0, BYTES);
    let taken = a.put_shard(ns, 0, &keys(50..51), &[half], false).await.unwrap();
    assert_eq!(taken[0].outcome(), wire::PutOutcome::Taken);
    let busy = api.held();
    assert!(busy.pages_under_way == 1 && busy.put_room_used > 0, "{busy:?}");
    assert_eq!(busy.frames_used, busy.l1_pages + 1);
    eventually("the half page is given up", || {
        let held = api.held();
        let idle = held.pages_under_way + held.put_room_used + held.get_room_used == 0;
        idle && held.frames_used == held.l1_pages && held.l1_pages >= 20
    })
    .await;
    assert!(api.session().is_some());
    let revision = put.iter().map(|page| page.revision).max().unwrap();
    eventually("the mirror shows the pages", || {
        let mut seen = Vec::new();
        api.visit_mirrors(|id, mirror| seen.push((id, mirror.revision() >= revision, mirror.table().len())));
        seen == [(ns, true, 20)]
    })
    .await;
}
