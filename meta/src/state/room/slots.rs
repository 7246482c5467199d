//! All slabs, by class of slot size: what is granted, from where, and how much room is left.

use std::collections::BTreeMap;

use foreword_proto::status::L3Status;
use foreword_proto::{Generation, SlabId, SlotRef};

use super::slab::{ChunkCopies, Holder, Slab, SlotCounts, SlotUse, hash_of_slot};
use crate::state::codec::record;
use crate::state::command::{ClusterSettings, SlabInfo, next_generation};
use crate::state::digest::{Fields, Sums};

/// A grant takes a share of its slots from each of as many slabs, where there are that many.
const SLABS_PER_GRANT: u32 = 4;
/// A slab that is not needed yet is created only if it takes at most this part of the budget that is left.
const SPREAD_BUDGET_DIVISOR: u64 = 8;
/// A grant takes at most this part of its class's room.
const GRANT_ROOM_DIVISOR: u64 = 64;

/// Slabs of one slot size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Class {
    /// In the order of their ids.
    pub(super) slabs: Vec<SlabId>,
    /// The slab the last grant ended with: the next one starts behind it.
    pub(super) last_granted: SlabId,
}

/// Room of one class of slot size, in slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassStatus {
    pub slot_bytes: u64,
    pub slabs: u64,
    pub slots: SlotCounts,
    /// Slots that slabs not yet created could hold, with all of the budget that is left.
    pub creatable_slots: u64,
}

impl ClassStatus {
    /// All slots there are and could be.
    pub fn room_slots(&self) -> u64 {
        self.slots.total() + self.creatable_slots
    }
}

/// What only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    /// Ids of slabs are never given out twice.
    pub(super) next_slab: SlabId,
    pub(super) slots_reused: u64,
}

record!(Counters { next_slab, slots_reused });

/// The slot tables of all slabs.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    pub(super) slabs: BTreeMap<SlabId, Slab>,
    pub(super) classes: BTreeMap<u64, Class>,
    pub(super) counters: Counters,
    /// Bytes of all slab files.
    pub(super) file_bytes: u64,
    /// Sum over the hashes of all slots that were ever granted.
    pub(super) digest: u64,
}

/// Chunks of several slabs, copied ahead of their change.
#[derive(Debug)]
pub(in crate::state) struct SlotCopies(Vec<(SlabId, ChunkCopies)>);

impl SlotCopies {
    pub(in crate::state) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Slots {
    pub(super) fn new() -> Self {
        let counters = Counters { next_slab: 1, slots_reused: 0 };
        Self { slabs: BTreeMap::new(), classes: BTreeMap::new(), counters, file_bytes: 0, digest: 0 }
    }

    /// A slot's generation and use.
    pub(super) fn get(&self, slab: SlabId, slot: u32) -> Option<(Generation, SlotUse)> {
        self.slabs.get(&slab)?.get(slot)
    }

    /// Slots of this size may be granted from now on.
    pub(super) fn open_class(&mut self, slot_bytes: u64) {
        self.classes.entry(slot_bytes).or_default();
    }

    pub(super) fn has_class(&self, slot_bytes: u64) -> bool {
        self.classes.contains_key(&slot_bytes)
    }

    /// The slot sizes there are, smallest first.
    pub(super) fn class_sizes(&self) -> impl Iterator<Item = u64> + '_ {
        self.classes.keys().copied()
    }

    /// Sets a slot's use and generation, which must be a slot there is.
    pub(super) fn set(&mut self, slot: SlotRef, new: SlotUse) {
        let Some(slab) = self.slabs.get_mut(&slot.slab).filter(|slab| slot.slot < slab.slots) else { return };
        let (generation, old) = slab.replace(slot.slot, slot.generation, new);
        let before = hash_of_slot(SlotRef { generation, ..slot }, old);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(hash_of_slot(slot, new));
    }

    /// The chunks of these slots that a frozen view shares, copied ahead of their change.
    pub(super) fn copies_for(&self, slots: BTreeMap<SlabId, Vec<u32>>) -> SlotCopies {
        let copies = slots.into_iter().filter_map(|(slab, slots)| {
            let copies = self.slabs.get(&slab)?.copies_for(slots);
            (!copies.is_empty()).then_some((slab, copies))
        });
        SlotCopies(copies.collect())
    }

