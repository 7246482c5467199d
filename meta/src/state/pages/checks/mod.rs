//! What must hold of namespaces and pages: by the names of docs/INVARIANTS.md.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::{Epoch, NamespaceId};

use super::Pages;
use super::index::TableId;
use crate::state::room::{Room, SlotUse};
use crate::state::violation::{BACK, Violation, ensure};

#[cfg(test)]
mod canaries;

/// Checks one state.
pub(in crate::state) fn check(pages: &Pages, room: &Room) -> Result<(), Violation> {
    one_slot_one_page(pages, room)?;
    namespaces_are_distinct(pages)?;
    entries_are_counted(pages)
}

/// `one-slot-one-page`: entries and published slots are a bijection, generation for generation.
fn one_slot_one_page(pages: &Pages, room: &Room) -> Result<(), Violation> {
    const NAME: &str = "one-slot-one-page";
    let mut taken = BTreeMap::new();
    for (_, entry, _) in pages.index.iter() {
        let slot = entry.slot;
        if let Some(other) = taken.insert((slot.slab, slot.slot), entry.key) {
            return ensure(NAME, false, || format!("{slot:?} holds {other:?} and {:?}", entry.key));
        }
        let used = room.get(slot.slab, slot.slot);
        let published = matches!(used, Some((generation, SlotUse::Published(_))) if generation == slot.generation);
        ensure(NAME, published, || format!("{:?} is at {slot:?}, whose use is {used:?}", entry.key))?;
    }
    let published = room.published();
    ensure(NAME, published == taken.len() as u64, || {
        format!("{published} slots are published, {} entries hold one", taken.len())
    })
}

/// `namespaces-are-distinct`: one id a fingerprint, one table an epoch.
fn namespaces_are_distinct(pages: &Pages) -> Result<(), Violation> {
    const NAME: &str = "namespaces-are-distinct";
    let mut tables = BTreeSet::new();
    for (position, info) in pages.namespaces().enumerate() {
        let found = pages.by_fingerprint(&info.fingerprint).map(|found| found.id);
        let right = info.id as usize == position + 1 && found == Some(info.id);
        ensure(NAME, right, || format!("namespace {} at {position}, its fingerprint finds {found:?}", info.id))?;
        let fresh = tables.insert(info.table) && info.table < pages.next_table;
        ensure(NAME, fresh, || format!("table {} of namespace {}", info.table, info.id))?;
    }
    for garbage in &pages.garbage {
        let fresh = tables.insert(garbage.table);
        ensure(NAME, fresh, || format!("table {} is cleared and in use", garbage.table))?;
    }
    Ok(())
}

/// `entries-are-counted`: each entry is found by its key, and each table has as many as its owner says.
fn entries_are_counted(pages: &Pages) -> Result<(), Violation> {
    const NAME: &str = "entries-are-counted";
    let mut counted: BTreeMap<TableId, u64> = BTreeMap::new();
    for (shards, entry, location) in pages.index.iter() {
        let found = pages.index.get(shards, entry.table, &entry.key);
        ensure(NAME, found == Some(location), || format!("{:?} is at {location:?}, found at {found:?}", entry.key))?;
        *counted.entry(entry.table).or_default() += 1;
    }
    let owners = pages.namespaces().map(|info| (info.table, info.pages));
    for (table, entries) in owners.chain(pages.garbage.iter().map(|garbage| (garbage.table, garbage.entries))) {
        let there = counted.remove(&table).unwrap_or(0);
        ensure(NAME, there == entries, || format!("table {table} has {there} entries, {entries} are counted"))?;
    }
    ensure(NAME, counted.is_empty(), || format!("entries of tables that nobody owns: {counted:?}"))
}

/// What later namespaces are held against.
#[derive(Debug, Clone)]
pub(in crate::state) struct Summary {
    epochs: BTreeMap<NamespaceId, Epoch>,
}

impl Summary {
    pub(in crate::state) fn of(pages: &Pages) -> Self {
        Self { epochs: pages.namespaces().map(|info| (info.id, info.epoch)).collect() }
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, pages: &Pages) -> Result<(), Violation> {
    for (id, epoch) in &before.epochs {
        let now = pages.namespace(*id).map(|info| info.epoch);
        ensure(BACK, now.is_some_and(|now| now >= *epoch), || format!("namespace {id}: epoch {epoch}, then {now:?}"))?;
    }
    Ok(())
}
