//! Random operations over a tiny universe: few namespaces, keys, nodes and slots, so that everything collides all the
//! time.
//!
//! An operation names things by small numbers; it becomes a command against the model as it is then, so that most
//! commands make sense and some do not.

use bytes::Bytes;
use foreword_meta::state::command::{ClusterSettings, Command, Retirement, SessionOperation};
use foreword_proto::limits::FEATURE_LEVEL_MAX;
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord, SuspectRecord};
use foreword_proto::{
    AgentId, DirectoryId, EntryKey, Namespace, NamespaceId, RetireReason, Sequence, SessionId, SlotRef,
};
use proptest::prelude::*;

use crate::model::Model;

/// Which slot a page or an abort names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pick {
    /// One the session holds.
    Own(u8),
    /// One it holds, in another generation.
    Stale(u8),
    /// Any there is.
    Any(u8),
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Tick {
        ms: u16,
    },
    Register {
        which: u8,
    },
    Open {
        node: u8,
    },
    End {
        session: u8,
    },
    Grant {
        session: u8,
        class: u8,
        slots: u8,
        sequence: u8,
    },
    Publish {
        session: u8,
        namespace: u8,
        old_epoch: bool,
        pages: Vec<(u8, u8, Pick)>,
        sequence: u8,
        torn: bool,
    },
    Abort {
        session: u8,
        unwritten: Vec<Pick>,
        unknown: Vec<Pick>,
        sequence: u8,
    },
    Suspect {
        session: u8,
        namespace: u8,
        reports: Vec<(u8, u8)>,
    },
    Retire {
        reason: u8,
        entries: Vec<(u8, bool)>,
    },
    Clear {
        namespace: u8,
    },
    Drop {
        namespace: u8,
    },
    Delete {
        namespace: u8,
        keys: Vec<u8>,
    },
    Reclaim {
        most: u8,
    },
    DropSlabs {
        slabs: Vec<u8>,
    },
    Raise {
        level: u8,
    },
    RecordMember {
        replica_id: u8,
        directory: u8,
    },
    /// The session command of so many before, again.
    Again {
        back: u8,
    },
    /// The state is written out and read back in.
    Restart,
    /// A view is taken, and looked at in the end.
    Freeze,
}

pub(crate) fn settings() -> impl Strategy<Value = ClusterSettings> {
    // From a single slot of the smallest class to grants of a few slots over several slabs.
    (1u64..400, 1u64..40, 0u64..150, 0u64..300).prop_map(|(slots, slab_slots, read_rest_ms, write_rest_ms)| {
        ClusterSettings {
            chunk_bytes: 4096,
            slab_bytes: slab_slots * 4096,
            l3_bytes: slots * 4096,
            read_rest_ms,
            write_rest_ms,
            first_feature_level: 1,
            hf3fs_protection_ms: 30_000,
            lease_ms: 1000,
        }
    })
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        8 => any::<u8>().prop_map(Pick::Own),
        1 => any::<u8>().prop_map(Pick::Stale),
        1 => any::<u8>().prop_map(Pick::Any),
    ]
}

