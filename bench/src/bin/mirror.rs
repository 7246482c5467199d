//! What an agent's mirror of any size takes of the heap, of a lookup and of those who wait for it, in process;
//! `foreword bench` runs it, when it is built.
//!
//! ```text
//! cargo build --release -p foreword-bench && target/release/bench-mirror PAGES RUNS
//! ```
//!
//! One JSON object a figure, as `foreword bench --json` prints them.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use foreword_cli::commands::bench::figure::Figure;
use foreword_index::KEYS_AT_ONCE;
use foreword_node::mirror::saved::{SavedId, load, save};
use foreword_node::mirror::{Mirror, View};
use foreword_proto::location::Checksums;
use foreword_proto::records::{EntryEvents, NamespaceEvent};
use foreword_proto::workload::SplitMix;
use foreword_proto::{ClusterId, EntryKey, Fingerprint, Location, Revision, SlotRef};
use foreword_seams::stopwatch::Stopwatch;
use foreword_seams::{Files, LocalFiles};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const CHAINS: u64 = 400;
const ASKED: u64 = 2048;
const LOOKUPS: usize = 2_000;
const EPOCH: u32 = 1;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number =
        |what: &str| args.next().and_then(|text| text.parse::<u64>().ok()).context(format!("{what}: a number"));
    let (pages, runs) = (number("pages")?.max(CHAINS * ASKED), number("runs")?);
    let before = HEAP.current_usage();
    let mirror = Mirror::new(1, EPOCH, Arc::default());
    let inserts = fill(&mirror, pages)?;
    let bytes = (HEAP.current_usage() - before) as f64 / pages as f64;
    let path = format!("{pages} pages of one shard, published one after the other");
    print("mirror_bytes_per_page", "B", &path, vec![bytes])?;
    print("mirror_insert_max_us", "us", &format!("{path}; CPU time of the longest"), vec![inserts])?;
    let prefixes = (0..runs).map(|run| prefix_us(&mirror, pages, run)).collect();
    let path = format!("{pages} pages, {CHAINS} chains, {ASKED} keys, the first 0 to {ASKED} of which are there");
    print("mirror_prefix_2048_us", "us", &path, prefixes)?;
    saves(&Arc::new(mirror), pages, runs).await
}

fn print(name: &str, unit: &str, path: &str, runs: Vec<f64>) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&Figure::new(name, unit, path, runs))?);
    Ok(())
}

fn key(chain: u64, page: u64) -> EntryKey {
    EntryKey::named(&[chain.to_le_bytes(), page.to_le_bytes()].concat())
}

/// Publishes the pages of all chains one by one; the longest took so many microseconds of this thread.
fn fill(mirror: &Mirror, pages: u64) -> anyhow::Result<f64> {
    mirror.write(|view| view.begin_resync(EPOCH, 0, 0).map(drop))?;
    mirror.write(|view| view.end_resync(0))?;
    let mut longest = Duration::ZERO;
    for number in 0..pages {
        let slot = SlotRef { slab: 1, slot: number as u32, generation: 1 };
        let location = Location { slot, checksums: Checksums::new(&[number]) };
        let event = NamespaceEvent::Published { key: key(number % CHAINS, number / CHAINS), parent: 0, location };
        let (revision, events) = (number as Revision + 1, vec![event]);
        let watch = Stopwatch::start();
        mirror.write(|view| view.apply(revision, &[EntryEvents { revision, events }]))?;
        longest = longest.max(watch.took().cpu);
    }
    Ok(longest.as_secs_f64() * 1e6)
}

/// The median of many lookups, in microseconds.
fn prefix_us(mirror: &Mirror, pages: u64, seed: u64) -> f64 {
    let mut numbers = SplitMix::new(seed);
    let mut chain = 0;
    let mut took = Vec::with_capacity(LOOKUPS);
    for _ in 0..LOOKUPS {
        // Never the same twice.
        chain = (chain + 1 + numbers.below(CHAINS - 1)) % CHAINS;
        let (hits, from) = (numbers.below(ASKED + 1), numbers.below(pages / CHAINS - ASKED + 1));
        let keys: Vec<EntryKey> =
            (0..ASKED).map(|page| key(if page < hits { chain } else { CHAINS }, from + page)).collect();
        let watch = Stopwatch::start();
        let found = mirror.read(|view| leading(view, &keys));
        took.push(watch.took().wall);
        assert_eq!(found as u64, hits, "pages of chain {chain}");
    }
    took.sort_unstable();
    took[LOOKUPS / 2].as_secs_f64() * 1e6
}

fn leading(view: &View, keys: &[EntryKey]) -> usize {
    let readable =
        keys.chunks(KEYS_AT_ONCE).flat_map(|some| view.readable(some, |_| true).into_iter().take(some.len()));
    readable.take_while(|readable| *readable).count()
}

/// Saves it while somebody changes it all the time, and reads it again.
async fn saves(mirror: &Arc<Mirror>, pages: u64, runs: u64) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let files: Arc<dyn Files> = Arc::new(LocalFiles::new(dir.path())?);
    let (cluster, fingerprint) = (ClusterId([0; 16]), Fingerprint([0; 32]));
    let id = SavedId { cluster, fingerprint, namespace: 1, epoch: EPOCH, shards: 1 };
    let (mut waits, mut took, mut loads, mut heaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let over = Arc::new(AtomicBool::new(false));
        let writer = tokio::task::spawn_blocking({
            let (mirror, over) = (mirror.clone(), over.clone());
            move || longest_wait(&mirror, &over)
        });
        HEAP.reset_peak_usage();
        let (before, watch) = (HEAP.current_usage(), Stopwatch::start());
        save(&files, &id, mirror).await?.context("a mirror that can be resumed")?;
        took.push(watch.took().wall.as_secs_f64());
        heaps.push((HEAP.peak_usage() - before) as f64 / f64::from(1 << 20));
        over.store(true, Ordering::Relaxed);
        waits.push(writer.await?.as_secs_f64() * 1e3);
        let watch = Stopwatch::start();
        let loaded = load(&files, &id).await?.context("what was saved")?;
        loads.push(watch.took().wall.as_secs_f64());
        assert_eq!(loaded.table.len() as u64, pages);
    }
    let path = format!("{pages} pages; somebody changes it all the time");
    print("mirror_save_s", "s", &path, took)?;
    print("mirror_save_wait_max_ms", "ms", &format!("{path}, and waited so long at most"), waits)?;
    print("mirror_save_heap_mib", "MiB", &path, heaps)?;
    print("mirror_load_s", "s", &format!("{pages} pages"), loads)
}

/// How long a change waited at most.
fn longest_wait(mirror: &Mirror, over: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let watch = Stopwatch::start();
        mirror.write(|view| view.progress(view.revision()));
        longest = longest.max(watch.took().wall);
        std::thread::yield_now();
    }
    longest
}
