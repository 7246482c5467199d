//! A replica about itself: one document for /status and the Status call.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::status::{Hf3fsStatus, NamespaceStatus, PageFileStatus, ReplicaRole, ReplicaStatus, SessionStatus};
use foreword_seams::process;
use openraft::{RaftMetrics, ServerState};

use crate::consensus::types::Member;
use crate::hf3fs;
use crate::replica::group::Group;
use crate::replica::rejoin::Standing;
use crate::state::hf3fs::{File, FileId};
use crate::state::{NamespaceInfo, State};
use crate::storage::LogReader;

/// What the status is read from.
#[derive(Clone)]
pub struct StatusSource {
    pub group: Arc<Group>,
    /// The longest election timeout.
    pub election: Duration,
    pub log: LogReader,
    pub standing: Arc<Standing>,
    pub page_files: Arc<hf3fs::Leader>,
    /// Whether this replica serves SGLang's hf3fs metadata clients.
    pub page_files_served: bool,
    pub data_dir: PathBuf,
}

impl StatusSource {
    /// Reads it. State, revision and digest are of one moment; Raft's numbers may be slightly newer.
    pub fn status(&self) -> ReplicaStatus {
        let metrics = self.group.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        // Another may lead by now.
        let alone = metrics.state == ServerState::Leader && !self.group.quorum_heard_within(self.election);
        let role = match metrics.state {
            _ if !self.standing.may_vote() => ReplicaRole::Rejoining,
            ServerState::Leader if alone => ReplicaRole::Isolated,
            ServerState::Leader => ReplicaRole::Leader,
            ServerState::Follower => ReplicaRole::Follower,
            ServerState::Candidate => ReplicaRole::Candidate,
            ServerState::Learner => ReplicaRole::Learner,
            ServerState::Shutdown => ReplicaRole::Stopped,
        };
        let endpoints: BTreeMap<u64, String> =
            membership.nodes().map(|(id, member)| (*id, member.peer.clone())).collect();
        // Before the state is locked: the office comes first.
        let protected_pages = self.page_files.protected_pages();
        // The document grows with the namespaces, and is written from a view that holds up nobody.
        let frozen = self.group.applied.read(State::freeze);
        let state = frozen.state();
        ReplicaStatus {
            cluster_id: self.group.cluster_id,
            replica_id: self.group.replica_id,
            version: env!("CARGO_PKG_VERSION").into(),
            role,
            leader_id: metrics.current_leader.filter(|_| !alone),
            term: metrics.current_term,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            endpoints,
            directories: state.directories().collect(),
            ready: self.standing.ready(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            revision: state.revision(),
            snapshot_revision: metrics.snapshot.map_or(0, |id| id.index),
            purged_index: metrics.purged.map_or(0, |id| id.index),
            log_bytes: self.log.log_bytes(),
            followers_behind: followers_behind(&metrics),
            resident_bytes: process::resident_bytes(),
            disk_free_bytes: process::disk_free_bytes(&self.data_dir),
            state_digest: format!("{:016x}", state.digest()),
            feature_level: state.feature_level(),
            pages: state.pages(),
            namespaces: state.namespaces().map(namespace).collect(),
            sessions: state
                .sessions()
                .map(|session| SessionStatus {
                    id: session.id.to_string(),
                    node: session.node.to_owned(),
                    incarnation: session.incarnation,
                    endpoint: session.endpoint.to_owned(),
                    granted_slots: session.granted_slots,
                })
                .collect(),
            l3: state.l3_status(),
            hf3fs: self.hf3fs(state, protected_pages),
        }
    }

    fn hf3fs(&self, state: &State, protected_pages: Option<u64>) -> Option<Hf3fsStatus> {
        let files: Vec<_> = state.hf3fs().files().map(|(id, file)| page_file(id, file)).collect();
        (self.page_files_served || !files.is_empty()).then_some(Hf3fsStatus {
            protection_ms: state.settings().hf3fs_protection_ms,
            reservation_ms: self.page_files.reservation().as_millis() as u64,
            protected_pages,
            files,
        })
    }
}

/// How many entries each of the others is known to lack, at a leader.
fn followers_behind(metrics: &RaftMetrics<u64, Member>) -> BTreeMap<u64, u64> {
    let last = metrics.last_log_index.unwrap_or(0);
    let replication = metrics.replication.iter().flatten();
    let behind = replication.map(|(id, matched)| (*id, last.saturating_sub(matched.map_or(0, |id| id.index))));
    behind.filter(|(id, _)| *id != metrics.id).collect()
}

/// A namespace, as operators see it.
pub(super) fn namespace(info: &NamespaceInfo) -> NamespaceStatus {
    NamespaceStatus {
        id: info.id,
        epoch: info.epoch,
        tenant: info.namespace.tenant.clone(),
        model: info.namespace.model.clone(),
        model_revision: info.namespace.revision.clone(),
        pages: info.pages(),
        shards: info.shards() as u32,
        slot_bytes: info.slot_bytes,
        fingerprint: info.fingerprint.to_string(),
    }
}

pub(super) fn page_file(id: FileId, file: &File) -> PageFileStatus {
    let (name, counts) = (file.name(), file.counts());
    PageFileStatus {
        id,
        deployment: name.deployment.clone(),
        rank: name.rank,
        pool: name.pool.clone(),
        pages: file.pages().into(),
        confirmed: counts.confirmed,
        reserved: counts.reserved,
        resting: counts.resting,
        unused: counts.unused,
        evicted: counts.evicted,
        expired: counts.expired,
        no_page: counts.no_page,
        ignored_confirms: counts.ignored_confirms,
        ignored_releases: counts.ignored_releases,
    }
}
