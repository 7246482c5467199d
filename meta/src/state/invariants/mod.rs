//! What must hold of every state, and between any two states one entry apart: by the names of docs/INVARIANTS.md.
//!
//! Everything is recomputed from the entries and the slots, so a check costs as much as the state is large: for tests and
//! the simulator.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::{Epoch, Generation, NamespaceId, Revision, SessionId, SlabId, Slot, SlotRef};

use super::State;
use super::command::Command;
use super::hf3fs::checks;
use super::rests::Rest;
use super::slab::{SlotCounts, SlotUse};

#[cfg(test)]
mod canaries;

/// An invariant that does not hold, by its name in docs/INVARIANTS.md.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {name} is broken: {detail}")]
pub struct Violation {
    pub name: &'static str,
    pub detail: String,
}

pub(in crate::state) fn ensure(
    name: &'static str,
    holds: bool,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { name, detail: detail() }) }
}

/// Checks everything that can be seen in one state.
pub fn check(state: &State) -> Result<(), Violation> {
    one_slot_one_page(state)?;
    slots_add_up(state)?;
    budget_is_kept(state)?;
    grants_end(state)?;
    rests_are_ordered(state)?;
    suspicions_stand(state)?;
    namespaces_are_distinct(state)?;
    entries_are_counted(state)?;
    checks::check(&state.hf3fs, state.tick_ms)?;
    ensure("digest-is-true", state.digest() == state.digest_from_scratch(), || {
        format!("{:016x} is kept, {:016x} is computed", state.digest(), state.digest_from_scratch())
    })
}

/// `one-slot-one-page`: entries and published slots are a bijection, generation for generation.
fn one_slot_one_page(state: &State) -> Result<(), Violation> {
    const NAME: &str = "one-slot-one-page";
    let mut taken = BTreeMap::new();
    for (_, entry, _) in state.index.iter() {
        let slot = entry.slot;
        if let Some(other) = taken.insert((slot.slab, slot.slot), entry.key) {
            return ensure(NAME, false, || format!("{slot:?} holds {other:?} and {:?}", entry.key));
        }
        let used = state.slots.get(slot.slab, slot.slot);
        let published = matches!(used, Some((generation, SlotUse::Published(_))) if generation == slot.generation);
        ensure(NAME, published, || format!("{:?} is at {slot:?}, whose use is {used:?}", entry.key))?;
    }
    let published: u64 = state.slots.slabs.values().map(|slab| slab.counts.published).sum();
    ensure(NAME, published == taken.len() as u64, || {
        format!("{published} slots are published, {} entries hold one", taken.len())
    })
}

/// `slots-add-up`: every slot is free, granted, resting or published, and the counts say how many.
fn slots_add_up(state: &State) -> Result<(), Violation> {
    const NAME: &str = "slots-add-up";
    for (id, slab) in &state.slots.slabs {
        let mut counted = SlotCounts { free: slab.slots.into(), ..SlotCounts::default() };
        for (_, _, used) in slab.iter() {
            counted.free -= u64::from(used != SlotUse::Free);
            counted.granted += u64::from(matches!(used, SlotUse::Granted(_)));
            counted.published += u64::from(matches!(used, SlotUse::Published(_)));
            counted.resting += u64::from(used == SlotUse::Resting);
        }
        ensure(NAME, counted == slab.counts, || format!("slab {id}: {counted:?} counted, {:?} kept", slab.counts))?;
    }
    let resting: u64 = state.slots.slabs.values().map(|slab| slab.counts.resting).sum();
    ensure(NAME, resting == state.rests.len() as u64, || {
        format!("{resting} slots rest, {} wait for their release", state.rests.len())
    })
}

/// `budget-is-kept`: slabs take no more than the L3 budget, each belongs to the class of its slot size, ids are below the next.
fn budget_is_kept(state: &State) -> Result<(), Violation> {
    const NAME: &str = "budget-is-kept";
    let bytes: u64 = state.slots.slabs.values().map(|slab| slab.file_bytes()).sum();
    ensure(NAME, bytes == state.slots.file_bytes && bytes <= state.settings.l3_bytes, || {
        format!(
            "slabs take {bytes} bytes, {} are kept, the budget is {}",
            state.slots.file_bytes, state.settings.l3_bytes
        )
    })?;
    let classed: usize = state.slots.classes.values().map(|class| class.slabs.len()).sum();
    ensure(NAME, classed == state.slots.slabs.len(), || format!("{classed} slabs are in classes"))?;
    for (slot_bytes, class) in &state.slots.classes {
        ensure(NAME, class.slabs.is_sorted(), || format!("class {slot_bytes}: {:?}", class.slabs))?;
        for slab in &class.slabs {
            let of_class = state.slots.slabs.get(slab).is_some_and(|table| table.slot_bytes == *slot_bytes);
            ensure(NAME, of_class && *slab < state.slots.next_slab, || format!("slab {slab} in class {slot_bytes}"))?;
        }
    }
    Ok(())
}

