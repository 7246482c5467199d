//! `foreword bench`: what the group can do on this machine.
//!
//! Every figure is of real processes of this binary, with a state of real size, flushes on, through the gRPC that
//! agents use.

mod churn;
mod during;
pub mod figure;
mod floors;
mod load;
mod locks;
mod lookup;
mod machine;
mod memory;
mod metrics;
mod neighbours;
mod one_agent;
mod outage;
pub mod prepare;
mod programs;
mod publish;
mod restart;
mod resync;
mod session;
pub mod sglang;
mod stage;
mod tiers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, Subcommand};
use foreword_proto::BadInput;

use self::figure::{Figure, Printer};
use self::floors::Floors;
use self::locks::Locks;
use self::stage::{Scale, Stage};
use super::Done;
use crate::process::stop_signal;

/// Pages of the group that is measured, and with --quick.
const PAGES: u64 = 5_000_000;
const PAGES_QUICK: u64 = 1_000_000;
const RUNS: usize = 5;
/// Slots of L3 for what is published while publishing is measured.
const ROOM: u64 = 16_000_000;
const AGENTS: usize = 2;
/// Figures of the group with room that --quick leaves out.
const WHOLE: [&str; 5] = [restart::RESTART, during::SLOWEST, during::SNAPSHOT, resync::NAMES[0], resync::NAMES[1]];

const EXAMPLES: &str = "\
Examples:
  foreword bench                                           every figure, with five million pages
  foreword bench --quick --json                            a million pages, without what needs five; one object a line
  foreword bench --only publish_pages_per_s,publish_p50_ms --pages 1000000
  foreword bench prepare --help                            a group of any size, to look at with other tools

The machine's own limits are among the figures. Ctrl-C leaves no process and no file behind.";

/// `foreword bench`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// A million pages, and no figure that needs five: under four minutes
    #[arg(long)]
    pub quick: bool,
    /// Pages that the group holds [default: 5000000, with --quick 1000000]
    #[arg(long, value_name = "N")]
    pub pages: Option<u64>,
    /// Runs of each figure
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    pub runs: usize,
    /// Only these figures
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Measure Redis and etcd too, where they are installed
    #[arg(long)]
    pub peers: bool,
    /// A file of what figures must at least be (`NAME >= VALUE`, `NAME <= VALUE`): exit 1 when one is not
    #[arg(long, value_name = "FILE")]
    pub floors: Option<PathBuf>,
    /// Make the bench's directory in this one [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Whether this process has mounts of its own; if not, why
    #[arg(skip = Err("not asked for".to_owned()))]
    pub own_mounts: Result<(), String>,
}

impl BenchArgs {
    /// Whether a figure is asked for that is better measured with mounts of this process's own.
    pub fn wants_own_mounts(&self) -> bool {
        let named = |only: &String| neighbours::NAMES.contains(&only.as_str()) || tiers::NAMES.contains(&only.as_str());
        self.command.is_none() && (self.only.is_empty() || self.only.iter().any(named))
    }
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Fill the data directories of a new group with a state of any size
    Prepare(prepare::PrepareArgs),
    /// A day of a full cache in short: nothing may be lost, grow or stall
    Churn(churn::ChurnArgs),
}

/// Runs the command.
pub async fn run(args: BenchArgs, json: bool) -> Done {
    match args.command {
        Some(BenchCommand::Prepare(args)) => return prepare::run(args, json).await,
        Some(BenchCommand::Churn(args)) => return churn::run(args, json).await,
        None => {}
    }
    let bench = Bench::new(args, json)?;
    // Dropping the bench drops its clusters: no process, no file.
    tokio::select! {
        done = bench.measure() => done.map(|()| ExitCode::SUCCESS),
        stopped = stop_signal() => {
            stopped?;
            Ok(ExitCode::from(130))
        }
    }
}

/// What is asked of this run.
struct Bench {
    printer: Printer,
    quick: bool,
    pages: u64,
    runs: usize,
    peers: bool,
    floors: Floors,
    dir: Option<PathBuf>,
    /// As [`BenchArgs::own_mounts`].
    own_mounts: Result<(), String>,
}

