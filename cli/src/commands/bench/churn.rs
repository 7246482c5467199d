//! `foreword bench churn`: a day of a full cache in short, and what it left behind.
//!
//! Every published page takes another one's slot, while leaders are killed, snapshots taken, a replica replaced and
//! namespaces cleared. At the end every acknowledged page is looked up, and the recorded watch stream explains each
//! that is gone.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use foreword_proto::location::Location;
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta as m;
use foreword_proto::{BadInput, Revision, records};
use foreword_seams::Endpoint;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::load::{Load, Shape, ms};
use super::metrics;
use super::session::Ack;
use super::stage::{Scale, Stage};
use crate::clients;
use crate::commands::Done;
use crate::driver::recorder::Recorder;
use crate::out::outln;
use crate::process::stop_signal;

const LOAD: Shape = Shape { pages: 256, in_flight: 32, pages_per_s: None };
const SESSIONS: usize = 4;
const AGENTS: usize = 2;
/// Of a hundred slots: pages of the namespace that is published to, and of each of the two that are cleared.
const PUBLISHED_PERCENT: u64 = 86;
const CLEARED_PERCENT: u64 = 5;
const LOOK: Duration = Duration::from_millis(200);
/// A killed leader is started again after this.
const DOWN: Duration = Duration::from_secs(3);
/// A gap that begins so long after a kill, at most, is the election's.
const ELECTION: Duration = Duration::from_secs(4);
const STALLS_TOLD: usize = 5;
const LOOKUP_KEYS: u64 = 8192;
/// How long the record may take to catch up with what the lookups saw.
const RECORD_PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLE: &str = "\
Example: a tenth of a day
  foreword bench churn --publishes 2000000 --json";

/// `foreword bench churn`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ChurnArgs {
    /// Slots of L3
    #[arg(long, value_name = "N", default_value_t = 2_000_000)]
    pub slots: u64,
    /// Pages to publish
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    pub publishes: u64,
    /// How often the leader is killed
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub kills: u32,
    /// Make the cluster's directory in this one [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// What happened.
#[derive(Debug, Default, Serialize)]
struct Report {
    publishes_acked: u64,
    /// Acknowledged, not there, and no later retire is recorded.
    publishes_lost: u64,
    /// Pages whose location is another page's.
    wrong_bytes: u64,
    pages_retired: u64,
    pages_present: u64,
    slots_reused: u64,
    outages_ms: Vec<f64>,
    /// The longest time without an acknowledgement that is no election's.
    stall_max_ms: f64,
    /// The longest of them, and after which trouble each came.
    stalls: Vec<Stall>,
    snapshots: u32,
    replaced: u32,
    cleared: u32,
    /// The largest replica's memory after the warm-up (three to five tenths of the publishes), and at the end (the last
    /// fifth): the median of the samples, and the peak, which a snapshot or a start makes.
    rss_warm_mib: f64,
    rss_warm_peak_mib: f64,
    rss_end_mib: f64,
    rss_end_peak_mib: f64,
    /// The peak in each tenth of the publishes.
    rss_mib: Vec<f64>,
    publish_pages_per_s: f64,
    wall_s: f64,
}

/// A time without an acknowledgement that is no election's.
#[derive(Debug, PartialEq, Serialize)]
struct Stall {
    ms: f64,
    /// When it began, from the first publish on.
    at_s: f64,
    /// The last trouble made before it ended, and how long before its begin; negative: it began before.
    after: Option<String>,
    after_s: f64,
}

/// What goes wrong, and when: at this share of the publishes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    KillLeader,
    Snapshot,
    Replace,
    Clear(usize),
}

fn troubles(kills: u32) -> Vec<(f64, Trouble)> {
    let mut troubles = vec![(0.3, Trouble::Clear(1)), (0.45, Trouble::Replace), (0.65, Trouble::Clear(2))];
    troubles.extend([0.15, 0.35, 0.55, 0.75, 0.95].map(|at| (at, Trouble::Snapshot)));
    troubles.extend((1..=kills).map(|number| (f64::from(number) / f64::from(kills + 1), Trouble::KillLeader)));
    troubles.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    troubles
}

