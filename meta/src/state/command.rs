//! What can be asked of the state machine, and what it answers.
//!
//! Commands are what the log holds; the number of a kind is frozen, and those of kinds that are gone are never given
//! out again (commands 6 and 7, outcomes 21 to 25). Everything a decision needs is inside the command; applying one
//! reads no clock and draws nothing.

use bytes::Bytes;
use foreword_proto::records::SuspectRecord;
use foreword_proto::{
    AgentId, DirectoryId, EntryKey, Epoch, Generation, Namespace, NamespaceId, PublishOutcome, RetireReason, Revision,
    Sequence, SessionId, SlabId, Slot, SlotRef,
};

use super::codec::{kinds, record};
use super::hf3fs::{Hf3fsCommand, Hf3fsOutcome};

pub use super::refusal::{Invalid, Limit, Refusal, Registered};

/// One operation of a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The leader's time: last committed tick plus its monotonic time since it took office. Never goes back; a smaller
    /// one is ignored.
    Tick { now_ms: u64 },
    /// Registers a namespace, or finds it.
    RegisterNamespace { namespace: Box<Namespace> },
    /// Opens a session for an agent's process, under an id that was drawn for this command. An older session of the
    /// same agent under that name ends; another agent's stands.
    OpenSession { session: SessionId, node: String, agent: AgentId, incarnation: u64, endpoint: String },
    /// Ends a session, by its own wish or because its lease ran out: what it was granted and not published rests
    /// `write_rest`.
    EndSession { session: SessionId },
    /// A command of a session, applied at most once per sequence.
    Session { session: SessionId, sequence: Sequence, operation: SessionOperation },
    /// Reports pages whose bytes did not verify. Void where slot, generation or checksum differ from the entry.
    Suspect { session: SessionId, namespace: NamespaceId, suspects: Vec<SuspectRecord> },
    /// The leader's decision: these entries leave the index, if they are still at that slot.
    Retire { reason: RetireReason, entries: Vec<Retirement> },
    /// All entries of the namespace become invisible at once.
    Clear { namespace: NamespaceId },
    /// Forgets the namespace with all its entries. Its id is never given out again.
    DropNamespace { namespace: NamespaceId },
    /// Retires these keys of a namespace.
    Delete { namespace: NamespaceId, keys: Vec<EntryKey> },
    /// Reclaims up to `entries_max` entries that a clear or a drop left; the leader repeats it until none is left.
    Reclaim { entries_max: u32 },
    /// Forgets slabs without a granted, published or resting slot, so that another class can have their room.
    DropSlabs { slabs: Vec<SlabId> },
    /// Raises the committed feature level.
    RaiseFeatureLevel { level: u32 },
    /// The replica id is this data directory's, for ever.
    RecordMember { replica_id: u64, directory: DirectoryId },
    /// Something of SGLang's page files.
    Hf3fs(Hf3fsCommand),
}

impl Command {
    /// The feature level from which on every member of the group applies this kind of command.
    pub fn level(&self) -> u32 {
        match self {
            Self::Tick { .. }
            | Self::RegisterNamespace { .. }
            | Self::OpenSession { .. }
            | Self::EndSession { .. }
            | Self::Session { .. }
            | Self::Suspect { .. }
            | Self::Retire { .. }
            | Self::Clear { .. }
            | Self::DropNamespace { .. }
            | Self::Delete { .. }
            | Self::Reclaim { .. }
            | Self::DropSlabs { .. }
            | Self::RaiseFeatureLevel { .. }
            | Self::RecordMember { .. } => 1,
            Self::Hf3fs(command) => command.level(),
        }
    }

    /// Whether applying it twice does no more than applying it once. A clear or a delete that is applied again takes
    /// what was published in between; a session that has ended would open again.
    pub fn may_repeat(&self) -> bool {
        match self {
            Self::Tick { .. }
            | Self::RegisterNamespace { .. }
            | Self::EndSession { .. }
            | Self::Session { .. }
            | Self::Suspect { .. }
            | Self::Retire { .. }
            | Self::DropNamespace { .. }
            | Self::Reclaim { .. }
            | Self::DropSlabs { .. }
            | Self::RecordMember { .. }
            | Self::RaiseFeatureLevel { .. } => true,
            Self::OpenSession { .. } | Self::Clear { .. } | Self::Delete { .. } => false,
            Self::Hf3fs(command) => command.may_repeat(),
        }
    }
}