/// 0 to 4 are the next sequence (mostly in order), others are out of order.
fn sequence() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0u8), 1 => 0u8..5, 1 => any::<u8>()]
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let page = (0u8..10, 0u8..10, pick());
    let picks = || prop::collection::vec(pick(), 0..3);
    prop_oneof![
        4 => (0u16..200).prop_map(|ms| Operation::Tick { ms }),
        1 => (0u16..30_000).prop_map(|ms| Operation::Tick { ms }),
        2 => (0u8..6).prop_map(|which| Operation::Register { which }),
        1 => (0u8..4).prop_map(|node| Operation::Open { node }),
        1 => any::<u8>().prop_map(|session| Operation::End { session }),
        16 => (any::<u8>(), any::<u8>(), 0u8..9, sequence())
            .prop_map(|(session, class, slots, sequence)| Operation::Grant { session, class, slots, sequence }),
        16 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.1), prop::collection::vec(page, 0..5), sequence(), prop::bool::weighted(0.03))
            .prop_map(|(session, namespace, old_epoch, pages, sequence, torn)| {
                Operation::Publish { session, namespace, old_epoch, pages, sequence, torn }
            }),
        3 => (any::<u8>(), picks(), picks(), sequence())
            .prop_map(|(session, unwritten, unknown, sequence)| Operation::Abort { session, unwritten, unknown, sequence }),
        3 => (any::<u8>(), any::<u8>(), prop::collection::vec((0u8..10, 0u8..8), 0..4))
            .prop_map(|(session, namespace, reports)| Operation::Suspect { session, namespace, reports }),
        4 => (1u8..3, prop::collection::vec((any::<u8>(), prop::bool::weighted(0.1)), 0..4))
            .prop_map(|(reason, entries)| Operation::Retire { reason, entries }),
        1 => any::<u8>().prop_map(|namespace| Operation::Clear { namespace }),
        1 => any::<u8>().prop_map(|namespace| Operation::Drop { namespace }),
        1 => (any::<u8>(), prop::collection::vec(0u8..10, 0..3))
            .prop_map(|(namespace, keys)| Operation::Delete { namespace, keys }),
        3 => (0u8..5).prop_map(|most| Operation::Reclaim { most }),
        2 => prop::collection::vec(any::<u8>(), 0..2).prop_map(|slabs| Operation::DropSlabs { slabs }),
        1 => (0u8..4).prop_map(|level| Operation::Raise { level }),
        1 => (0u8..4, 0u8..3)
            .prop_map(|(replica_id, directory)| Operation::RecordMember { replica_id, directory }),
        2 => any::<u8>().prop_map(|back| Operation::Again { back }),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Freeze),
    ]
}

/// Namespace `which`: one and three shards, two of one class, one that clashes with the first, one that is invalid.
pub(crate) fn namespace(which: u8) -> Namespace {
    match which {
        0 => Namespace::simple("a", 16, vec![4096]),
        1 => Namespace::simple("b", 16, vec![100]),
        2 => Namespace { tp_size: 3, ..Namespace::simple("c", 16, vec![4096, 1, 4096]) },
        3 => Namespace::simple("d", 64, vec![5000]),
        4 => Namespace::simple("a", 32, vec![4096]),
        _ => Namespace::simple("", 16, vec![4096]),
    }
}

/// Keys whose hints differ, some of which share their last 8 bytes.
pub(crate) fn key(number: u8) -> EntryKey {
    let mut key = [0; 16];
    key[0] = number + 1;
    key[15] = number % 3;
    EntryKey(key)
}

fn chosen<T: Copy>(from: &[T], number: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[number as usize % from.len()])
}

/// The id of the so-many-th session: in another order than they open.
fn numbered(number: u64) -> SessionId {
    SessionId([(number as u8).reverse_bits(); 16])
}

/// A session: mostly an open one.
fn session(model: &Model, number: u8) -> SessionId {
    let open: Vec<SessionId> = model.sessions.keys().copied().collect();
    if number >= 250 { numbered(u64::from(number) - 248) } else { chosen(&open, number).unwrap_or(numbered(1)) }
}

fn namespace_id(model: &Model, number: u8) -> NamespaceId {
    // Now and then one that was dropped, or never was.
    let known: Vec<NamespaceId> = model.namespaces.keys().copied().collect();
    match number {
        250.. => u32::from(number),
        240.. => model.namespaces_ever.saturating_sub(u32::from(number) - 240),
        _ => chosen(&known, number).unwrap_or(1),
    }
}

