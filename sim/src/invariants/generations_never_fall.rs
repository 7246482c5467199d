//! `generations-never-fall`: each grant of a slot gives it the next generation.

use std::collections::BTreeMap;

use foreword_meta::state::command::{Outcome, next_generation};
use foreword_proto::{Generation, Revision, SlabId, Slot};

use super::one_slot_one_page::FirstTimes;
use super::{Invariant, View, Violation, ensure};
use crate::oracle::AppliedEntry;

const NAME: &str = "generations-never-fall";

/// The generation of each slot's last grant; slabs that were dropped are remembered, since their ids never come back.
#[derive(Debug, Default)]
pub struct GenerationsNeverFall {
    granted: BTreeMap<(SlabId, Slot), Generation>,
    first: FirstTimes,
    seen: Revision,
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
