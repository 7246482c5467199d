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
    let last_id = pages.last_namespace();
    for info in pages.namespaces() {
        let found = pages.by_fingerprint(&info.fingerprint).map(|found| found.id);
        let right = (1..=last_id).contains(&info.id) && found == Some(info.id);
        ensure(NAME, right, || format!("namespace {} of {last_id}, its fingerprint finds {found:?}", info.id))?;
        let fresh = tables.insert(info.table) && info.table < pages.next_table;
        ensure(NAME, fresh, || format!("table {} of namespace {}", info.table, info.id))?;
    }
    let (there, counted) = (pages.namespaces().count(), pages.namespaces.len());
    ensure(NAME, there == counted, || format!("{there} namespaces are registered, {counted} are counted"))?;
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
    last_namespace: NamespaceId,
    epochs: BTreeMap<NamespaceId, Epoch>,
}

impl Summary {
    pub(in crate::state) fn of(pages: &Pages) -> Self {
        let epochs = pages.namespaces().map(|info| (info.id, info.epoch)).collect();
        Self { last_namespace: pages.last_namespace(), epochs }
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, pages: &Pages) -> Result<(), Violation> {
    let (was, now) = (before.last_namespace, pages.last_namespace());
    ensure(BACK, was <= now, || format!("namespace ids up to {was} were given out, then up to {now}"))?;
    for info in pages.namespaces() {
        // One that was dropped does not come back.
        let (id, epoch) = (info.id, before.epochs.get(&info.id).copied());
        let right = epoch.map_or(id > was, |epoch| info.epoch >= epoch);
        ensure(BACK, right, || format!("namespace {id} of {was}: epoch {epoch:?}, then {}", info.epoch))?;
    }
    Ok(())
}
