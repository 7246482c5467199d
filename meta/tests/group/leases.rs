//! Leases need a leader that was heard, and a replica says when it is alone.

use foreword_meta::replica::readiness::NotReady;
use foreword_proto::bad_input::field_of;
use foreword_proto::status::ReplicaRole;
use foreword_proto::wire::meta::{AbortRequest, CloseSessionRequest, RenewSessionRequest};
use foreword_proto::{AgentId, SessionId};
use tonic::Code;

use crate::cluster::{Agent, Cluster};

/// What one renewal at one replica is answered.
async fn renewed(cluster: &Cluster, replica: u64, session: SessionId) -> Result<(), Code> {
    let answer = cluster.meta(replica).renew_session(RenewSessionRequest { session: session.to_wire() }).await;
    answer.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn a_leader_without_a_quorum_renews_nothing_and_says_so() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let session = Agent::open(&cluster, leader, "a").await.session;
    cluster.eventually("a renewal", async || renewed(&cluster, leader, session).await.ok()).await;
    cluster.eventually("ready", async || cluster.running[&leader].ready().then_some(())).await;
    let others: Vec<u64> = cluster.running.keys().copied().filter(|id| *id != leader).collect();
    for id in &others {
        cluster.crash(*id).await;
    }
    let refused = async || renewed(&cluster, leader, session).await.err();
    assert_eq!(cluster.eventually("a refused renewal", refused).await, Code::Unavailable);
    for _ in 0..30 {
        assert_eq!(renewed(&cluster, leader, session).await, Err(Code::Unavailable));
    }
    let status = cluster.status(leader).await;
    assert_eq!((status.role, status.leader_id), (ReplicaRole::Isolated, None));
    let standing = cluster.running[&leader].standing();
    let why = cluster.eventually("not ready", async || standing.not_ready()).await;
    assert!(matches!(why, NotReady::NoQuorum { .. }), "{why}");
    for id in others {
        cluster.start(id).await;
    }
    for id in [1, 2, 3] {
        cluster.eventually("ready again", async || cluster.running[&id].ready().then_some(())).await;
    }
    let leader = cluster.leader().await;
    assert_eq!(cluster.status(leader).await.role, ReplicaRole::Leader);
    cluster.eventually("a renewal again", async || renewed(&cluster, leader, session).await.ok()).await;
}

#[tokio::test]
async fn a_follower_that_hears_no_leader_is_not_ready_and_a_group_of_one_is() {
    let mut cluster = Cluster::started(3).await;
    let left = cluster.follower().await;
    cluster.eventually("ready", async || cluster.running[&left].ready().then_some(())).await;
    for id in cluster.running.keys().copied().filter(|id| *id != left).collect::<Vec<_>>() {
        cluster.crash(id).await;
    }
    let standing = cluster.running[&left].standing();
    let why = cluster.eventually("not ready", async || standing.not_ready()).await;
    assert!(matches!(why, NotReady::NoLeader { .. }), "{why}");

    let one = Cluster::started(1).await;
    one.eventually("ready", async || one.running[&1].ready().then_some(())).await;
    let session = Agent::open(&one, 1, "a").await.session;
    assert_eq!(renewed(&one, 1, session).await, Ok(()));
}

#[tokio::test]
async fn a_name_is_its_agents_until_the_session_ends() {
    let cluster = Cluster::started(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut first = Agent::open_as(&cluster, leader, "gpu", AgentId([1; 16])).await.unwrap();
    first.grant(8).await;
    let refused =
        Agent::open_as(&cluster, follower, "gpu", AgentId([2; 16])).await.err().expect("another agent's name");
    assert_eq!((refused.code(), field_of(&refused)), (Code::FailedPrecondition, Some("node")), "{refused}");
    assert!(refused.message().contains("agent-1:1") && refused.message().contains("agent-2:1"), "{refused}");
    assert_eq!(renewed(&cluster, leader, first.session).await, Ok(()), "the first agent did not notice");
    assert_eq!(cluster.status(leader).await.l3.resting_bytes, 0);

    // The same agent after a restart: at once, and what its earlier process may still be writing rests.
    let again = Agent::open_as(&cluster, follower, "gpu", AgentId([1; 16])).await.unwrap();
    assert_ne!(again.session, first.session);
    assert_eq!(renewed(&cluster, leader, first.session).await, Err(Code::FailedPrecondition));
    let unwritten = foreword_proto::records::encode(&first.slots, 0);
    let (session, sequence) = (first.session.to_wire(), first.next());
    let abort = AbortRequest { session, sequence, unwritten, unknown: Vec::new().into() };
    let late = cluster.meta(leader).abort(abort).await.unwrap_err();
    assert_eq!(field_of(&late), Some("session"), "only a session itself, while it is open, says `unwritten`");

    cluster.meta(leader).close_session(CloseSessionRequest { session: again.session.to_wire() }).await.unwrap();
    Agent::open_as(&cluster, leader, "gpu", AgentId([2; 16])).await.unwrap();
}
