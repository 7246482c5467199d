//! Random work on a log store whose disk loses what was not synced: what was acknowledged is always there.

use foreword_meta::consensus::types::{LogId, Vote};
use foreword_meta::storage::{LogStore, Recovered};
use foreword_seams::{Entropy, SeededEntropy, on_a_task};
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use crate::engines::{Flaw, Flawed};
use crate::support::{MemoryReplica, append, entry, log_id};

/// What the store has acknowledged.
#[derive(Debug, Default, Clone)]
struct Promised {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// Terms of the entries, by index.
    terms: Vec<u64>,
    term: u64,
}

impl Promised {
    fn next(&self) -> u64 {
        self.terms.len() as u64
    }
}

/// A replica whose engine may have a planted fault.
struct Subject {
    replica: MemoryReplica,
    flaw: Flaw,
}

impl Subject {
    fn open(&self) -> Result<(LogStore, Recovered), String> {
        let engine = Flawed::new(self.replica.disk.open(), self.flaw);
        let opened = LogStore::open(Box::new(engine), Box::new(self.replica.mark.clone()), &on_a_task());
        opened.map_err(|error| error.to_string())
    }
}

/// One life of a replica: works until it is cut off in the middle of something. `promised` is what was acknowledged
/// before that.
async fn live(subject: &Subject, dice: &SeededEntropy, promised: &mut Promised) -> Result<(), String> {
    let (mut store, _) = subject.open()?;
    let work = async {
        loop {
            step(&mut store, dice, promised).await;
        }
    };
    // Life is counted in turns of the scheduler: the cut falls anywhere in an operation, and at the same place each
    // time.
    let life = async {
        for _ in 0..dice.below(300) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = life => {}
        () = work => {}
    }
    subject.replica.disk.crash(|unsynced| dice.below(unsynced as u64 + 1) as usize);
    Ok(())
}

async fn step(store: &mut LogStore, dice: &SeededEntropy, promised: &mut Promised) {
    match dice.below(10) {
        0 => {
            promised.term += 1;
            let vote = Vote::new(promised.term, dice.below(3));
            store.save_vote(&vote).await.unwrap();
            promised.vote = Some(vote);
        }
        1 if promised.next() > 0 => {
            let floor = promised.purged.map_or(0, |purged| purged.index + 1);
            let from = promised.next().saturating_sub(dice.below(5)).max(floor);
            // From here on the tail is nobody's promise.
            promised.terms.truncate(from as usize);
            store.truncate(log_id(promised.term, from)).await.unwrap();
        }
        2 if promised.next() > 8 => {
            let index = promised.next() - 1 - dice.below(8);
            let upto = log_id(promised.terms[index as usize], index);
            if Some(upto) > promised.purged {
                store.purge(upto).await.unwrap();
                promised.purged = Some(upto);
            }
        }
        3 if promised.next() > 0 => {
            let index = promised.next() - 1;
            store.save_committed(Some(log_id(promised.terms[index as usize], index))).await.unwrap();
        }
        _ => {
            let first = promised.next();
            let end = first + 1 + dice.below(4);
            let bytes = [1, 3000, 20_000][dice.below(3) as usize];
            let term = promised.term;
            append(store, (first..end).map(|index| entry(term, index, bytes))).await.unwrap();
            promised.terms.resize(end as usize, term);
        }
    }
}

/// What a start must find of what was promised; afterwards `promised` is what it found.
async fn check(subject: &Subject, promised: &mut Promised) -> Result<(), String> {
    let (mut store, recovered) = subject.open()?;
    let ensure = |holds: bool, what: &str| {
        if holds { Ok(()) } else { Err(format!("{what}: promised {promised:?}, recovered {recovered:?}")) }
    };
    ensure(recovered.vote >= promised.vote, "the vote")?;
    ensure(recovered.purged >= promised.purged, "the purged id")?;
    ensure(recovered.committed <= recovered.last, "the committed id")?;
    let entries = store.try_get_log_entries(..).await.map_err(|error| error.to_string())?;
    let floor = recovered.purged.map_or(0, |purged| purged.index + 1);
    ensure(recovered.last.map_or(0, |last| last.index + 1) >= promised.next(), "the end")?;
    for (found, index) in entries.iter().zip(floor..) {
        ensure(found.log_id.index == index, "the order")?;
        let term = promised.terms.get(index as usize);
        ensure(term.is_none_or(|term| *term == found.log_id.leader_id.term), "an entry")?;
    }
    // What was in flight may be there or not; the next life goes on from what is.
    promised.vote = recovered.vote;
    promised.term = promised.term.max(recovered.vote.map_or(0, |vote| vote.leader_id.term));
    promised.purged = recovered.purged;
    promised.terms.resize(floor as usize, 0);
    promised.terms.extend(entries.iter().map(|entry| entry.log_id.leader_id.term));
    Ok(())
}

async fn lives(seed: u64, flaw: Flaw) -> Result<(), String> {
    let dice = SeededEntropy::new(seed);
    let subject = Subject { replica: MemoryReplica::default(), flaw };
    let mut promised = Promised::default();
    for life in 0..10 {
        let at = |what: String| format!("seed {seed}, life {life}: {what}");
        live(&subject, &dice, &mut promised).await.map_err(at)?;
        check(&subject, &mut promised).await.map_err(at)?;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_acknowledged_survives_every_crash() {
    for seed in 0..24 {
        lives(seed, Flaw::None).await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_lies_about_its_sync_is_found_out() {
    let found = lives(1, Flaw::SyncsNothing).await.unwrap_err();
    println!("{found}");
}
