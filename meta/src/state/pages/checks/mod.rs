//! What must hold of namespaces and pages: by the names of docs/INVARIANTS.md.

use std::collections::BTreeMap;

use foreword_proto::{Epoch, NamespaceId, Revision};

use super::Pages;
use crate::state::room::{Room, SlotUse};
use crate::state::violation::{BACK, Violation, ensure};
use foreword_index::Table;

#[cfg(test)]
mod canaries;

/// Checks one state.
pub(in crate::state) fn check(pages: &Pages, room: &Room) -> Result<(), Violation> {
    one_slot_one_page(pages, room)?;
    namespaces_are_distinct(pages)?;
    entries_are_counted(pages)
}

/// All tables, each with whose it is.
fn tables(pages: &Pages) -> impl Iterator<Item = (String, &Table)> {
    let owned = pages.namespaces().map(|info| (format!("namespace {}", info.id), &info.table));
    let left = pages.garbage.left.iter().zip(0..).map(|(left, number)| (format!("garbage {number}"), &left.table));
    owned.chain(left)
}

/// `one-slot-one-page`: entries and published slots are a bijection, generation for generation.
fn one_slot_one_page(pages: &Pages, room: &Room) -> Result<(), Violation> {
    const NAME: &str = "one-slot-one-page";
    let mut taken = BTreeMap::new();
    for (key, location) in tables(pages).flat_map(|(_, table)| table.iter()) {
        let slot = location.slot;
        if let Some(other) = taken.insert((slot.slab, slot.slot), key) {
            return ensure(NAME, false, || format!("{slot:?} holds {other:?} and {key:?}"));
        }
        let used = room.get(slot.slab, slot.slot);
        let published = matches!(used, Some((generation, SlotUse::Published(_))) if generation == slot.generation);
        ensure(NAME, published, || format!("{key:?} is at {slot:?}, whose use is {used:?}"))?;
    }
    let published = room.published();
    ensure(NAME, published == taken.len() as u64, || {
        format!("{published} slots are published, {} entries hold one", taken.len())
    })
}

/// `namespaces-are-distinct`: one id a fingerprint.
fn namespaces_are_distinct(pages: &Pages) -> Result<(), Violation> {
    const NAME: &str = "namespaces-are-distinct";
    let last_id = pages.last_namespace();
    for info in pages.namespaces() {
        let found = pages.by_fingerprint(&info.fingerprint).map(|found| found.id);
        let right = (1..=last_id).contains(&info.id) && found == Some(info.id);
        ensure(NAME, right, || format!("namespace {} of {last_id}, its fingerprint finds {found:?}", info.id))?;
    }
    let (there, counted) = (pages.namespaces().count(), pages.namespaces.len());
    ensure(NAME, there == counted, || format!("{there} namespaces are registered, {counted} are counted"))
}

/// `entries-are-counted`: each entry is found by its key, and each table, all namespaces and all garbage have as many
/// as they say.
fn entries_are_counted(pages: &Pages) -> Result<(), Violation> {
    const NAME: &str = "entries-are-counted";
    for (owner, table) in tables(pages) {
        let mut counted = 0;
        for (key, location) in table.iter() {
            let found = table.get(&key);
            ensure(NAME, found == Some(location), || format!("{key:?} is at {location:?}, found at {found:?}"))?;
            counted += 1;
        }
        let kept = table.entries();
        ensure(NAME, counted == kept, || format!("{owner} has {counted} entries, {kept} are kept"))?;
    }
    let owned: u64 = pages.namespaces().map(|info| info.pages()).sum();
    let left: u64 = pages.garbage.left.iter().map(|left| left.table.entries()).sum();
    let kept = (pages.count(), pages.reclaimable());
    ensure(NAME, (owned, left) == kept, || format!("{owned} pages and {left} cleared ones, {kept:?} are kept"))?;
    for left in &pages.garbage.left {
        let passed = (0..left.bucket).map(|bucket| left.table.pages_in(bucket).count()).sum::<usize>();
        ensure(NAME, passed == 0, || format!("{passed} entries in buckets that were reclaimed"))?;
    }
    Ok(())
}

/// What later namespaces are held against.
#[derive(Debug, Clone)]
pub(in crate::state) struct Summary {
    last_namespace: NamespaceId,
    /// Each one's epoch and last delete.
    changed: BTreeMap<NamespaceId, (Epoch, Revision)>,
}

impl Summary {
    pub(in crate::state) fn of(pages: &Pages) -> Self {
        let changed = pages.namespaces().map(|info| (info.id, (info.epoch, info.deleted_at))).collect();
        Self { last_namespace: pages.last_namespace(), changed }
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, pages: &Pages) -> Result<(), Violation> {
    let (was, now) = (before.last_namespace, pages.last_namespace());
    ensure(BACK, was <= now, || format!("namespace ids up to {was} were given out, then up to {now}"))?;
    for info in pages.namespaces() {
        // One that was dropped does not come back.
        let (id, before) = (info.id, before.changed.get(&info.id).copied());
        let right = before.map_or(id > was, |(epoch, deleted)| info.epoch >= epoch && info.deleted_at >= deleted);
        let now = (info.epoch, info.deleted_at);
        ensure(BACK, right, || format!("namespace {id} of {was}: epoch and last delete {before:?}, then {now:?}"))?;
    }
    Ok(())
}
