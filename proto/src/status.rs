//! The documents behind HTTP /status, the Status and Stats calls and `foreword status`: one definition each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, DirectoryId};

/// A meta replica about itself and its group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    pub cluster_id: ClusterId,
    pub replica_id: u64,
    pub version: String,
    pub role: ReplicaRole,
    pub leader_id: Option<u64>,
    pub term: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// replica id -> gRPC endpoint
    pub endpoints: std::collections::BTreeMap<u64, String>,
    /// replica id -> data directory, of replicas that have left too
    #[serde(default)]
    pub directories: std::collections::BTreeMap<u64, DirectoryId>,
    pub ready: bool,
    pub last_log_index: u64,
    /// The revision applied here.
    pub revision: u64,
    pub snapshot_revision: u64,
    pub purged_index: u64,
    pub log_bytes: u64,
    /// replica id -> entries that it is known to lack; of a leader only
    #[serde(default)]
    pub followers_behind: std::collections::BTreeMap<u64, u64>,
    /// Memory of its process, and what is free on the disk of its data directory; null where that is not known.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    #[serde(default)]
    pub disk_free_bytes: Option<u64>,
    /// 16 hexadecimal digits over the whole state at `revision`.
    pub state_digest: String,
    pub feature_level: u32,
    pub pages: u64,
    pub namespaces: Vec<NamespaceStatus>,
    pub sessions: Vec<SessionStatus>,
    pub l3: L3Status,
    /// SGLang's page files; null where none was made and this replica serves none.
    #[serde(default)]
    pub hf3fs: Option<Hf3fsStatus>,
}

/// What a replica does in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaRole {
    Leader,
    /// It led and lately heard no majority: another may lead by now.
    Isolated,
    Follower,
    Candidate,
    /// It gets the log and has no vote.
    Learner,
    /// Its log ended before its mark: it does not vote yet.
    Rejoining,
    /// Its Raft has ended.
    Stopped,
}

impl fmt::Display for ReplicaRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leader => "leader",
            Self::Isolated => "isolated",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Rejoining => "rejoining",
            Self::Stopped => "stopped",
        })
    }
}

/// The page files of SGLang's hf3fs backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hf3fsStatus {
    /// How long a page is nobody else's after a reader was told of it.
    pub protection_ms: u64,
    /// How long a reservation is kept of which nothing is heard.
    pub reservation_ms: u64,
    /// Pages that readers were told of; null unless this replica leads.
    pub protected_pages: Option<u64>,
    pub files: Vec<PageFileStatus>,
}

/// One page file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFileStatus {
    /// Never given out twice.
    #[serde(default)]
    pub id: u32,
    pub deployment: String,
    pub rank: i64,
    pub pool: String,
    pub pages: u64,
    /// Pages by use; together all of them.
    pub confirmed: u64,
    pub reserved: u64,
    pub resting: u64,
    pub unused: u64,
    /// Since the file was made.
    pub evicted: u64,
    pub expired: u64,
    /// Keys that were answered "no page".
    pub no_page: u64,
    pub ignored_confirms: u64,
    pub ignored_releases: u64,
}

/// One namespace of the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    pub id: u32,
    pub epoch: u32,
    pub tenant: String,
    pub model: String,
    /// The weights' revision.
    #[serde(default)]
    pub model_revision: String,
    pub pages: u64,
    pub shards: u32,
    pub slot_bytes: u64,
    /// Of all its fields, hexadecimal: what two namespaces that share pages have in common.
    #[serde(default)]
    pub fingerprint: String,
}

/// One open session of the group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The first 8 hexadecimal digits of its id.
    pub id: String,
    pub node: String,
    pub incarnation: u64,
    pub endpoint: String,
    pub granted_slots: u64,
}

/// L3 room, in bytes of slots: free + granted + published + resting is what the slabs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct L3Status {
    pub chunk_bytes: u32,
    pub budget_bytes: u64,
    pub slabs: u64,
    pub slab_bytes: u64,
    pub free_bytes: u64,
    pub granted_bytes: u64,
    pub published_bytes: u64,
    pub resting_bytes: u64,
    /// Slots used a second time or more, since the cluster began.
    pub slots_reused: u64,
}

/// An agent about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub cluster_id: ClusterId,
    pub node: String,
    pub version: String,
    pub ready: bool,
    /// As in the group's status.
    pub session: Option<String>,
    /// True when the last renewal is older than half the lease: no L3 write is submitted.
    pub fenced: bool,
    /// Whether L3 is read: `closed` while it is, `half_open` or `open`.
    pub l3_breaker: String,
    /// As `l3_breaker`, of writes.
    #[serde(default)]
    pub l3_write_breaker: String,
    pub namespaces: Vec<AgentNamespaceStatus>,
    pub arena: ArenaStatus,
    pub counters: AgentCounters,
}

/// One namespace open on an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentNamespaceStatus {
    pub id: u32,
    pub epoch: u32,
    /// The mirror's revision.
    pub revision: u64,
    pub synced: bool,
    /// How far behind the mirror is: since the group was heard to have no more than the mirror has now. Some seconds
    /// for one that is whole, since the group is heard now and then.
    pub mirror_age_ms: u64,
    pub pages: u64,
    /// Own acknowledged publishes the mirror has not seen yet.
    pub overlay_pages: u64,
}

/// The L1 arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ArenaStatus {
    pub arena_bytes: u64,
    pub segments: u64,
    pub frame_bytes_used: u64,
    pub pages: u64,
    pub pinned_pages: u64,
    pub quarantined_bytes: u64,
}

/// What an agent counted since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentCounters {
    pub lookups: u64,
    pub lookup_keys: u64,
    pub l1_hits: u64,
    pub l3_hits: u64,
    pub misses: u64,
    pub l3_reads: u64,
    pub l3_read_bytes: u64,
    /// Reads that joined another's L3 read of the same page.
    pub l3_reads_coalesced: u64,
    pub l3_writes: u64,
    pub l3_write_bytes: u64,
    pub l3_reads_repeated: u64,
    pub l3_writes_repeated: u64,
    pub checksum_mismatches: u64,
    pub suspects_reported: u64,
    pub breaker_openings: u64,
    #[serde(default)]
    pub slab_breaker_openings: u64,
    pub l3_epochs: u64,
    pub segments_replaced: u64,
    pub segments_failed: u64,
    pub puts_taken: u64,
    pub puts_existing: u64,
    pub puts_declined: u64,
    pub puts_refused: u64,
    pub puts_aborted: u64,
    pub publishes_acked: u64,
    pub watch_resyncs: u64,
    pub sessions_opened: u64,
    /// Page bytes the agent copied between buffers (gRPC pieces into and out of frames).
    pub put_bytes: u64,
    pub bytes_copied: u64,
}
