//! `generations-never-fall`: each grant of a slot gives it the next generation; and no replica that has come as far as
//! the reference knows a slot by an older one.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_meta::state::State;
use foreword_meta::state::command::{Outcome, next_generation};
use foreword_proto::{Generation, Revision, SlabId, Slot};

use super::one_slot_one_page::FirstTimes;
use super::{Invariant, View, Violation, ensure};
use crate::oracle::AppliedEntry;
use crate::world::context::SimTime;

const NAME: &str = "generations-never-fall";
/// How often all slots of a replica are looked at, and less often the more there are: a generation that fell stays so.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOK_EVERY_PER_SLOT: Duration = Duration::from_micros(20);

/// The generation of each slot's last grant; slabs that were dropped are remembered, since their ids never come back.
#[derive(Debug, Default)]
pub struct GenerationsNeverFall {
    granted: BTreeMap<(SlabId, Slot), Generation>,
    first: FirstTimes,
    seen: Revision,
    /// When each replica's slots are looked at again.
    looked: BTreeMap<u64, SimTime>,
}

impl GenerationsNeverFall {
    fn follow(&mut self, entry: &AppliedEntry) -> Result<(), Violation> {
        for step in &entry.steps {
            let Outcome::Granted { slots, .. } = &step.outcome else { continue };
            if !self.first.is_first(step) {
                continue;
            }
            for slot in slots {
                let before = self.granted.insert((slot.slab, slot.slot), slot.generation);
                let expected = next_generation(before.unwrap_or(0));
                ensure(NAME, slot.generation == expected, || {
                    format!("revision {}: {slot:?} is granted, its last generation was {before:?}", entry.revision)
                })?;
            }
        }
        Ok(())
    }

    /// A slot is known by its last granted generation, or its slab is gone.
    fn knows(&self, replica: u64, state: &State) -> Result<(), Violation> {
        for ((slab, slot), granted) in &self.granted {
            let known = state.slot_state(*slab, *slot).map(|(generation, _)| generation);
            ensure(NAME, known.is_none_or(|known| known >= *granted), || {
                let revision = state.revision();
                format!(
                    "replica {replica} at revision {revision}: slot {slot} of slab {slab} was granted as {granted}, and is {known:?}"
                )
            })?;
        }
        Ok(())
    }
}

impl Invariant for GenerationsNeverFall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.granted.len() as u64
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for entry in view.oracle.entries_after(self.seen) {
            self.seen = entry.revision;
            self.follow(entry)?;
        }
        for replica in &view.replicas {
            let due = self.looked.get(&replica.id).is_none_or(|at| *at <= view.now);
            // Generations are small numbers that grow: a replica that is behind may know older ones.
            if due && replica.group.applied.revision() >= self.seen {
                let every = LOOK_EVERY + LOOK_EVERY_PER_SLOT * self.granted.len() as u32;
                self.looked.insert(replica.id, view.now + every);
                replica.group.applied.read(|state| self.knows(replica.id, state))?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::tests::{Log, READ_REST_MS};

    #[test]
    fn a_generation_that_falls_or_leaps_is_found() {
        let mut log = Log::new(2);
        for now_ms in 1..5 {
            let slot = log.put(now_ms);
            log.retire(now_ms, slot);
            log.tick(now_ms * READ_REST_MS);
            let granted = log.grant(1);
            log.free.extend(granted);
        }
        let entries: Vec<AppliedEntry> = log.oracle.entries_after(0).cloned().collect();
        let mut check = GenerationsNeverFall::default();
        assert_eq!(entries.iter().try_for_each(|entry| check.follow(entry)), Ok(()));
        assert!(check.granted.values().any(|generation| *generation > 2), "{:?}", check.granted);
        assert_eq!(check.knows(1, log.oracle.state()), Ok(()));
        let earlier = Log::new(2);
        assert!(check.knows(1, earlier.oracle.state()).is_err(), "it went back");
        for wrong in [1, 100] {
            let mut check = GenerationsNeverFall::default();
            let mut entries = entries.clone();
            let last = entries.iter_mut().rev().flat_map(|entry| &mut entry.steps);
            let granted = last.filter_map(|step| match &mut step.outcome {
                Outcome::Granted { slots, .. } if !slots.is_empty() => Some(slots),
                _ => None,
            });
            granted.take(1).for_each(|slots| slots[0].generation = wrong);
            assert_eq!(entries.iter().try_for_each(|entry| check.follow(entry)).unwrap_err().name, NAME);
        }
    }
}
