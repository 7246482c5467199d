//! `one-page-one-key`: a page of a page file is given to one key at a time: to none while it is reserved, confirmed or rests, but for
//! a victim that the leader of that very term named.
//!
//! The state checks itself (`state::invariants`); this ledger knows pages only from commands and outcomes, rests only from the
//! cluster's settings, and how long a reservation lasts from the run's.

use foreword_proto::Revision;

use super::page_ledger::{NAME, PageLedger};
use super::{Invariant, View, Violation};

/// Follows every entry.
#[derive(Debug, Default)]
pub struct OnePageOneKey {
    ledger: PageLedger,
    seen: Revision,
    changes: u64,
}

impl Invariant for OnePageOneKey {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.changes
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for entry in view.oracle.entries_after(self.seen) {
            self.seen = entry.revision;
            let term = view.oracle.log_id_at(entry.revision).map_or(0, |log_id| log_id.leader_id.term);
            let reservation_ms = view.settings.reservation.as_millis() as u64;
            let changes = self.ledger.follow(entry, term, &view.settings.cluster, reservation_ms)?;
            self.changes += changes.len() as u64;
        }
        Ok(())
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}