impl Bench {
    fn new(args: BenchArgs, json: bool) -> Result<Self, BadInput> {
        let known = || {
            let groups = [
                &machine::NAMES[..],
                &publish::NAMES,
                &lookup::NAMES,
                &outage::NAMES,
                &WHOLE,
                &locks::NAMES,
                &memory::MIRROR,
                &neighbours::NAMES,
                &tiers::NAMES,
                &[restart::RSS, memory::NAME],
            ];
            groups.into_iter().flatten()
        };
        if let Some(unknown) = args.only.iter().find(|only| !known().any(|name| name == only)) {
            let known: Vec<&str> = known().copied().collect();
            return Err(BadInput::new("only", format!("figures of {}, got {unknown:?}", known.join(", "))));
        }
        if args.runs == 0 {
            return Err(BadInput::new("runs", "at least 1, got 0"));
        }
        let pages = args.pages.unwrap_or(if args.quick { PAGES_QUICK } else { PAGES });
        let floors = args.floors.as_deref().map(Floors::read).transpose()?.unwrap_or_default();
        let BenchArgs { quick, runs, peers, dir, only, own_mounts, .. } = args;
        Ok(Self { printer: Printer::new(json, only), quick, pages, runs, peers, floors, dir, own_mounts })
    }

    /// Tells somebody who waits what goes on.
    fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Whether a figure of one of these names is asked for.
    fn wants(&self, names: &[&str]) -> bool {
        self.printer.wants(names)
    }

    fn print(&self, figure: &Figure) -> anyhow::Result<()> {
        self.printer.print(figure)
    }

    async fn measure(&self) -> anyhow::Result<()> {
        if self.wants(&machine::NAMES) {
            machine::measure(self).await?;
        }
        if self.wants(&[memory::NAME]) {
            memory::measure(self).await?;
        }
        if self.wants(&memory::MIRROR) {
            memory::mirror(self).await?;
        }
        if self.wants(&neighbours::NAMES) {
            neighbours::measure(self).await?;
        }
        if !self.quick && self.wants(&tiers::NAMES) {
            tiers::measure(self).await?;
        }
        let mut locks = Locks::default();
        let with_room = [&publish::NAMES[..], &lookup::NAMES, &locks::NAMES, &[restart::RSS]];
        if with_room.iter().any(|names| self.wants(names)) || (!self.quick && self.wants(&WHOLE)) {
            self.with_room(&mut locks).await?;
        }
        if !self.quick && (self.wants(&outage::NAMES) || self.wants(&[during::SLOWEST])) {
            self.without_room(&mut locks).await?;
        }
        locks.print(self)?;
        if self.peers {
            programs::peers(self).await?;
        }
        let broken = self.floors.broken(&self.printer.printed());
        ensure!(broken.is_empty(), "bench: slower than its floors:\n{}", broken.join("\n"));
        Ok(())
    }

    /// What is measured where nothing has to be evicted.
    async fn with_room(&self, locks: &mut Locks) -> anyhow::Result<()> {
        let cleared = self.pages / 5 * 2;
        let namespaces = if self.quick { vec![self.pages] } else { vec![self.pages - cleared, cleared] };
        let mut stage = self.stage(Scale { namespaces, room: ROOM, agents: AGENTS }).await?;
        if self.wants(&[restart::RSS]) {
            restart::memory(self, &stage).await?;
        }
        if !self.quick && self.wants(&[restart::RESTART]) {
            restart::measure(self, &mut stage).await?;
        }
        // What follows is of a group that has stood for a while.
        metrics::policies_caught_up(&stage.cluster).await?;
        if self.wants(&lookup::NAMES) {
            lookup::measure(self, &stage).await?;
        }
        if self.wants(&publish::NAMES) || self.wants(&locks::NAMES) {
            publish::measure(self, &stage).await?;
        }
        if !self.quick && self.wants(&resync::NAMES) {
            resync::measure(self, &mut stage).await?;
        }
        if !self.quick {
            self.beside(&stage).await?;
        }
        locks.note_all(&stage.cluster).await
    }

    /// Publishing beside something large.
    async fn beside(&self, stage: &Stage) -> anyhow::Result<()> {
        if self.wants(&[during::SLOWEST, during::SNAPSHOT]) {
            during::snapshots(self, stage).await?;
        }
        if self.wants(&[during::SLOWEST]) {
            during::resync(self, stage).await?;
            during::clear(self, stage).await?;
        }
        Ok(())
    }

    /// What is measured where every new page takes another one's room.
    async fn without_room(&self, locks: &mut Locks) -> anyhow::Result<()> {
        let mut stage = self.stage(outage::full(self.pages, AGENTS)).await?;
        metrics::policies_caught_up(&stage.cluster).await?;
        if self.wants(&[during::SLOWEST]) {
            during::evictions(self, &stage).await?;
        }
        if self.wants(&outage::NAMES) {
            outage::measure(self, &mut stage, locks).await?;
        }
        locks.note_all(&stage.cluster).await
    }

    async fn stage(&self, scale: Scale) -> anyhow::Result<Stage> {
        Stage::start(scale, self.dir.clone(), |text| self.say(text)).await
    }
}
