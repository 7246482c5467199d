//! The rules, one function each.

use std::collections::BTreeMap;

use foreword_proto::{ClusterId, SlabId};
use foreword_seams::{Entropy, SeededEntropy};

use super::driver::{Checked, Driver, POISON, bytes_of, holds, moved, no_slab};
use super::{Subject, Suite, Violation, pattern};
use crate::arena::Arena;
use crate::store::Transfer;

const SLOTS: u64 = 8;
/// I/Os of one batch, and under way at once, in the random run.
const BATCH_MAX: u64 = 16;
const IN_FLIGHT_MAX: usize = 64;

/// What a check works with.
struct Context<'a> {
    suite: &'a Suite,
    subject: &'a dyn Subject,
    arena: &'a Arena,
    slot_bytes: u64,
}

impl Context<'_> {
    fn driver(&self) -> Driver {
        let store = self.subject.store(self.subject.mark().cluster_id);
        Driver::new(store, self.arena.clone(), self.suite.patience)
    }
}

pub(super) async fn run(suite: &Suite, subject: &dyn Subject, arena: &Arena) -> Result<(), Violation> {
    let slot_bytes = u64::from(subject.mark().chunk_bytes).max(16 << 10);
    let context = Context { suite, subject, arena, slot_bytes };
    let named = |check| move |what| Violation { check, what, seed: suite.seed };
    marks(&context).await.map_err(named("marks"))?;
    read_back(&context).await.map_err(named("read_back"))?;
    lengths(&context).await.map_err(named("lengths"))?;
    unknown_slab(&context).await.map_err(named("unknown_slab"))?;
    reopening(&context).await.map_err(named("reopening"))?;
    two_stores(&context).await.map_err(named("two_stores"))?;
    removal(&context).await.map_err(named("removal"))?;
    shared_frames(&context).await.map_err(named("shared_frames"))?;
    concurrent_submits(&context).await.map_err(named("concurrent_submits"))?;
    random_batches(&context).await.map_err(named("random_batches"))?;
    frames_return(&context).map_err(named("frames_return"))
}

/// A store reads its own cluster's mark, and finds none of a cluster that is not there.
async fn marks(context: &Context<'_>) -> Checked<()> {
    let mark = context.subject.mark();
    let store = context.subject.store(mark.cluster_id);
    let found = store.cluster_mark().await;
    if found.as_ref() != Ok(&Some(mark.clone())) {
        return Err(format!("the mark is {mark:?}, the store found {found:?}"));
    }
    if store.chunk_bytes() != mark.chunk_bytes {
        return Err(format!("the chunk is {}, the store says {}", mark.chunk_bytes, store.chunk_bytes()));
    }
    let other = ClusterId(std::array::from_fn(|at| !mark.cluster_id.0[at]));
    match context.subject.store(other).cluster_mark().await {
        Ok(None) => Ok(()),
        found => Err(format!("no cluster {other} is there, the store found {found:?}")),
    }
}

/// What was written is read, in one batch and alone, also in the file's last slot; holes are read as zeros or short.
async fn read_back(context: &Context<'_>) -> Checked<()> {
    let (driver, len) = (context.driver(), context.slot_bytes);
    driver.open(1, SLOTS * len).await?;
    let slots = [0, 2, 3, SLOTS - 1];
    let writes = slots.iter().map(|slot| driver.write(1, slot * len, len, *slot)).collect::<Checked<_>>()?;
    for (completion, slot) in driver.all(writes).await?.iter().zip(slots) {
        holds(completion, len, slot)?;
    }
    let reads = slots.iter().map(|slot| driver.read(1, slot * len, len, len)).collect::<Checked<_>>()?;
    for (completion, slot) in driver.all(reads).await?.iter().zip(slots) {
        holds(completion, len, slot)?;
    }
    for slot in slots {
        driver.put(1, slot * len, len, 100 + slot).await?;
        driver.expect(1, slot * len, len, 100 + slot).await?;
    }
    let hole = driver.one(driver.read(1, len, len, len)?).await?;
    let bytes = hole.result.clone().map_err(|error| format!("a slot never written gave {error}"))?;
    if bytes_of(&hole)[..bytes as usize].iter().any(|byte| *byte != 0) {
        return Err("a slot never written has bytes".into());
    }
    driver.submit(Vec::new());
    Ok(())
}

