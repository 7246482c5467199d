//! Nobody votes before proof: whom the group refuses, and what is left of a change that gives up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_proto::bad_input::field_of;
use foreword_proto::limits::{FEATURE_LEVEL_MAX, WIRE_VERSIONS};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::raft as r;
use foreword_proto::wire::raft::raft_server::{Raft, RaftServer};
use foreword_proto::{DirectoryId, Namespace};
use foreword_seams::Endpoint;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cluster::{Cluster, free_endpoint, settings};
use crate::membership::{add, replace};
use crate::proxy::Proxy;

/// A replica that says hello and does nothing else: it never catches up.
struct OnlyHello {
    replica_id: u64,
    directory: DirectoryId,
    talks: Arc<AtomicBool>,
}

/// Where it listens, and whether it still talks.
struct Mute {
    endpoint: Endpoint,
    talks: Arc<AtomicBool>,
    _server: JoinHandle<()>,
}

impl Mute {
    async fn new(replica_id: u64, directory: DirectoryId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        let talks = Arc::new(AtomicBool::new(true));
        let service = RaftServer::new(OnlyHello { replica_id, directory, talks: talks.clone() });
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let _server = tokio::spawn(async move { serving.await.unwrap() });
        Self { endpoint, talks, _server }
    }
}

fn does_nothing<T>() -> Result<Response<T>, Status> {
    Err(Status::unavailable("it only says hello"))
}

#[tonic::async_trait]
impl Raft for OnlyHello {
    async fn hello(&self, _: Request<r::HelloRequest>) -> Result<Response<r::HelloResponse>, Status> {
        if !self.talks.load(Ordering::Acquire) {
            return does_nothing();
        }
        Ok(Response::new(r::HelloResponse {
            replica_id: self.replica_id,
            directory: self.directory.0.to_vec().into(),
            pristine: true,
            wire_version_min: WIRE_VERSIONS.min,
            wire_version_max: WIRE_VERSIONS.max,
            feature_level: FEATURE_LEVEL_MAX,
            settings: serde_json::to_string(&settings()).unwrap(),
            ..r::HelloResponse::default()
        }))
    }

    async fn append_entries(&self, _: Request<r::AppendRequest>) -> Result<Response<r::AppendResponse>, Status> {
        does_nothing()
    }

    async fn vote(&self, _: Request<r::VoteRequest>) -> Result<Response<r::VoteResponse>, Status> {
        does_nothing()
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<r::SnapshotFrame>>,
    ) -> Result<Response<r::SnapshotResponse>, Status> {
        does_nothing()
    }

    async fn spooled_snapshot(
        &self,
        _: Request<r::SpooledSnapshotRequest>,
    ) -> Result<Response<r::SpooledSnapshotResponse>, Status> {
        does_nothing()
    }

    async fn propose(&self, _: Request<r::ProposeRequest>) -> Result<Response<r::ProposeResponse>, Status> {
        does_nothing()
    }

    async fn read_index(&self, _: Request<r::ReadIndexRequest>) -> Result<Response<r::ReadIndexResponse>, Status> {
        does_nothing()
    }

    async fn promise(&self, _: Request<r::PromiseRequest>) -> Result<Response<r::PromiseResponse>, Status> {
        does_nothing()
    }

    async fn stand(&self, _: Request<r::StandRequest>) -> Result<Response<r::StandResponse>, Status> {
        does_nothing()
    }

    async fn digest(&self, _: Request<r::DigestRequest>) -> Result<Response<r::DigestResponse>, Status> {
        does_nothing()
    }
}

fn refused(error: &Status) -> (Code, Option<&str>) {
    (error.code(), field_of(error))
}

