//! What a replica could not apply never reaches the log, whoever proposes it.

use bytes::{Bytes, BytesMut};
use foreword_meta::consensus::types::EntryBatch;
use foreword_meta::serve::Failure;
use foreword_meta::state::codec::{encode_batch, encode_command};
use foreword_meta::state::command::Command;
use foreword_proto::bad_input::field_of;
use foreword_proto::limits::{
    COMMANDS_PER_ENTRY_MAX, ENTRY_BYTES_MAX, FEATURE_LEVEL_MAX, FORMAT_VERSION, WIRE_VERSION,
};
use foreword_proto::versions::Foreign;
use foreword_proto::wire::raft::ProposeRequest;
use foreword_proto::wire::raft::raft_client::RaftClient;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::cluster::{Agent, Cluster, PATIENCE, present};

/// Of this version, of a kind that no version has.
const UNKNOWN_KIND: &[u8] = &[0x01, 0x63];

fn encoded(command: &Command) -> Bytes {
    let mut bytes = BytesMut::new();
    encode_command(command, &mut bytes);
    bytes.freeze()
}

/// Proposes as another replica of the group would.
async fn propose(cluster: &Cluster, replica: u64, commands: Vec<Bytes>) -> Result<u64, Status> {
    let mut request = Request::new(ProposeRequest { commands });
    let cluster_id = MetadataValue::try_from(cluster.id.to_string()).unwrap();
    request.metadata_mut().insert("foreword-cluster", cluster_id);
    request.metadata_mut().insert("foreword-wire-versions", MetadataValue::from(WIRE_VERSION));
    request.metadata_mut().insert("foreword-from", MetadataValue::from(9));
    request.metadata_mut().insert("foreword-to", MetadataValue::from(replica));
    request.set_timeout(PATIENCE);
    let mut client = RaftClient::new(cluster.channel(replica)).max_encoding_message_size(usize::MAX);
    client.propose(request).await.map(|response| response.into_inner().revision)
}

async fn refused(cluster: &Cluster, replica: u64, commands: Vec<Bytes>) -> (Code, String) {
    let error = propose(cluster, replica, commands).await.unwrap_err();
    (error.code(), field_of(&error).unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_nobody_can_read_stops_no_replica() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let mut agent = Agent::open(&cluster, leader, "a").await;
    agent.publish(0..10).await;
    let good = encoded(&Command::Reclaim { entries_max: 1 });
    for replica in [1, 2, 3] {
        for commands in [vec![UNKNOWN_KIND.into()], vec![good.clone(), UNKNOWN_KIND.into()]] {
            let bad = commands.len() - 1;
            let told = refused(&cluster, replica, commands).await;
            let expected = match replica == leader {
                true => (Code::InvalidArgument, format!("commands.{bad}")),
                false => (Code::Unavailable, "leader".into()),
            };
            assert_eq!(told, expected, "replica {replica}");
        }
    }
    agent.publish(10..20).await;
    assert_eq!(cluster.converged().await.pages, 20);
    for replica in [1, 2, 3] {
        assert!(present(&cluster, replica, agent.namespace, 0..20).await.into_iter().all(|found| found));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_names_what_may_not_be_logged() {
    let cluster = Cluster::started(1).await;
    let last = || cluster.running[&1].group().raft.metrics().borrow().last_log_index;
    let good = encoded(&Command::Reclaim { entries_max: 1 });
    let cases = [
        (vec![Bytes::new()], Code::InvalidArgument, "commands.0"),
        (vec![[&good[..], &[0]].concat().into()], Code::InvalidArgument, "commands.0"),
        // Another version of the format, as a newer follower would forward it.
        (vec![good.clone(), [&[2], &good[1..]].concat().into()], Code::InvalidArgument, "commands.1"),
        (vec![encoded(&Command::Tick { now_ms: u64::MAX })], Code::InvalidArgument, "commands.0"),
        (vec![good.clone(); COMMANDS_PER_ENTRY_MAX + 1], Code::ResourceExhausted, "commands"),
        (vec![large()], Code::ResourceExhausted, "commands"),
        (
            vec![encoded(&Command::RaiseFeatureLevel { level: FEATURE_LEVEL_MAX + 1 })],
            Code::FailedPrecondition,
            "commands.0",
        ),
    ];
    let before = last();
    for (commands, code, field) in cases {
        assert_eq!(refused(&cluster, 1, commands).await, (code, field.to_owned()));
    }
    // The leader's own ticks come once a second at most.
    let logged = last().unwrap() - before.unwrap();
    assert!(logged < 5, "{logged} entries were logged meanwhile");
    propose(&cluster, 1, vec![good; COMMANDS_PER_ENTRY_MAX]).await.unwrap();
}

/// One command that alone exceeds an entry.
fn large() -> Bytes {
    let keys = vec![foreword_proto::EntryKey([7; 16]); ENTRY_BYTES_MAX / 16];
    encoded(&Command::Delete { namespace: 1, keys })
}

/// Nothing but a bug, or a leader that is one version ahead, puts such an entry there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_cannot_read_a_committed_entry_stops_and_names_both_versions() {
    let mut cluster = Cluster::started(1).await;
    let mut agent = Agent::open(&cluster, 1, "a").await;
    agent.publish(0..10).await;
    let newer = [&[9], &encoded(&Command::Reclaim { entries_max: 1 })[1..]].concat();
    let raft = cluster.running[&1].group().raft.clone();
    let entry = EntryBatch(encode_batch(FORMAT_VERSION, &[newer.into()]));
    raft.client_write(entry).await.unwrap_err();
    let names_both = |reason: &str| reason.contains("format_version: expected 1,") && reason.contains("has 9");
    let failed = tokio::time::timeout(PATIENCE, cluster.running.get_mut(&1).unwrap().failed()).await.unwrap();
    assert!(matches!(failed, Failure::OtherVersion(_)) && names_both(&failed.to_string()), "{failed}");
    cluster.crash(1).await;
    // Nothing was set aside: it stops at the same entry again, at its start or once it leads.
    let failed = match cluster.try_start(1).await {
        Ok(()) => {
            let failed = cluster.running.get_mut(&1).unwrap().failed();
            tokio::time::timeout(PATIENCE, failed).await.unwrap().to_string()
        }
        Err(error) => error.to_string(),
    };
    assert!(names_both(&failed), "{failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_stops_at_a_level_that_it_does_not_know_and_names_both() {
    let mut cluster = Cluster::started(1).await;
    let raft = cluster.running[&1].group().raft.clone();
    let raise = encoded(&Command::RaiseFeatureLevel { level: FEATURE_LEVEL_MAX + 1 });
    raft.client_write(EntryBatch(encode_batch(FORMAT_VERSION, &[raise]))).await.unwrap_err();
    let failed = tokio::time::timeout(PATIENCE, cluster.running.get_mut(&1).unwrap().failed()).await.unwrap();
    let expected = Foreign::Level { found: FEATURE_LEVEL_MAX + 1, knows: FEATURE_LEVEL_MAX };
    assert!(matches!(&failed, Failure::OtherVersion(other) if other.what == expected), "{failed}");
}