/// `grants-end`: a granted slot belongs to an open session, which knows of it.
fn grants_end(state: &State) -> Result<(), Violation> {
    const NAME: &str = "grants-end";
    let mut held = 0;
    for (id, slab) in &state.slots.slabs {
        for (slot, _, used) in slab.iter() {
            let SlotUse::Granted(session) = used else { continue };
            let knows = state.sessions.get(session).is_some_and(|open| open.granted.contains(&(*id, slot)));
            ensure(NAME, knows, || {
                format!("slot {slot} of slab {id} is granted to {session}, which does not hold it")
            })?;
            held += 1;
        }
    }
    let known: usize = state.sessions.open.values().map(|open| open.granted.len()).sum();
    ensure(NAME, known == held, || format!("sessions hold {known} slots, {held} are granted"))?;
    let nodes: BTreeSet<&str> = state.sessions.open.values().map(|open| open.node.as_str()).collect();
    ensure(NAME, nodes.len() == state.sessions.open.len(), || "two open sessions of one node".into())?;
    let last = state.sessions.open.keys().next_back().copied().unwrap_or(0);
    ensure(NAME, last < state.sessions.next, || format!("session {last} is open, {} is next", state.sessions.next))
}

/// `rests-are-ordered`: each queue holds resting slots, once, by deadline.
fn rests_are_ordered(state: &State) -> Result<(), Violation> {
    const NAME: &str = "rests-are-ordered";
    let mut seen = BTreeSet::new();
    for queue in [&state.rests.read, &state.rests.write] {
        let ordered = queue.iter().is_sorted_by_key(|rest| rest.due_ms);
        ensure(NAME, ordered, || format!("deadlines {:?}", queue.iter().map(|rest| rest.due_ms).collect::<Vec<_>>()))?;
        for Rest { slab, slot, .. } in queue {
            let used = state.slots.get(*slab, *slot);
            let rests = matches!(used, Some((_, SlotUse::Resting))) && seen.insert((*slab, *slot));
            ensure(NAME, rests, || format!("slot {slot} of slab {slab} waits for its release, its use is {used:?}"))?;
        }
    }
    Ok(())
}

/// `suspicions-stand`: a suspicion is of a present page, by an open session, which counts it.
fn suspicions_stand(state: &State) -> Result<(), Violation> {
    const NAME: &str = "suspicions-stand";
    let mut of_session: BTreeMap<SessionId, u32> = BTreeMap::new();
    for ((namespace, key), suspicion) in state.suspicions.iter() {
        let present = state.location(namespace, &key).is_some();
        ensure(NAME, present, || format!("{key:?} of namespace {namespace} is suspected and not there"))?;
        *of_session.entry(suspicion.session).or_default() += 1;
    }
    for (id, session) in &state.sessions.open {
        let counted = of_session.remove(id).unwrap_or(0);
        ensure(NAME, counted == session.suspicions, || {
            format!("session {id} counts {} suspicions, {counted} are there", session.suspicions)
        })?;
    }
    ensure(NAME, of_session.is_empty(), || format!("suspicions of sessions that ended: {of_session:?}"))
}

/// `namespaces-are-distinct`: one id a fingerprint, one table an epoch.
fn namespaces_are_distinct(state: &State) -> Result<(), Violation> {
    const NAME: &str = "namespaces-are-distinct";
    let mut tables = BTreeSet::new();
    for (position, info) in state.namespaces().enumerate() {
        let found = state.namespace_by_fingerprint(&info.fingerprint).map(|found| found.id);
        let right = info.id as usize == position + 1 && found == Some(info.id);
        ensure(NAME, right, || format!("namespace {} at {position}, its fingerprint finds {found:?}", info.id))?;
        let fresh = tables.insert(info.table) && info.table < state.next_table;
        ensure(NAME, fresh, || format!("table {} of namespace {}", info.table, info.id))?;
    }
    for garbage in &state.garbage {
        let fresh = tables.insert(garbage.table);
        ensure(NAME, fresh, || format!("table {} is cleared and in use", garbage.table))?;
    }
    Ok(())
}

/// `entries-are-counted`: each entry is found by its key, and each table has as many as its owner says.
fn entries_are_counted(state: &State) -> Result<(), Violation> {
    const NAME: &str = "entries-are-counted";
    let mut counted: BTreeMap<u32, u64> = BTreeMap::new();
    for (shards, entry, location) in state.index.iter() {
        let found = state.index.get(shards, entry.table, &entry.key);
        ensure(NAME, found == Some(location), || format!("{:?} is at {location:?}, found at {found:?}", entry.key))?;
        *counted.entry(entry.table).or_default() += 1;
    }
    let owners = state.namespaces().map(|info| (info.table, info.pages));
    for (table, entries) in owners.chain(state.garbage.iter().map(|garbage| (garbage.table, garbage.entries))) {
        let there = counted.remove(&table).unwrap_or(0);
        ensure(NAME, there == entries, || format!("table {table} has {there} entries, {entries} are counted"))?;
    }
    ensure(NAME, counted.is_empty(), || format!("entries of tables that nobody owns: {counted:?}"))
}

