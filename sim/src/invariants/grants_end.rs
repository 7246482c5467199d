//! `grants-end`: when a session ends, what it held rests; and the session of an agent that is gone does end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_meta::state::State;
use foreword_meta::state::command::SlotState;
use foreword_proto::{SessionId, SlotRef};

use super::{Invariant, View, Violation, ensure};
use crate::world::context::SimTime;

const NAME: &str = "grants-end";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Right after the command that ended a session, every slot it held rests.
pub fn rests_after(state: &State, session: SessionId, held: &[SlotRef]) -> Result<(), Violation> {
    if state.session(session).is_some() {
        // The command was refused.
        return Ok(());
    }
    for slot in held {
        let now = state.slot_state(slot.slab, slot.slot);
        ensure(NAME, now == Some((slot.generation, SlotState::Resting)), || {
            format!("session {session} ended and held {slot:?}, which is {now:?} now")
        })?;
    }
    Ok(())
}

/// Looks for sessions that nobody holds.
#[derive(Debug, Default)]
pub struct GrantsEnd {
    next_look: SimTime,
    looks: u64,
    /// Sessions that no running agent holds, and since when that is known while nothing fails.
    orphans: BTreeMap<SessionId, SimTime>,
}

impl GrantsEnd {
    fn look(
        &mut self,
        open: &BTreeSet<SessionId>,
        held: &BTreeSet<SessionId>,
        now: SimTime,
        bound: Duration,
    ) -> Result<(), Violation> {
        self.orphans.retain(|session, _| open.contains(session) && !held.contains(session));
        for session in open.difference(held) {
            let since = *self.orphans.entry(*session).or_insert(now);
            ensure(NAME, now < since + bound, || {
                format!("session {session} is open, no agent has held it since {since}")
            })?;
        }
        Ok(())
    }
}

impl Invariant for GrantsEnd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.looks
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if view.healed_since.is_none() {
            // Without a leader no lease ends: nothing is claimed.
            self.orphans.clear();
            return Ok(());
        }
        if view.now < self.next_look {
            return Ok(());
        }
        self.next_look = view.now + LOOK_EVERY;
        self.looks += 1;
        let open = view.oracle.state().sessions().map(|session| session.id).collect();
        let held = view.agents.iter().filter_map(|agent| agent.api.session()).collect();
        self.look(&open, &held, view.now, view.settings.lease + view.settings.expiry_bound)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foreword_meta::state::command::Command;

    use super::*;
    use crate::oracle::tests::{Log, SESSION};

    #[test]
    fn slots_of_an_ended_session_rest() {
        let mut log = Log::new(4);
        log.put(1);
        let held: Vec<SlotRef> = log.oracle.state().granted_slots(SESSION).collect();
        assert_eq!(held.len(), 3);
        assert_eq!(rests_after(log.oracle.state(), SESSION, &held), Ok(()), "it is open");
        log.entry(&[Command::EndSession { session: SESSION }]);
        assert_eq!(rests_after(log.oracle.state(), SESSION, &held), Ok(()));
        log.tick(10_000);
        assert_eq!(rests_after(log.oracle.state(), SESSION, &held).unwrap_err().name, NAME, "free is not at rest");
    }

    #[test]
    fn a_session_that_nobody_holds_must_end() {
        let mut check = GrantsEnd::default();
        let at = SimTime::from_millis;
        let bound = Duration::from_millis(100);
        let both = BTreeSet::from([SESSION, SessionId([2; 16])]);
        let second = BTreeSet::from([SessionId([2; 16])]);
        assert_eq!(check.look(&both, &both, at(0), bound), Ok(()));
        assert_eq!(check.look(&both, &second, at(50), bound), Ok(()));
        assert_eq!(check.look(&both, &second, at(149), bound), Ok(()));
        assert!(check.look(&both, &second, at(150), bound).is_err());
        assert_eq!(check.look(&second, &second, at(150), bound), Ok(()), "it ended");
    }
}
