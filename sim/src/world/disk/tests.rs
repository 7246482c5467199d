use std::collections::{BTreeMap, BTreeSet};

use foreword_meta::consensus::types::{Entry, EntryBatch, LogId, TypeConfig, Vote};
use foreword_meta::open::open_log;
use foreword_meta::state::command::ClusterSettings;
use foreword_meta::storage::{LogStore, OpenError, Recovered};
use foreword_proto::{ClusterId, DirectoryId};
use foreword_seams::on_a_task;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload};

use super::*;

fn disk() -> Disk {
    let settings = ClusterSettings {
        chunk_bytes: 4096,
        slab_bytes: 64 * 4096,
        l3_bytes: 4096 * 4096,
        read_rest_ms: 100,
        write_rest_ms: 100,
        first_feature_level: 1,
        hf3fs_protection_ms: 30_000,
        lease_ms: 5000,
    };
    Disk::new(1, Identity::new(ClusterId([7; 16]), 1, DirectoryId([1; 16]), settings, BTreeMap::new()))
}

/// Runs one process; it ends with its runtime.
fn process<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(work)
}

fn open(disk: &Disk) -> Result<(LogStore, Recovered, bool), OpenError> {
    open_log(|| Ok((disk.engine(), disk.mark())), &on_a_task(), || disk.set_log_aside())
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term, 1), index }
}

/// What a replica keeps, as a start finds it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kept {
    vote: Option<Vote>,
    /// Entries that were purged, from index 0 on.
    purged: u64,
    /// Those after them.
    entries: u64,
}

impl Kept {
    fn next(&self) -> u64 {
        self.purged + self.entries
    }

    fn is(&self, found: &Recovered) -> bool {
        let count = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let kept = (self.vote, self.purged, self.entries, self.next());
        kept == (found.vote, count(found.purged), found.entries, count(found.last))
    }
}

/// Every state between writes since the last acknowledgement; the first is acknowledged.
struct Model(Vec<Kept>);

impl Model {
    fn then(&mut self, change: impl FnOnce(&mut Kept)) {
        let mut next = self.0.last().unwrap().clone();
        change(&mut next);
        self.0.push(next);
    }

    fn acknowledged(&mut self) {
        self.0.drain(..self.0.len() - 1);
    }
}

/// One random change of the log.
async fn change(store: &mut LogStore, model: &mut Model) -> Result<(), String> {
    let Kept { vote, purged, entries } = model.0.last().unwrap().clone();
    let done = match context::random_below(8) {
        0 => {
            let vote = Vote::new(vote.map_or(1, |vote| vote.leader_id.term + 1), 1);
            model.then(|kept| kept.vote = Some(vote));
            store.save_vote(&vote).await
        }
        1 if entries > 1 => {
            let left = 1 + context::random_below(entries - 1);
            (left..entries).for_each(|_| model.then(|kept| kept.entries -= 1));
            store.truncate(log_id(1, purged + left)).await
        }
        2 if entries > 1 => {
            let gone = 1 + context::random_below(entries - 1);
            model.then(|kept| (kept.purged, kept.entries) = (purged + gone, entries - gone));
            store.purge(log_id(1, purged + gone - 1)).await
        }
        _ => {
            let next = purged + entries;
            let entry = |index| {
                let bytes = Bytes::from(vec![index as u8; context::random_below(3000) as usize]);
                model.then(|kept| kept.entries += 1);
                Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(EntryBatch(bytes)) }
            };
            let entries = Vec::from_iter((next..=next + context::random_below(6)).map(entry));
            RaftLogStorageExt::<TypeConfig>::blocking_append(store, entries).await
        }
    };
    done.map_err(|error| error.to_string())?;
    model.acknowledged();
    Ok(())
}

fn draw_weather(fault: Option<DiskFault>, lies: bool) -> DiskWeather {
    DiskWeather {
        sync_us_min: 50,
        sync_us_max: 4000,
        stall_per_million: 100_000,
        stall_ms: 50,
        fault,
        lies,
        believed: false,
    }
}

