//! `nothing-leaks`: once faults and clients have stopped and rests are over, every slot is free, granted to a live
//! session, or published; and an agent's frames are those of its L1 pages. Of page files: nothing is reserved, what
//! rested can be given out, and a fresh batch found its pages.

use std::collections::BTreeSet;

use foreword_meta::state::State;
use foreword_node::agent::Held;
use foreword_proto::SessionId;

use super::{Invariant, View, Violation, ensure};

const NAME: &str = "nothing-leaks";

/// Looks once, at the end.
#[derive(Debug, Default)]
pub struct NothingLeaks {
    looked: bool,
}

fn no_slot_leaks(state: &State, held: &BTreeSet<SessionId>) -> Result<(), Violation> {
    let status = state.l3_status();
    ensure(NAME, status.resting_bytes == 0, || format!("{} bytes of slots rest still", status.resting_bytes))?;
    ensure(NAME, state.reclaimable() == 0, || format!("{} cleared pages take slots still", state.reclaimable()))?;
    for session in state.sessions() {
        ensure(NAME, held.contains(&session.id), || {
            format!(
                "session {} of {} is open with {} slots, no agent holds it",
                session.id, session.node, session.granted_slots
            )
        })?;
    }
    for class in state.classes() {
        let slots = class.slots;
        let total: u64 =
            state.slabs().filter(|slab| slab.slot_bytes == class.slot_bytes).map(|slab| u64::from(slab.slots)).sum();
        let sum = slots.free + slots.granted + slots.published + slots.resting;
        ensure(NAME, sum == total, || format!("class {}: {slots:?} of {total} slots", class.slot_bytes))?;
    }
    let published: u64 = state.classes().map(|class| class.slots.published).sum();
    ensure(NAME, published == state.pages(), || format!("{published} slots are published for {} pages", state.pages()))
}

fn no_frame_leaks(agent: &str, held: &Held) -> Result<(), Violation> {
    let idle = held.pages_under_way == 0 && held.put_room_used == 0 && held.get_room_used == 0;
    ensure(NAME, idle, || format!("agent {agent}: nothing is asked of it, and {held:?}"))?;
    ensure(NAME, held.frames_used == held.l1_pages + held.frames_quarantined, || {
        format!("agent {agent}: frames that nobody owns: {held:?}")
    })
}

fn no_page_leaks(state: &State) -> Result<(), Violation> {
    for (id, file) in state.hf3fs().files() {
        let (counts, pages) = (file.counts(), u64::from(file.pages()));
        ensure(NAME, counts.reserved == 0, || format!("page file {id}: reservations that nobody keeps: {counts:?}"))?;
        let sum = counts.confirmed + counts.resting + counts.unused;
        ensure(NAME, sum == pages, || format!("page file {id} of {pages} pages: {counts:?}"))?;
        let room = file.room(state.tick_ms());
        ensure(NAME, room == counts.resting + counts.unused, || {
            format!("page file {id}: room for {room} pages at tick {}: {counts:?}", state.tick_ms())
        })?;
    }
    Ok(())
}

impl Invariant for NothingLeaks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        u64::from(self.looked)
    }

    fn observe(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }

    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let bound = view.settings.quiet_bound;
        if !view.healed_for(bound) || view.quiet_since.is_none_or(|since| since + bound > view.now) {
            return Ok(());
        }
        self.looked = true;
        let held = view.agents.iter().filter_map(|agent| agent.api.session()).collect();
        no_slot_leaks(view.oracle.state(), &held)?;
        no_page_leaks(view.oracle.state())?;
        if let Some(Err(probed)) = &view.history.page_files.probed {
            return ensure(NAME, false, || format!("a page file has no pages for a fresh batch: {probed}"));
        }
        view.agents.iter().try_for_each(|agent| no_frame_leaks(&agent.name, &agent.api.held()))
    }
}

#[cfg(test)]
mod tests {
    use foreword_meta::state::command::Command;
    use foreword_meta::state::hf3fs::Hf3fsOperation;

    use super::super::page_ledger::tests::{confirm, log as page_log, on, reserve};
    use super::*;
    use crate::oracle::tests::{Log, SESSION};

    #[test]
    fn what_nobody_owns_is_found() {
        let mut log = Log::new(4);
        let slot = log.put(1);
        log.put(2);
        let held = BTreeSet::from([SESSION]);
        assert_eq!(no_slot_leaks(log.oracle.state(), &held), Ok(()));
        assert!(no_slot_leaks(log.oracle.state(), &BTreeSet::new()).unwrap_err().detail.contains("no agent"));
        log.retire(1, slot);
        assert!(no_slot_leaks(log.oracle.state(), &held).unwrap_err().detail.contains("rest"));
        log.tick(10_000);
        assert_eq!(no_slot_leaks(log.oracle.state(), &held), Ok(()));
        log.clear();
        assert!(no_slot_leaks(log.oracle.state(), &held).unwrap_err().detail.contains("cleared"));
        for _ in 0..10 {
            log.entry(&[Command::Reclaim { entries_max: 10 }]);
        }
        log.tick(20_000);
        assert_eq!(no_slot_leaks(log.oracle.state(), &held), Ok(()));
    }

    #[test]
    fn a_reservation_that_nobody_keeps_and_a_rest_without_end_are_found() {
        let mut log = page_log(4);
        reserve(&mut log, &[1], &[]);
        confirm(&mut log, 1, 3);
        assert_eq!(no_page_leaks(log.oracle.state()), Ok(()));
        reserve(&mut log, &[2], &[]);
        assert!(no_page_leaks(log.oracle.state()).unwrap_err().detail.contains("nobody keeps"));
        log.entry(&[on(Hf3fsOperation::Confirm { written: Vec::new(), released: vec![2] })]);
        assert!(no_page_leaks(log.oracle.state()).unwrap_err().detail.contains("room"));
        log.tick(10_000);
        assert_eq!(no_page_leaks(log.oracle.state()), Ok(()));
    }

    #[test]
    fn a_frame_that_nobody_owns_is_found() {
        let idle = Held {
            l1_pages: 3,
            pages_under_way: 0,
            frames_used: 4,
            frames_quarantined: 1,
            put_room_used: 0,
            get_room_used: 0,
        };
        assert_eq!(no_frame_leaks("a", &idle), Ok(()));
        assert!(no_frame_leaks("a", &Held { frames_used: 5, ..idle }).is_err());
        assert!(no_frame_leaks("a", &Held { pages_under_way: 1, ..idle }).is_err());
        assert!(no_frame_leaks("a", &Held { get_room_used: 1, ..idle }).is_err());
        assert!(no_frame_leaks("a", &Held { put_room_used: 1, ..idle }).is_err());
    }
}