/// The group is as it was, and works.
async fn is_untouched(cluster: &Cluster, voters: &[u64]) {
    let leader = cluster.leader().await;
    let status = cluster.status(leader).await;
    assert_eq!((status.voters.as_slice(), status.learners.len()), (voters, 0));
    let namespace = Namespace::simple("still works", 64, vec![4096]);
    let request = wire::RegisterNamespaceRequest { namespace: Some((&namespace).into()) };
    cluster.meta(leader).register_namespace(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_members_endpoint_is_refused_whoever_is_asked() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let old = (1..=3).find(|id| *id != leader && *id != follower).unwrap();
    for asked in [leader, follower] {
        for owner in [leader, follower] {
            let endpoint = cluster.sites[&owner].endpoint.to_string();
            let error = cluster.admin(asked).replace_replica(replace(old, 4, &endpoint)).await.unwrap_err();
            assert_eq!(refused(&error), (Code::AlreadyExists, Some("endpoint")), "{error}");
            // Another spelling of the same: whoever answers there says who it is.
            let respelled = endpoint.replace("127.0.0.1", "localhost");
            let error = cluster.admin(asked).replace_replica(replace(old, 4, &respelled)).await.unwrap_err();
            assert_eq!(refused(&error), (Code::FailedPrecondition, Some("endpoint")), "{error}");
            assert!(error.message().contains(&format!("replica {owner} answers there")), "{error}");
        }
    }
    is_untouched(&cluster, &[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_name_led_to_a_member_for_a_while_is_taken_in() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let name = Proxy::to(&cluster.sites[&follower].endpoint).await;
    let endpoint = free_endpoint();
    cluster.add_site(4, endpoint.clone(), BTreeMap::new());
    cluster.start(4).await;
    let request = add(4, &name.endpoint.to_string());
    let error = cluster.admin(follower).add_replica(request.clone()).await.unwrap_err();
    assert!(error.message().contains(&format!("replica {follower} answers there")), "{error}");
    // Whoever is connected stays connected, and would go on asking the member.
    name.leads_newcomers_to(&endpoint);
    let added = cluster.eventually("a member of that name", async || {
        let added = cluster.admin(follower).add_replica(request.clone()).await;
        added.ok().map(|added| added.into_inner().voters)
    });
    assert_eq!(added.await, [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_not_taken_in_and_a_group_of_one_goes_on() {
    let mut cluster = Cluster::started(1).await;
    let nobody = free_endpoint().to_string();
    let error = cluster.admin(1).add_replica(add(2, &nobody)).await.unwrap_err();
    assert_eq!(refused(&error), (Code::FailedPrecondition, Some("endpoint")), "{error}");
    assert!(error.message().contains("replica 2") && error.message().contains(&nobody), "{error}");
    is_untouched(&cluster, &[1]).await;
    // Of another cluster.
    let (id, endpoint) = (cluster.id, free_endpoint());
    cluster.add_site(2, endpoint.clone(), BTreeMap::new());
    cluster.id.0[0] ^= 1;
    cluster.start(2).await;
    let theirs = std::mem::replace(&mut cluster.id, id);
    let error = cluster.admin(1).add_replica(add(2, &endpoint.to_string())).await.unwrap_err();
    assert_eq!(refused(&error), (Code::FailedPrecondition, Some("endpoint")), "{error}");
    assert!(error.message().contains(&id.to_string()) && error.message().contains(&theirs.to_string()), "{error}");
    cluster.crash(2).await;
    is_untouched(&cluster, &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_answer_holds_up_no_other_change() {
    let mut cluster = Cluster::started(1).await;
    let endpoint = free_endpoint();
    cluster.add_site(2, endpoint.clone(), BTreeMap::new());
    cluster.start(2).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut admin, slip) = (cluster.admin(1), add(3, &silent.local_addr().unwrap().to_string()));
    let slip = tokio::spawn(async move { admin.add_replica(slip).await });
    let _nothing_is_said = silent.accept().await.unwrap();
    let added = cluster.admin(1).add_replica(add(2, &endpoint.to_string())).await.unwrap().into_inner();
    assert_eq!(added.voters, [1, 2]);
    let error = slip.await.unwrap().unwrap_err();
    assert_eq!(refused(&error), (Code::FailedPrecondition, Some("endpoint")), "{error}");
    is_untouched(&cluster, &[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_does_not_catch_up_leaves_nothing_and_others_wait_for_their_turn() {
    let cluster = Cluster::started(1).await;
    let mute = Mute::new(2, DirectoryId([2; 16])).await;
    let (mut first, endpoint) = (cluster.admin(1), mute.endpoint.to_string());
    let request = add(2, &endpoint);
    let adding = tokio::spawn(async move { first.add_replica(request).await });
    let learns = async || (cluster.status(1).await.learners == [2]).then_some(());
    cluster.eventually("a learner", learns).await;
    let third = Mute::new(3, DirectoryId([3; 16])).await;
    let error = cluster.admin(1).add_replica(add(3, &third.endpoint.to_string())).await.unwrap_err();
    assert_eq!(refused(&error), (Code::FailedPrecondition, Some("membership")), "{error}");
    assert!(error.message().contains("adding replica 2"), "{error}");
    // An operator who thinks better of it.
    let left = cluster.admin(1).remove_replica(wire::RemoveReplicaRequest { replica_id: 2 }).await.unwrap();
    assert_eq!(left.into_inner().voters, [1]);
    assert_eq!(adding.await.unwrap().unwrap_err().code(), Code::Aborted);
    is_untouched(&cluster, &[1]).await;

    let mut second = cluster.admin(1);
    let adding = tokio::spawn(async move { second.add_replica(add(2, &endpoint)).await });
    cluster.eventually("a learner", learns).await;
    mute.talks.store(false, Ordering::Release);
    let error = adding.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(error.message().contains("did not catch up"), "{error}");
    is_untouched(&cluster, &[1]).await;
}

/// Replicas that slice L3, or rest slots, otherwise come to other states from the same log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_made_with_other_settings_is_refused_and_nothing_begins_with_him() {
    let mut cluster = Cluster::started(1).await;
    let endpoint = free_endpoint();
    cluster.add_site(2, endpoint.clone(), BTreeMap::new());
    cluster.write_rest_ms += 1;
    cluster.start(2).await;
    let error = cluster.admin(1).add_replica(add(2, &endpoint.to_string())).await.unwrap_err();
    assert_eq!(refused(&error), (Code::FailedPrecondition, Some("endpoint")), "{error}");
    assert!(error.message().contains("write_rest: expected 100, as the cluster has it, got 101"), "{error}");
    cluster.crash(2).await;
    is_untouched(&cluster, &[1]).await;

    let mut cluster = Cluster::new(3).await;
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.write_rest_ms += 1;
    cluster.start(3).await;
    let beginning = cluster.running[&1].group().raft.clone();
    let began = beginning.wait(Some(Duration::from_secs(2))).metrics(|m| m.last_log_index.is_some(), "a group").await;
    assert!(began.is_err(), "{began:?}");
    // Made again as the others were, the group begins.
    cluster.crash(3).await;
    cluster.write_rest_ms -= 1;
    cluster.sites.get_mut(&3).unwrap().bootstrapped = false;
    cluster.start(3).await;
    cluster.leader().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_used_belongs_to_its_directory() {
    let mut cluster = Cluster::started(1).await;
    let endpoint = free_endpoint();
    cluster.add_site(2, endpoint.clone(), BTreeMap::new());
    cluster.start(2).await;
    let request = add(2, &endpoint.to_string());
    for _ in 0..2 {
        // The same again changes nothing.
        let added = cluster.admin(1).add_replica(request.clone()).await.unwrap().into_inner();
        assert_eq!(added.voters, [1, 2]);
    }
    cluster.admin(1).remove_replica(wire::RemoveReplicaRequest { replica_id: 2 }).await.unwrap();
    cluster.crash(2).await;
    let first = cluster.sites[&2].directory;
    let kept = cluster.sites.remove(&2).unwrap();
    cluster.add_site(2, endpoint.clone(), BTreeMap::new());
    cluster.start(2).await;
    let error = cluster.admin(1).add_replica(request.clone()).await.unwrap_err();
    assert_eq!(refused(&error), (Code::FailedPrecondition, Some("directory")), "{error}");
    let second = cluster.sites[&2].directory;
    assert!(error.message().contains(&first.to_string()) && error.message().contains(&second.to_string()), "{error}");
    // The directory itself may come back.
    cluster.crash(2).await;
    is_untouched(&cluster, &[1]).await;
    cluster.sites.insert(2, kept);
    cluster.start(2).await;
    assert_eq!(cluster.admin(1).add_replica(request).await.unwrap().into_inner().voters, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_says_so_and_comes_back_when_it_is_taken_in_again() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.admin(leader).remove_replica(wire::RemoveReplicaRequest { replica_id: leader }).await.unwrap();
    let removed = cluster.running[&leader].standing();
    cluster.eventually("the removed one knows", async || removed.removed().then_some(())).await;
    let gone = cluster.running.remove(&leader).unwrap();
    let voters: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    is_untouched(&cluster, &voters).await;
    cluster.running.insert(leader, gone);
    let (asked, endpoint) = (voters[0], cluster.sites[&leader].endpoint.to_string());
    let added = cluster.admin(asked).add_replica(add(leader, &endpoint)).await.unwrap().into_inner();
    assert_eq!(added.voters, [1, 2, 3]);
    cluster.eventually("it knows that it is back", async || (!removed.removed()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_the_voter_that_is_named_and_stays_where_it_cannot() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let error = cluster.admin(leader).move_leader(wire::MoveLeaderRequest { to: 9 }).await.unwrap_err();
    assert_eq!(refused(&error), (Code::NotFound, Some("to")), "{error}");
    let moved = cluster.admin(follower).move_leader(wire::MoveLeaderRequest { to: follower }).await.unwrap();
    assert_eq!(moved.into_inner().leader, follower);
    is_untouched(&cluster, &[1, 2, 3]).await;
    let away = leader;
    cluster.crash(away).await;
    let error = cluster.admin(follower).move_leader(wire::MoveLeaderRequest { to: away }).await.unwrap_err();
    assert!(matches!(error.code(), Code::FailedPrecondition | Code::DeadlineExceeded), "{error}");
    cluster.start(away).await;
    is_untouched(&cluster, &[1, 2, 3]).await;
}
