//! Emulated power cuts under sled: the file right after a sync, mixed in 4 KiB blocks with its state after the next
//! unsynced writes, as a disk might leave it. Whatever was synced must be there.

use std::path::Path;

use foreword_meta::storage::sled_engine::SledEngine;
use foreword_meta::storage::{LogEngine, MetaKey};
use foreword_seams::{Entropy, SeededEntropy};

use crate::support::copy_dir;

/// Power cuts of one test run; a campaign sets more.
const CUTS: &str = "FOREWORD_TEST_POWER_CUTS";
const CUTS_PER_REPLICA: u64 = 8;
const BLOCK: usize = 4096;
/// What the writer has under way at most: one group.
const GROUP_BYTES: usize = foreword_meta::storage::writer::GROUP_BYTES_MAX;

struct Cut {
    dice: SeededEntropy,
    next: u64,
    first: u64,
}

impl Cut {
    fn item(&self, index: u64) -> Vec<u8> {
        let bytes = [30, 1500, 5200, 20_000, 66_000][(index * 7 % 5) as usize];
        (0..bytes).map(|i| (i as u64 * 13 + index * 31) as u8).collect()
    }

    /// As much as a group takes: appends, a value, sometimes a purge.
    fn group(&mut self, engine: &mut SledEngine) {
        let mut items = Vec::new();
        let mut bytes = 0;
        let wanted = 1 + self.dice.below(GROUP_BYTES as u64) as usize;
        while bytes < wanted {
            let item = self.item(self.next);
            bytes += item.len();
            if bytes > GROUP_BYTES {
                break;
            }
            items.push((self.next, item.into()));
            self.next += 1;
        }
        engine.append(&items).unwrap();
        engine.put_meta(MetaKey::Vote, self.next.to_string().into()).unwrap();
        if self.dice.below(4) == 0 && self.next > self.first + 12 {
            engine.purge_to(self.first + 1, 2).unwrap();
            self.first += 2;
        }
    }
}

/// Blocks of the older and the newer file, at random; the file is as long as either.
fn mix(older: &[u8], newer: &[u8], dice: &SeededEntropy) -> Vec<u8> {
    let len = if dice.below(2) == 0 { older.len() } else { newer.len() };
    let share = dice.below(101);
    let mut mixed = vec![0; len];
    for (n, block) in mixed.chunks_mut(BLOCK).enumerate() {
        let from = if dice.below(100) < share { newer } else { older };
        let at = (n * BLOCK).min(from.len());
        let end = (at + block.len()).min(from.len());
        block[..end - at].copy_from_slice(&from[at..end]);
    }
    mixed
}

fn check(dir: &Path, first: u64, next: u64, cut: &Cut) -> Result<(), String> {
    let mut engine = SledEngine::open(dir).map_err(|error| error.to_string())?;
    let (found_first, found_last) = engine.bounds().ok_or("the log is empty")?;
    if found_first > cut.first || found_last + 1 < next {
        return Err(format!("{first}..{next} was synced, {found_first}..={found_last} is there"));
    }
    for (index, item) in engine.read(cut.first.max(first)..next).map_err(|error| error.to_string())? {
        if item[..] != cut.item(index)[..] {
            return Err(format!("item {index} is another"));
        }
    }
    let vote = engine.get_meta(MetaKey::Vote).map_err(|error| error.to_string())?;
    let vote = vote.and_then(|vote| std::str::from_utf8(&vote).ok()?.parse::<u64>().ok());
    if vote.is_none_or(|vote| vote < next) { Err(format!("the vote is {vote:?}, synced was {next}")) } else { Ok(()) }
}

/// Cuts the power of one replica eight times, each time from the same file: what its last sync left, mixed with what
/// `unsynced` more groups left. Gives what was lost.
async fn cut_power(seed: u64, unsynced: u32) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let mut cut = Cut { dice: SeededEntropy::new(seed), next: 0, first: 0 };
    let mut engine = SledEngine::open(&live).unwrap();
    for _ in 0..1 + cut.dice.below(30) {
        cut.group(&mut engine);
        engine.sync().await.unwrap();
    }
    let (first, next) = (cut.first, cut.next);
    let synced = root.path().join("synced");
    copy_dir(&live, &synced);
    for group in 0..unsynced {
        if group > 0 {
            // A sync that the emulated disk does not honour.
            engine.sync().await.unwrap();
        }
        cut.group(&mut engine);
    }
    // sled writes its buffers when it is dropped, and never syncs them.
    drop(engine);
    let older = std::fs::read(synced.join("db")).unwrap();
    let newer = std::fs::read(live.join("db")).unwrap();
    let mut lost = Vec::new();
    for n in 0..CUTS_PER_REPLICA {
        let dir = root.path().join(format!("cut-{n}"));
        copy_dir(&synced, &dir);
        std::fs::write(dir.join("db"), mix(&older, &newer, &cut.dice)).unwrap();
        lost.extend(check(&dir, first, next, &cut).err().map(|what| format!("seed {seed}, cut {n}: {what}")));
        std::fs::remove_dir_all(dir).unwrap();
    }
    lost
}

#[tokio::test]
async fn what_was_synced_survives_emulated_power_cuts() {
    let cuts = std::env::var(CUTS).ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(24_u64);
    let mut lost = Vec::new();
    for seed in 0..cuts.div_ceil(CUTS_PER_REPLICA) {
        lost.extend(cut_power(seed, 1).await);
    }
    assert!(lost.is_empty(), "{} of {cuts} power cuts lost something: {lost:#?}", lost.len());
}

/// The emulation finds what it is there to find: a disk that lies about ten syncs loses what they promised.
#[tokio::test]
async fn power_cuts_of_a_lying_disk_are_found() {
    let mut lost = 0;
    for seed in 0..8 {
        lost += cut_power(seed, 10).await.len();
    }
    println!("{lost} of {} power cuts lost something", 8 * CUTS_PER_REPLICA);
    assert!(lost > 0);
}