/// Runs the command.
pub(super) async fn run(args: ChurnArgs, json: bool) -> Done {
    if args.slots < 10_000 {
        return Err(BadInput::new("slots", format!("at least 10000, got {}", args.slots)).into());
    }
    let report = tokio::select! {
        report = churn(&args) => report?,
        stopped = stop_signal() => {
            stopped?;
            return Ok(ExitCode::from(130));
        }
    };
    let text = if json { serde_json::to_string(&report)? } else { serde_json::to_string_pretty(&report)? };
    outln!("{text}");
    let sound = report.publishes_lost == 0 && report.wrong_bytes == 0;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn churn(args: &ChurnArgs) -> anyhow::Result<Report> {
    let cleared = args.slots * CLEARED_PERCENT / 100;
    let namespaces = vec![args.slots * PUBLISHED_PERCENT / 100, cleared, cleared];
    let room = args.slots - namespaces.iter().sum::<u64>();
    let stage = Stage::start(Scale { namespaces, room, agents: AGENTS }, args.dir.clone(), say).await?;
    let group = clients::group(&stage.cluster.meta_endpoints())?;
    metrics::policies_caught_up(&stage.cluster).await?;
    let recorder = Recorder::start(group, stage.namespace_id(0), 1).await?;
    let sessions = stage.sessions("churn", SESSIONS).await?;
    let mut run = Run { stage, report: Report::default(), acks: Vec::new(), made: Vec::new(), memory: Vec::new() };
    let from = Instant::now();
    let load = Load::start(&sessions, LOAD);
    run.follow(&load, args, troubles(args.kills)).await?;
    run.acks.extend(load.finish().await?);
    run.sum_up(from);
    run.audit(&recorder).await?;
    run.report.wall_s = from.elapsed().as_secs_f64();
    Ok(run.report)
}

fn say(text: &str) {
    eprintln!("{text}");
}

struct Run {
    stage: Stage,
    report: Report,
    acks: Vec<Ack>,
    made: Vec<(Instant, Trouble)>,
    /// At which share of the publishes the largest replica took so many MiB.
    memory: Vec<(f64, f64)>,
}

impl Run {
    /// Looks on until enough is published, and makes trouble meanwhile.
    async fn follow(&mut self, load: &Load, args: &ChurnArgs, troubles: Vec<(f64, Trouble)>) -> anyhow::Result<()> {
        let mut troubles = troubles.into_iter().peekable();
        loop {
            sleep(LOOK).await;
            self.acks.extend(load.take_acks());
            let acked: u64 = self.acks.iter().map(|ack| ack.pages as u64).sum();
            let share = acked as f64 / args.publishes as f64;
            self.memory.push((share, self.largest_mib()));
            if let Some((at, trouble)) = troubles.next_if(|(at, _)| *at <= share) {
                say(&format!("{acked} pages: {trouble:?}"));
                self.made.push((Instant::now(), trouble));
                self.make(trouble).await.with_context(|| format!("{trouble:?} at {at:.2} of the publishes"))?;
            }
            if share >= 1.0 {
                return Ok(());
            }
        }
    }

    async fn make(&mut self, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::KillLeader => {
                let leader = self.stage.cluster.leader().await?;
                self.stage.cluster.kill_replica(leader)?;
                sleep(DOWN).await;
                self.stage.cluster.restart_replica(leader).await?;
                self.stage.cluster.replica_ready(leader).await?;
            }
            Trouble::Snapshot => {
                let mut leader = clients::admin(&self.leader().await?);
                let asked = leader.trigger_snapshot(m::TriggerSnapshotRequest {}).await;
                asked.map_err(|status| clients::said_no("snapshot", &status))?;
                self.report.snapshots += 1;
            }
            Trouble::Replace => {
                let (leader, ids) = (self.stage.cluster.leader().await?, self.stage.cluster.replica_ids());
                let old = ids.iter().copied().find(|id| *id != leader).context("a follower")?;
                let new = ids.iter().max().context("a replica")? + 1;
                self.stage.cluster.join_replica(new).await?;
                self.stage.cluster.replace_replica(old, new).await?;
                self.stage.cluster.dismiss_replica(old)?;
                self.report.replaced += 1;
            }
            Trouble::Clear(at) => {
                let request = m::ClearRequest { namespace_id: self.stage.namespace_id(at) };
                let cleared = clients::replica(&self.leader().await?).clear(request).await;
                cleared.map_err(|status| clients::said_no("clear", &status))?;
                self.report.cleared += 1;
            }
        }
        Ok(())
    }

    async fn leader(&self) -> anyhow::Result<Endpoint> {
        let leader = self.stage.cluster.leader().await?;
        let announced = self.stage.cluster.replica_announced(leader).context("a leader that runs")?;
        Ok(announced.grpc.parse()?)
    }

    fn largest_mib(&self) -> f64 {
        let ids = self.stage.cluster.replica_ids();
        let pids = ids.iter().filter_map(|id| Some(self.stage.cluster.replica_announced(*id)?.pid));
        pids.filter_map(resident_mib).fold(0.0, f64::max)
    }

    /// What the acknowledgements and the samples say.
    fn sum_up(&mut self, from: Instant) {
        let report = &mut self.report;
        report.publishes_acked = self.acks.iter().map(|ack| ack.pages as u64).sum();
        report.publish_pages_per_s = report.publishes_acked as f64 / from.elapsed().as_secs_f64();
        let first_after =
            |killed: &Instant| self.acks.iter().filter(|ack| ack.submitted > *killed).map(|ack| ack.acked).min();
        let kills: Vec<Instant> =
            self.made.iter().filter(|(_, trouble)| *trouble == Trouble::KillLeader).map(|(at, _)| *at).collect();
        let outages = kills.iter().filter_map(|killed| Some(ms(first_after(killed)? - *killed)));
        report.outages_ms = outages.collect();
        let stalls = longest_stalls(&self.acks, &kills);
        report.stall_max_ms = stalls.first().map_or(0.0, |(from, to)| ms(*to - *from));
        report.stalls = stalls.into_iter().map(|stall| named(stall, from, &self.made)).collect();
        let sampled = |shares: std::ops::Range<f64>| {
            let within = self.memory.iter().filter(|(share, _)| shares.contains(share));
            let mut mib: Vec<f64> = within.map(|(_, mib)| *mib).collect();
            mib.sort_by(f64::total_cmp);
            (mib.get(mib.len() / 2).copied().unwrap_or(0.0), mib.last().copied().unwrap_or(0.0))
        };
        let tenths = (0..10).map(|tenth| sampled(f64::from(tenth) / 10.0..f64::from(tenth + 1) / 10.0));
        report.rss_mib = tenths.map(|(_, peak)| peak).collect();
        (report.rss_warm_mib, report.rss_warm_peak_mib) = sampled(0.3..0.5);
        (report.rss_end_mib, report.rss_end_peak_mib) = sampled(0.8..f64::INFINITY);
    }

    /// Looks every acknowledged page up, and has the record explain those that are gone.
    async fn audit(&mut self, recorder: &Recorder) -> anyhow::Result<()> {
        say("looking every acknowledged page up");
        let leader = self.leader().await?;
        let mut gone: Vec<(u64, Revision)> = Vec::new();
        let mut upto = 0;
        for ack in &self.acks {
            let last = ack.first + ack.pages as u64;
            for first in (ack.first..last).step_by(LOOKUP_KEYS as usize) {
                let some = first..last.min(first + LOOKUP_KEYS);
                let (present, wrong, revision) = look(&self.stage, &leader, some.clone()).await?;
                upto = revision.max(upto);
                self.report.wrong_bytes += wrong;
                let absent = some.zip(&present).filter(|(_, present)| !**present);
                gone.extend(absent.map(|(number, _)| (number, ack.revision)));
                self.report.pages_present += present.iter().filter(|present| **present).count() as u64;
            }
        }
        let until = Instant::now() + RECORD_PATIENCE;
        while recorder.read(|record| record.revision) < upto && Instant::now() < until {
            sleep(LOOK).await;
        }
        let keys = self.stage.keys(0);
        recorder.read(|record| {
            anyhow::ensure!(!record.gap, "watch: expected every event, the stream skipped some: nothing can be said");
            let lost = gone.iter().filter(|(page, acked)| !record.retired_after(&keys.page(*page).entry(), *acked));
            self.report.publishes_lost = lost.count() as u64;
            self.report.slots_reused = record.slots_reused;
            Ok(())
        })?;
        self.report.pages_retired = gone.len() as u64 - self.report.publishes_lost;
        Ok(())
    }
}

