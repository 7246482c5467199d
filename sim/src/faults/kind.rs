//! The kinds of faults.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A replica of the group, counted from 0 in the order of the first members.
pub type Replica = usize;
/// An agent, counted from 0.
pub type Agent = usize;

/// A host of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    Replica(Replica),
    Agent(Agent),
    /// Where the clients are.
    Clients,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(number) => write!(f, "replica {}", number + 1),
            Self::Agent(number) => write!(f, "agent {}", number + 1),
            Self::Clients => f.write_str("the clients"),
        }
    }
}

/// What goes wrong. Every field is decided when the schedule is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The process dies; its machine resets its connections. Started again at the end.
    Crash(Place),
    /// The machine loses power: its peers hear nothing. Started again at the end.
    PowerCut(Place),
    /// Every machine loses power at once; power comes back at the end.
    PowerCutAll,
    /// The process stands still, and goes on at the end as if nothing had happened: a zombie.
    Pause(Place),
    /// The host is cut off from all others, in both directions.
    Isolate(Place),
    /// What the first sends to the second is held.
    OneWayCut(Place, Place),
    /// The replicas below the number are cut off from the others.
    SplitGroup(Replica),
    /// A host's messages take up to so many milliseconds more.
    SlowLinks(Place, u64),
    /// Connections between two hosts are reset, again and again.
    Resets(Place, Place),
    /// The clock runs faster or slower.
    Drift(Place, i64),
    /// Each sync of the log takes up to so many milliseconds.
    SlowDisk(Replica, u64),
    /// Writes to the disk fail with EIO.
    DiskError(Replica),
    /// The disk is full.
    DiskFull(Replica),
    /// A stored entry of the log is damaged, and the process dies: it finds out when it starts again.
    DiskRot(Replica),
    /// The mark beside the log is damaged, and the process dies.
    MarkRot(Replica),
    /// The disk loses the log's last entries although they were synced, and the process dies: its mark says so.
    LostTail(Replica),
    /// A snapshot is damaged, and the process dies.
    SnapshotRot(Replica),
    /// The machine is lost with its disk; another takes its place.
    Replace(Replica),
    /// Writes to L3 that report success are only partly there.
    TornWrites,
    /// Writes to L3 land long after they were given up.
    LateWrites,
    /// Bits of what is written to L3 flip.
    BadWrites,
    /// Bits of what is read from L3 flip.
    BadReads,
    /// Reads from L3 end early.
    ShortReads,
    /// I/Os to L3 are never answered.
    LostCompletions,
    /// L3 stands still.
    L3Stall,
    /// L3 answers with errors.
    L3Outage,
    /// The first's resolver has the third's address for the second's name; the third may be the first itself.
    StaleName(Replica, Replica, Replica),
    /// The machine is lost with its disk; another takes its place under a new id and under its name.
    ReplaceInPlace(Replica),
    /// The machine is lost with its disk; another takes its place under a new id, and has the address that the old name
    /// leads to.
    InheritAddress(Replica),
    /// The operator adds a replica where nobody is, and removes it again.
    AddNobody,
    /// The operator replaces a member by one where nobody is.
    ReplaceByNobody(Replica),
    /// The operator replaces the first by a new id at the second's endpoint.
    ReplaceByMember(Replica, Replica),
    /// The operator replaces a member by a new id at the leader's endpoint.
    ReplaceByLeader(Replica),
    /// A machine with an empty directory of a member's id is started, and the operator adds it.
    AddUsedId(Replica),
    /// A member's disk is lost, and an empty directory of its id made; at the end the operator replaces it.
    EmptyDirectory(Replica),
    /// The operator removes the leader, and adds it again with what it has.
    RemoveLeader,
    /// The leader is cut off from the other replicas, and from nobody else.
    SplitOffLeader,
    /// The leader is cut off from all others.
    IsolateLeader,
    /// Another agent runs under the same name.
    Twin(Agent),
    /// More is proposed at once than the leader's queue takes, and most callers leave; each sync of each log takes so
    /// many milliseconds meanwhile, and after.
    Flood(u64),
    /// Each sync of each log takes so many milliseconds.
    SlowDisks(u64),
    /// The operator moves leadership to a replica.
    MoveLeader(Replica),
    /// Each sync of the log of whoever leads when it begins takes so many milliseconds.
    SlowLeaderDisk(u64),
    /// The disk has no room for snapshots, and room for the log.
    SnapshotDiskFull(Replica),
}

