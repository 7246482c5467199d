//! The room in a snapshot.
//!
//! ```text
//! room     next_slab, slots_reused
//! classes  count, then each: slot_bytes, last_granted          slabs  count, then each: id, slot_bytes, slots
//! slots    slab, count, then each slot that was ever granted: slot, generation, kind u8, word
//! rests    kind u8, count, then each: due_ms, slab, slot
//! ```

use bytes::BytesMut;
use foreword_proto::{Generation, SlabId, Slot, SlotRef};

use super::rests::{Rest, RestKind};
use super::slab::{Holder, Slab, SlotUse};
use super::slots::Counters;
use super::{Room, Slots};
use crate::state::codec::Decode;
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, piece, pieces};

impl Room {
    /// All pieces. What has been passed is let go of.
    pub(in crate::state) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        let Self { slots, rests } = self;
        let Slots { slabs, classes, counters, file_bytes: _, digest: _ } = slots;
        let room = std::iter::once(piece(PieceKind::Room, counters));
        let classes = classes.into_iter().map(|(slot_bytes, class)| (slot_bytes, class.last_granted));
        let heads: Vec<(SlabId, (u64, Slot))> = slabs.iter().map(|(id, slab)| (*id, slab.size())).collect();
        let slots = slabs.into_iter().flat_map(|(id, slab)| pieces(PieceKind::Slots, id, slab.into_slots()));
        let rests = rests.into_queues();
        room.chain(pieces(PieceKind::Classes, (), classes))
            .chain(pieces(PieceKind::Slabs, (), heads.into_iter()))
            .chain(slots)
            .chain(rests.into_iter().flat_map(|(kind, queue)| pieces(PieceKind::Rests, kind, queue.into_rests())))
    }

    pub(in crate::state) fn take_room(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        self.slots.counters = Counters::decode(input)?;
        Ok(())
    }

    pub(in crate::state) fn take_classes(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (slot_bytes, last_granted) in Vec::<(u64, SlabId)>::decode(input)? {
            self.slots.classes.entry(slot_bytes).or_default().last_granted = last_granted;
        }
        Ok(())
    }

    pub(in crate::state) fn take_slabs(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (id, (slot_bytes, slots)) in Vec::<(SlabId, (u64, Slot))>::decode(input)? {
            let fits = slot_bytes > 0 && !self.slots.slabs.contains_key(&id);
            let slab_bytes = slot_bytes.checked_mul(slots.into()).filter(|_| fits);
            let file_bytes = slab_bytes.and_then(|bytes| bytes.checked_add(self.slots.file_bytes));
            let wrong =
                || input.invalid(format!("slab {id} has {slots} slots of {slot_bytes} bytes, or is there twice"));
            self.slots.file_bytes = file_bytes.ok_or_else(wrong)?;
            self.slots.classes.entry(slot_bytes).or_default().slabs.push(id);
            self.slots.slabs.insert(id, Slab::new(slot_bytes, slots));
        }
        Ok(())
    }

    /// Takes slots of one slab; `held` is told who holds a granted one, and says whether there is such a holder.
    pub(in crate::state) fn take_slots(
        &mut self,
        input: &mut Input<'_>,
        mut held: impl FnMut(Holder, SlabId, Slot) -> bool,
    ) -> Result<(), DecodeError> {
        let slab = input.u32()?;
        let slots = self.slots.slabs.get(&slab).map(|table| table.slots);
        let slots = slots.ok_or_else(|| input.invalid(format!("slots of slab {slab}, which is not there")))?;
        for (slot, generation, used) in Vec::<(Slot, Generation, SlotUse)>::decode(input)? {
            let sound = match used {
                SlotUse::Granted(holder) => held(holder, slab, slot),
                SlotUse::Free | SlotUse::Published(_) | SlotUse::Resting => true,
            };
            if slot >= slots || generation == 0 || !sound {
                return Err(input.invalid(format!("slot {slot} of slab {slab}, generation {generation}: {used:?}")));
            }
            self.slots.set(SlotRef { slab, slot, generation }, used);
        }
        Ok(())
    }

    pub(in crate::state) fn take_rests(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        let kind = RestKind::decode(input)?;
        for rest in Vec::<Rest>::decode(input)? {
            self.rests.push(kind, rest);
        }
        Ok(())
    }
}
