//! L3's room: the slabs there are, what each of their slots is used for, and which slots rest.
//!
//! ```text
//! free ──grant──► granted ──publish──► published ──retire──► resting ──its time is over──► free
//!                    └──────────── session ends, unknown write ──►┘
//! ```

mod checks;
mod pieces;
mod rests;
mod slab;
mod slots;

use std::collections::BTreeMap;

use foreword_proto::key::ParentHint;
use foreword_proto::limits::PAGE_BYTES_MAX;
use foreword_proto::status::L3Status;
use foreword_proto::{Generation, SlabId, Slot, SlotRef};
use foreword_seams::{Marker, sometimes};

use super::command::{ClusterSettings, Invalid, Refusal, SlabInfo};
use super::digest::{Fields, Sums};
use super::moment::Moment;
use rests::{RELEASES_PER_TICK_MAX, Rest, Rests};
use slots::Slots;

pub(super) use checks::{Summary, check, check_step};
pub(super) use rests::RestKind;
pub use slab::SlotCounts;
pub(super) use slab::{Holder, SlotUse};
pub use slots::ClassStatus;
pub(super) use slots::SlotCopies;

/// Slots and rests. A clone is cheap: both share slot tables until one changes them.
#[derive(Debug, Clone)]
pub(super) struct Room {
    slots: Slots,
    rests: Rests,
}

impl Room {
    /// No slab yet.
    pub(super) fn new() -> Self {
        Self { slots: Slots::new(), rests: Rests::default() }
    }

    /// A slot's generation (0: never granted) and use; None for a slot there is not.
    pub(super) fn get(&self, slab: SlabId, slot: Slot) -> Option<(Generation, SlotUse)> {
        self.slots.get(slab, slot)
    }

    /// The records of these slots that a frozen view shares, copied ahead of their change.
    pub(super) fn copies_for(&self, slots: BTreeMap<SlabId, Vec<Slot>>) -> SlotCopies {
        self.slots.copies_for(slots)
    }

    /// Puts such copies in; nothing was changed since they were made.
    pub(super) fn put_copies(&mut self, copies: SlotCopies) {
        self.slots.put_copies(copies);
    }

    /// A slot in its present life.
    pub(super) fn present(&self, slab: SlabId, slot: Slot) -> Option<SlotRef> {
        let (generation, _) = self.slots.get(slab, slot)?;
        Some(SlotRef { slab, slot, generation })
    }

    /// The parent's hint of the page in a slot; 0 for none.
    pub(super) fn parent_of(&self, slot: SlotRef) -> ParentHint {
        match self.slots.get(slot.slab, slot.slot) {
            Some((_, SlotUse::Published(parent))) => parent,
            _ => 0,
        }
    }

    /// True if this holder has the slot in this generation.
    pub(super) fn is_granted(&self, slot: SlotRef, holder: Holder) -> bool {
        self.get(slot.slab, slot.slot) == Some((slot.generation, SlotUse::Granted(holder)))
    }

    /// The same, if it is of this size besides.
    pub(super) fn is_granted_of(&self, slot: SlotRef, holder: Holder, slot_bytes: u64) -> bool {
        let table = self.slots.slabs.get(&slot.slab).filter(|slab| slab.slot_bytes == slot_bytes);
        table.and_then(|slab| slab.get(slot.slot)) == Some((slot.generation, SlotUse::Granted(holder)))
    }

    /// A slab.
    pub(super) fn slab(&self, slab: SlabId) -> Option<SlabInfo> {
        self.slots.info(slab)
    }