/// Which of these pages are there, how many of them are at another page's location, and the revision that was seen.
async fn look(
    stage: &Stage,
    leader: &Endpoint,
    pages: std::ops::Range<u64>,
) -> anyhow::Result<(Vec<bool>, u64, Revision)> {
    let keys: Vec<_> = pages.clone().map(|number| stage.keys(0).page(number)).collect();
    let request = m::LookupRequest {
        namespace_id: stage.namespace_id(0),
        keys: foreword_proto::key::page_keys_to_wire(&keys),
        freshness: Some(Freshness { min_revision: 0, linearizable: true }),
        with_locations: true,
        every_key: true,
        ..Default::default()
    };
    let found = clients::replica(leader).lookup(request).await;
    let found = found.map_err(|status| clients::said_no("lookup", &status))?.into_inner();
    let present: Vec<bool> = found.present.iter().map(|present| *present == 1).collect();
    let locations: Vec<Location> = records::decode("locations", &found.locations, 1, keys.len())?;
    let numbers = pages.zip(&present).filter(|(_, present)| **present).map(|(number, _)| number);
    let wrong = numbers.zip(&locations).filter(|(number, location)| location.checksums.as_slice() != [*number]);
    let wrong = wrong.count() as u64;
    Ok((present, wrong, found.revision))
}

