//! `no-room-held-while-waiting`: a page of which every rank sent its shard is not given up as incomplete. It is where
//! ranks hold room that others wait for, and wait for room themselves, until the gather deadline ends them all.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::{NamespaceId, PageKey};

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, History, Outcome, PutResult, Record};
use crate::world::context::SimTime;

const NAME: &str = "no-room-held-while-waiting";
/// The agent's word for a page whose shards did not all come in time.
const INCOMPLETE: &str = "incomplete";
/// So long before a put ended nothing may have gone wrong: longer than any rank waits for room and a page for its
/// ranks.
const BEFORE: Duration = Duration::from_secs(4);

/// Looks at what became of puts.
#[derive(Debug, Default)]
pub struct NoRoomHeldWhileWaiting {
    seen: usize,
    /// When something was wrong last.
    disturbed: Option<SimTime>,
    /// When a put that lacked shards ended, by agent and page: the page may be under way still.
    partial: BTreeMap<(Option<u32>, NamespaceId, PageKey), SimTime>,
    pages: u64,
}

impl NoRoomHeldWhileWaiting {
    fn look(&mut self, history: &History) -> Result<(), Violation> {
        while let Some(record) = history.records.get(self.seen) {
            self.seen += 1;
            self.put(record)?;
        }
        Ok(())
    }

    fn put(&mut self, record: &Record) -> Result<(), Violation> {
        let Call::Publish { namespace, keys, whole, .. } = &record.call else { return Ok(()) };
        let id = |key: &PageKey| (record.agent, *namespace, *key);
        if !whole {
            let ended = record.returned.unwrap_or(record.invoked);
            self.partial.extend(keys.iter().map(|key| (id(key), ended)));
            return Ok(());
        }
        let Outcome::Published { outcomes } = &record.result else { return Ok(()) };
        let recent = |at: Option<SimTime>| at.is_some_and(|at| at + BEFORE >= record.invoked);
        for (key, page) in keys.iter().zip(outcomes) {
            self.pages += 1;
            let incomplete = matches!(&page.outcome, PutResult::Refused(reason) if reason == INCOMPLETE);
            let explained = recent(self.disturbed) || recent(self.partial.get(&id(key)).copied());
            ensure(NAME, !incomplete || explained, || {
                let (agent, client, invoked) = (record.agent, record.client, record.invoked);
                format!(
                    "client {client} sent every shard of {key} to agent {agent:?} from {invoked} on, and it was given up"
                )
            })?;
        }
        Ok(())
    }
}

impl Invariant for NoRoomHeldWhileWaiting {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.pages
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if view.disturbed {
            self.disturbed = Some(view.now);
        }
        self.look(view.history)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{history, published};

    /// A put from 10 s on, of which a page was given up.
    fn given_up(whole: bool) -> Record {
        let refused = PutResult::Refused(INCOMPLETE.to_owned());
        let mut put = published(1, 0, refused, (10_000, 10_900));
        if let Call::Publish { whole: sent, .. } = &mut put.call {
            *sent = whole;
        }
        put
    }

    #[test]
    fn a_whole_page_that_was_given_up_is_found_unless_something_was_wrong() {
        let broken = |checks: &mut NoRoomHeldWhileWaiting, puts| checks.look(&history(puts)).is_err();
        assert!(broken(&mut NoRoomHeldWhileWaiting::default(), vec![given_up(true)]));
        assert!(!broken(&mut NoRoomHeldWhileWaiting::default(), vec![given_up(false)]), "a shard was never sent");
        let twice = vec![given_up(false), given_up(true)];
        assert!(!broken(&mut NoRoomHeldWhileWaiting::default(), twice), "it was begun by a put that lacked a shard");
        let disturbed = |at_ms| NoRoomHeldWhileWaiting {
            disturbed: Some(SimTime::from_millis(at_ms)),
            ..NoRoomHeldWhileWaiting::default()
        };
        assert!(!broken(&mut disturbed(7_000), vec![given_up(true)]));
        assert!(broken(&mut disturbed(5_000), vec![given_up(true)]));
        let full = published(1, 0, PutResult::Refused("queue_full".to_owned()), (10_000, 10_900));
        assert!(!broken(&mut NoRoomHeldWhileWaiting::default(), vec![full]));
    }
}
