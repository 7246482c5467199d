//! Lookups, where pages are, and prefetches: questions without bytes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CallError, Deadline, Found, Located, Session};
use crate::wire::KEYS_PER_SLOT_MAX;
use crate::wire::ops::{Op, flags, load_tiers};

impl Session {
    /// The leading pages that the agent could deliver now. More keys than a slot has room for are asked for one part
    /// after the other, until one is not all there.
    ///
    /// `min_revision`: wait until the agent has heard of it; `linearizable`: ask the group's leader for the newest one
    /// first.
    pub fn lookup(
        &self,
        namespace: u32,
        keys: &[[u8; 32]],
        min_revision: u64,
        linearizable: bool,
        wait: Duration,
    ) -> Result<Found, CallError> {
        let deadline = Deadline::after(wait);
        let mut found = Found::default();
        for part in parts(keys) {
            let asks = if linearizable { flags::LINEARIZABLE } else { 0 };
            let slot = self.ask(Op::Lookup, namespace, 0, part, asks, min_revision, deadline)?;
            let head = slot.shared().head();
            let pages = (head.pages.load(Ordering::Relaxed) as usize).min(part.len());
            found.pages += pages;
            found.l1_pages += head.l1_pages.load(Ordering::Relaxed) as usize;
            found.l3_pages += head.l3_pages.load(Ordering::Relaxed) as usize;
            found.revision = head.revision.load(Ordering::Relaxed);
            if pages < part.len() {
                break;
            }
        }
        Ok(found)
    }

    /// Where each page is.
    pub fn locate(
        &self,
        namespace: u32,
        keys: &[[u8; 32]],
        min_revision: u64,
        wait: Duration,
    ) -> Result<Located, CallError> {
        let deadline = Deadline::after(wait);
        let mut located = Located { revision: 0, tiers: Vec::with_capacity(keys.len()) };
        for part in parts(keys) {
            let slot = self.ask(Op::Locate, namespace, 0, part, 0, min_revision, deadline)?;
            located.revision = slot.shared().head().revision.load(Ordering::Relaxed);
            located.tiers.extend((0..part.len()).map(|index| load_tiers(slot.shared().record(index))));
        }
        Ok(located)
    }

    /// Has the agent read pages into L1, as many as it likes; answers with their number.
    pub fn prefetch(&self, namespace: u32, keys: &[[u8; 32]], wait: Duration) -> Result<usize, CallError> {
        let keys = &keys[..keys.len().min(KEYS_PER_SLOT_MAX)];
        let slot = self.ask(Op::Prefetch, namespace, 0, keys, 0, 0, Deadline::after(wait))?;
        Ok(slot.shared().head().pages.load(Ordering::Relaxed) as usize)
    }

    /// Asks, and waits for the whole answer.
    #[expect(clippy::too_many_arguments, reason = "the fields of a question, each once")]
    pub(super) fn ask(
        &self,
        op: Op,
        namespace: u32,
        shard: u32,
        keys: &[[u8; 32]],
        flags: u32,
        min_revision: u64,
        deadline: Deadline,
    ) -> Result<super::slots::Slot<'_>, CallError> {
        self.check()?;
        let mut slot = self.slots.claim(&self.line, deadline)?;
        let left = deadline.left().ok_or(CallError::Deadline)?;
        let head = slot.shared().head();
        head.namespace.store(namespace, Ordering::Relaxed);
        head.shard.store(shard, Ordering::Relaxed);
        head.flags.store(flags, Ordering::Relaxed);
        head.min_revision.store(min_revision, Ordering::Relaxed);
        slot.shared().set_keys(keys);
        slot.submit(op, None, left);
        slot.finish(&self.line, deadline)?;
        Ok(slot)
    }
}

/// No keys are one question all the same: its answer says how fresh it is.
pub(super) fn parts(keys: &[[u8; 32]]) -> impl Iterator<Item = &[[u8; 32]]> {
    let none = keys.is_empty().then_some(keys);
    none.into_iter().chain(keys.chunks(KEYS_PER_SLOT_MAX))
}
