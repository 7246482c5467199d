//! Data directories that were generated, and not grown, start a group like any others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use foreword_meta::config::MetaConfig;
use foreword_meta::generated::{Plan, directories, namespace};
use foreword_meta::open::open_data_dir;
use foreword_meta::serve::{Handle, serve};
use foreword_meta::state::State;
use foreword_meta::storage::{DataDir, Identity};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::records;
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::meta::{
    GrantRequest, LookupRequest, OpenSessionRequest, PublishRequest, RegisterNamespaceRequest,
};
use foreword_proto::{ClusterId, DirectoryId, SlotRef};
use foreword_seams::{Endpoint, OsEntropy, Telemetry, TokioNet, rpc};
use tonic::transport::Channel;

use crate::cluster::{PATIENCE, free_endpoint, settings};

const PAGES: u64 = 3000;

fn plan() -> Plan {
    Plan { seed: 1, namespaces: vec![PAGES, 100], written: 0, rests: 300, sessions: 2, page_files: vec![50] }
}

/// Directories of three replicas, as `foreword meta init` makes them, with the endpoints that they are reached at.
fn init(root: &std::path::Path) -> Vec<(PathBuf, Endpoint)> {
    let members: BTreeMap<u64, Endpoint> = (1..=3).map(|id| (id, free_endpoint())).collect();
    let named: BTreeMap<u64, String> = members.iter().map(|(id, endpoint)| (*id, endpoint.to_string())).collect();
    let made = members.into_iter().map(|(id, endpoint)| {
        let dir = root.join(id.to_string());
        let directory = DirectoryId([id as u8; 16]);
        let identity = Identity::new(ClusterId([9; 16]), id, directory, settings(), named.clone());
        DataDir::init(&dir, &identity).unwrap();
        (dir, endpoint)
    });
    made.collect()
}

async fn start(dir: &std::path::Path, endpoint: &Endpoint) -> Handle {
    let config = MetaConfig::new(dir, endpoint.clone());
    let deps = open_data_dir(&config, Arc::new(TokioNet), Arc::new(OsEntropy), Telemetry::new()).await.unwrap();
    serve(config, deps).await.unwrap()
}

/// Of the pages with these numbers, how many a replica finds.
async fn found(replica: &mut MetaClient<Channel>, namespace_id: u32, numbers: std::ops::Range<u64>) -> usize {
    let keys: Vec<_> = numbers.map(|number| plan().keys(0).page(number)).collect();
    let keys = page_keys_to_wire(&keys);
    let freshness = Some(Freshness { min_revision: 0, linearizable: true });
    let request = LookupRequest { namespace_id, keys, every_key: true, freshness, ..LookupRequest::default() };
    let answer = replica.lookup(request).await.unwrap().into_inner();
    answer.present.iter().filter(|byte| **byte == 1).count()
}

/// Opens a session and publishes the page with this number.
async fn publish(replica: &mut MetaClient<Channel>, namespace_id: u32, number: u64) {
    let open =
        OpenSessionRequest { node: "a".into(), incarnation: 1, endpoint: "a:1".into(), agent_id: vec![1; 16].into() };
    let session = replica.open_session(open).await.unwrap().into_inner().session;
    let grant = GrantRequest { session: session.clone(), sequence: 1, slot_bytes: 4096, slots: 1 };
    let slots = replica.grant(grant).await.unwrap().into_inner().slots;
    let slots: Vec<SlotRef> = records::decode("slots", &slots, 0, 1).unwrap();
    let pages = records::encode(&[plan().keys(0).record(number, slots[0])], 1);
    let request = PublishRequest { session, sequence: 2, namespace_id, epoch: 1, pages };
    assert_eq!(replica.publish(request).await.unwrap().into_inner().outcomes, vec![1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_directories_start_a_group_that_knows_every_page_and_takes_more() {
    let root = tempfile::tempdir().unwrap();
    let replicas = init(root.path());
    let dirs: Vec<PathBuf> = replicas.iter().map(|(dir, _)| dir.clone()).collect();
    let generated = directories::fill(&plan(), &dirs).await.unwrap();
    let mut handles = Vec::new();
    for (dir, endpoint) in &replicas {
        handles.push(start(dir, endpoint).await);
    }
    for handle in &handles {
        let applied = &handle.group().applied;
        let (pages, members) = applied.read(|state| (state.pages(), state.directories().count()));
        assert_eq!((pages, members), (PAGES + 100, 3));
        assert!(applied.revision() >= generated.revision);
    }
    let mut replica = MetaClient::new(rpc::channel(Arc::new(TokioNet), &replicas[0].1));
    // Answered by a leader: the group has elected one.
    let register = RegisterNamespaceRequest { namespace: Some((&namespace(0)).into()) };
    let answered = tokio::time::timeout(PATIENCE, async {
        loop {
            match replica.register_namespace(register.clone()).await {
                Ok(answer) => return answer.into_inner(),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    });
    let namespace_id = answered.await.unwrap().namespace_id;
    assert_eq!(found(&mut replica, namespace_id, 0..PAGES).await, PAGES as usize);
    assert_eq!(found(&mut replica, namespace_id, PAGES..PAGES + 400).await, 0, "the evicted ones are gone");
    publish(&mut replica, namespace_id, PAGES).await;
    assert_eq!(found(&mut replica, namespace_id, PAGES..PAGES + 400).await, 1);
    same_digest(&handles).await;
    for handle in handles {
        handle.shutdown().await;
    }
}

/// Waits until all replicas have one revision with one digest.
async fn same_digest(handles: &[Handle]) {
    let seen = |handle: &Handle| handle.group().applied.read(|state: &State| (state.revision(), state.digest()));
    let looking = async {
        while handles.windows(2).any(|pair| seen(&pair[0]) != seen(&pair[1])) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("one digest at one revision");
}

#[tokio::test]
async fn a_directory_that_took_part_in_a_group_is_not_filled() {
    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<PathBuf> = init(root.path()).into_iter().map(|(dir, _)| dir).collect();
    directories::fill(&plan(), &dirs).await.unwrap();
    let refused = directories::fill(&plan(), &dirs).await.unwrap_err();
    assert!(refused.to_string().contains("data_dir: expected a directory that no replica has used"), "{refused}");
}