/// The longest times without an acknowledgement that neither hold a kill nor begin soon after one; the longest first.
fn longest_stalls(acks: &[Ack], kills: &[Instant]) -> Vec<(Instant, Instant)> {
    let mut times: Vec<Instant> = acks.iter().map(|ack| ack.acked).collect();
    times.sort_unstable();
    let is_election = |from: Instant, to: Instant| kills.iter().any(|kill| from <= *kill + ELECTION && *kill <= to);
    let mut stalls: Vec<_> =
        times.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, to)| !is_election(*from, *to)).collect();
    stalls.sort_unstable_by_key(|(from, to)| std::cmp::Reverse(*to - *from));
    stalls.truncate(STALLS_TOLD);
    stalls
}

fn named((stalled, went_on): (Instant, Instant), from: Instant, made: &[(Instant, Trouble)]) -> Stall {
    let last = made.iter().rfind(|(at, _)| *at <= went_on);
    let seconds = |a: Instant, b: Instant| if a >= b { (a - b).as_secs_f64() } else { -(b - a).as_secs_f64() };
    Stall {
        ms: ms(went_on - stalled),
        at_s: seconds(stalled, from),
        after: last.map(|(_, trouble)| format!("{trouble:?}")),
        after_s: last.map_or(0.0, |(at, _)| seconds(stalled, *at)),
    }
}

/// Resident memory of a process; None when it is gone.
fn resident_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_no_election() {
        let from = Instant::now();
        let at = |ms| from + Duration::from_millis(ms);
        let ack = |ms| Ack { submitted: from, acked: at(ms), first: 0, pages: 1, revision: 1 };
        // A kill after 600 ms, a second gap while the next leader finds its feet, and one that nothing explains.
        let acks = [0, 500, 2_500, 5_500, 6_200].map(ack);
        assert_eq!(longest_stalls(&acks, &[at(600)]), [(at(5_500), at(6_200)), (from, at(500))]);
        assert_eq!(longest_stalls(&acks, &[])[0], (at(2_500), at(5_500)));
        let made = [(at(600), Trouble::KillLeader), (at(5_900), Trouble::Snapshot)];
        let stall = named((at(5_500), at(6_200)), from, &made);
        assert_eq!((stall.after.as_deref(), stall.after_s), (Some("Snapshot"), -0.4));
    }

    #[test]
    fn troubles_come_in_their_order_and_each_kind_comes() {
        let troubles = troubles(2);
        assert!(troubles.is_sorted_by(|(a, _), (b, _)| a <= b));
        let count = |wanted: Trouble| troubles.iter().filter(|(_, trouble)| *trouble == wanted).count();
        assert_eq!(count(Trouble::KillLeader), 2);
        assert_eq!([Trouble::Replace, Trouble::Clear(1), Trouble::Clear(2)].map(count), [1, 1, 1]);
    }
}
