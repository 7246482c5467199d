//! `one-slot-one-page`: a slot holds one page at a time, and is granted again only after its rest.
//!
//! The state checks itself (`state::invariants`); this ledger knows slots only from commands, outcomes and events, and
//! the rests only from the cluster's settings.

use std::collections::{BTreeMap, BTreeSet};

use foreword_meta::state::command::{ClusterSettings, Command, Event, Outcome, SessionOperation};
use foreword_proto::{Generation, NamespaceId, Revision, Sequence, SessionId, SlabId, Slot, SlotRef};

use super::{Invariant, View, Violation, ensure};
use crate::oracle::{AppliedEntry, Step};

const NAME: &str = "one-slot-one-page";

/// Which commands of sessions were answered before: a retry has the first time's outcome and does nothing.
#[derive(Debug, Default)]
pub struct FirstTimes {
    seen: BTreeMap<SessionId, BTreeSet<Sequence>>,
}

impl FirstTimes {
    /// True unless this step only repeats an answer.
    pub fn is_first(&mut self, step: &Step) -> bool {
        for event in &step.events {
            if let Event::SessionEnded { session } = event {
                self.seen.remove(session);
            }
        }
        match &step.command {
            Command::Session { session, sequence, .. } => self.seen.entry(*session).or_default().insert(*sequence),
            _ => true,
        }
    }
}

/// What the ledger knows of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// From this tick on it may be granted.
    FreeFrom(u64),
    Granted(SessionId),
    Published(NamespaceId),
    /// Its page was cleared at this tick; it rests from whenever it is reclaimed.
    Cleared(u64),
}

/// The ledger.
#[derive(Debug, Default)]
pub struct SlotLedger {
    tick_ms: u64,
    slots: BTreeMap<(SlabId, Slot), (Generation, Use)>,
    first: FirstTimes,
}

impl SlotLedger {
    /// Follows one entry.
    pub fn follow(&mut self, entry: &AppliedEntry, settings: &ClusterSettings) -> Result<(), Violation> {
        entry.steps.iter().try_for_each(|step| self.step(entry.revision, step, settings))
    }

    fn step(&mut self, revision: Revision, step: &Step, settings: &ClusterSettings) -> Result<(), Violation> {
        if !self.first.is_first(step) {
            return ensure(NAME, step.events.is_empty(), || {
                format!("revision {revision}: a retry changed {:?}", step.events)
            });
        }
        match (&step.command, &step.outcome) {
            (Command::Tick { now_ms }, _) => self.tick_ms = self.tick_ms.max(*now_ms),
            (Command::Session { session, operation, .. }, outcome) => {
                self.operation(revision, *session, operation, outcome, settings)?;
            }
            (Command::DropSlabs { slabs }, Outcome::Done) => self.drop_slabs(revision, slabs)?,
            _ => {}
        }
        step.events.iter().try_for_each(|event| self.event(revision, &step.command, event, settings))
    }