/// A slot; one of its own is mostly of the class that is asked for.
fn slot(model: &Model, session: SessionId, pick: Pick, nth: usize, class: Option<u64>) -> SlotRef {
    let mut held = model.held(session);
    if class.is_some_and(|class| held.iter().any(|slot| model.slabs[&slot.slab].0 == class)) {
        held.retain(|slot| Some(model.slabs[&slot.slab].0) == class || slot.generation % 16 == 15);
    }
    let any: Vec<SlotRef> = model
        .slots
        .iter()
        .map(|((slab, slot), (generation, _))| SlotRef { slab: *slab, slot: *slot, generation: *generation })
        .collect();
    let fallback = SlotRef { slab: 1, slot: 0, generation: 1 };
    match pick {
        Pick::Own(number) => chosen(&held, number.wrapping_add(nth as u8)).unwrap_or(fallback),
        Pick::Stale(number) => {
            let slot = chosen(&held, number).unwrap_or(fallback);
            SlotRef { generation: slot.generation + 1 - 2 * u32::from(number % 2), ..slot }
        }
        Pick::Any(number) => chosen(&any, number).unwrap_or(fallback),
    }
}

fn sequence_of(model: &Model, session: SessionId, number: u8) -> Sequence {
    let highest = model.sessions.get(&session).map_or(0, |open| open.highest);
    match number {
        0..=4 => highest + 1 + u64::from(number),
        5..=100 => highest.saturating_sub(u64::from(number)),
        _ => highest + u64::from(number) - 100,
    }
}

fn checksums(shards: usize, key: EntryKey, slot: SlotRef) -> Checksums {
    let of_shard = |shard: u64| u64::from(key.0[0]) << 32 | u64::from(slot.generation) << 8 | shard;
    Checksums::new(&(0..shards as u64).map(of_shard).collect::<Vec<_>>())
}

/// The command that an operation stands for now; None when it is none, or there is nothing to repeat.
pub(crate) fn command(operation: &Operation, model: &Model, before: &[Command]) -> Option<Command> {
    Some(match operation {
        Operation::Tick { ms } => Command::Tick { now_ms: (model.tick_ms + u64::from(*ms)).saturating_sub(20) },
        Operation::Register { which } => Command::RegisterNamespace { namespace: Box::new(namespace(*which)) },
        Operation::Open { node } => {
            let node = if *node == 3 { String::new() } else { format!("node-{node}") };
            // Mostly the agent that has the name.
            let agent = AgentId([u8::from(model.tick_ms.is_multiple_of(5)); 16]);
            // Now and then the id of one that is open.
            let taken = (model.tick_ms % 7 == 3).then(|| model.sessions.keys().next().copied()).flatten();
            let session = taken.unwrap_or(numbered(model.sessions_ever + 1));
            Command::OpenSession {
                session,
                node,
                agent,
                incarnation: model.sessions_ever ^ u64::from(model.tick_ms.is_multiple_of(3)),
                endpoint: "here".into(),
            }
        }
        Operation::End { session: number } => Command::EndSession { session: session(model, *number) },
        Operation::Grant { session: number, class, slots, sequence } => {
            let slot_bytes = match class {
                0..=140 => 4096,
                141..=180 => 8192,
                181..=250 => 12288,
                _ => 20480,
            };
            of_session(model, *number, *sequence, SessionOperation::Grant { slot_bytes, slots: (*slots).into() })
        }
        Operation::Publish { .. } => publish(operation, model)?,
        Operation::Abort { session: number, unwritten, unknown, sequence } => {
            let id = session(model, *number);
            let slots = |picks: &[Pick]| picks.iter().map(|pick| slot(model, id, *pick, 0, None)).collect();
            let operation = SessionOperation::Abort { unwritten: slots(unwritten), unknown: slots(unknown) };
            of_session(model, *number, *sequence, operation)
        }
        Operation::Suspect { session: number, namespace, reports } => {
            let namespace = namespace_id(model, *namespace);
            let suspects = reports.iter().map(|(key, kind)| suspect(model, namespace, *key, *kind)).collect();
            Command::Suspect { session: session(model, *number), namespace, suspects }
        }
        Operation::Retire { reason, entries } => {
            let reason = RetireReason::from_u8(*reason)?;
            let entries = entries.iter().filter_map(|(number, stale)| retirement(model, *number, *stale)).collect();
            Command::Retire { reason, entries }
        }
        Operation::Clear { namespace } => Command::Clear { namespace: namespace_id(model, *namespace) },
        Operation::Drop { namespace } => Command::DropNamespace { namespace: namespace_id(model, *namespace) },
        Operation::Delete { namespace, keys } => Command::Delete {
            namespace: namespace_id(model, *namespace),
            keys: keys.iter().map(|number| key(*number)).collect(),
        },
        Operation::Reclaim { most } => Command::Reclaim { entries_max: (*most).into() },
        Operation::DropSlabs { slabs } => {
            let known: Vec<u32> = model.slabs.keys().copied().collect();
            let slab = |number: &u8| if *number > 250 { Some(99) } else { chosen(&known, *number) };
            Command::DropSlabs { slabs: slabs.iter().filter_map(slab).collect() }
        }
        // A replica stops at a level that its binary does not know: no state of one is restored by it.
        Operation::Raise { level } => {
            Command::RaiseFeatureLevel { level: u32::from(*level).clamp(1, FEATURE_LEVEL_MAX) }
        }
        Operation::RecordMember { replica_id, directory } => {
            Command::RecordMember { replica_id: (*replica_id).into(), directory: DirectoryId([*directory; 16]) }
        }
        Operation::Again { back } => {
            let sessions: Vec<&Command> =
                before.iter().filter(|command| matches!(command, Command::Session { .. })).collect();
            (*sessions.iter().rev().nth(*back as usize % 80)?).clone()
        }
        Operation::Restart | Operation::Freeze => return None,
    })
}

