//! `retires-are-told`: a watch stream tells everything that happened to its namespace, in order and once; a clear ends
//! it, and so makes the watcher start over.

use std::collections::BTreeMap;

use foreword_meta::state::command::Event;
use foreword_proto::buckets::bucket_of;
use foreword_proto::records::{EntryEvents, NamespaceEvent, PageRecord};
use foreword_proto::{EntryKey, Location, NamespaceId, RetireReason, Revision, SlotRef};

use super::{Invariant, View, Violation, ensure};
use crate::history::{WatchFrame, Watched};
use crate::oracle::Oracle;

const NAME: &str = "retires-are-told";

/// How far a stream is.
#[derive(Debug)]
enum Stream {
    /// Everything up to this revision was told.
    At(Revision),
    /// A resync is under way: what the watcher has by now, and the revision up to which events are known to have been
    /// told.
    Building(Revision, BTreeMap<EntryKey, Location>),
    Over,
}

/// Follows every recorded stream.
#[derive(Debug, Default)]
pub struct RetiresAreTold {
    seen: usize,
    streams: BTreeMap<u64, Stream>,
    told: u64,
}

/// What a watcher of `namespace` must hear of the revision: None if it is forgotten, Some(Err) if the namespace was
/// cleared in it.
fn expected(oracle: &Oracle, namespace: NamespaceId, revision: Revision) -> Option<Result<Vec<NamespaceEvent>, ()>> {
    let mut events = Vec::new();
    for event in oracle.events_at(revision)? {
        match event {
            Event::Published { namespace: of, page } if *of == namespace => {
                let PageRecord { key, parent, location } = page.clone();
                events.push(NamespaceEvent::Published { key, parent, location });
            }
            Event::Retired { namespace: of, key, slot, reason } if *of == namespace => {
                events.push(NamespaceEvent::Retired { key: *key, slot: *slot, reason: *reason });
            }
            Event::AbsentDeleted { namespace: of, key } if *of == namespace => {
                events.push(NamespaceEvent::Retired { key: *key, slot: SlotRef::NONE, reason: RetireReason::Deleted });
            }
            Event::Cleared { namespace: of, .. } if *of == namespace => return Some(Err(())),
            _ => {}
        }
    }
    Some(Ok(events))
}

fn compare_events(
    oracle: &Oracle,
    namespace: NamespaceId,
    (from, upto): (Revision, Revision),
    told: &[EntryEvents],
) -> Result<(), String> {
    let mut told = told.iter().peekable();
    for revision in from + 1..=upto {
        let heard = told.next_if(|entry| entry.revision == revision).map_or(&[][..], |entry| &entry.events[..]);
        match expected(oracle, namespace, revision) {
            None => {}
            Some(Ok(events)) if events == heard => {}
            Some(Ok(events)) => return Err(format!("revision {revision} is told as {heard:?}, expected {events:?}")),
            Some(Err(())) => return Err(format!("the clear at revision {revision} is not told")),
        }
    }
    match told.next() {
        Some(entry) => Err(format!("revision {} is told among {from} to {upto}", entry.revision)),
        None => Ok(()),
    }
}

/// The watcher takes the pages of a bucket for all there are.
fn replace_bucket(
    building: &mut BTreeMap<EntryKey, Location>,
    (bits, bucket): (u32, u32),
    pages: &[PageRecord],
) -> Result<(), String> {
    building.retain(|key, _| bucket_of(key, bits) != bucket);
    for page in pages {
        if bucket_of(&page.key, bits) != bucket {
            return Err(format!("{:?} is not of bucket {bucket} of {bits} bits", page.key));
        }
        if building.insert(page.key, page.location.clone()).is_some() {
            return Err(format!("{:?} is twice in its bucket", page.key));
        }
    }
    Ok(())
}

fn apply_events(building: &mut BTreeMap<EntryKey, Location>, entries: &[EntryEvents]) {
    for event in entries.iter().flat_map(|entry| &entry.events) {
        match event {
            NamespaceEvent::Published { key, location, .. } => _ = building.insert(*key, location.clone()),
            NamespaceEvent::Retired { key, slot, .. } => {
                if building.get(key).is_some_and(|location| location.slot == *slot) {
                    building.remove(key);
                }
            }
        }
    }
}