/// What a later state is held against.
#[derive(Debug, Clone)]
pub struct Summary {
    revision: Revision,
    tick_ms: u64,
    feature_level: u32,
    slots_reused: u64,
    next_session: SessionId,
    next_slab: SlabId,
    sessions: BTreeMap<SessionId, String>,
    slabs: BTreeSet<SlabId>,
    epochs: BTreeMap<NamespaceId, Epoch>,
    slots: BTreeMap<(SlabId, Slot), (Generation, SlotUse)>,
    page_files: checks::Summary,
}

impl Summary {
    /// What must not go back.
    pub fn of(state: &State) -> Self {
        let slots = state
            .slots
            .slabs
            .iter()
            .flat_map(|(id, slab)| slab.iter().map(|(slot, generation, used)| ((*id, slot), (generation, used))));
        Self {
            revision: state.revision,
            tick_ms: state.tick_ms,
            feature_level: state.feature_level,
            slots_reused: state.slots.slots_reused,
            next_session: state.sessions.next,
            next_slab: state.slots.next_slab,
            sessions: state.sessions.open.iter().map(|(id, open)| (*id, open.node.clone())).collect(),
            slabs: state.slots.slabs.keys().copied().collect(),
            epochs: state.namespaces().map(|info| (info.id, info.epoch)).collect(),
            slots: slots.collect(),
            page_files: checks::Summary::of(&state.hf3fs),
        }
    }
}

/// Checks one command's step from `before` to `state`.
pub fn check_step(before: &Summary, state: &State) -> Result<(), Violation> {
    const BACK: &str = "nothing-goes-back";
    let forward = before.revision <= state.revision
        && before.tick_ms <= state.tick_ms
        && before.feature_level <= state.feature_level
        && before.slots_reused <= state.slots.slots_reused
        && before.next_session <= state.sessions.next
        && before.next_slab <= state.slots.next_slab;
    ensure(BACK, forward, || format!("revision {} tick {} after {before:?}", state.revision, state.tick_ms))?;
    for (id, open) in &state.sessions.open {
        let same = before.sessions.get(id).map_or(*id >= before.next_session, |node| *node == open.node);
        ensure(BACK, same, || format!("session {id} was given out twice"))?;
    }
    for id in state.slots.slabs.keys() {
        let known = before.slabs.contains(id) || *id >= before.next_slab;
        ensure(BACK, known, || format!("slab {id} came back"))?;
    }
    for (id, epoch) in &before.epochs {
        let now = state.namespace(*id).map(|info| info.epoch);
        ensure(BACK, now.is_some_and(|now| now >= *epoch), || format!("namespace {id}: epoch {epoch}, then {now:?}"))?;
    }
    before.slots.iter().try_for_each(|((slab, slot), was)| step_of_slot(state, (*slab, *slot), *was))?;
    checks::check_step(&before.page_files, state)
}

/// Checks of the same step what only its command tells: that it is one that may have such an effect.
pub fn check_command(before: &Summary, command: &Command, state: &State) -> Result<(), Violation> {
    checks::check_command(&before.page_files, command, state)
}

/// `generations-never-fall`: a slot's generation rises by one, when it is granted, and otherwise stays;
/// and it is granted only when it was free (`one-slot-one-page`).
fn step_of_slot(state: &State, (slab, slot): (SlabId, Slot), was: (Generation, SlotUse)) -> Result<(), Violation> {
    const NAME: &str = "generations-never-fall";
    let Some((generation, used)) = state.slots.get(slab, slot) else {
        // The slab was dropped: nothing of it may have been in use.
        return ensure("one-slot-one-page", was.1 == SlotUse::Free, || format!("slab {slab} was dropped with {was:?}"));
    };
    let at = SlotRef { slab, slot, generation };
    if generation != was.0 {
        let granted = matches!(used, SlotUse::Granted(_));
        ensure(NAME, granted && generation == super::command::next_generation(was.0), || {
            format!("{at:?} was {was:?}")
        })?;
        return ensure("one-slot-one-page", was.1 == SlotUse::Free, || format!("{at:?} was granted while {was:?}"));
    }
    let allowed = match (was.1, used) {
        (before, now) if before == now => true,
        (SlotUse::Granted(_), SlotUse::Published(_) | SlotUse::Resting | SlotUse::Free) => true,
        (SlotUse::Published(_), SlotUse::Resting) => true,
        (SlotUse::Resting, SlotUse::Free) => true,
        _ => false,
    };
    ensure("one-slot-one-page", allowed, || format!("{at:?} went from {:?} to {used:?}", was.1))
}
