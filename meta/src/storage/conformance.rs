//! What every [`LogEngine`] must do, as one suite that any engine can be put through; above all, what must be there
//! after a crash.
//!
//! A check answers with what is wrong instead of panicking, so that a test can see a faulty engine being rejected.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::engine::{Item, LogEngine, MetaKey};

/// A medium that outlives the engines opened on it.
pub trait World {
    /// Opens an engine on what the medium holds.
    fn open(&mut self) -> io::Result<Box<dyn LogEngine>>;

    /// The process of `engine` dies: what was not synced is lost as far as the medium can lose it.
    fn crash(&mut self, engine: Box<dyn LogEngine>);
}

/// What an engine did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {what}")]
pub struct Violation {
    pub check: &'static str,
    pub what: String,
}

type Checked = Result<(), String>;

/// Runs every check, each in a world of its own; `steps` writes of the random one, which follows from `seed`.
pub async fn check_engine<W: World>(mut fresh: impl FnMut() -> W, seed: u64, steps: u32) -> Result<(), Violation> {
    fn named(check: &'static str) -> impl FnOnce(String) -> Violation {
        move |what| Violation { check, what }
    }
    reads_back(&mut fresh()).await.map_err(named("reads_back"))?;
    refuses_holes(&mut fresh()).await.map_err(named("refuses_holes"))?;
    keeps_what_was_synced(&mut fresh()).await.map_err(named("keeps_what_was_synced"))?;
    keeps_a_prefix_of_the_rest(&mut fresh()).await.map_err(named("keeps_a_prefix_of_the_rest"))?;
    truncates_without_holes(&mut fresh()).await.map_err(named("truncates_without_holes"))?;
    purges_after_its_id(&mut fresh()).await.map_err(named("purges_after_its_id"))?;
    follows_the_model(&mut fresh(), seed, steps).await.map_err(named("follows_the_model"))
}

fn item(index: u64, bytes: usize) -> Item {
    let content = |i: usize| (index as usize).wrapping_mul(31).wrapping_add(i.wrapping_mul(7)) as u8;
    (index, (0..bytes).map(content).collect())
}

fn items(range: RangeInclusive<u64>) -> Vec<Item> {
    range.map(|index| item(index, 100 + (index as usize % 7) * 900)).collect()
}

fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Checked {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}

/// Items without their bytes: what an error prints.
fn brief(items: &[Item]) -> Vec<(u64, usize, u32)> {
    items.iter().map(|(index, item)| (*index, item.len(), crc32fast::hash(item))).collect()
}

fn holds(engine: &mut dyn LogEngine, expected: &[Item]) -> Checked {
    let found = engine.read(0..u64::MAX).map_err(text)?;
    same("items", brief(&found), brief(expected))?;
    let bounds = expected.first().zip(expected.last()).map(|((first, _), (last, _))| (*first, *last));
    same("bounds", engine.bounds(), bounds)?;
    same("bytes_used", engine.bytes_used(), expected.iter().map(|(_, item)| item.len() as u64).sum())
}

fn text(error: io::Error) -> String {
    error.to_string()
}

fn reopen(world: &mut dyn World, engine: Box<dyn LogEngine>) -> Result<Box<dyn LogEngine>, String> {
    world.crash(engine);
    world.open().map_err(|error| format!("opening after a crash: {error}"))
}

async fn reads_back(world: &mut dyn World) -> Checked {
    let mut engine = world.open().map_err(text)?;
    holds(&mut *engine, &[])?;
    for key in MetaKey::ALL {
        same("a value never set", engine.get_meta(key).map_err(text)?, None)?;
    }
    let mut log = items(1..=40);
    // The largest entry there is, and then a small one.
    log.push(item(41, foreword_proto::limits::ENTRY_BYTES_MAX));
    log.push(item(42, 1));
    engine.append(&log[..10]).map_err(text)?;
    engine.append(&log[10..]).map_err(text)?;
    holds(&mut *engine, &log)?;
    for (start, end) in [(0, 1), (1, 2), (5, 5), (7, 12), (40, 43), (42, 100), (43, 100)] {
        let expected = log.iter().filter(|(index, _)| (start..end).contains(index)).cloned().collect::<Vec<_>>();
        let found = engine.read(start..end).map_err(text)?;
        same("a range", brief(&found), brief(&expected))?;
    }
    engine.sync().await.map_err(text)?;
    let mut engine = reopen(world, engine)?;
    holds(&mut *engine, &log)
}

