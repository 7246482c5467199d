//! `nothing-goes-back`: revision, tick and epochs only rise, and no session opens twice. The oracle reports under this
//! name too, when a committed entry changes.

use std::collections::{BTreeMap, BTreeSet};

use foreword_meta::state::command::{Event, Outcome};
use foreword_proto::{Epoch, NamespaceId, Revision, SessionId};

use super::{Invariant, View, Violation, ensure};
use crate::oracle::AppliedEntry;

const NAME: &str = "nothing-goes-back";

/// The highest of everything so far.
#[derive(Debug, Default)]
pub struct NothingGoesBack {
    seen: Revision,
    tick_ms: u64,
    sessions: BTreeSet<SessionId>,
    epochs: BTreeMap<NamespaceId, Epoch>,
    /// Of each replica: its incarnation and the highest revision in it.
    replicas: BTreeMap<u64, (u64, Revision)>,
}

impl NothingGoesBack {
    fn follow(&mut self, entry: &AppliedEntry) -> Result<(), Violation> {
        let revision = entry.revision;
        for step in &entry.steps {
            ensure(NAME, step.tick_ms >= self.tick_ms, || {
                format!("revision {revision}: tick {} after {}", step.tick_ms, self.tick_ms)
            })?;
            self.tick_ms = step.tick_ms;
            if let Outcome::SessionOpened { session } = step.outcome {
                ensure(NAME, self.sessions.insert(session), || {
                    format!("revision {revision}: session {session} opens again")
                })?;
            }
            for event in &step.events {
                let Event::Cleared { namespace, epoch } = event else { continue };
                let before = self.epochs.insert(*namespace, *epoch).unwrap_or(1);
                ensure(NAME, *epoch > before, || {
                    format!("revision {revision}: epoch {epoch} of {namespace} after {before}")
                })?;
            }
        }
        Ok(())
    }

    fn replica(&mut self, id: u64, incarnation: u64, revision: Revision) -> Result<(), Violation> {
        let before = self.replicas.insert(id, (incarnation, revision));
        let fell = before.is_some_and(|(life, before)| life == incarnation && revision < before);
        ensure(NAME, !fell, || {
            format!("replica {id} is at revision {revision}, it was at {before:?} (incarnation, revision)")
        })
    }
}

impl Invariant for NothingGoesBack {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.seen
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for replica in &view.replicas {
            self.replica(replica.id, replica.incarnation, replica.group.applied.revision())?;
        }
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
    use foreword_meta::state::command::Command;

    use super::*;
    use crate::oracle::Step;
    use crate::oracle::tests::{Log, SESSION};

    #[test]
    fn an_ordinary_log_goes_forward() {
        let mut log = Log::new(2);
        log.tick(50);
        log.tick(40);
        log.clear();
        log.clear();
        let mut check = NothingGoesBack::default();
        let mut entries = log.oracle.entries_after(0);
        assert_eq!(entries.try_for_each(|entry| check.follow(entry)), Ok(()));
        assert_eq!((check.tick_ms, check.sessions, check.epochs[&1]), (50, BTreeSet::from([SESSION]), 3));
    }

    #[test]
    fn whatever_falls_is_found() {
        let step = |tick_ms, outcome, events| {
            let step = Step { command: Command::Tick { now_ms: tick_ms }, outcome, events, tick_ms };
            AppliedEntry { revision: 1, steps: vec![step] }
        };
        let twice = |entry: AppliedEntry, then: AppliedEntry| {
            let mut check = NothingGoesBack::default();
            check.follow(&entry).unwrap();
            check.follow(&then).unwrap_err().name
        };
        assert_eq!(twice(step(5, Outcome::Done, vec![]), step(4, Outcome::Done, vec![])), NAME);
        let opened = || step(5, Outcome::SessionOpened { session: SESSION }, vec![]);
        assert_eq!(twice(opened(), opened()), NAME);
        let cleared = |epoch| step(5, Outcome::Done, vec![Event::Cleared { namespace: 1, epoch }]);
        assert_eq!(twice(cleared(3), cleared(2)), NAME);
        let mut check = NothingGoesBack::default();
        check.replica(1, 1, 10).unwrap();
        check.replica(1, 2, 8).unwrap();
        assert!(check.replica(1, 2, 7).is_err());
    }
}
