//! `entries-are-whole`: readers see revisions at entry ends only. What a replica answers at a revision is what the
//! reference has after that whole entry, key by key, and each page is where it is there.

use bytes::BytesMut;
use foreword_proto::records::Record as _;
use foreword_proto::{Location, Revision};

use super::{Invariant, View, Violation, ensure};
use crate::history::{Call, Outcome, Record};
use crate::oracle::Oracle;

const NAME: &str = "entries-are-whole";

/// Holds each answer that names its revision against the reference at that revision.
#[derive(Debug, Default)]
pub struct EntriesAreWhole {
    seen: usize,
    keys: u64,
}

/// The first key whose presence an answer has wrong; as (key, said to be present).
pub(super) fn wrong_presence(oracle: &Oracle, record: &Record) -> Option<(String, bool)> {
    let (Call::Lookup { namespace, keys, .. }, Outcome::Found { revision, present: Some(present), .. }) =
        (&record.call, &record.result)
    else {
        return None;
    };
    let wrong = keys
        .iter()
        .zip(present)
        .find(|(key, present)| oracle.present_at(*namespace, &key.entry(), *revision).is_some() != **present);
    wrong.map(|(key, present)| (key.to_string(), *present))
}

/// The present keys of an answer that says of one of them that it is elsewhere than the reference has it.
fn elsewhere(oracle: &Oracle, record: &Record) -> Option<String> {
    let (
        Call::Lookup { namespace, keys, .. },
        Outcome::Found { revision, present: Some(present), locations: Some(locations), .. },
    ) = (&record.call, &record.result)
    else {
        return None;
    };
    let there = keys.iter().zip(present).filter(|(_, present)| **present);
    let expected: Vec<&Location> =
        there.filter_map(|(key, _)| oracle.present_at(*namespace, &key.entry(), *revision)).collect();
    let mut encoded = BytesMut::new();
    expected.iter().for_each(|location| location.put(&mut encoded));
    (encoded != locations).then(|| format!("{} records of {} bytes, not {expected:?}", expected.len(), locations.len()))
}

impl EntriesAreWhole {
    fn look(&mut self, oracle: &Oracle, records: &[Record]) -> Result<(), Violation> {
        while let Some(record) = records.get(self.seen) {
            if let Outcome::Found { revision, present, .. } = &record.result {
                if *revision > oracle.revision() {
                    return Ok(());
                }
                self.keys += present.as_ref().map_or(0, Vec::len) as u64;
            }
            self.seen += 1;
            if let Some((key, present)) = wrong_presence(oracle, record) {
                let detail =
                    format!("{:?} says of {key} present={present}, the entry's end has it otherwise", record.result);
                return Err(Violation { name: NAME, detail });
            }
            let elsewhere = elsewhere(oracle, record);
            ensure(NAME, elsewhere.is_none(), || {
                format!("{} at {:?} has locations wrong: {elsewhere:?}", record.call, record.result)
            })?;
        }
        Ok(())
    }
}

fn state_is_at_an_end(replica: u64, revision: Revision, applied: Option<u64>) -> Result<(), Violation> {
    ensure(NAME, revision == applied.unwrap_or(0), || {
        format!("replica {replica} shows revision {revision}, the last entry it applied is {applied:?}")
    })
}

impl Invariant for EntriesAreWhole {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.keys
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for replica in &view.replicas {
            let look = |state: &foreword_meta::state::State, position: &foreword_meta::replica::applied::Position| {
                (state.revision(), position.last_applied.map(|id| id.index))
            };
            let (revision, applied) = replica.group.applied.read_with_position(look);
            state_is_at_an_end(replica.id, revision, applied)?;
        }
        self.look(view.oracle, &view.history.records)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::records::{self, PageRecord};

    use super::*;
    use crate::invariants::testing::looked_up;
    use crate::oracle::tests::Log;

    #[test]
    fn half_an_entry_and_a_wrong_location_are_found() {
        let mut log = Log::new(4);
        let pages = [log.record(1, log.free[0]), log.record(2, log.free[1])];
        let commands = [log.publish(&pages[..1]), log.publish(&pages[1..])];
        log.entry(&commands);
        let last = log.revision();
        let look = |revision, present: &[bool]| {
            EntriesAreWhole::default().look(&log.oracle, &[looked_up(&[1, 2], revision, present, false, (1, 2))])
        };
        assert_eq!(look(last, &[true, true]), Ok(()));
        assert_eq!(look(last - 1, &[false, false]), Ok(()));
        assert_eq!(look(last, &[true, false]).unwrap_err().name, NAME);
        assert!(look(last - 1, &[true, false]).is_err());
        assert_eq!(look(last + 1, &[false, false]), Ok(()), "not known yet");
        let said = |at: &PageRecord| {
            let mut record = looked_up(&[1, 2], last, &[true, true], false, (1, 2));
            let Outcome::Found { locations, .. } = &mut record.result else { panic!("it is a lookup's") };
            *locations = Some(records::encode(&[pages[0].location.clone(), at.location.clone()], 1));
            EntriesAreWhole::default().look(&log.oracle, &[record])
        };
        assert_eq!(said(&pages[1]), Ok(()));
        assert!(said(&pages[0]).unwrap_err().detail.contains("locations wrong"));
        assert!(state_is_at_an_end(1, 4, Some(4)).is_ok() && state_is_at_an_end(1, 3, Some(4)).is_err());
    }
}
