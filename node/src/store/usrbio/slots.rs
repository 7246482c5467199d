//! Which I/O a completion is for. Pure.
//!
//! Each use of a slot has its own userdata, so a completion of an earlier use, or one that nobody asked for, is told
//! from the one that is awaited.

use std::time::Instant;

use foreword_usrbio::ENTRIES_MAX;

/// Bits of a userdata that name the slot; the bits above count its uses, from 1.
const SLOT_BITS: u32 = 20;
const _: () = assert!(ENTRIES_MAX <= 1 << SLOT_BITS);

/// A ring's slots: free, busy with an `A`, or lost, with what is left of it, an `L`.
pub(super) struct Slots<A, L> {
    slots: Vec<Slot<A, L>>,
    free: Vec<u32>,
    lost: usize,
}

struct Slot<A, L> {
    uses: u64,
    state: State<A, L>,
}

enum State<A, L> {
    Free,
    Busy { since: Instant, io: A },
    Lost(L),
}

/// What a completion was for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Completed<A, L> {
    /// The I/O under way.
    UnderWay(A),
    /// One that was given up.
    Lost(L),
    /// None that is awaited.
    Stray,
}

impl<A, L> Slots<A, L> {
    /// So many free slots, at most [`ENTRIES_MAX`].
    pub(super) fn new(entries: u32) -> Self {
        assert!(entries <= ENTRIES_MAX, "{entries} slots");
        let slots = (0..entries).map(|_| Slot { uses: 0, state: State::Free }).collect();
        Self { slots, free: (0..entries).rev().collect(), lost: 0 }
    }

    /// The slot of a userdata, whether it is in use or not.
    pub(super) fn slot_of(userdata: u64) -> u32 {
        (userdata & ((1 << SLOT_BITS) - 1)) as u32
    }

    /// The userdata of the next use of a free slot; None: all are taken.
    pub(super) fn next(&self) -> Option<u64> {
        let slot = *self.free.last()?;
        Some((self.slots[slot as usize].uses + 1) << SLOT_BITS | u64::from(slot))
    }

    /// Takes the slot that [`Self::next`] named.
    pub(super) fn take(&mut self, since: Instant, io: A) {
        let slot = self.free.pop().expect("next() named a free slot");
        let slot = &mut self.slots[slot as usize];
        slot.uses += 1;
        slot.state = State::Busy { since, io };
    }

    /// Ends the use that has this userdata.
    pub(super) fn complete(&mut self, userdata: u64) -> Completed<A, L> {
        let index = Self::slot_of(userdata);
        let Some(slot) = self.slots.get_mut(index as usize).filter(|slot| slot.uses == userdata >> SLOT_BITS) else {
            return Completed::Stray;
        };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Free => Completed::Stray,
            State::Busy { io, .. } => {
                self.free.push(index);
                Completed::UnderWay(io)
            }
            State::Lost(left) => {
                self.free.push(index);
                self.lost -= 1;
                Completed::Lost(left)
            }
        }
    }

    /// Gives up the I/Os that began at `before` or earlier; their slots stay taken. Gives their number.
    pub(super) fn lose(&mut self, before: Instant, mut left: impl FnMut(A) -> L) -> usize {
        let mut count = 0;
        for slot in &mut self.slots {
            if !matches!(&slot.state, State::Busy { since, .. } if *since <= before) {
                continue;
            }
            if let State::Busy { io, .. } = std::mem::replace(&mut slot.state, State::Free) {
                slot.state = State::Lost(left(io));
                count += 1;
            }
        }
        self.lost += count;
        count
    }

    /// What is left of each lost I/O.
    pub(super) fn lost_mut(&mut self) -> impl Iterator<Item = &mut L> {
        self.slots.iter_mut().filter_map(|slot| match &mut slot.state {
            State::Lost(left) => Some(left),
            _ => None,
        })
    }

    /// Frees every slot; gives what was under way, and what was lost.
    pub(super) fn drain(&mut self) -> (Vec<A>, Vec<L>) {
        let (mut busy, mut lost) = (Vec::new(), Vec::new());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            match std::mem::replace(&mut slot.state, State::Free) {
                State::Free => continue,
                State::Busy { io, .. } => busy.push(io),
                State::Lost(left) => lost.push(left),
            }
            self.free.push(index as u32);
        }
        self.lost = 0;
        (busy, lost)
    }

    pub(super) fn entries(&self) -> usize {
        self.slots.len()
    }

    /// Slots whose I/O is under way.
    pub(super) fn busy(&self) -> usize {
        self.slots.len() - self.free.len() - self.lost
    }

    /// Slots whose I/O was given up.
    pub(super) fn lost(&self) -> usize {
        self.lost
    }
}