/// What a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOperation {
    /// Leases up to `slots` slots of `slot_bytes`, over several slabs, never more than 1/64 of the room.
    Grant { slot_bytes: u64, slots: u32 },
    /// Makes whole pages visible. `pages` are [`foreword_proto::records::PageRecord`]s.
    Publish { namespace: NamespaceId, epoch: Epoch, pages: Bytes },
    /// Gives slots back: `unwritten` are free at once, `unknown` rest `write_rest`.
    Abort { unwritten: Vec<SlotRef>, unknown: Vec<SlotRef> },
}

/// One entry to retire, named so that a newer one of its key is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retirement {
    pub namespace: NamespaceId,
    pub key: EntryKey,
    pub slot: SlotRef,
}

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to say.
    Done,
    NamespaceRegistered {
        namespace: NamespaceId,
        epoch: Epoch,
        slot_bytes: u64,
    },
    SessionOpened {
        session: SessionId,
    },
    /// Slots leased; fewer than asked for, none included, when there is no more room.
    Granted {
        slots: Vec<SlotRef>,
    },
    /// One outcome a page; a location for each `Existing`, in order, as [`foreword_proto::location::Location`] records.
    Published {
        revision: Revision,
        outcomes: Vec<PublishOutcome>,
        existing: Bytes,
    },
    /// One outcome a report.
    Suspected {
        outcomes: Vec<SuspectOutcome>,
    },
    Cleared {
        epoch: Epoch,
    },
    /// Pages that are reclaimed by and by.
    NamespaceDropped {
        pages: u64,
    },
    /// Entries retired.
    Retired {
        entries: u32,
    },
    /// Entries of clears and drops still to reclaim.
    Reclaimed {
        left: u64,
    },
    /// Of page files.
    Hf3fs(Hf3fsOutcome),
    /// The command was refused and changed nothing.
    Refused(Refusal),
}

/// What became of a suspect report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SuspectOutcome {
    /// The entry is gone, or is another by now.
    Void = 0,
    /// Noted; it waits for a second agent's word.
    Noted = 1,
    /// A second agent confirmed, or the reporter is the only agent: retired.
    Retired = 2,
}

/// What one entry changed, in order: the watch stream and the eviction policy live on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Published {
        namespace: NamespaceId,
        page: foreword_proto::records::PageRecord,
    },
    Retired {
        namespace: NamespaceId,
        key: EntryKey,
        slot: SlotRef,
        reason: RetireReason,
    },
    /// A page that is not in the index was deleted: nothing of it changes here, and who has a copy of it must let it
    /// go.
    AbsentDeleted {
        namespace: NamespaceId,
        key: EntryKey,
    },
    /// Everything published in the namespace before is invisible.
    Cleared {
        namespace: NamespaceId,
        epoch: Epoch,
    },
    /// The namespace is gone, with everything that was in it.
    NamespaceDropped {
        namespace: NamespaceId,
    },
    SessionEnded {
        session: SessionId,
    },
}

/// A slot's life as /status and the invariants see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    Free,
    Granted { session: SessionId },
    Published,
    Resting,
}

/// What the cluster was initialised with; part of the replicated state, set once.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterSettings {
    /// L3's chunk: slot sizes are multiples of it.
    pub chunk_bytes: u32,
    /// Size of a slab file, before rounding down to whole slots.
    pub slab_bytes: u64,
    /// L3's budget: all slabs together.
    pub l3_bytes: u64,
    /// How long a retired slot rests, and one whose write has no known result.
    pub read_rest_ms: u64,
    pub write_rest_ms: u64,
    /// How long a page of SGLang's page files is nobody else's after a reader was told of it.
    pub hf3fs_protection_ms: u64,
    /// A session's lease, for the leader; the state only hands it out.
    pub lease_ms: u64,
    /// The feature level before the first entry: that of the binary that initialised the cluster.
    pub first_feature_level: u32,
}