fn compare_resynced(
    oracle: &Oracle,
    namespace: NamespaceId,
    revision: Revision,
    pages: &BTreeMap<EntryKey, Location>,
) -> Result<(), String> {
    let expected = oracle.presence().pages_at(namespace, revision);
    if *pages == expected {
        return Ok(());
    }
    let more: Vec<_> = pages.keys().filter(|key| pages.get(key) != expected.get(key)).take(3).collect();
    let less: Vec<_> = expected.keys().filter(|key| pages.get(key) != expected.get(key)).take(3).collect();
    Err(format!("the resync up to revision {revision} has {more:?} and lacks {less:?}"))
}

/// The revision that must be known to judge a frame.
fn revision_of(frame: &WatchFrame) -> Revision {
    match frame {
        WatchFrame::Resumed { revision, .. }
        | WatchFrame::ResyncBegin { revision, .. }
        | WatchFrame::ResyncEnd { revision }
        | WatchFrame::Events { revision, .. } => *revision,
        WatchFrame::Bucket { .. } | WatchFrame::Resync => 0,
    }
}

impl RetiresAreTold {
    fn look(&mut self, oracle: &Oracle, watched: &[Watched]) -> Result<(), Violation> {
        while let Some(next) = watched.get(self.seen) {
            if revision_of(&next.frame) > oracle.revision() {
                return Ok(());
            }
            self.seen += 1;
            let judged = self.follow(oracle, next);
            ensure(NAME, judged.is_ok(), || {
                let detail = judged.err().unwrap_or_default();
                format!("stream {} of namespace {} at {}: {detail}", next.stream, next.namespace, next.at)
            })?;
        }
        Ok(())
    }

    fn follow(&mut self, oracle: &Oracle, watched: &Watched) -> Result<(), String> {
        let namespace = watched.namespace;
        let stream = self.streams.remove(&watched.stream);
        let epoch_is = |epoch, revision| {
            let known = oracle.presence().sum_at(namespace, revision).map(|sum| sum.epoch);
            if known.is_none_or(|known| known == epoch) {
                Ok(())
            } else {
                Err(format!("epoch {epoch} at {revision}, expected {known:?}"))
            }
        };
        let next = match (&watched.frame, stream) {
            (WatchFrame::Resumed { epoch, revision }, None) => {
                epoch_is(*epoch, *revision)?;
                Stream::At(*revision)
            }
            (WatchFrame::ResyncBegin { epoch, revision }, None) => {
                epoch_is(*epoch, *revision)?;
                Stream::Building(*revision, BTreeMap::new())
            }
            (WatchFrame::Bucket { bits, bucket, pages }, Some(Stream::Building(at, mut building))) => {
                replace_bucket(&mut building, (*bits, *bucket), pages)?;
                Stream::Building(at, building)
            }
            (WatchFrame::Events { revision, entries }, Some(Stream::Building(at, mut building))) => {
                // It may be told of entries from before the resync began.
                let known = entries.partition_point(|entry| entry.revision <= at);
                compare_events(oracle, namespace, (at, *revision), &entries[known..])?;
                apply_events(&mut building, entries);
                Stream::Building(at.max(*revision), building)
            }
            (WatchFrame::ResyncEnd { revision }, Some(Stream::Building(at, pages))) => {
                self.told += 1;
                compare_events(oracle, namespace, (at, *revision), &[])?;
                compare_resynced(oracle, namespace, *revision, &pages)?;
                Stream::At(*revision)
            }
            (WatchFrame::Events { revision, entries }, Some(Stream::At(from))) => {
                self.told += 1;
                compare_events(oracle, namespace, (from, *revision), entries)?;
                Stream::At(from.max(*revision))
            }
            (WatchFrame::Resync, Some(_)) => Stream::Over,
            (frame, stream) => return Err(format!("{frame:?} comes when the stream is {stream:?}")),
        };
        self.streams.insert(watched.stream, next);
        Ok(())
    }
}