    /// Puts such copies in; nothing was changed since they were made.
    pub(super) fn put_copies(&mut self, copies: SlotCopies) {
        for (slab, copies) in copies.0 {
            if let Some(slab) = self.slabs.get_mut(&slab) {
                slab.put_copies(copies);
            }
        }
    }

    /// Leases up to `asked` slots of a class to a holder, creating slabs as the budget allows; possibly none.
    pub(super) fn grant(
        &mut self,
        settings: &ClusterSettings,
        holder: Holder,
        slot_bytes: u64,
        asked: u32,
    ) -> Vec<SlotRef> {
        let status = self.class_status(settings, slot_bytes);
        let most = (status.room_slots() / GRANT_ROOM_DIVISOR).max(1);
        let wanted = u64::from(asked).min(most) as u32;
        let mut free = status.slots.free;
        while free < u64::from(wanted) {
            let Some(slots) = self.create_slab(settings, slot_bytes) else { break };
            free += u64::from(slots);
        }
        self.spread(settings, slot_bytes);
        self.take_free(holder, slot_bytes, wanted)
    }

    /// Opens further slabs while few of the class have free slots and the budget is far from used: writes then spread
    /// over files from the start.
    fn spread(&mut self, settings: &ClusterSettings, slot_bytes: u64) {
        let Some(class) = self.classes.get(&slot_bytes) else { return };
        let has_free = |slab: &&SlabId| self.slabs.get(slab).is_some_and(|table| table.counts.free > 0);
        let open = class.slabs.iter().filter(has_free).count() as u32;
        for _ in open..SLABS_PER_GRANT {
            let whole = u64::from(slots_per_slab(settings, slot_bytes)) * slot_bytes;
            if whole > settings.l3_bytes.saturating_sub(self.file_bytes) / SPREAD_BUDGET_DIVISOR {
                return;
            }
            self.create_slab(settings, slot_bytes);
        }
    }

    fn take_free(&mut self, holder: Holder, slot_bytes: u64, wanted: u32) -> Vec<SlotRef> {
        let mut taken = Vec::new();
        let Some(class) = self.classes.get(&slot_bytes) else { return taken };
        let mut last = class.last_granted;
        let mut order: Vec<SlabId> = class.slabs.clone();
        order.rotate_left(class.slabs.partition_point(|slab| *slab <= last));
        let share = wanted.div_ceil(SLABS_PER_GRANT).max(1);
        while taken.len() < wanted as usize {
            let before = taken.len();
            for slab in &order {
                let count = share.min(wanted - taken.len() as u32);
                if count > 0 && self.take_from_slab(holder, *slab, count, &mut taken) {
                    last = *slab;
                }
            }
            if taken.len() == before {
                break;
            }
        }
        if let Some(class) = self.classes.get_mut(&slot_bytes) {
            class.last_granted = last;
        }
        taken
    }

    /// Takes up to `count` slots of a slab, lowest first; false if it had none.
    fn take_from_slab(&mut self, holder: Holder, slab: SlabId, count: u32, taken: &mut Vec<SlotRef>) -> bool {
        let mut from = 0;
        for _ in 0..count {
            let Some(table) = self.slabs.get(&slab).filter(|table| table.counts.free > 0) else { break };
            let Some(slot) = table.next_free(from) else { break };
            let generation = table.get(slot).map_or(0, |(generation, _)| generation);
            let granted = SlotRef { slab, slot, generation: next_generation(generation) };
            self.counters.slots_reused += u64::from(generation > 0);
            self.set(granted, SlotUse::Granted(holder));
            taken.push(granted);
            from = slot + 1;
        }
        from > 0
    }