async fn refuses_holes(world: &mut dyn World) -> Checked {
    let mut engine = world.open().map_err(text)?;
    let log = items(5..=8);
    engine.append(&log).map_err(text)?;
    for bad in [items(10..=10), items(8..=8), items(1..=1), vec![item(9, 1), item(11, 1)]] {
        if engine.append(&bad).is_ok() {
            return Err(format!("items {:?} were taken after item 8", brief(&bad)));
        }
        holds(&mut *engine, &log)?;
    }
    Ok(())
}

async fn keeps_what_was_synced(world: &mut dyn World) -> Checked {
    let mut log = Vec::new();
    let mut engine = world.open().map_err(text)?;
    for round in 0..4u64 {
        let more = items(round * 5..=round * 5 + 4);
        engine.append(&more).map_err(text)?;
        log.extend(more);
        let value = |key: MetaKey| Bytes::from(format!("{key:?} {round}"));
        for key in MetaKey::ALL {
            engine.put_meta(key, value(key)).map_err(text)?;
        }
        engine.sync().await.map_err(text)?;
        engine = reopen(world, engine)?;
        holds(&mut *engine, &log)?;
        for key in MetaKey::ALL {
            same("a synced value", engine.get_meta(key).map_err(text)?, Some(value(key)))?;
        }
    }
    Ok(())
}

async fn keeps_a_prefix_of_the_rest(world: &mut dyn World) -> Checked {
    let log = items(1..=30);
    let mut engine = world.open().map_err(text)?;
    engine.append(&log[..10]).map_err(text)?;
    engine.sync().await.map_err(text)?;
    engine.append(&log[10..20]).map_err(text)?;
    engine.append(&log[20..]).map_err(text)?;
    let mut engine = reopen(world, engine)?;
    let kept = engine.bounds().map_or(0, |(_, last)| last as usize);
    if !(10..=30).contains(&kept) {
        return Err(format!("10 items were synced and 20 were not; the log ends at {kept}"));
    }
    holds(&mut *engine, &log[..kept])?;
    engine.append(&log[kept..]).map_err(text)?;
    holds(&mut *engine, &log)
}

async fn truncates_without_holes(world: &mut dyn World) -> Checked {
    let log = items(1..=20);
    let mut engine = world.open().map_err(text)?;
    engine.append(&log).map_err(text)?;
    engine.sync().await.map_err(text)?;
    engine.truncate_from(21).map_err(text)?;
    holds(&mut *engine, &log)?;
    engine.truncate_from(11).map_err(text)?;
    holds(&mut *engine, &log[..10])?;
    let mut engine = reopen(world, engine)?;
    let kept = engine.bounds().map_or(0, |(_, last)| last as usize);
    if !(10..=20).contains(&kept) {
        return Err(format!("a truncation to 10 of 20 items was cut short; the log ends at {kept}"));
    }
    holds(&mut *engine, &log[..kept])?;
    engine.truncate_from(6).map_err(text)?;
    let other = [item(6, 5), item(7, 70_000)];
    engine.append(&other).map_err(text)?;
    engine.sync().await.map_err(text)?;
    let mut engine = reopen(world, engine)?;
    holds(&mut *engine, &[&log[..5], &other].concat())?;
    engine.truncate_from(0).map_err(text)?;
    holds(&mut *engine, &[])?;
    engine.sync().await.map_err(text)?;
    let mut engine = reopen(world, engine)?;
    holds(&mut *engine, &[])
}

async fn purges_after_its_id(world: &mut dyn World) -> Checked {
    let log = items(1..=20);
    let mut engine = world.open().map_err(text)?;
    engine.append(&log).map_err(text)?;
    engine.sync().await.map_err(text)?;
    let id = Bytes::from_static(b"12");
    engine.put_meta(MetaKey::Purged, id.clone()).map_err(text)?;
    same("12 items purged of which 5 may go", engine.purge_to(12, 5).map_err(text)?, false)?;
    holds(&mut *engine, &log[5..])?;
    let mut engine = reopen(world, engine)?;
    let first = engine.bounds().map_or(0, |(first, _)| first);
    if !(1..=6).contains(&first) {
        return Err(format!("the first 5 of 20 items were purged; the log starts at {first}"));
    }
    if first > 1 {
        same("the purged id, written before", engine.get_meta(MetaKey::Purged).map_err(text)?, Some(id))?;
    }
    holds(&mut *engine, &log[first as usize - 1..])?;
    same("the rest purged", engine.purge_to(12, 100).map_err(text)?, true)?;
    same("nothing left to purge", engine.purge_to(12, 100).map_err(text)?, true)?;
    engine.sync().await.map_err(text)?;
    let mut engine = reopen(world, engine)?;
    holds(&mut *engine, &log[12..])?;
    same("a purge beyond the log", engine.purge_to(99, 100).map_err(text)?, true)?;
    holds(&mut *engine, &[])?;
    let after = items(100..=101);
    engine.append(&after).map_err(text)?;
    engine.sync().await.map_err(text)?;
    let mut engine = reopen(world, engine)?;
    holds(&mut *engine, &after)
}