impl Invariant for RetiresAreTold {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.told
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        self.look(view.oracle, &view.history.watched)
    }

    fn finish(&mut self, _: &View<'_>) -> Result<(), Violation> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::RetireReason;

    use super::*;
    use crate::oracle::tests::{Log, key};
    use crate::world::context::SimTime;

    fn look(log: &Log, frames: Vec<WatchFrame>) -> Result<u64, Violation> {
        let watched = |frame| Watched { stream: 1, namespace: 1, at: SimTime::default(), frame };
        let mut check = RetiresAreTold::default();
        check.look(&log.oracle, &frames.into_iter().map(watched).collect::<Vec<_>>())?;
        Ok(check.told)
    }

    /// One page published and retired; the frames that tell it after a snapshot of nothing.
    fn told() -> (Log, Vec<WatchFrame>) {
        let mut log = Log::new(4);
        let start = log.revision();
        let slot = log.put(1);
        let location = log.record(1, slot).location;
        let published = NamespaceEvent::Published { key: key(1).entry(), parent: 0, location };
        let published = EntryEvents { revision: log.revision(), events: vec![published] };
        log.tick(5);
        log.retire(1, slot);
        let retired = NamespaceEvent::Retired { key: key(1).entry(), slot, reason: RetireReason::Evicted };
        let retired = EntryEvents { revision: log.revision(), events: vec![retired] };
        let frames = vec![
            WatchFrame::ResyncBegin { epoch: 1, revision: start },
            WatchFrame::ResyncEnd { revision: start },
            WatchFrame::Events { revision: published.revision, entries: vec![published] },
            WatchFrame::Events { revision: retired.revision, entries: vec![retired] },
        ];
        (log, frames)
    }

    #[test]
    fn a_stream_that_tells_everything_is_accepted() {
        let (mut log, mut frames) = told();
        let last = log.revision();
        log.tick(9);
        frames.push(WatchFrame::Events { revision: last + 1, entries: vec![] });
        log.clear();
        frames.push(WatchFrame::Resync);
        assert_eq!(look(&log, frames), Ok(4));
    }

    #[test]
    fn what_is_left_out_twice_or_out_of_place_is_found() {
        let (log, frames) = told();
        let broken = |change: &dyn Fn(&mut Vec<WatchFrame>)| {
            let mut frames = frames.clone();
            change(&mut frames);
            look(&log, frames).unwrap_err().name
        };
        let silent = WatchFrame::Events { revision: log.revision(), entries: vec![] };
        assert_eq!(broken(&|frames| frames[3] = silent.clone()), NAME);
        assert_eq!(broken(&|frames| drop(frames.remove(2))), NAME, "a frame was lost");
        assert_eq!(broken(&|frames| frames.insert(3, frames[2].clone())), NAME, "a frame came twice");
        assert_eq!(broken(&|frames| frames.swap(2, 3)), NAME);
        assert_eq!(broken(&|frames| drop(frames.remove(0))), NAME, "no resync began");
        let wrong = WatchFrame::ResyncBegin { epoch: 2, revision: log.revision() };
        assert_eq!(broken(&|frames| frames[0] = wrong.clone()), NAME);
        let late = WatchFrame::ResyncEnd { revision: log.revision() - 1 };
        assert_eq!(broken(&|frames| frames[1] = late.clone()), NAME, "it lacks a page");
    }

    #[test]
    fn events_and_buckets_of_a_resync_add_up_in_any_order() {
        let (log, frames) = told();
        let WatchFrame::ResyncBegin { revision: start, .. } = frames[0] else { panic!("a resync begins") };
        let WatchFrame::Events { revision: put, entries } = frames[2].clone() else { panic!("a page is told") };
        let NamespaceEvent::Published { key, parent, location } = entries[0].events[0].clone() else {
            panic!("a page")
        };
        let bucket = WatchFrame::Bucket { bits: 0, bucket: 0, pages: vec![PageRecord { key, parent, location }] };
        let end = |revision| WatchFrame::ResyncEnd { revision };
        let begin = frames[0].clone();
        let early = [begin.clone(), bucket.clone(), frames[2].clone(), end(put)];
        let late = [begin.clone(), frames[2].clone(), bucket.clone(), frames[3].clone(), end(log.revision())];
        assert_eq!((look(&log, early.to_vec()), look(&log, late.to_vec())), (Ok(1), Ok(1)));
        let untold = [begin.clone(), bucket, end(put)];
        assert_eq!(
            look(&log, untold.to_vec()).unwrap_err().name,
            NAME,
            "who has the page already is told of it as well"
        );
        let empty = WatchFrame::Bucket { bits: 0, bucket: 0, pages: vec![] };
        let lost = [begin, frames[2].clone(), empty, end(put)];
        assert_eq!(look(&log, lost.to_vec()).unwrap_err().name, NAME);
        assert!(start < put);
    }

    #[test]
    fn a_clear_must_end_the_stream() {
        let (mut log, mut frames) = told();
        log.clear();
        frames.push(WatchFrame::Events { revision: log.revision(), entries: vec![] });
        assert_eq!(look(&log, frames).unwrap_err().name, NAME);
    }
}