    fn operation(
        &mut self,
        revision: Revision,
        session: SessionId,
        operation: &SessionOperation,
        outcome: &Outcome,
        settings: &ClusterSettings,
    ) -> Result<(), Violation> {
        match (operation, outcome) {
            (SessionOperation::Grant { .. }, Outcome::Granted { slots, .. }) => {
                slots.iter().try_for_each(|slot| self.grant(revision, session, *slot, settings))
            }
            (SessionOperation::Abort { unwritten, unknown }, Outcome::Done) => {
                let rested = self.tick_ms + settings.write_rest_ms;
                for (slots, from) in [(unknown, rested), (unwritten, self.tick_ms)] {
                    for slot in slots
                        .iter()
                        .filter(|slot| {
                            self.slots.get(&(slot.slab, slot.slot)) == Some(&(slot.generation, Use::Granted(session)))
                        })
                        .copied()
                        .collect::<Vec<_>>()
                    {
                        self.set(slot, Use::FreeFrom(from));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn grant(
        &mut self,
        revision: Revision,
        session: SessionId,
        slot: SlotRef,
        settings: &ClusterSettings,
    ) -> Result<(), Violation> {
        let was = self.slots.get(&(slot.slab, slot.slot)).copied();
        let free = match was {
            None => true,
            Some((_, Use::FreeFrom(tick_ms))) => tick_ms <= self.tick_ms,
            // No event tells of the reclaim: the rest began at the clear at the earliest.
            Some((_, Use::Cleared(tick_ms))) => tick_ms + settings.read_rest_ms <= self.tick_ms,
            Some(_) => false,
        };
        self.set(slot, Use::Granted(session));
        ensure(NAME, free, || {
            format!("revision {revision}, tick {}: {slot:?} is granted to {session} while {was:?}", self.tick_ms)
        })
    }

    fn event(
        &mut self,
        revision: Revision,
        command: &Command,
        event: &Event,
        settings: &ClusterSettings,
    ) -> Result<(), Violation> {
        match event {
            Event::Published { namespace, page } => {
                let slot = page.location.slot;
                let was = self.slots.get(&(slot.slab, slot.slot)).copied();
                let holder = match command {
                    Command::Session { session, .. } => Some(*session),
                    _ => None,
                };
                self.set(slot, Use::Published(*namespace));
                let held = holder.is_some_and(|holder| was == Some((slot.generation, Use::Granted(holder))));
                ensure(NAME, held, || {
                    format!("revision {revision}: {holder:?} publishes into {slot:?}, which was {was:?}")
                })
            }
            Event::Retired { namespace, slot, .. } => {
                let was = self.slots.get(&(slot.slab, slot.slot)).copied();
                self.set(*slot, Use::FreeFrom(self.tick_ms + settings.read_rest_ms));
                let published = was == Some((slot.generation, Use::Published(*namespace)));
                ensure(NAME, published, || format!("revision {revision}: {slot:?} is retired, it was {was:?}"))
            }
            Event::AbsentDeleted { .. } => Ok(()),
            Event::Cleared { namespace, .. } | Event::NamespaceDropped { namespace } => {
                let of_namespace = self.slots.values_mut().filter(|(_, used)| *used == Use::Published(*namespace));
                of_namespace.for_each(|(_, used)| *used = Use::Cleared(self.tick_ms));
                Ok(())
            }
            Event::SessionEnded { session } => {
                let from = self.tick_ms + settings.write_rest_ms;
                let held = self.slots.values_mut().filter(|(_, used)| *used == Use::Granted(*session));
                held.for_each(|(_, used)| *used = Use::FreeFrom(from));
                Ok(())
            }
        }
    }

    fn drop_slabs(&mut self, revision: Revision, slabs: &[SlabId]) -> Result<(), Violation> {
        for slab in slabs {
            let of_slab = (*slab, 0)..=(*slab, Slot::MAX);
            let in_use =
                self.slots.range(of_slab).find(|(_, (_, used))| matches!(used, Use::Granted(_) | Use::Published(_)));
            ensure(NAME, in_use.is_none(), || format!("revision {revision}: slab {slab} is dropped with {in_use:?}"))?;
            self.slots.retain(|(of, _), _| of != slab);
        }
        Ok(())
    }

    fn set(&mut self, slot: SlotRef, used: Use) {
        self.slots.insert((slot.slab, slot.slot), (slot.generation, used));
    }
}

/// Holds the ledger against every entry.
#[derive(Debug, Default)]
pub struct OneSlotOnePage {
    ledger: SlotLedger,
    seen: Revision,
}

impl Invariant for OneSlotOnePage {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.seen
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for entry in view.oracle.entries_after(self.seen) {
            self.seen = entry.revision;
            self.ledger.follow(entry, &view.settings.cluster)?;
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
    use crate::oracle::tests::{Log, READ_REST_MS, SESSION, WRITE_REST_MS};

    fn follow_all(log: &Log, settings: &ClusterSettings) -> Result<SlotLedger, Violation> {
        let mut ledger = SlotLedger::default();
        let mut entries = log.oracle.entries_after(0);
        entries.try_for_each(|entry| ledger.follow(entry, settings))?;
        Ok(ledger)
    }

    /// Slots retired, given back, lost with a session and cleared: each is granted again as soon as it may be.
    fn busy() -> Log {
        let mut log = Log::new(4);
        let retired = log.put(1);
        log.tick(1000);
        log.retire(1, retired);
        let aborted = log.free.pop().unwrap();
        let command = log.session_command(SessionOperation::Abort { unwritten: vec![], unknown: vec![aborted] });
        log.entry(std::slice::from_ref(&command));
        log.entry(&[command]);
        log.tick(1000 + READ_REST_MS);
        assert_eq!(log.grant(1).len(), 1, "the retired one");
        log.tick(1000 + WRITE_REST_MS);
        assert_eq!(log.grant(1).len(), 1, "the aborted one");
        log.put(2);
        log.clear();
        log.entry(&[Command::EndSession { session: SESSION }]);
        for _ in 0..10 {
            log.entry(&[Command::Reclaim { entries_max: 100 }]);
        }
        log.session = SessionId([2; 16]);
        log.entry(&[Command::OpenSession {
            session: log.session,
            node: "a".into(),
            agent: foreword_proto::AgentId([1; 16]),
            incarnation: 2,
            endpoint: String::new(),
        }]);
        log.tick(1000 + 2 * WRITE_REST_MS);
        assert_eq!(log.grant(4).len(), 4);
        log
    }

    #[test]
    fn slots_are_granted_after_their_rests() {
        let log = busy();
        assert_eq!(log.oracle.violations(), []);
        let ledger = follow_all(&log, log.oracle.state().settings()).unwrap();
        assert_eq!(ledger.slots.len(), 4);
    }

    #[test]
    fn a_rest_cut_short_is_found() {
        let log = busy();
        let settings = log.oracle.state().settings().clone();
        let longer = ClusterSettings { read_rest_ms: READ_REST_MS + 1, ..settings.clone() };
        assert_eq!(follow_all(&log, &longer).unwrap_err().name, NAME);
        let longer = ClusterSettings { write_rest_ms: WRITE_REST_MS + 1, ..settings };
        assert_eq!(follow_all(&log, &longer).unwrap_err().name, NAME);
    }

    #[test]
    fn a_slot_published_twice_is_found() {
        let mut log = Log::new(4);
        log.put(1);
        let entries: Vec<AppliedEntry> = log.oracle.entries_after(0).cloned().collect();
        let settings = log.oracle.state().settings();
        let mut ledger = SlotLedger::default();
        entries.iter().try_for_each(|entry| ledger.follow(entry, settings)).unwrap();
        let mut again = entries.last().unwrap().clone();
        if let Command::Session { sequence, .. } = &mut again.steps[0].command {
            *sequence += 1;
        }
        assert_eq!(ledger.follow(&again, settings).unwrap_err().name, NAME);
    }
}
