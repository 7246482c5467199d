//! Reports of pages whose bytes did not verify, waiting for a second agent's word.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::{EntryKey, NamespaceId, SessionId};

use crate::state::codec::record;
use crate::state::digest::Fields;

/// Suspicions of one session that may wait at once: an agent that sees more bad pages than this is itself the suspect.
pub const SUSPICIONS_PER_SESSION_MAX: u32 = 64;
/// With one session open there is no second agent to ask: its suspicion retires the page after this time.
pub const SUSPICION_ALONE_MS: u64 = 5_000;
/// A suspicion that nobody confirmed is dropped after this time.
pub const SUSPICION_KEPT_MS: u64 = 600_000;

/// A page that one session reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) session: SessionId,
    pub(super) since_ms: u64,
}

record!(Suspicion { session, since_ms });

/// A page under suspicion. The entry is still the one reported: a suspicion goes with its entry.
pub(super) type Suspected = (NamespaceId, EntryKey);

/// All suspicions that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Suspicions {
    pending: BTreeMap<Suspected, Suspicion>,
    by_age: BTreeSet<(u64, Suspected)>,
}

impl Suspicions {
    pub(super) fn get(&self, page: &Suspected) -> Option<Suspicion> {
        self.pending.get(page).copied()
    }

    pub(super) fn add(&mut self, page: Suspected, suspicion: Suspicion) {
        self.pending.insert(page, suspicion);
        self.by_age.insert((suspicion.since_ms, page));
    }

    pub(super) fn remove(&mut self, page: &Suspected) -> Option<Suspicion> {
        let suspicion = self.pending.remove(page)?;
        self.by_age.remove(&(suspicion.since_ms, *page));
        Some(suspicion)
    }

    /// The oldest one, if it is at least `age_ms` old.
    pub(super) fn oldest(&self, tick_ms: u64, age_ms: u64) -> Option<Suspected> {
        let (since_ms, page) = self.by_age.first()?;
        (tick_ms.saturating_sub(*since_ms) >= age_ms).then_some(*page)
    }

    /// The pages that fit, in order.
    pub(super) fn pages(&self, fits: impl Fn(&Suspected, &Suspicion) -> bool) -> Vec<Suspected> {
        self.pending.iter().filter(|(page, suspicion)| fits(page, suspicion)).map(|(page, _)| *page).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Suspected, Suspicion)> + '_ {
        self.pending.iter().map(|(page, suspicion)| (*page, *suspicion))
    }

    pub(super) fn into_pending(self) -> BTreeMap<Suspected, Suspicion> {
        let Self { pending, by_age: _ } = self;
        pending
    }

    pub(super) fn hash_into(&self, fields: &mut Fields) {
        let Self { pending, by_age: _ } = self;
        fields.add_all(pending.iter());
    }
}