/// A setting in which two directories of one cluster differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, as the cluster has it, got {found}")]
pub struct OtherSetting {
    pub field: &'static str,
    pub expected: u64,
    pub found: u64,
}

impl ClusterSettings {
    /// Replicas that differ in any of them come to different states from the same log.
    ///
    /// Errors: the first field in which `other` differs.
    pub fn check_same(&self, other: &Self) -> Result<(), OtherSetting> {
        let named = |settings: &Self| {
            let Self {
                chunk_bytes,
                slab_bytes,
                l3_bytes,
                read_rest_ms,
                write_rest_ms,
                hf3fs_protection_ms,
                lease_ms,
                first_feature_level,
            } = *settings;
            [
                ("chunk_bytes", chunk_bytes.into()),
                ("slab_bytes", slab_bytes),
                ("l3_bytes", l3_bytes),
                ("read_rest", read_rest_ms),
                ("write_rest", write_rest_ms),
                ("hf3fs_protection", hf3fs_protection_ms),
                ("lease", lease_ms),
                ("first_feature_level", first_feature_level.into()),
            ]
        };
        let both = named(self).into_iter().zip(named(other));
        let differing = both.map(|((field, expected), (_, found))| OtherSetting { field, expected, found });
        differing.into_iter().find(|one| one.expected != one.found).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
impl ClusterSettings {
    /// Settings for a test that minds none of them.
    pub(crate) fn of_a_test() -> Self {
        Self {
            chunk_bytes: 4096,
            slab_bytes: 40_960,
            l3_bytes: 40_960,
            read_rest_ms: 10,
            write_rest_ms: 20,
            hf3fs_protection_ms: 1000,
            lease_ms: 1000,
            first_feature_level: 1,
        }
    }
}

/// A slab of the state, for agents and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlabInfo {
    pub slab: SlabId,
    pub slot_bytes: u64,
    pub slots: Slot,
}

/// The next generation of a slot.
pub fn next_generation(generation: Generation) -> Generation {
    generation.wrapping_add(1).max(1)
}

kinds!(Command, "command" {
    1 => Tick { now_ms },
    2 => RegisterNamespace { namespace },
    3 => OpenSession { session, node, agent, incarnation, endpoint },
    4 => EndSession { session },
    5 => Session { session, sequence, operation },
    8 => Suspect { session, namespace, suspects },
    9 => Retire { reason, entries },
    10 => Clear { namespace },
    11 => Delete { namespace, keys },
    12 => Reclaim { entries_max },
    13 => DropSlabs { slabs },
    14 => RaiseFeatureLevel { level },
    15 => Hf3fs(command),
    16 => RecordMember { replica_id, directory },
    17 => DropNamespace { namespace },
});

kinds!(SessionOperation, "session operation" {
    1 => Grant { slot_bytes, slots },
    2 => Publish { namespace, epoch, pages },
    3 => Abort { unwritten, unknown },
});

record!(Retirement { namespace, key, slot });

kinds!(Outcome, "outcome" {
    1 => Done,
    2 => NamespaceRegistered { namespace, epoch, slot_bytes },
    3 => SessionOpened { session },
    4 => Granted { slots },
    5 => Published { revision, outcomes, existing },
    6 => Suspected { outcomes },
    7 => Cleared { epoch },
    8 => Retired { entries },
    9 => Reclaimed { left },
    10 => Hf3fs(outcome),
    11 => NamespaceDropped { pages },
    20 => Refused(refusal),
});

kinds!(SuspectOutcome, "suspect outcome" {
    0 => Void,
    1 => Noted,
    2 => Retired,
});

record!(ClusterSettings {
    chunk_bytes,
    slab_bytes,
    l3_bytes,
    read_rest_ms,
    write_rest_ms,
    hf3fs_protection_ms,
    lease_ms,
    first_feature_level
});
