//! What an L3 get and put cost, through USRBIO on the stand-in and through posix, beside raw reads and writes of the
//! same file.
//!
//! ```text
//! cargo build --release -p foreword --bin foreword --example l3
//! target/release/examples/l3 DIR [RUNS] [cached|disk] [PAGE_BYTES]     (as root; DIR is on the disk to measure, with 3 GiB free)
//! ```
//!
//! Eight in flight, random slots of one slab file of 1 GiB. A get is what an agent does with a page that only L3 has: a
//! task that takes a frame, reads into it, and makes the checksum of every byte; a put is the write of a page that lies
//! in the arena. Raw is eight threads with pread and pwrite, which check nothing. `cached`: the file is in the page
//! cache, and what a put left dirty is written back between the runs; `disk`: O_DIRECT, the stand-in's too
//! (`--direct`). The paths take turns, so that whatever else the machine does meets all of them; `of_raw` is the median
//! of the ratios of runs next to each other. CPU counts this process and the stand-in. One JSON object a line.

mod paths;
mod standin;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::time::Instant;

use paths::{Raw, Stored};
use standin::StandIn;

const IN_FLIGHT: usize = 8;
const SET_BYTES: u64 = 1 << 30;
const SIZES: [u64; 4] = [256 << 10, 1 << 20, 4 << 20, 16 << 20];
const CHUNK_BYTES: u32 = 256 << 10;
/// Bytes that one run moves; a warm-up moves a quarter.
const RUN_BYTES: u64 = 2 << 30;
const WARM_UP_BYTES: u64 = RUN_BYTES / 4;
const STATES: [&str; 2] = ["cached", "disk"];
/// The unit of /proc/PID/stat on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

struct Args {
    dir: PathBuf,
    runs: usize,
    states: Vec<&'static str>,
    sizes: Vec<u64>,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let dir = PathBuf::from(args.next().context("DIR: expected a directory on the disk to measure")?);
        let runs: usize = args.next().map_or(Ok(5), |text| text.parse()).context("RUNS: expected a number")?;
        ensure!(runs > 0, "RUNS: expected more than 0");
        let (mut states, mut sizes) = (STATES.to_vec(), SIZES.to_vec());
        for text in args {
            match STATES.into_iter().find(|state| *state == text) {
                Some(state) => states = vec![state],
                None => sizes = vec![text.parse().context("expected cached, disk or PAGE_BYTES")?],
            }
        }
        Ok(Self { dir, runs, states, sizes })
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    ensure!(rustix::process::geteuid().is_root(), "expected root: the stand-in mounts");
    // Before any thread: the mounts end with this process.
    foreword_usrbiod::enter_private_mounts()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&args))
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let work = tempfile::tempdir_in(&args.dir)?;
    for state in &args.states {
        let direct = *state == "disk";
        let standin = StandIn::start(work.path(), direct)?;
        for bytes in &args.sizes {
            measure_size(&standin, state, direct, *bytes, args.runs).await?;
        }
        drop(standin);
    }
    Ok(())
}

/// A way to the file.
enum Access {
    Raw(Raw),
    Stored(Stored),
}

impl Access {
    async fn run(&self, write: bool, bytes_moved: u64) -> anyhow::Result<Vec<Duration>> {
        match self {
            Self::Raw(raw) => raw.run(write, bytes_moved).await,
            Self::Stored(stored) => stored.run(write, bytes_moved).await,
        }
    }
}

/// All paths to pages of one size, in turns.
async fn measure_size(standin: &StandIn, state: &str, direct: bool, bytes: u64, runs: usize) -> anyhow::Result<()> {
    // In this order: the store makes the file, and fills it with pages.
    let usrbio = Stored::usrbio(standin, bytes).await?;
    let raw = Raw::open(&standin.slab_file(), &usrbio, direct)?;
    let mut paths = vec![("raw", Access::Raw(raw))];
    if !direct {
        paths.push(("posix", Access::Stored(Stored::posix(&standin.backing, bytes).await?)));
    }
    paths.push(("usrbio", Access::Stored(usrbio)));
    for write in [false, true] {
        let mut results: Vec<_> = paths.iter().map(|_| Results::default()).collect();
        for (_, path) in &paths {
            path.run(write, WARM_UP_BYTES).await?;
        }
        for run in 0..runs {
            for turn in 0..paths.len() {
                let at = (run + turn) % paths.len();
                write_back(&standin.slab_file()).await?;
                results[at].measure(&paths[at].1, write, standin.pid()).await?;
            }
        }
        let raw_rates = results[0].rates.clone();
        for ((path, _), results) in paths.iter().zip(results) {
            let name = if write { "l3_put_gib_per_s" } else { "l3_get_gib_per_s" };
            println!("{}", results.line(name, path, state, bytes, &raw_rates));
        }
    }
    Ok(())
}

/// What earlier runs left dirty is no business of the next.
async fn write_back(file: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::open(file)?;
    Ok(tokio::task::spawn_blocking(move || file.sync_data()).await??)
}

/// What the runs of one path gave, in their order.
#[derive(Default)]
struct Results {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    times: Vec<Duration>,
}

impl Results {
    async fn measure(&mut self, path: &Access, write: bool, standin: u32) -> anyhow::Result<()> {
        let (cpu_before, began) = (cpu_seconds(standin)?, Instant::now());
        let took = path.run(write, RUN_BYTES).await?;
        let gib = RUN_BYTES as f64 / f64::from(1u32 << 30);
        self.rates.push(gib / began.elapsed().as_secs_f64());
        self.cpu.push((cpu_seconds(standin)? - cpu_before) / gib);
        self.times.extend(took);
        Ok(())
    }

    fn line(mut self, name: &str, path: &str, state: &str, bytes: u64, raw: &[f64]) -> serde_json::Value {
        let of_raw = sorted(self.rates.iter().zip(raw).map(|(rate, raw)| rate / raw).collect());
        let (rates, cpu) = (sorted(self.rates), sorted(self.cpu));
        self.times.sort_unstable();
        let percentile =
            |part: usize| self.times[(self.times.len() * part / 100).min(self.times.len() - 1)].as_micros() as u64;
        json!({
            "name": name,
            "unit": "GiB/s",
            "path": path,
            "state": state,
            "page_bytes": bytes,
            "in_flight": IN_FLIGHT,
            "min": rounded(rates[0]),
            "median": rounded(median(&rates)),
            "max": rounded(rates[rates.len() - 1]),
            "of_raw": rounded(median(&of_raw)),
            "runs": rates.len(),
            "cpu_s_per_gib": rounded(median(&cpu)),
            "p50_us": percentile(50),
            "p99_us": percentile(99),
        })
    }
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// User and system time of this process and of the stand-in's.
fn cpu_seconds(standin: u32) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in [std::process::id(), standin] {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("a stat line")?.1.split_whitespace().collect();
        ticks += fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}