/// A process that opens the log, checks what it finds, and changes the log until its time is over or its disk fails.
async fn live(disk: &Disk, model: &mut Model, lies: bool) -> Result<(), String> {
    let (mut store, found, lost) = open(disk).map_err(|error| error.to_string())?;
    let survived = model.0.iter().position(|kept| kept.is(&found) && !lost);
    let Some(survived) = survived else { return Err(format!("lost: {lost}, {found:?} is none of {:?}", model.0)) };
    model.0 = vec![model.0.swap_remove(survived)];
    let life = Duration::from_millis(context::random_below(60));
    let fault = [None, None, Some(DiskFault::Io), Some(DiskFault::NoSpace)][context::random_below(4) as usize];
    let work = async {
        for step in 0.. {
            if step == 4 {
                disk.set_weather(draw_weather(fault, lies));
            }
            if change(&mut store, model).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(life, work).await;
    Ok(())
}

/// Some processes, each of which ends with a crash. Gives the digest, or what was wrong after a crash.
fn crashes(seed: u64, lies: bool, counts: &mut Vec<DiskCounts>) -> Result<u128, String> {
    context::begin(seed, false);
    let disk = disk();
    let mut model = Model(vec![Kept::default()]);
    for round in 0..6 {
        disk.set_weather(draw_weather(None, lies));
        process(live(&disk, &mut model, lies)).map_err(|what| format!("seed {seed}, round {round}: {what}"))?;
        disk.crash();
        assert_taken(&disk);
    }
    counts.push(disk.counts());
    Ok(context::trace().digest)
}

/// Once opened, what was taken is what is stored, and purged items before it.
fn assert_taken(disk: &Disk) {
    let engine = disk.engine();
    let taken = disk.taken_items(0);
    assert!(taken.iter().zip(0..).all(|((index, _), expected)| *index == expected), "purged items are taken too");
    if let Some((first, last)) = engine.bounds() {
        assert_eq!(taken.len() as u64, last + 1);
        assert!(taken[first as usize..].iter().all(|(index, item)| disk.item(*index).as_ref() == Some(item)));
    }
}

#[test]
fn what_a_sync_covered_survives_every_crash_and_equal_seeds_are_equal() {
    let mut counts = Vec::new();
    let digests = Vec::from_iter((0..150).map(|seed| crashes(seed, false, &mut counts).unwrap()));
    assert_eq!(BTreeSet::from_iter(&digests).len(), 150, "every seed is another run");
    for seed in [0, 77, 149] {
        assert_eq!(crashes(seed, false, &mut counts), Ok(digests[seed as usize]), "seed {seed} replays");
    }
    let kinds: [fn(&DiskCounts) -> u64; 6] = [
        |counts| counts.writes_lost,
        |counts| counts.torn_items,
        |counts| counts.torn_marks,
        |counts| counts.stalls,
        |counts| counts.io_errors,
        |counts| counts.no_space,
    ];
    for (index, kind) in kinds.into_iter().enumerate() {
        assert!(counts.iter().map(kind).sum::<u64>() > 0, "fault {index} never happened");
    }
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let caught = (0..20).filter(|seed| crashes(*seed, true, &mut Vec::new()).is_err()).count();
    assert!(caught > 15, "{caught}");
}

/// Appends `range` and waits.
async fn append(store: &mut LogStore, range: std::ops::RangeInclusive<u64>) -> Result<(), String> {
    let entry = |index| Entry { log_id: log_id(1, index), payload: EntryPayload::Blank };
    let entries = Vec::from_iter(range.map(entry));
    RaftLogStorageExt::<TypeConfig>::blocking_append(store, entries).await.map_err(|error| error.to_string())
}

#[test]
fn a_crash_keeps_a_prefix_of_what_was_not_synced() {
    let mut lengths = BTreeSet::new();
    for seed in 0..60 {
        context::begin(seed, false);
        let disk = disk();
        let mut engine = disk.engine();
        let item = |index: u64| (index, Bytes::from(vec![index as u8; 100]));
        engine.append(&Vec::from_iter((1..=3).map(item))).unwrap();
        process(engine.sync()).unwrap();
        engine.append(&Vec::from_iter((4..=9).map(item))).unwrap();
        disk.crash();
        assert!(engine.append(&[item(10)]).is_err(), "an engine from before the crash");
        let mut engine = disk.engine();
        let found = engine.read(0..100).unwrap();
        assert!(found.len() >= 3, "seed {seed}: what was synced");
        assert_eq!(found, Vec::from_iter((1..=found.len() as u64).map(item)), "seed {seed}");
        assert_eq!(disk.taken_items(0), found, "seed {seed}");
        lengths.insert(found.len());
    }
    assert!(lengths.len() == 7, "every prefix happens: {lengths:?}");
}

#[test]
fn a_torn_mark_opens() {
    let mut torn = 0;
    for seed in 0..60 {
        context::begin(seed, false);
        let disk = disk();
        process(async {
            let (mut store, ..) = open(&disk).unwrap();
            append(&mut store, 0..=3).await.unwrap();
            disk.set_weather(DiskWeather { sync_us_min: 10_000, sync_us_max: 10_000, ..DiskWeather::default() });
            // The log's sync is done after 10 ms; the mark is being stored.
            let late = tokio::time::timeout(Duration::from_millis(15), append(&mut store, 4..=5)).await;
            assert!(late.is_err());
        });
        disk.crash();
        torn += disk.counts().torn_marks;
        let (_, found, lost) = process(async { open(&disk).unwrap() });
        assert_eq!((found.entries, lost), (6, false), "seed {seed}");
    }
    assert!(torn > 10, "{torn}");
}

#[test]
fn a_lying_disk_loses_what_it_acknowledged() {
    let mut gone = 0;
    for seed in 0..20 {
        context::begin(seed, false);
        let disk = disk();
        process(async {
            let (mut store, ..) = open(&disk).unwrap();
            append(&mut store, 0..=3).await.unwrap();
            disk.set_weather(DiskWeather { lies: true, ..DiskWeather::default() });
            for index in 4..=7 {
                append(&mut store, index..=index).await.unwrap();
            }
        });
        disk.crash();
        let (_, found, lost) = process(async { open(&disk).unwrap() });
        assert!(!lost && found.entries >= 4, "the mark is lost with the entries");
        gone += u32::from(found.entries < 8);
    }
    assert!(gone >= 10, "{gone}");
}

#[test]
fn a_log_shorter_than_its_mark_is_lost_and_so_are_rotten_ones() {
    let damages: [fn(&Disk); 3] =
        [|disk| disk.lose_tail(1), |disk| assert!(disk.rot_item().is_some()), |disk| disk.rot_mark(true)];
    for damage in damages {
        context::begin(3, false);
        let disk = disk();
        process(async {
            let (mut store, ..) = open(&disk).unwrap();
            append(&mut store, 0..=3).await.unwrap();
            append(&mut store, 4..=5).await.unwrap();
        });
        damage(&disk);
        disk.crash();
        let (_, found, lost) = process(async { open(&disk).unwrap() });
        assert_eq!((found.entries, lost, disk.identity().rejoining), (0, true, true));
        let identity = disk.identity_file();
        disk.crash();
        assert!(identity.caught_up().is_err(), "of a process that is gone");
        disk.identity_file().caught_up().unwrap();
        assert!(!disk.identity().rejoining);
    }
}

#[test]
fn a_full_disk_heals_and_a_wiped_one_is_empty() {
    context::begin(1, false);
    let disk = disk();
    process(async {
        let (mut store, ..) = open(&disk).unwrap();
        append(&mut store, 0..=3).await.unwrap();
        disk.set_weather(DiskWeather { fault: Some(DiskFault::NoSpace), ..DiskWeather::default() });
        assert!(append(&mut store, 4..=4).await.is_err());
        assert_eq!(disk.identity_file().bootstrapped().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    });
    disk.set_weather(DiskWeather::default());
    process(async {
        let (mut store, found, lost) = open(&disk).unwrap();
        assert!(!lost && found.entries >= 4);
        let next = found.last.map_or(0, |last| last.index + 1);
        append(&mut store, next..=next).await.unwrap();
    });
    assert!(disk.bytes_used() > 0 && disk.counts().no_space == 2);
    disk.wipe(disk.identity());
    assert_eq!((disk.bytes_used(), disk.taken_items(0).len(), disk.engine().bounds()), (0, 0, None));
}
