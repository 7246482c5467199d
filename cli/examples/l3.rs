//! What an L3 get and put cost, through USRBIO on the stand-in and through posix, beside raw reads and writes of files as large.
//!
//! ```text
//! cargo build --release && cargo run --release --example l3 -- DIR [RUNS]     (as root; DIR is on the disk to measure)
//! ```
//!
//! Eight I/Os in flight, random slots of 1 GiB. A get is what an agent does: a read into its arena, and the checksum of every
//! byte; a put is the write of a page that lies there. Raw reads and writes check nothing. `cached`: the files are in the page
//! cache; `disk`: O_DIRECT, the stand-in's too (`--direct`). CPU counts this process and the stand-in. One JSON object a line.

use std::alloc::Layout;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_node::arena::{Arena, ArenaSettings, FrameMut, MemfdRegions, RegionProvider};
use foreword_node::counters::Counters;
use foreword_node::l3::{L3, PageShape, Written};
use foreword_node::store::{
    ClientKind, ClusterMark, PosixStore, SharedStore, UsrbioMount, UsrbioRegions, UsrbioSettings, UsrbioStore,
    init_l3_root,
};
use foreword_proto::checksum::shard_checksum;
use foreword_proto::{ClusterId, EntryKey, SlotRef};
use foreword_seams::{Entropy, SeededEntropy, Telemetry};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const IN_FLIGHT: usize = 8;
const SET_BYTES: u64 = 1 << 30;
const SIZES: [u64; 4] = [256 << 10, 1 << 20, 4 << 20, 16 << 20];
const CHUNK_BYTES: u32 = 256 << 10;
/// Bytes that one run moves; a warm-up moves a quarter.
const RUN_BYTES: u64 = 2 << 30;
const DEADLINE: Duration = Duration::from_secs(60);
const KEY: EntryKey = EntryKey([7; 16]);
const CLUSTER: ClusterId = ClusterId([5; 16]);
const SLAB: u32 = 1;
const POSIX_THREADS: usize = 8;
/// The unit of /proc/PID/stat on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().context("DIR: expected a directory on the disk to measure")?);
    let runs: usize = args.next().map_or(Ok(5), |text| text.parse()).context("RUNS: expected a number")?;
    ensure!(rustix::process::geteuid().is_root(), "expected root: the stand-in mounts");
    // Before any thread: the mounts end with this process.
    foreword_usrbiod::enter_private_mounts()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&dir, runs))
}

async fn measure(dir: &Path, runs: usize) -> anyhow::Result<()> {
    let work = tempfile::tempdir_in(dir)?;
    for (state, direct) in [("cached", false), ("disk", true)] {
        for bytes in SIZES {
            let raw = Raw::new(work.path(), bytes, direct)?;
            for write in [false, true] {
                let what = Case { path: "raw", state, write, bytes };
                repeat(&what, runs, None, || raw.run(write)).await?;
            }
        }
    }
    for bytes in SIZES {
        let posix = Stored::posix(work.path(), bytes).await?;
        both(&posix, "posix", "cached", bytes, runs).await?;
    }
    for (state, direct) in [("cached", false), ("disk", true)] {
        let standin = StandIn::start(work.path(), direct)?;
        for bytes in SIZES {
            let usrbio = Stored::usrbio(&standin, bytes).await?;
            both(&usrbio, "usrbio", state, bytes, runs).await?;
        }
    }
    Ok(())
}

async fn both(stored: &Stored, path: &'static str, state: &'static str, bytes: u64, runs: usize) -> anyhow::Result<()> {
    for write in [false, true] {
        let what = Case { path, state, write, bytes };
        repeat(&what, runs, stored.standin, || stored.run(write)).await?;
    }
    Ok(())
}

struct Case {
    path: &'static str,
    state: &'static str,
    write: bool,
    bytes: u64,
}