/// What a log should hold.
#[derive(Debug, Clone, Default)]
struct Model {
    log: BTreeMap<u64, Bytes>,
    meta: BTreeMap<MetaKey, Bytes>,
}

impl Model {
    fn matches(&self, engine: &mut dyn LogEngine) -> Checked {
        let log = self.log.iter().map(|(index, item)| (*index, item.clone())).collect::<Vec<_>>();
        holds(engine, &log)?;
        for key in MetaKey::ALL {
            same("a value", engine.get_meta(key).map_err(text)?, self.meta.get(&key).cloned())?;
        }
        Ok(())
    }

    fn next_index(&self) -> u64 {
        self.log.last_key_value().map_or(1, |(last, _)| last + 1)
    }
}

/// A short sequence of numbers that follows from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Random writes, syncs and crashes: after a crash the log is one of the states since the last sync.
async fn follows_the_model(world: &mut dyn World, seed: u64, steps: u32) -> Checked {
    let mut dice = Dice(seed);
    let mut engine = world.open().map_err(text)?;
    // The states since the last sync, the durable one first.
    let mut states = vec![Model::default()];
    for step in 0..steps {
        let at = |what: String| format!("seed {seed}, step {step}: {what}");
        match dice.roll(12) {
            0..=1 => {
                engine = reopen(world, engine)?;
                let found = states.iter().position(|state| state.matches(&mut *engine).is_ok());
                let none = || {
                    let bounds = engine.bounds();
                    at(format!(
                        "after a crash the log {bounds:?} is none of the {} states since the sync",
                        states.len()
                    ))
                };
                let found = found.ok_or_else(none)?;
                // The crash made it the durable state only in so far as it was synced; sync it to know.
                engine.sync().await.map_err(text)?;
                states = vec![states.swap_remove(found)];
            }
            2..=4 => {
                engine.sync().await.map_err(text)?;
                states.drain(..states.len() - 1);
            }
            _ => random_write(&mut *engine, &mut dice, &mut states).map_err(at)?,
        }
    }
    Ok(())
}

fn random_write(engine: &mut dyn LogEngine, dice: &mut Dice, states: &mut Vec<Model>) -> Checked {
    let mut now = states.last().cloned().unwrap_or_default();
    match dice.roll(8) {
        0 => {
            let key = MetaKey::ALL[dice.roll(3) as usize];
            let value = Bytes::from(dice.roll(1000).to_string());
            engine.put_meta(key, value.clone()).map_err(text)?;
            now.meta.insert(key, value);
            states.push(now.clone());
        }
        1 => {
            let from = now.next_index().saturating_sub(dice.roll(8));
            engine.truncate_from(from).map_err(text)?;
            while now.log.last_key_value().is_some_and(|(last, _)| *last >= from) {
                now.log.pop_last();
                states.push(now.clone());
            }
        }
        2 => {
            let upto = now.log.first_key_value().map_or(0, |(first, _)| *first) + dice.roll(8);
            let mut left = 1 + dice.roll(4);
            engine.purge_to(upto, left as usize).map_err(text)?;
            while left > 0 && now.log.first_key_value().is_some_and(|(first, _)| *first <= upto) {
                now.log.pop_first();
                states.push(now.clone());
                left -= 1;
            }
        }
        _ => {
            let first = now.next_index();
            let batch = (first..=first + dice.roll(4)).map(|index| {
                let bytes = [1, 200, 5_000, 20_000, 300_000][dice.roll(5) as usize];
                (index, item(dice.roll(1 << 32), bytes).1)
            });
            let batch = batch.collect::<Vec<_>>();
            engine.append(&batch).map_err(text)?;
            for (index, item) in batch {
                now.log.insert(index, item);
                states.push(now.clone());
            }
        }
    }
    now.matches(engine)
}
