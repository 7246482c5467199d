//! Replicas that stand still for longer than a lease, and go on: a machine that slept, a virtual machine that was
//! moved.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_cli::clients;
use foreword_cli::cluster::Spec;
use foreword_proto::AgentId;
use foreword_proto::status::ReplicaRole;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_seams::{Endpoint, TokioNet, rpc};
use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::support::run::{LEASE, Run, spec};
use super::support::{PATIENCE, until};

/// How long they stand still.
const STOPPED: Duration = LEASE.0.saturating_add(Duration::from_secs(2));
/// Renewals asked of a replica at once.
const RENEWALS: usize = 16;

/// A session that only the test renews, and the replica it asks.
struct Lease {
    replica: MetaClient<Channel>,
    session: Bytes,
}

impl Lease {
    async fn open(endpoint: &Endpoint) -> Self {
        let mut replica = MetaClient::new(rpc::channel(Arc::new(TokioNet), endpoint));
        let (node, agent_id) = ("witness".to_owned(), AgentId([9; 16]).to_wire());
        let request = m::OpenSessionRequest { node, agent_id, ..Default::default() };
        let session = replica.open_session(request).await.unwrap().into_inner().session;
        Self { replica, session }
    }

    /// What the replica itself says to a renewal: as if another had passed it on, so that it asks no other.
    async fn renewed_by_itself(&self) -> Result<(), Status> {
        let mut request = Request::new(m::RenewSessionRequest { session: self.session.clone() });
        request.metadata_mut().insert("foreword-forwarded", MetadataValue::from_static("1"));
        let answer = timeout(PATIENCE, self.replica.clone().renew_session(request)).await;
        answer.expect("an answer").map(drop)
    }

    /// Many renewals at once: each is refused, and may be asked of another replica.
    async fn is_refused(&self) {
        for refused in join_all((0..RENEWALS).map(|_| self.renewed_by_itself())).await {
            assert_eq!(refused.expect_err("a lease without a quorum").code(), Code::Unavailable);
        }
    }
}

/// Every agent publishes, in the session that it opened first.
async fn nobody_lost_its_session(run: &Run) {
    for (agent, socket) in run.cluster.agent_endpoints().iter().enumerate() {
        run.acked_through(agent, 20).await;
        assert_eq!(clients::agent_status(socket).await.unwrap().counters.sessions_opened, 1, "agent {agent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_that_goes_on_after_another_was_elected_answers_no_lease() {
    let mut run = Run::start("leader stopped", spec()).await;
    run.acked(200).await;
    let stopped = run.cluster.leader().await.unwrap();
    let lease = Lease::open(&run.cluster.meta_endpoints()[stopped as usize - 1]).await;
    lease.renewed_by_itself().await.expect("it leads");
    run.cluster.stop_replica(stopped).unwrap();
    let outage = run.outage().await;
    eprintln!("leader stopped: acknowledged again after {outage:?}");
    sleep(STOPPED.saturating_sub(outage)).await;
    // Asked while it stands still: it comes upon these before it has heard of the other leader.
    let asked = tokio::spawn(async move { lease.is_refused().await });
    run.cluster.continue_replica(stopped).unwrap();
    asked.await.unwrap();
    run.cluster.replica_ready(stopped).await.unwrap();
    assert_ne!(run.cluster.leader().await.unwrap(), stopped);
    nobody_lost_its_session(&run).await;
    run.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_that_leads_still_credits_every_session() {
    let mut run = Run::start("only replica stopped", Spec { replicas: 1, ..spec() }).await;
    run.acked(200).await;
    run.cluster.stop_replica(1).unwrap();
    sleep(STOPPED).await;
    run.cluster.continue_replica(1).unwrap();
    nobody_lost_its_session(&run).await;
    let log = fs::read_to_string(run.cluster.dir().join("logs/meta-1.log")).unwrap();
    assert!(log.contains("sessions are credited"), "{log}");
    run.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_peers_are_stopped_is_isolated_and_no_session_is_lost_by_that() {
    let mut run = Run::start("peers stopped", spec()).await;
    run.acked(200).await;
    let leader = run.cluster.leader().await.unwrap();
    let endpoint = run.cluster.meta_endpoints()[leader as usize - 1].clone();
    let lease = Lease::open(&endpoint).await;
    lease.renewed_by_itself().await.expect("it hears its peers");
    let peers: Vec<u64> = run.cluster.replica_ids().into_iter().filter(|id| *id != leader).collect();
    for peer in &peers {
        run.cluster.stop_replica(*peer).unwrap();
    }
    until("isolated, and not ready", || async {
        let status = clients::replica_status(&endpoint).await.unwrap();
        (status.role == ReplicaRole::Isolated && status.leader_id.is_none() && !status.ready).then_some(())
    })
    .await;
    lease.is_refused().await;
    sleep(STOPPED).await;
    lease.is_refused().await;
    for peer in &peers {
        run.cluster.continue_replica(*peer).unwrap();
    }
    for replica in run.cluster.replica_ids() {
        run.cluster.replica_ready(replica).await.unwrap();
    }
    nobody_lost_its_session(&run).await;
    run.judge().await;
}