    /// Creates a slab of the class if the budget has room for at least one slot; returns its slots.
    fn create_slab(&mut self, settings: &ClusterSettings, slot_bytes: u64) -> Option<u32> {
        let affordable = settings.l3_bytes.saturating_sub(self.file_bytes) / slot_bytes;
        let slots = u64::from(slots_per_slab(settings, slot_bytes)).min(affordable) as u32;
        let next = self.counters.next_slab.checked_add(1)?;
        if slots == 0 {
            return None;
        }
        let slab = Slab::new(slot_bytes, slots);
        self.file_bytes += slab.file_bytes();
        self.slabs.insert(self.counters.next_slab, slab);
        self.classes.entry(slot_bytes).or_default().slabs.push(self.counters.next_slab);
        self.counters.next_slab = next;
        Some(slots)
    }

    /// True for a slab all of whose slots are free.
    pub(super) fn is_unused(&self, slab: SlabId) -> bool {
        self.slabs.get(&slab).is_some_and(|table| table.counts.free == u64::from(table.slots))
    }

    /// Forgets a slab all of whose slots are free.
    pub(super) fn drop_slab(&mut self, slab: SlabId) {
        let Some(table) = self.slabs.remove(&slab) else { return };
        self.file_bytes -= table.file_bytes();
        for (slot, generation, used) in table.iter() {
            self.digest = self.digest.wrapping_sub(hash_of_slot(SlotRef { slab, slot, generation }, used));
        }
        if let Some(class) = self.classes.get_mut(&table.slot_bytes) {
            class.slabs.retain(|other| *other != slab);
        }
    }

    /// A slab, for agents and status.
    pub(super) fn info(&self, slab: SlabId) -> Option<SlabInfo> {
        self.slabs.get(&slab).map(|table| SlabInfo { slab, slot_bytes: table.slot_bytes, slots: table.slots })
    }

    /// All slabs, in the order of their ids.
    pub(super) fn infos(&self) -> impl Iterator<Item = SlabInfo> + '_ {
        self.slabs.iter().map(|(slab, table)| SlabInfo {
            slab: *slab,
            slot_bytes: table.slot_bytes,
            slots: table.slots,
        })
    }

    /// What there is of files; the rest of the status is 0.
    pub(super) fn file_status(&self) -> L3Status {
        L3Status {
            slabs: self.slabs.len() as u64,
            slab_bytes: self.file_bytes,
            slots_reused: self.counters.slots_reused,
            ..L3Status::default()
        }
    }

    pub(super) fn hash_into(&self, fields: &mut Fields, sums: Sums) {
        let Self { slabs, classes, counters, file_bytes: _, digest } = self;
        let slots = match sums {
            Sums::Kept => *digest,
            Sums::FromScratch => self.digest_from_scratch(),
        };
        fields.add(counters).add(slots);
        fields.add_all(slabs.iter().map(|(id, slab)| (*id, slab.size())));
        fields
            .add_all(classes.iter().map(|(slot_bytes, Class { slabs: _, last_granted })| (*slot_bytes, *last_granted)));
    }

    fn digest_from_scratch(&self) -> u64 {
        let hashes = self.slabs.iter().flat_map(|(slab, table)| {
            let hash = |(slot, generation, used)| hash_of_slot(SlotRef { slab: *slab, slot, generation }, used);
            table.iter().map(hash)
        });
        hashes.fold(0, u64::wrapping_add)
    }

    /// The room of a class.
    pub(super) fn class_status(&self, settings: &ClusterSettings, slot_bytes: u64) -> ClassStatus {
        let mut slots = SlotCounts::default();
        let slabs = self.classes.get(&slot_bytes).map_or(&[][..], |class| &class.slabs);
        for table in slabs.iter().filter_map(|slab| self.slabs.get(slab)) {
            slots.add(&table.counts);
        }
        let creatable_slots = settings.l3_bytes.saturating_sub(self.file_bytes) / slot_bytes.max(1);
        ClassStatus { slot_bytes, slabs: slabs.len() as u64, slots, creatable_slots }
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.slabs.values().map(Slab::heap_bytes).sum()
    }
}

/// Slots of a whole slab of this class: at least one.
pub(super) fn slots_per_slab(settings: &ClusterSettings, slot_bytes: u64) -> u32 {
    (settings.slab_bytes / slot_bytes.max(1)).clamp(1, u64::from(u32::MAX)) as u32
}