    /// All slabs, in the order of their ids.
    pub(super) fn slabs(&self) -> impl Iterator<Item = SlabInfo> + '_ {
        self.slots.infos()
    }

    /// The room of one class of slot size.
    pub(super) fn class(&self, settings: &ClusterSettings, slot_bytes: u64) -> ClassStatus {
        self.slots.class_status(settings, slot_bytes)
    }

    /// The room of each class, smallest first.
    pub(super) fn classes<'a>(&'a self, settings: &'a ClusterSettings) -> impl Iterator<Item = ClassStatus> + 'a {
        self.slots.class_sizes().map(|slot_bytes| self.slots.class_status(settings, slot_bytes))
    }

    /// The room over all classes.
    pub(super) fn l3_status(&self, settings: &ClusterSettings) -> L3Status {
        let mut status =
            L3Status { chunk_bytes: settings.chunk_bytes, budget_bytes: settings.l3_bytes, ..self.slots.file_status() };
        for class in self.classes(settings) {
            status.free_bytes += class.slots.free * class.slot_bytes;
            status.granted_bytes += class.slots.granted * class.slot_bytes;
            status.published_bytes += class.slots.published * class.slot_bytes;
            status.resting_bytes += class.slots.resting * class.slot_bytes;
        }
        status
    }

    /// The tick at which the next resting slot is free again.
    pub(super) fn next_release_ms(&self) -> Option<u64> {
        self.rests.next_due_ms()
    }

    /// Slots of this size may be granted from now on.
    pub(super) fn open_class(&mut self, slot_bytes: u64) {
        self.slots.open_class(slot_bytes);
    }

    /// Leases up to `asked` slots of a class to a holder, creating slabs as the budget allows; possibly none.
    pub(super) fn grant(
        &mut self,
        holder: Holder,
        slot_bytes: u64,
        asked: u32,
        settings: &ClusterSettings,
    ) -> Result<Vec<SlotRef>, Refusal> {
        let largest = PAGE_BYTES_MAX.next_multiple_of(settings.chunk_bytes.into());
        if slot_bytes > largest || !self.slots.has_class(slot_bytes) {
            return Err(Refusal::Invalid(Invalid::SlotBytes { found: slot_bytes }));
        }
        let granted = self.slots.grant(settings, holder, slot_bytes, asked);
        if granted.is_empty() {
            sometimes(Marker::GrantFoundNoRoom);
        } else if granted.iter().any(|slot| slot.generation > 1) {
            sometimes(Marker::SlotReused);
        }
        Ok(granted)
    }

    /// A granted slot holds a page from now on.
    pub(super) fn publish(&mut self, slot: SlotRef, parent: ParentHint) {
        self.slots.set(slot, SlotUse::Published(parent));
    }

    /// A granted slot that was not written is free at once.
    pub(super) fn give_back(&mut self, slot: SlotRef) {
        self.slots.set(slot, SlotUse::Free);
    }

    /// Puts a slot to rest.
    pub(super) fn rest(&mut self, slot: SlotRef, kind: RestKind, at: Moment<'_>) {
        let rest_ms = match kind {
            RestKind::Read => at.settings.read_rest_ms,
            RestKind::Write => at.settings.write_rest_ms,
        };
        let due_ms = at.tick_ms.saturating_add(rest_ms);
        self.slots.set(slot, SlotUse::Resting);
        self.rests.push(kind, Rest { due_ms, slab: slot.slab, slot: slot.slot });
    }

    /// Frees slots whose rest is over.
    pub(super) fn release_due(&mut self, tick_ms: u64) {
        for released in 0..RELEASES_PER_TICK_MAX {
            let Some(rest) = self.rests.pop_due(tick_ms) else { break };
            if released == 0 {
                sometimes(Marker::SlotReleased);
            }
            if let Some(slot) = self.present(rest.slab, rest.slot) {
                self.slots.set(slot, SlotUse::Free);
            }
        }
    }

    /// Forgets slabs all of whose slots are free: all of them, or none and an error.
    pub(super) fn drop_slabs(&mut self, slabs: &[SlabId]) -> Result<(), Refusal> {
        if let Some(slab) = slabs.iter().find(|slab| !self.slots.is_unused(**slab)) {
            return Err(Refusal::Invalid(Invalid::Slab { slab: *slab }));
        }
        slabs.iter().for_each(|slab| self.slots.drop_slab(*slab));
        Ok(())
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { slots, rests } = self;
        slots.hash_into(fields, sums);
        rests.hash_into(fields, sums);
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes() + self.rests.heap_bytes()
    }
}