fn of_session(model: &Model, number: u8, sequence: u8, operation: SessionOperation) -> Command {
    let session = session(model, number);
    Command::Session { session, sequence: sequence_of(model, session, sequence), operation }
}

fn publish(operation: &Operation, model: &Model) -> Option<Command> {
    let Operation::Publish { session: number, namespace, old_epoch, pages, sequence, torn } = operation else {
        return None;
    };
    let (id, namespace) = (session(model, *number), namespace_id(model, *namespace));
    let info = model.namespace(namespace);
    let shards = info.map_or(1, |info| info.namespace.shards());
    let class = info.map(|info| info.namespace.geometry().slot_bytes(model.settings.chunk_bytes));
    let records: Vec<PageRecord> = pages
        .iter()
        .enumerate()
        .map(|(nth, (number, parent, pick))| {
            let (page, slot) = (key(*number), slot(model, id, *pick, nth, class));
            let parent = if parent == number { 0 } else { key(*parent).parent_hint() };
            PageRecord { key: page, parent, location: Location { slot, checksums: checksums(shards, page, slot) } }
        })
        .collect();
    let mut bytes = records::encode(&records, shards).to_vec();
    if *torn {
        bytes.pop();
    }
    let epoch = info.map_or(1, |info| info.epoch) - u32::from(*old_epoch);
    let operation = SessionOperation::Publish { namespace, epoch, pages: Bytes::from(bytes) };
    Some(of_session(model, *number, *sequence, operation))
}

fn suspect(model: &Model, namespace: NamespaceId, number: u8, kind: u8) -> SuspectRecord {
    let key = key(number);
    let entry = model.entries.get(&(namespace, key));
    let slot = entry.map_or(SlotRef { slab: 1, slot: 0, generation: 1 }, |entry| entry.location.slot);
    let checksum = entry.map_or(0, |entry| entry.location.checksums.as_slice()[0]);
    let right = SuspectRecord { key, slot, shard: 0, checksum };
    match kind {
        0 => SuspectRecord { checksum: checksum ^ 1, ..right },
        1 => SuspectRecord { shard: 7, ..right },
        2 => SuspectRecord { slot: SlotRef { generation: slot.generation + 1, ..slot }, ..right },
        _ => right,
    }
}

fn retirement(model: &Model, number: u8, stale: bool) -> Option<Retirement> {
    let pages: Vec<_> = model.entries.keys().copied().collect();
    let (namespace, key) = chosen(&pages, number)?;
    let slot = model.entries[&(namespace, key)].location.slot;
    let generation = slot.generation + u32::from(stale);
    Some(Retirement { namespace, key, slot: SlotRef { generation, ..slot } })
}
