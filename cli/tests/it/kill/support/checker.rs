//! The judgement: what of a history contradicts what Foreword promises. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_cli::driver::transfer::Got;
use foreword_proto::{PageKey, Revision};

use super::history::History;

/// What was found at the end of an acknowledged page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// A linearizable lookup did not find it.
    Absent,
    /// A linearizable lookup found it, and this is what a read of L3 gave.
    Present(Got),
}

/// What the end of a run showed.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// Of each acknowledged page.
    pub(crate) pages: BTreeMap<[u8; 32], AtEnd>,
    /// Of each page that a recorded retire or clear took, the last revision at which one did.
    pub(crate) retired: BTreeMap<[u8; 32], Revision>,
    /// The record has a hole: it explains nothing.
    pub(crate) record_has_gap: bool,
    /// Pages that were retired because their bytes were bad.
    pub(crate) retired_as_suspect: u64,
}

impl End {
    fn explains(&self, key: &PageKey, acked: Revision) -> bool {
        !self.record_has_gap && self.retired.get(&key.0).is_some_and(|retired| *retired > acked)
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Acknowledged, absent, and no later retire is in the record.
    Lost { key: PageKey, acked: Revision },
    /// Acknowledged and not looked for: the audit is broken.
    Unaudited { key: PageKey },
    /// Present, but its bytes on L3 are not the page's.
    Unreadable { key: PageKey, got: Got },
    /// A read gave bytes that are not the page's.
    WrongBytes { agent: usize, key: PageKey, at: Duration },
    /// A call failed although its agent was alive all the time.
    CallFailed { agent: usize, at: Duration, status: String },
    /// A page was a hit through this agent, and then a miss that no retire explains.
    HitTurnedMiss { agent: usize, key: PageKey, hit: Duration, miss: Duration },
    /// Bytes on L3 were bad, and nothing but Foreword had touched them: the retire would explain what should not have
    /// been.
    RetiredAsSuspect { pages: u64 },
    /// The watch stream skipped events.
    RecordHasGap,
}

/// Every fault of a run.
pub(crate) fn check(history: &History, end: &End) -> Vec<Fault> {
    let mut faults = acknowledged(history, end);
    faults.extend(answers(history));
    faults.extend(hits_turned_misses(history, end));
    if end.retired_as_suspect > 0 {
        faults.push(Fault::RetiredAsSuspect { pages: end.retired_as_suspect });
    }
    if end.record_has_gap {
        faults.push(Fault::RecordHasGap);
    }
    faults
}

fn acknowledged(history: &History, end: &End) -> Vec<Fault> {
    let fault = |ack: &super::history::Ack| match end.pages.get(&ack.key.0) {
        None => Some(Fault::Unaudited { key: ack.key }),
        Some(AtEnd::Present(Got::Right(_))) => None,
        Some(AtEnd::Present(got)) => Some(Fault::Unreadable { key: ack.key, got: *got }),
        Some(AtEnd::Absent) if end.explains(&ack.key, ack.revision) => None,
        Some(AtEnd::Absent) => Some(Fault::Lost { key: ack.key, acked: ack.revision }),
    };
    history.acks.iter().filter_map(fault).collect()
}

fn answers(history: &History) -> Vec<Fault> {
    let fault = |read: &super::history::Read| match &read.seen {
        Ok(Got::Wrong) => Some(Fault::WrongBytes { agent: read.agent, key: read.key, at: read.until }),
        Err(_) if history.was_away(read.agent, read.from, read.until) => None,
        Err(status) => Some(Fault::CallFailed { agent: read.agent, at: read.from, status: status.clone() }),
        Ok(Got::Right(_) | Got::Miss) => None,
    };
    let put = |put: &super::history::PutFailed| {
        let fault = Fault::CallFailed { agent: put.agent, at: put.from, status: put.status.clone() };
        (!history.was_away(put.agent, put.from, put.until)).then_some(fault)
    };
    history.reads.iter().filter_map(fault).chain(history.puts_failed.iter().filter_map(put)).collect()
}

/// A miss that began after a hit of the same page through the same agent was over. An agent that starts again may miss
/// until the namespace is open on it again.
fn hits_turned_misses(history: &History, end: &End) -> Vec<Fault> {
    let mut first_hits: BTreeMap<(usize, [u8; 32]), Duration> = BTreeMap::new();
    for read in history.reads.iter().filter(|read| matches!(read.seen, Ok(Got::Right(_)))) {
        let hit = first_hits.entry((read.agent, read.key.0)).or_insert(read.until);
        *hit = read.until.min(*hit);
    }
    let mut faults = Vec::new();
    let mut named = BTreeSet::new();
    for read in history.reads.iter().filter(|read| matches!(read.seen, Ok(Got::Miss))) {
        let Some(hit) = first_hits.get(&(read.agent, read.key.0)) else { continue };
        let away = history.was_away(read.agent, read.from, read.until);
        let turned = *hit <= read.from && !away && !end.explains(&read.key, read.acked);
        // One fault a page is enough to read.
        if turned && named.insert((read.agent, read.key.0)) {
            faults.push(Fault::HitTurnedMiss { agent: read.agent, key: read.key, hit: *hit, miss: read.from });
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use foreword_proto::Tier;

    use super::super::history::{Ack, Away, PutFailed, Read};
    use super::*;

    const RIGHT: Got = Got::Right(Tier::L3);

    fn key(name: &str) -> PageKey {
        PageKey::opaque(name.as_bytes())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn read(name: &str, from: u64, seen: Result<Got, String>) -> Read {
        Read { agent: 1, key: key(name), acked: 5, from: ms(from), until: ms(from + 2), seen }
    }

    /// Two pages acknowledged at revision 5, found and read; page `a` was read and was right.
    fn sound() -> (History, End) {
        let ack = |name| Ack { key: key(name), revision: 5, agent: 0, submitted: ms(1), acked: ms(2) };
        let history =
            History { acks: vec![ack("a"), ack("b")], reads: vec![read("a", 10, Ok(RIGHT))], ..History::default() };
        let pages = ["a", "b"].map(|name| (key(name).0, AtEnd::Present(RIGHT)));
        (history, End { pages: pages.into(), ..End::default() })
    }

    #[test]
    fn a_sound_history_has_no_fault() {
        let (mut history, end) = sound();
        // A miss before the first hit: the agent's mirror had not heard of the page yet.
        history.reads.insert(0, read("a", 3, Ok(Got::Miss)));
        // A miss that began while the hit was under way says nothing of their order.
        history.reads.push(read("a", 11, Ok(Got::Miss)));
        assert_eq!(check(&history, &end), []);
    }

    #[test]
    fn a_missing_acknowledged_page_is_found() {
        let (history, mut end) = sound();
        end.pages.insert(key("b").0, AtEnd::Absent);
        let lost = [Fault::Lost { key: key("b"), acked: 5 }];
        assert_eq!(check(&history, &end), lost);
        end.retired.insert(key("b").0, 5);
        assert_eq!(check(&history, &end), lost, "a retire of the same revision came before the publish");
        end.retired.insert(key("b").0, 6);
        assert_eq!(check(&history, &end), [], "a later retire explains it");
        end.record_has_gap = true;
        let explains_nothing = [lost[0].clone(), Fault::RecordHasGap];
        assert_eq!(check(&history, &end), explains_nothing);
    }

    #[test]
    fn a_page_whose_bytes_are_gone_is_found() {
        for got in [Got::Wrong, Got::Miss] {
            let (history, mut end) = sound();
            end.pages.insert(key("a").0, AtEnd::Present(got));
            end.retired.insert(key("a").0, 9);
            assert_eq!(check(&history, &end), [Fault::Unreadable { key: key("a"), got }], "no retire excuses this");
        }
    }

    #[test]
    fn a_page_retired_for_its_bytes_is_a_fault_of_its_own() {
        let (history, mut end) = sound();
        end.pages.insert(key("b").0, AtEnd::Absent);
        end.retired.insert(key("b").0, 6);
        end.retired_as_suspect = 1;
        assert_eq!(check(&history, &end), [Fault::RetiredAsSuspect { pages: 1 }]);
    }

    #[test]
    fn a_page_that_was_not_looked_for_is_found() {
        let (history, mut end) = sound();
        end.pages.remove(&key("a").0);
        assert_eq!(check(&history, &end), [Fault::Unaudited { key: key("a") }]);
    }

    #[test]
    fn wrong_bytes_are_found_even_of_a_dying_agent() {
        let (mut history, end) = sound();
        history.reads.push(read("a", 20, Ok(Got::Wrong)));
        history.away.push(Away { agent: 1, from: ms(0), until: ms(100) });
        assert_eq!(check(&history, &end), [Fault::WrongBytes { agent: 1, key: key("a"), at: ms(22) }]);
    }

    #[test]
    fn a_failed_call_is_found_unless_its_agent_was_dead() {
        let (mut history, end) = sound();
        history.reads.push(read("a", 20, Err("unavailable".into())));
        let failed = [Fault::CallFailed { agent: 1, at: ms(20), status: "unavailable".into() }];
        assert_eq!(check(&history, &end), failed);
        history.away = vec![Away { agent: 0, from: ms(0), until: ms(100) }];
        assert_eq!(check(&history, &end), failed, "another agent's death is no excuse");
        history.away = vec![Away { agent: 1, from: ms(23), until: ms(100) }];
        assert_eq!(check(&history, &end), failed, "it was over before the agent died");
        history.away = vec![Away { agent: 1, from: ms(21), until: ms(100) }];
        assert_eq!(check(&history, &end), []);
    }

    #[test]
    fn a_put_without_an_answer_is_found_unless_its_agent_was_dead() {
        let (mut history, end) = sound();
        history.puts_failed.push(PutFailed { agent: 0, from: ms(5), until: ms(9), status: "no answer".into() });
        assert_eq!(check(&history, &end), [Fault::CallFailed { agent: 0, at: ms(5), status: "no answer".into() }]);
        history.away.push(Away { agent: 0, from: ms(8), until: ms(20) });
        assert_eq!(check(&history, &end), []);
    }

    #[test]
    fn a_hit_that_turned_into_a_miss_is_found() {
        let (mut history, mut end) = sound();
        history.reads.push(read("a", 30, Ok(Got::Miss)));
        history.reads.push(read("a", 40, Ok(Got::Miss)));
        let turned = [Fault::HitTurnedMiss { agent: 1, key: key("a"), hit: ms(12), miss: ms(30) }];
        assert_eq!(check(&history, &end), turned);
        history.away.push(Away { agent: 1, from: ms(30), until: ms(39) });
        assert_eq!(check(&history, &end).len(), 1, "the second miss came when the agent was back");
        end.retired.insert(key("a").0, 7);
        assert_eq!(check(&history, &end), []);
    }
}
