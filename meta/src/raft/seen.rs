//! Counts the rare paths that applying takes: the state is pure, so its outcomes and events are looked at from here.
//!
//! Every replica counts what it applies, and a log that is applied again after a start counts again.

use foreword_proto::{PublishOutcome, RetireReason, Revision};
use foreword_seams::{Marker, sometimes};
use openraft::LogId;

use crate::state::State;
use crate::state::command::{Command, Event, Outcome, Refusal, SessionOperation, SlotState, SuspectOutcome};

/// What the markers need to know of the entries before.
#[derive(Debug, Default)]
pub(super) struct Seen {
    term: u64,
    /// The term's first entry, if it was seen to begin; else 0.
    term_began: Revision,
}

impl Seen {
    /// This entry is applied next.
    pub(super) fn entry(&mut self, log_id: LogId<u64>) {
        let term = log_id.leader_id.term;
        if term != self.term {
            self.term_began = if self.term == 0 { 0 } else { log_id.index };
            self.term = term;
        }
    }

    /// Applies a command of that entry.
    pub(super) fn apply(
        &self,
        state: &mut State,
        revision: Revision,
        command: &Command,
        events: &mut Vec<Event>,
    ) -> Outcome {
        before(state, command);
        let from = events.len();
        let outcome = state.apply(revision, command, events);
        self.after(revision, command, &outcome, &events[from..]);
        outcome
    }

    fn after(&self, revision: Revision, command: &Command, outcome: &Outcome, events: &[Event]) {
        match outcome {
            Outcome::Granted { slots, .. } if slots.is_empty() => sometimes(Marker::GrantFoundNoRoom),
            Outcome::Granted { slots, .. } if slots.iter().any(|slot| slot.generation > 1) => {
                sometimes(Marker::SlotReused);
            }
            Outcome::Published { revision: published, outcomes, .. } => {
                self.published(revision, *published, outcomes);
            }
            Outcome::Suspected { outcomes } if outcomes.contains(&SuspectOutcome::Retired) => {
                sometimes(Marker::SuspectConfirmed);
            }
            Outcome::Suspected { outcomes } if outcomes.contains(&SuspectOutcome::Void) => {
                sometimes(Marker::SuspectVoid);
            }
            Outcome::Cleared { .. } => sometimes(Marker::NamespaceCleared),
            Outcome::Reclaimed { left: 0 } => sometimes(Marker::GarbageReclaimed),
            Outcome::Refused(Refusal::NoSession { .. }) if matches!(command, Command::Session { .. }) => {
                sometimes(Marker::EndedSessionRefused);
            }
            _ => {}
        }
        match (command, events.first()) {
            (Command::Tick { .. }, Some(Event::Retired { reason: RetireReason::Suspect, .. })) => {
                sometimes(Marker::SuspectRetiredAlone);
            }
            (Command::Retire { reason: RetireReason::Evicted, .. }, Some(_)) => sometimes(Marker::PageEvicted),
            (Command::OpenSession { .. }, Some(_)) => sometimes(Marker::SessionSuperseded),
            _ => {}
        }
    }

    /// A publish of this entry was answered; `published` is the entry that the answer is of.
    fn published(&self, revision: Revision, published: Revision, outcomes: &[PublishOutcome]) {
        if published < revision {
            sometimes(Marker::PublishReplayed);
            if published < self.term_began {
                sometimes(Marker::PublishReplayedAcrossLeaders);
            }
            return;
        }
        if outcomes.contains(&PublishOutcome::Existing) {
            sometimes(Marker::PublishFoundExisting);
        }
        if outcomes.contains(&PublishOutcome::Cleared) {
            sometimes(Marker::PublishAfterClear);
        }
    }
}

/// What only the state before the command tells.
fn before(state: &State, command: &Command) {
    match command {
        Command::Tick { now_ms } if state.next_release_ms().is_some_and(|due_ms| due_ms <= *now_ms) => {
            sometimes(Marker::SlotReleased);
        }
        Command::EndSession { session } if state.session(*session).is_some_and(|open| open.granted_slots > 0) => {
            sometimes(Marker::SessionEndedHoldingSlots);
        }
        Command::Session { session, operation: SessionOperation::Abort { unknown, .. }, .. } => {
            let held = SlotState::Granted { session: *session };
            if unknown.iter().any(|slot| state.slot_state(slot.slab, slot.slot) == Some((slot.generation, held))) {
                sometimes(Marker::UnknownWriteRested);
            }
        }
        _ => {}
    }
}