/// A read moves exactly the bytes asked for, and only what is there at the end of the file.
async fn lengths(context: &Context<'_>) -> Checked<()> {
    let (driver, len) = (context.driver(), context.slot_bytes);
    driver.open(2, SLOTS * len).await?;
    let end = SLOTS * len;
    driver.put(2, end - len, len, 7).await?;
    let part = driver.one(driver.read(2, end - len, 4096, len)?).await?;
    holds(&part, 4096, 7)?;
    let mut untouched = vec![0; len as usize];
    pattern::fill(&mut untouched, POISON);
    if bytes_of(&part)[4096..] != untouched[4096..] {
        return Err("a read of 4096 bytes changed what lies behind them in the frame".into());
    }
    let short = driver.one(driver.read(2, end - len, 2 * len, 2 * len)?).await?;
    holds(&short, len, 7)?;
    for past in [end, end + 5 * len] {
        moved(&driver.one(driver.read(2, past, len, len)?).await?, 0)?;
    }
    driver.put(2, 0, len, 8).await?;
    let frame = driver.frame(len, 9)?.freeze();
    moved(&driver.one(driver.write_frame(2, 0, 4096, frame)).await?, 4096)?;
    let mixed = driver.one(driver.read(2, 0, len, len)?).await?;
    holds(&mixed, len, 9).err().ok_or("a write of 4096 bytes wrote the whole frame")?;
    let mut expected = vec![0; len as usize];
    pattern::fill(&mut expected, 8);
    pattern::fill(&mut expected[..4096], 9);
    if bytes_of(&mixed) != expected {
        return Err("a write of 4096 bytes changed other bytes".into());
    }
    Ok(())
}

/// An I/O of a slab that is not open fails and gives its frame back; its neighbours in the batch are done.
async fn unknown_slab(context: &Context<'_>) -> Checked<()> {
    let (driver, len) = (context.driver(), context.slot_bytes);
    driver.open(3, SLOTS * len).await?;
    let batch = vec![
        driver.write(3, 0, len, 1)?,
        driver.write(0xdead, 0, len, 2)?,
        driver.read(0xdead, 0, len, len)?,
        driver.write(3, len, len, 3)?,
    ];
    let done = driver.all(batch).await?;
    moved(&done[0], len)?;
    no_slab(&done[1], 0xdead)?;
    no_slab(&done[2], 0xdead)?;
    moved(&done[3], len)?;
    driver.expect(3, 0, len, 1).await?;
    driver.expect(3, len, len, 3).await
}

/// Opening again, here or elsewhere, with another size too, keeps all bytes.
async fn reopening(context: &Context<'_>) -> Checked<()> {
    let (first, len) = (context.driver(), context.slot_bytes);
    first.open(4, SLOTS * len).await?;
    first.put(4, (SLOTS - 1) * len, len, 5).await?;
    first.open(4, SLOTS * len).await?;
    first.open(4, len).await?;
    first.expect(4, (SLOTS - 1) * len, len, 5).await?;
    drop(first);
    let second = context.driver();
    second.open(4, len).await?;
    second.expect(4, (SLOTS - 1) * len, len, 5).await?;
    second.open(4, 2 * SLOTS * len).await?;
    second.put(4, (2 * SLOTS - 1) * len, len, 6).await?;
    second.expect(4, (SLOTS - 1) * len, len, 5).await
}

/// What one store wrote another reads at once, whoever opened the slab first.
async fn two_stores(context: &Context<'_>) -> Checked<()> {
    let (first, second, len) = (context.driver(), context.driver(), context.slot_bytes);
    first.open(5, SLOTS * len).await?;
    first.put(5, 0, len, 1).await?;
    second.open(5, SLOTS * len).await?;
    second.expect(5, 0, len, 1).await?;
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        writer.put(5, (round % SLOTS) * len, len, 100 + round).await?;
        reader.expect(5, (round % SLOTS) * len, len, 100 + round).await?;
    }
    Ok(())
}

/// A removed slab is not open, is not there, and comes back empty. Removing nothing is no error.
async fn removal(context: &Context<'_>) -> Checked<()> {
    let (driver, len) = (context.driver(), context.slot_bytes);
    driver.open(6, SLOTS * len).await?;
    driver.open(7, SLOTS * len).await?;
    driver.put(6, 0, len, 1).await?;
    driver.put(7, 0, len, 2).await?;
    for _ in 0..2 {
        driver.store.remove_slab(6).await.map_err(|error| format!("remove_slab: {error}"))?;
    }
    no_slab(&driver.one(driver.read(6, 0, len, len)?).await?, 6)?;
    driver.expect(7, 0, len, 2).await?;
    driver.open(6, SLOTS * len).await?;
    let fresh = driver.one(driver.read(6, 0, len, len)?).await?;
    match holds(&fresh, len, 1) {
        Ok(()) => Err("a removed slab came back with its bytes".into()),
        Err(_) => Ok(()),
    }
}