impl FaultKind {
    /// Names of all kinds, in order.
    pub const NAMES: [&'static str; 44] = [
        "crash",
        "power-cut",
        "power-cut-all",
        "pause",
        "isolate",
        "one-way-cut",
        "split-group",
        "slow-links",
        "resets",
        "drift",
        "slow-disk",
        "disk-error",
        "disk-full",
        "disk-rot",
        "mark-rot",
        "lost-tail",
        "snapshot-rot",
        "replace",
        "torn-writes",
        "late-writes",
        "bad-writes",
        "bad-reads",
        "short-reads",
        "lost-completions",
        "l3-stall",
        "l3-outage",
        "stale-name",
        "replace-in-place",
        "inherit-address",
        "add-nobody",
        "replace-by-nobody",
        "replace-by-member",
        "replace-by-leader",
        "add-used-id",
        "empty-directory",
        "remove-leader",
        "split-off-leader",
        "isolate-leader",
        "twin",
        "flood",
        "slow-disks",
        "move-leader",
        "slow-leader-disk",
        "snapshot-disk-full",
    ];

    /// The kind's position in [`Self::NAMES`].
    pub fn number(&self) -> usize {
        match self {
            Self::Crash(_) => 0,
            Self::PowerCut(_) => 1,
            Self::PowerCutAll => 2,
            Self::Pause(_) => 3,
            Self::Isolate(_) => 4,
            Self::OneWayCut(..) => 5,
            Self::SplitGroup(_) => 6,
            Self::SlowLinks(..) => 7,
            Self::Resets(..) => 8,
            Self::Drift(..) => 9,
            Self::SlowDisk(..) => 10,
            Self::DiskError(_) => 11,
            Self::DiskFull(_) => 12,
            Self::DiskRot(_) => 13,
            Self::MarkRot(_) => 14,
            Self::LostTail(_) => 15,
            Self::SnapshotRot(_) => 16,
            Self::Replace(_) => 17,
            Self::TornWrites => 18,
            Self::LateWrites => 19,
            Self::BadWrites => 20,
            Self::BadReads => 21,
            Self::ShortReads => 22,
            Self::LostCompletions => 23,
            Self::L3Stall => 24,
            Self::L3Outage => 25,
            Self::StaleName(..) => 26,
            Self::ReplaceInPlace(_) => 27,
            Self::InheritAddress(_) => 28,
            Self::AddNobody => 29,
            Self::ReplaceByNobody(_) => 30,
            Self::ReplaceByMember(..) => 31,
            Self::ReplaceByLeader(_) => 32,
            Self::AddUsedId(_) => 33,
            Self::EmptyDirectory(_) => 34,
            Self::RemoveLeader => 35,
            Self::SplitOffLeader => 36,
            Self::IsolateLeader => 37,
            Self::Twin(_) => 38,
            Self::Flood(_) => 39,
            Self::SlowDisks(_) => 40,
            Self::MoveLeader(_) => 41,
            Self::SlowLeaderDisk(_) => 42,
            Self::SnapshotDiskFull(_) => 43,
        }
    }

    /// The kind's name.
    pub fn name(&self) -> &'static str {
        Self::NAMES[self.number()]
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Crash(at) | Self::PowerCut(at) | Self::Pause(at) | Self::Isolate(at) => write!(f, " of {at}"),
            Self::OneWayCut(from, to) => write!(f, " from {from} to {to}"),
            Self::Resets(a, b) => write!(f, " between {a} and {b}"),
            Self::SlowLinks(at, ms) => write!(f, " of {at} by up to {ms} ms"),
            Self::Drift(at, ppm) => write!(f, " of {at} by {ppm} ppm"),
            Self::SlowDisk(replica, ms) => write!(f, " of replica {} by up to {ms} ms", replica + 1),
            Self::SplitGroup(first) => write!(f, " before replica {}", first + 1),
            Self::DiskError(replica)
            | Self::DiskFull(replica)
            | Self::DiskRot(replica)
            | Self::MarkRot(replica)
            | Self::LostTail(replica)
            | Self::SnapshotRot(replica)
            | Self::Replace(replica)
            | Self::ReplaceInPlace(replica)
            | Self::InheritAddress(replica)
            | Self::ReplaceByNobody(replica)
            | Self::ReplaceByLeader(replica)
            | Self::AddUsedId(replica)
            | Self::EmptyDirectory(replica)
            | Self::SnapshotDiskFull(replica) => write!(f, " of replica {}", replica + 1),
            Self::ReplaceByMember(old, at) => write!(f, " of replica {} at replica {}", old + 1, at + 1),
            Self::StaleName(at, name, to) => {
                write!(f, " at replica {}: that of replica {} leads to replica {}", at + 1, name + 1, to + 1)
            }
            Self::Twin(agent) => write!(f, " of agent {}", agent + 1),
            Self::Flood(ms) => write!(f, " on disks that sync in {ms} ms"),
            Self::SlowDisks(ms) | Self::SlowLeaderDisk(ms) => write!(f, " by {ms} ms"),
            Self::MoveLeader(to) => write!(f, " to replica {}", to + 1),
            _ => Ok(()),
        }
    }
}