/// Runs a case so many times after a warm-up and prints its line.
async fn repeat<F: Future<Output = anyhow::Result<Vec<Duration>>>>(
    case: &Case,
    runs: usize,
    standin: Option<u32>,
    mut run: impl FnMut() -> F,
) -> anyhow::Result<()> {
    run().await?;
    let (mut rates, mut cpu, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let (cpu_before, began) = (cpu_seconds(standin)?, Instant::now());
        let took = run().await?;
        let gib = took.len() as f64 * case.bytes as f64 / f64::from(1u32 << 30);
        rates.push(gib / began.elapsed().as_secs_f64());
        cpu.push((cpu_seconds(standin)? - cpu_before) / gib);
        times.extend(took);
    }
    for list in [&mut rates, &mut cpu] {
        list.sort_by(f64::total_cmp);
    }
    times.sort_unstable();
    let percentile = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_micros() as u64;
    println!(
        "{}",
        json!({
            "name": if case.write { "l3_put_gib_per_s" } else { "l3_get_gib_per_s" },
            "unit": "GiB/s",
            "path": case.path,
            "state": case.state,
            "page_bytes": case.bytes,
            "in_flight": IN_FLIGHT,
            "min": rounded(rates[0]),
            "median": rounded(rates[rates.len() / 2]),
            "max": rounded(rates[rates.len() - 1]),
            "runs": runs,
            "cpu_s_per_gib": rounded(cpu[cpu.len() / 2]),
            "p50_us": percentile(50),
            "p99_us": percentile(99),
        })
    );
    Ok(())
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// User and system time of this process, and of the stand-in's.
fn cpu_seconds(standin: Option<u32>) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in [Some(std::process::id()), standin].into_iter().flatten() {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// I/Os of one run.
fn count(bytes: u64) -> usize {
    (RUN_BYTES / bytes) as usize
}

/// Plain reads and writes of one file by as many threads as are in flight.
struct Raw {
    file: Arc<File>,
    bytes: u64,
}

impl Raw {
    fn new(dir: &Path, bytes: u64, direct: bool) -> anyhow::Result<Self> {
        let path = dir.join("raw");
        let mut plain = OpenOptions::new();
        plain.read(true).write(true).create(true).truncate(false);
        let filler = plain.open(&path)?;
        if filler.metadata()?.len() < SET_BYTES {
            let block = vec![1u8; 4 << 20];
            for at in 0..SET_BYTES / block.len() as u64 {
                filler.write_all_at(&block, at * block.len() as u64)?;
            }
            filler.sync_all()?;
        }
        let flags = if direct { rustix::fs::OFlags::DIRECT.bits() as i32 } else { 0 };
        let file = Arc::new(plain.custom_flags(flags).open(&path)?);
        Ok(Self { file, bytes })
    }

    async fn run(&self, write: bool) -> anyhow::Result<Vec<Duration>> {
        let left = Arc::new(AtomicU64::new(count(self.bytes) as u64));
        let threads: Vec<_> = (0..IN_FLIGHT as u64)
            .map(|seed| {
                let (file, left, bytes) = (self.file.clone(), left.clone(), self.bytes);
                tokio::task::spawn_blocking(move || raw_thread(&file, &left, bytes, write, seed))
            })
            .collect();
        let mut took = Vec::new();
        for thread in threads {
            took.extend(thread.await??);
        }
        Ok(took)
    }
}

fn raw_thread(file: &File, left: &AtomicU64, bytes: u64, write: bool, seed: u64) -> anyhow::Result<Vec<Duration>> {
    let entropy = SeededEntropy::new(seed);
    let buffer = aligned(bytes as usize);
    let mut took = Vec::new();
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let at = entropy.below(SET_BYTES / bytes) * bytes;
        let began = Instant::now();
        match write {
            true => file.write_all_at(buffer, at)?,
            false => file.read_exact_at(buffer, at)?,
        }
        took.push(began.elapsed());
    }
    Ok(took)
}

/// A zeroed buffer that begins at a page, as O_DIRECT wants it; a leak of the bench's own.
fn aligned(bytes: usize) -> &'static mut [u8] {
    let over = 4096;
    let memory = vec![0u8; bytes + over].leak();
    let offset = memory.as_ptr().align_offset(Layout::new::<u64>().align().max(over));
    &mut memory[offset..offset + bytes]
}

/// A stand-in as a process; its mount is this process's own.
struct StandIn {
    process: Child,
    mount: PathBuf,
}

impl StandIn {
    fn start(dir: &Path, direct: bool) -> anyhow::Result<Self> {
        let name = if direct { "direct" } else { "cached" };
        let (mount, backing) = (dir.join(format!("{name}-3fs")), dir.join(format!("{name}-backing")));
        std::fs::create_dir(&mount)?;
        std::fs::create_dir(&backing)?;
        let binary = std::env::current_exe()?.parent().and_then(Path::parent).context("target")?.join("foreword");
        let mut command = Command::new(&binary);
        command.arg("usrbiod").arg("--mount").arg(&mount).arg("--backing").arg(&backing);
        command
            .args(["--chunk-bytes", "256KiB", "--threads", "8"])
            .arg(format!("--die-with-parent={}", std::process::id()));
        if direct {
            command.arg("--direct");
        }
        let mut process = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} (cargo build --release first)", binary.display()))?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("stdout")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the stand-in did not mount");
        Ok(Self { process, mount })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH);
    }
}

/// An agent's L3 with one slab full of pages.
struct Stored {
    l3: Arc<L3>,
    arena: Arena,
    shape: PageShape,
    checksum: u64,
    standin: Option<u32>,
    stop: CancellationToken,
}

