//! What an engine may ask beside lookups, gets and puts.

use std::sync::Arc;

use foreword_node::store::NoFaults;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::node as wire;
use foreword_proto::{Namespace, PageKey};
use tonic::{Code, Status};
use wire::PutOutcome::{Exists, Published, Taken, Unspecified};

use crate::harness::{Cluster, TestAgent, keys, page_bytes};

const BYTES: usize = 4096;

fn namespace() -> Namespace {
    Namespace::simple("two", 64, vec![BYTES as u64; 2])
}

async fn wanted(agent: &TestAgent, ns: u32, shard: u32, keys: &[PageKey]) -> Result<Vec<wire::PagePut>, Status> {
    let request = wire::WantedRequest { namespace_id: ns, shard, keys: page_keys_to_wire(keys) };
    Ok(agent.client.clone().wanted(request).await?.into_inner().pages)
}

#[tokio::test]
async fn a_writer_is_told_which_bytes_to_spare() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent("a").await;
    let ns = agent.open(&namespace()).await;
    let keys = keys(0..3);
    let published = agent.put(ns, &keys[..1], 2, BYTES).await;
    assert_eq!(published[0].outcome(), Published);
    let half = agent.put_shard(ns, 0, &keys[1..2], &[page_bytes(&keys[1], 0, BYTES)], false).await.unwrap();
    assert_eq!(half[0].outcome(), Taken);

    let outcomes = |pages: &[wire::PagePut]| pages.iter().map(wire::PagePut::outcome).collect::<Vec<_>>();
    let first = wanted(&agent, ns, 0, &keys).await.unwrap();
    assert_eq!(outcomes(&first), [Exists, Taken, Unspecified]);
    assert_eq!(first[0].revision, published[0].revision);
    assert_eq!(outcomes(&wanted(&agent, ns, 1, &keys).await.unwrap()), [Exists, Unspecified, Unspecified]);
    assert_eq!(agent.counters().puts_existing, 0, "nothing was put");

    let refused = wanted(&agent, ns, 2, &keys).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "shard: expected a shard below 2, got 2"));
}

#[tokio::test]
async fn an_engine_clears_where_its_tenant_may() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config("a");
    config.clear_tenants = vec!["mine".into()];
    let agent = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let open = async |tenant: &str| {
        let namespace = Namespace { tenant: tenant.into(), ..namespace() };
        let ns = agent.open(&namespace).await;
        assert_eq!(agent.put(ns, &keys(0..2), 2, BYTES).await[1].outcome(), Published);
        ns
    };
    let (mine, others) = (open("mine").await, open("theirs").await);

    let clear = async |ns| agent.client.clone().clear(wire::ClearRequest { namespace_id: ns }).await;
    let refused = clear(others).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().starts_with("clear_tenants: expected to name tenant \"theirs\""), "{refused}");
    let cleared = clear(mine).await.unwrap().into_inner();
    assert_eq!(cleared.revision, cluster.meta.revision());

    assert_eq!(agent.lookup(mine, &keys(0..2), 0).await.pages, 0);
    assert!(agent.get(mine, &keys(0..2), |_| {}).await.iter().all(|page| !page.hit));
    assert_eq!(agent.lookup(others, &keys(0..2), 0).await.pages, 2);
}