/// One frame may be written to several places at once, while others read it.
async fn shared_frames(context: &Context<'_>) -> Checked<()> {
    let (driver, len) = (context.driver(), context.slot_bytes);
    driver.open(8, SLOTS * len).await?;
    let frame = driver.frame(len, 42)?.freeze();
    let writes = (0..SLOTS).map(|slot| driver.write_frame(8, slot * len, len, frame.clone())).collect();
    for completion in driver.all(writes).await? {
        holds(&completion, len, 42)?;
    }
    for slot in 0..SLOTS {
        driver.expect(8, slot * len, len, 42).await?;
    }
    if frame.holders() != 1 {
        return Err(format!("{} holders of a frame that only the suite holds", frame.holders()));
    }
    Ok(())
}

/// Batches from several threads at once each complete exactly once.
async fn concurrent_submits(context: &Context<'_>) -> Checked<()> {
    const THREADS: u64 = 4;
    let (driver, len) = (context.driver(), context.slot_bytes);
    driver.open(9, THREADS * SLOTS * len).await?;
    let batch_of = |thread: u64| {
        let slots = thread * SLOTS..(thread + 1) * SLOTS;
        slots.map(|slot| driver.write(9, slot * len, len, slot)).collect::<Checked<Vec<_>>>()
    };
    let batches = (0..THREADS).map(batch_of).collect::<Checked<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for batch in batches {
            let driver = &driver;
            scope.spawn(move || batch.into_iter().for_each(|io| driver.submit(vec![io])));
        }
    });
    for completion in driver.all(Vec::new()).await? {
        moved(&completion, len)?;
    }
    for slot in 0..THREADS * SLOTS {
        driver.expect(9, slot * len, len, slot).await?;
    }
    Ok(())
}

/// Random batches over several slabs, many under way, against a map of what each slot holds.
async fn random_batches(context: &Context<'_>) -> Checked<()> {
    const SLABS: std::ops::Range<SlabId> = 10..14;
    let (driver, len) = (context.driver(), context.slot_bytes);
    let entropy = SeededEntropy::new(context.suite.seed);
    for slab in SLABS {
        driver.open(slab, SLOTS * len).await?;
    }
    let mut model = Model { held: BTreeMap::new(), busy: BTreeMap::new(), len };
    for _ in 0..context.suite.batches {
        let mut batch = Vec::new();
        for _ in 0..1 + entropy.below(BATCH_MAX) {
            let slab = SLABS.start + entropy.below(SLABS.len() as u64) as SlabId;
            let place = (slab, entropy.below(SLOTS));
            if model.busy.values().any(|(busy, _)| *busy == place) {
                continue;
            }
            let io = if entropy.below(2) == 0 {
                let stamp = entropy.u64();
                let io = driver.write(slab, place.1 * len, len, stamp)?;
                model.busy.insert(io.op, (place, Some(stamp)));
                io
            } else {
                let io = driver.read(slab, place.1 * len, len, len)?;
                model.busy.insert(io.op, (place, None));
                io
            };
            batch.push(io);
        }
        driver.submit(batch);
        while driver.pending() > entropy.below(IN_FLIGHT_MAX as u64) as usize {
            model.settle(driver.some().await?)?;
        }
    }
    while driver.pending() > 0 {
        model.settle(driver.some().await?)?;
    }
    for ((slab, slot), stamp) in &model.held {
        driver.expect(*slab, slot * len, len, *stamp).await?;
    }
    Ok(())
}

/// A slab's slot.
type Place = (SlabId, u64);

struct Model {
    held: BTreeMap<Place, u64>,
    /// What is under way: where, and the stamp being written.
    busy: BTreeMap<u64, (Place, Option<u64>)>,
    len: u64,
}

impl Model {
    fn settle(&mut self, done: Vec<crate::store::Completion>) -> Checked<()> {
        for completion in done {
            let (place, written) = self.busy.remove(&completion.op).ok_or("an I/O nobody asked for")?;
            match (written, &completion.transfer) {
                (Some(stamp), Transfer::Write(_)) => {
                    holds(&completion, self.len, stamp)?;
                    self.held.insert(place, stamp);
                }
                (None, Transfer::Read(_)) => match self.held.get(&place) {
                    Some(stamp) => holds(&completion, self.len, *stamp).map_err(|what| format!("{place:?}: {what}"))?,
                    None => drop(completion.result.map_err(|error| format!("{place:?}: {error}"))?),
                },
                _ => return Err(format!("I/O {} changed its direction", completion.op)),
            }
        }
        Ok(())
    }
}

/// All frames of all checks have come back.
fn frames_return(context: &Context<'_>) -> Checked<()> {
    match context.arena.status().frame_bytes_used {
        0 => Ok(()),
        bytes => Err(format!("{bytes} bytes of frames did not come back")),
    }
}
