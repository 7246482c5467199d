//! The leader makes room, and the next leader goes on with it.

use foreword_proto::wire::meta as wire;

use crate::cluster::{Agent, Cluster, key};

/// Says that this agent asked for nothing, so that a new leader need not wait to hear it.
async fn report(cluster: &Cluster, agent: &Agent) {
    let heat = wire::ReportHeatRequest { session: agent.session.to_wire(), ..Default::default() };
    let leader = cluster.leader().await;
    // A leader that steps down meanwhile is asked again by who reports next.
    let _ = cluster.meta(leader).report_heat(heat).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_evicts_what_it_has_followed() {
    const SLOTS: u64 = 4096;
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let mut agent = Agent::open(&cluster, follower, "agent").await;
    report(&cluster, &agent).await;
    // A quarter more than there is room for.
    for batch in 0..SLOTS / 1024 + 1 {
        agent.publish(batch * 1024..(batch + 1) * 1024).await;
    }
    let old = cluster.leader().await;
    assert!(cluster.counter(old, "foreword_meta_pages_evicted_total") >= 1024);
    cluster.crash(old).await;
    let new = cluster.leader().await;
    let survivor = *cluster.running.keys().next().unwrap();
    agent.client = cluster.meta(survivor);
    report(&cluster, &agent).await;
    let first = (SLOTS / 1024 + 1) * 1024;
    for batch in 0..2 {
        agent.publish(first + batch * 1024..first + (batch + 1) * 1024).await;
    }
    assert!(cluster.counter(new, "foreword_meta_pages_evicted_total") >= 1024);
    assert_eq!(cluster.counter(new, "foreword_meta_policy_rebuilds_total"), 1, "at its start");
    // What was published last is there: the new leader knew what came first.
    let keys = (first..first + 2048).flat_map(|number| key(number).0).collect::<Vec<u8>>();
    let request = wire::LookupRequest {
        namespace_id: agent.namespace,
        keys: keys.into(),
        every_key: true,
        freshness: Some(foreword_proto::wire::common::Freshness { linearizable: true, ..Default::default() }),
        ..Default::default()
    };
    let found = agent.client.lookup(request).await.unwrap().into_inner();
    assert!(found.present.iter().all(|present| *present == 1), "a page that was just written was evicted");
}