impl Stored {
    async fn posix(dir: &Path, bytes: u64) -> anyhow::Result<Self> {
        let root = dir.join("posix");
        if !root.exists() {
            std::fs::create_dir(&root)?;
            init_l3_root(&root, &ClusterMark::new(CLUSTER, CHUNK_BYTES, "bench"))?;
        }
        let store: SharedStore = Arc::new(PosixStore::new(root, CLUSTER, CHUNK_BYTES, POSIX_THREADS)?);
        Self::new(store, Arc::new(MemfdRegions { prefault: true }), bytes, None).await
    }

    async fn usrbio(standin: &StandIn, bytes: u64) -> anyhow::Result<Self> {
        let root = standin.mount.clone();
        if !root.join(CLUSTER.to_string()).exists() {
            init_l3_root(&root, &ClusterMark::new(CLUSTER, CHUNK_BYTES, "bench"))?;
        }
        let made = tokio::task::spawn_blocking(move || {
            let mount = UsrbioMount::attach(&root, ClientKind::Native)?;
            let store = UsrbioStore::new(mount.clone(), root, CLUSTER, UsrbioSettings::default())?;
            anyhow::Ok((mount, store))
        });
        let (mount, store) = made.await??;
        Self::new(Arc::new(store), Arc::new(UsrbioRegions::new(mount)), bytes, Some(standin.process.id())).await
    }

    async fn new(
        store: SharedStore,
        regions: Arc<dyn RegionProvider>,
        bytes: u64,
        standin: Option<u32>,
    ) -> anyhow::Result<Self> {
        let arena = Arena::new(ArenaSettings::new(2 * IN_FLIGHT as u64 * bytes), regions)?;
        let l3 = Arc::new(L3::new(store, SET_BYTES, DEADLINE, Arc::new(Counters::new(Telemetry::new()))));
        let stop = CancellationToken::new();
        tokio::spawn(l3.clone().run(stop.clone()));
        let shape = PageShape { slot_bytes: bytes as u32, frame_bytes: bytes };
        let mut page = arena.allocate(1, bytes)?;
        fill(&mut page);
        let checksum = shard_checksum(&KEY, 0, page.bytes());
        let stored = Self { l3, arena, shape, checksum, standin, stop };
        let page = page.freeze();
        for slot in 0..stored.slots() {
            let written = stored.l3.write(shape, vec![(stored.slot(slot), page.clone())], || true).await;
            ensure!(written == [Written::Whole], "slot {slot}: {written:?}");
        }
        Ok(stored)
    }

    fn slots(&self) -> u64 {
        SET_BYTES / u64::from(self.shape.slot_bytes)
    }

    fn slot(&self, slot: u64) -> SlotRef {
        SlotRef { slab: SLAB, slot: slot as u32, generation: 1 }
    }

    async fn run(&self, write: bool) -> anyhow::Result<Vec<Duration>> {
        let left = AtomicU64::new(count(self.shape.frame_bytes) as u64);
        let workers = (0..IN_FLIGHT as u64).map(|seed| self.work(&left, write, seed));
        let took = futures::future::try_join_all(workers).await?;
        Ok(took.into_iter().flatten().collect())
    }

    async fn work(&self, left: &AtomicU64, write: bool, seed: u64) -> anyhow::Result<Vec<Duration>> {
        let entropy = SeededEntropy::new(seed);
        let mut page = self.arena.allocate(1, self.shape.frame_bytes)?;
        fill(&mut page);
        let page = page.freeze();
        let mut took = Vec::new();
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            let slot = self.slot(entropy.below(self.slots()));
            let began = Instant::now();
            match write {
                true => {
                    let written = self.l3.write(self.shape, vec![(slot, page.clone())], || true).await;
                    ensure!(written == [Written::Whole], "{written:?}");
                }
                false => self.get(slot).await?,
            }
            took.push(began.elapsed());
        }
        Ok(took)
    }

    /// A read and its check, on whatever core is free.
    async fn get(&self, slot: SlotRef) -> anyhow::Result<()> {
        let frame = self.arena.allocate(1, self.shape.frame_bytes)?;
        let (l3, shape, expected) = (self.l3.clone(), self.shape, self.checksum);
        let reading = tokio::spawn(async move {
            let (frame, bytes) = l3.read(shape, slot, frame, Instant::now() + DEADLINE).await?;
            anyhow::Ok((bytes, shard_checksum(&KEY, 0, frame.bytes()) == expected))
        });
        ensure!(reading.await?? == (shape.frame_bytes, true), "a page that is not the one written");
        Ok(())
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn fill(page: &mut FrameMut) {
    let entropy = SeededEntropy::new(0);
    for word in page.bytes_mut().chunks_exact_mut(8) {
        word.copy_from_slice(&entropy.u64().to_le_bytes());
    }
}
