//! How a suspicion is noted, confirmed, and settled when it is old.

use foreword_proto::limits::SUSPECTS_PER_REPORT_MAX;
use foreword_proto::records::SuspectRecord;
use foreword_proto::{NamespaceId, RetireReason, SessionId};
use foreword_seams::{Marker, sometimes};

use super::Agents;
use super::suspicions::{SUSPICION_ALONE_MS, SUSPICION_KEPT_MS, SUSPICIONS_PER_SESSION_MAX, Suspected, Suspicion};
use crate::state::command::{Limit, Outcome, Refusal, SuspectOutcome};
use crate::state::pages::RemovalHandler;

/// What suspicions may touch: they retire pages.
pub(in crate::state) struct SuspicionHandler<'st> {
    pub(in crate::state) agents: &'st mut Agents,
    pub(in crate::state) removal: RemovalHandler<'st>,
}

impl SuspicionHandler<'_> {
    /// Notes or confirms what a session reports.
    pub(in crate::state) fn suspect(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        suspects: &[SuspectRecord],
    ) -> Result<Outcome, Refusal> {
        self.agents.sessions.get(session).ok_or(Refusal::NoSession { session })?;
        self.removal.pages.namespace(namespace).ok_or(Refusal::NoNamespace { namespace })?;
        if suspects.len() > SUSPECTS_PER_REPORT_MAX {
            return Err(Refusal::TooMany(Limit::Suspects));
        }
        let judge = |report| self.suspect_page(session, namespace, report);
        Ok(Outcome::Suspected { outcomes: suspects.iter().map(judge).collect() })
    }

    fn suspect_page(&mut self, session: SessionId, namespace: NamespaceId, report: &SuspectRecord) -> SuspectOutcome {
        let found = self.removal.pages.location(namespace, &report.key);
        let same = found.is_some_and(|location| {
            location.slot == report.slot && location.checksum_of(report.shard as usize) == Some(report.checksum)
        });
        if !same || self.agents.sessions.get(session).is_none_or(|reporter| reporter.suspect_limited) {
            sometimes(Marker::SuspectVoid);
            return SuspectOutcome::Void;
        }
        let page = (namespace, report.key);
        let Some(pending) = self.agents.suspicions.get(&page) else { return self.note(session, page) };
        let old = self.removal.at.tick_ms.saturating_sub(pending.since_ms) >= SUSPICION_ALONE_MS;
        let confirmed = pending.session != session || (self.agents.sessions.len() == 1 && old);
        if !confirmed {
            return SuspectOutcome::Noted;
        }
        sometimes(Marker::SuspectConfirmed);
        self.retire(page);
        SuspectOutcome::Retired
    }

    fn note(&mut self, session: SessionId, page: Suspected) -> SuspectOutcome {
        let since_ms = self.removal.at.tick_ms;
        let Some(reporter) = self.agents.sessions.get_mut(session) else { return SuspectOutcome::Void };
        if reporter.suspicions >= SUSPICIONS_PER_SESSION_MAX {
            reporter.suspect_limited = true;
            sometimes(Marker::SuspectVoid);
            return SuspectOutcome::Void;
        }
        reporter.suspicions += 1;
        self.agents.suspicions.add(page, Suspicion { session, since_ms });
        SuspectOutcome::Noted
    }

    /// Retires what the only agent has long suspected, or drops what nobody confirmed.
    pub(in crate::state) fn settle_old(&mut self) {
        let alone = self.agents.sessions.len() == 1;
        let age_ms = if alone { SUSPICION_ALONE_MS } else { SUSPICION_KEPT_MS };
        while let Some(page) = self.agents.suspicions.oldest(self.removal.at.tick_ms, age_ms) {
            if alone {
                sometimes(Marker::SuspectRetiredAlone);
                self.retire(page);
            } else {
                self.agents.drop_suspicion(&page);
            }
        }
    }

    /// The suspicion goes with its page at once: the next report of the same command may be of it.
    fn retire(&mut self, (namespace, key): Suspected) {
        self.removal.retire_page(namespace, &key, RetireReason::Suspect);
        self.agents.drop_suspicion(&(namespace, key));
    }
}
