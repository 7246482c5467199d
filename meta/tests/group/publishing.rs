//! Publish and look up, through any replica.

use foreword_proto::wire::common::{ChainAlgorithm, ChainUnit, Freshness, Tokens};
use foreword_proto::wire::meta as wire;

use crate::cluster::{Agent, Cluster, key, present};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_follower_forwards_every_replica_finds() {
    let cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let mut agent = Agent::open(&cluster, follower, "a").await;
    let revision = agent.publish(0..100).await;
    for replica in [1, 2, 3] {
        assert!(present(&cluster, replica, agent.namespace, 0..100).await.into_iter().all(|found| found));
        let keys: Vec<_> = (0..150).map(key).collect();
        let request = wire::LookupRequest {
            namespace_id: agent.namespace,
            keys: foreword_proto::key::page_keys_to_wire(&keys),
            freshness: Some(Freshness { min_revision: revision, linearizable: false }),
            with_locations: true,
            ..wire::LookupRequest::default()
        };
        let found = cluster.meta(replica).lookup(request).await.unwrap().into_inner();
        assert_eq!((found.prefix, found.present.len()), (100, 101), "the lookup stops at the first absent key");
        assert_eq!(found.locations.len(), 100 * 20);
        assert!(found.revision >= revision);
    }
    assert_eq!(cluster.converged().await.pages, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_sequence_gets_the_same_outcome_and_publishes_once() {
    let cluster = Cluster::started(3).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    agent.grant(8).await;
    let granted = agent.slots.clone();
    agent.sequence -= 1;
    agent.slots.clear();
    agent.grant(8).await;
    assert_eq!(agent.slots, granted, "a grant retried under its sequence is the same slots");

    let pages = vec![agent.page(1), agent.page(2)];
    let request = agent.publish_request(&pages);
    let first = agent.client.publish(request.clone()).await.unwrap().into_inner();
    let again = cluster.meta(2).publish(request).await.unwrap().into_inner();
    assert_eq!(first, again);

    // Under a new sequence the same keys exist already, and their location is told.
    let pages = vec![agent.page(1), agent.page(3)];
    let request = agent.publish_request(&pages);
    let third = agent.client.publish(request).await.unwrap().into_inner();
    assert_eq!(third.outcomes.as_ref(), [2, 1]);
    assert_eq!(third.existing.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_is_found_by_its_tokens() {
    let cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    let token_ids: Vec<u8> = (0u32..64 * 3 + 5).flat_map(u32::to_le_bytes).collect();
    let tokens = Tokens {
        algorithm: ChainAlgorithm::Sha256 as i32,
        unit: ChainUnit::Token as i32,
        seed: bytes::Bytes::new(),
        token_ids: token_ids.into(),
        wide: false,
    };
    let keys = foreword_proto::chain::asked_keys(&[], Some(&tokens), 64).unwrap();
    assert_eq!(keys.len(), 3, "only whole pages have keys");
    agent.grant(4).await;
    let mut pages = vec![agent.page(0), agent.page(0)];
    for (page, key) in pages.iter_mut().zip(&keys) {
        page.key = key.entry();
    }
    let request = agent.publish_request(&pages);
    agent.client.publish(request).await.unwrap();
    let request = wire::LookupRequest {
        namespace_id: agent.namespace,
        tokens: Some(tokens),
        freshness: Some(Freshness { min_revision: 0, linearizable: true }),
        ..wire::LookupRequest::default()
    };
    assert_eq!(agent.client.lookup(request).await.unwrap().into_inner().prefix, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_and_cleared_pages_are_gone_at_their_revision() {
    let cluster = Cluster::started(3).await;
    let mut agent = Agent::open(&cluster, 2, "a").await;
    agent.publish(0..10).await;
    let keys = foreword_proto::key::page_keys_to_wire(&[key(3), key(99)]);
    let request = wire::DeleteRequest { namespace_id: agent.namespace, keys };
    assert_eq!(agent.client.delete(request).await.unwrap().into_inner().deleted, 1);
    let found = present(&cluster, 1, agent.namespace, 0..10).await;
    assert_eq!(found.iter().filter(|found| !**found).count(), 1);

    let cleared = agent.client.clear(wire::ClearRequest { namespace_id: agent.namespace }).await.unwrap().into_inner();
    assert_eq!(cleared.epoch, agent.epoch + 1);
    assert!(present(&cluster, 3, agent.namespace, 0..10).await.into_iter().all(|found| !found));
    // What was taken before the clear is refused after it, and the slots stay usable.
    agent.grant(2).await;
    let pages = vec![agent.page(50)];
    let request = agent.publish_request(&pages);
    let late = agent.client.publish(request).await.unwrap().into_inner();
    assert_eq!(late.outcomes.as_ref(), [3]);
    agent.epoch = cleared.epoch;
    let request = agent.publish_request(&pages);
    assert_eq!(agent.client.publish(request).await.unwrap().into_inner().outcomes.as_ref(), [1]);
    cluster
        .eventually("cleared pages are reclaimed", async || {
            let l3 = cluster.status(1).await.l3;
            (l3.published_bytes == 4096 && l3.resting_bytes == 0).then_some(())
        })
        .await;
}
