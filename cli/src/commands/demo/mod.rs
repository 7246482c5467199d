//! `foreword demo`: a whole cluster here, requests through it, its leader killed, every byte checked.

pub mod usrbio;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use foreword_proto::BadInput;
use foreword_proto::limits::CHUNK_BYTES_MIN;
use tokio::sync::watch;
use tokio::time::Instant;

use self::usrbio::Restarted;
use super::Done;
use super::playing::{PlayArgs, Script, Stage, Voice};
use super::replay::{facts, print};
use crate::cluster::{Cluster, L3Spec, Spec};

use crate::driver::Report;
use crate::driver::probe::{Probe, outage};
use crate::driver::report::Facts;
use crate::human::{Size, Span};
use crate::out::outln;
use crate::process::stop_signal;

/// Without --l3-bytes there is room for so many times the distinct pages: nothing is evicted, whatever grants and rests
/// hold.
const ROOM: u64 = 2;
/// A grant is a 64th of the room at most: with less, agents cannot lease enough ahead to write through an election.
const L3_BYTES_MIN: u64 = 1 << 30;
const ARENA_BYTES_DEFAULT: u64 = 256 << 20;
/// Share of the L3 budget that L1 gets with --l3-bytes, and a slab.
const L1_OF_L3: u64 = 16;
const SLABS: u64 = 16;
const SLAB_BYTES_MAX: u64 = 1 << 30;
/// No L3 client here retries: slots rest as briefly as the checks allow, so that they are reused while readers read.
const REST: Span = Span(Duration::from_millis(100));
/// An agent stops writing when half of its lease has passed without a renewal: far longer than an election takes.
const LEASE: Span = Span(Duration::from_secs(20));
/// A put waits for slots through an election, in which nobody can be granted any.
const CONFIG: &str = "[node]\nput_room_wait_ms = \"5s\"\n";
/// Through the stand-in an I/O may be lost: an agent gives it up sooner than by default.
const USRBIO_CONFIG: &str = "l3_deadline_ms = \"1s\"\n";
/// Longer than the stand-in may hold a write back (`--fault stall`), by its default.
const USRBIO_WRITE_REST: Span = Span(Duration::from_secs(20));
const POSIX: &str = "posix";
const USRBIO: &str = "usrbio";

const EXAMPLES: &str = "\
Examples:
  foreword demo
  foreword demo --trace conversation.jsonl.gz --page-bytes 4096 --json
  foreword demo --trace conversation.jsonl.gz --page-bytes 4096 --shards 1 --l3-bytes 75MB    (constant eviction)
  foreword demo --requests 500 --no-kill --keep                                               (leaves its directory)
  foreword demo --l3 usrbio --kill-l3                                                         (as root: a 3FS mount played by usrbiod)
  foreword demo --l3 usrbio --fault eio=2%,short=2%

Ctrl-C leaves no process and no file behind. Exit code 0 only if no byte was wrong and no acknowledged publish was lost.";

/// `foreword demo`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    #[command(flatten)]
    pub play: PlayArgs,
    /// Meta replicas
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replicas: usize,
    /// Agents
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub agents: usize,
    /// L3's budget; L1 then gets a sixteenth of it [default: room for all pages twice]
    #[arg(long, value_name = "SIZE")]
    pub l3_bytes: Option<Size>,
    /// Each agent's L1 [default: 256MiB, or a sixteenth of --l3-bytes]
    #[arg(long, value_name = "SIZE")]
    pub l1_bytes: Option<Size>,
    /// The kind of L3: posix (files in the demo's directory) or usrbio[,lib=PATH] (the same files through the stand-in
    /// for a 3FS mount; needs root and /dev/fuse)
    #[arg(long, value_name = "STORE", default_value = POSIX)]
    pub l3: String,
    /// Faults of the stand-in, as `foreword usrbiod --fault` takes them; with --l3 usrbio
    #[arg(long, value_name = "LIST")]
    pub fault: Option<String>,
    /// Kill the stand-in at a quarter of the requests and restart it at three eighths; with --l3 usrbio
    #[arg(long)]
    pub kill_l3: bool,
    /// Kill nobody
    #[arg(long)]
    pub no_kill: bool,
    /// Make the demo's directory in this one [default: the system's place for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the demo's directory behind: data directories, L3 and logs
    #[arg(long)]
    pub keep: bool,
}

/// Runs the command.
pub async fn run(args: DemoArgs, json: bool) -> Done {
    // Dropping the demo drops its cluster: no process, no file.
    tokio::select! {
        done = demo(args, json) => done,
        stopped = stop_signal() => {
            stopped?;
            Ok(ExitCode::from(130))
        }
    }
}

async fn demo(args: DemoArgs, json: bool) -> Done {
    let voice = Voice::default();
    voice.say("reading the requests");
    let script = args.play.script(Vec::new())?;
    let spec = spec(&args, &script)?;
    let requests = script.plan.requests.len();
    voice.say(&format!(
        "{requests} requests ask for {} pages of {}, {} of them different",
        script.ideal.blocks, args.play.page_bytes, script.ideal.distinct
    ));
    let mut cluster = Cluster::start(spec, |text| voice.say(text)).await?;
    if args.keep {
        voice.say(&format!("everything stays in {}", cluster.dir().display()));
    }
    let (agents, meta) = (cluster.agent_endpoints(), cluster.meta_endpoints());
    let stage = Stage::open(&script, &agents, &meta).await?;
    // With nobody killed there is no outage to measure.
    let probe = match args.no_kill {
        true => None,
        false => Some(Probe::start(&agents[0], stage.group.clone(), args.play.seed).await?),
    };
    let (submitted, following) = watch::channel(0);
    let killing = disturb(&args, &mut cluster, following, requests, &voice);
    let playing = async { anyhow::Ok(stage.play(&script, &submitted, &voice).await) };
    let ((counts, wall), disturbed) = tokio::try_join!(playing, killing)?;
    let outage = match (probe, disturbed.killed) {
        (Some(probe), Some(killed)) => outage(&probe.finish().await?, killed),
        _ => None,
    };
    let usrbio = usrbio::report(&cluster, script.namespace.shards() as u64, disturbed.l3).await?;
    cluster.end_faults().await?;
    settle(&mut cluster, &voice).await?;
    let findings = stage.audit(&script, &counts, &voice).await?;
    let facts = Facts {
        slots_reused: stage.slots_reused(),
        outage,
        findings: Some(findings),
        ..facts(&script, agents.len(), wall)
    };
    let report = Report { usrbio, ..Report::new(&counts, &facts) };
    let code = print(&report, findings, json)?;
    if !json {
        outln!("\n{}", verdict(&report));
    }
    Ok(code)
}

fn verdict(report: &Report) -> String {
    if !report.passed() {
        return "FAILED: a byte was wrong or an acknowledged publish is lost.".into();
    }
    let killed = if report.outage_ms.is_some() { ", with the group's leader killed in the middle" } else { "" };
    format!(
        "{} pages that one node wrote were read by another through the replicated index{killed}: every byte was right, and \
         every acknowledged page is there or was evicted on the record.",
        report.cross_node_hits
    )
}

/// What was done to the cluster while it worked.
struct Disturbed {
    /// When the leader was killed.
    killed: Option<Instant>,
    l3: Option<Restarted>,
}

async fn disturb(
    args: &DemoArgs,
    cluster: &mut Cluster,
    mut submitted: watch::Receiver<usize>,
    requests: usize,
    voice: &Voice,
) -> anyhow::Result<Disturbed> {
    let l3 = match args.kill_l3 {
        true => Some(usrbio::kill(cluster, &mut submitted, requests, voice).await?),
        false => None,
    };
    let killed = match args.no_kill {
        true => None,
        false => Some(kill(cluster, submitted, requests, voice).await?),
    };
    Ok(Disturbed { killed, l3 })
}

/// Kills the leader when half of the requests are submitted, and restarts it at three quarters. When it was killed.
async fn kill(
    cluster: &mut Cluster,
    mut submitted: watch::Receiver<usize>,
    requests: usize,
    voice: &Voice,
) -> anyhow::Result<Instant> {
    submitted.wait_for(|count| *count * 2 >= requests).await?;
    let leader = cluster.leader().await?;
    let killed = Instant::now();
    cluster.kill_replica(leader)?;
    voice.say(&format!("killed replica {leader}, the leader"));
    submitted.wait_for(|count| *count * 4 >= requests * 3).await?;
    cluster.restart_replica(leader).await?;
    voice.say(&format!("restarted replica {leader}"));
    Ok(killed)
}

/// All replicas agree; all are killed and restarted; all agree again.
async fn settle(cluster: &mut Cluster, voice: &Voice) -> anyhow::Result<()> {
    cluster.check().context("a process of the demo ended by itself")?;
    let (revision, digest) = cluster.converged().await?;
    voice.say(&format!("all replicas report state digest {digest} at revision {revision}"));
    voice.say("killing and restarting all replicas");
    cluster.restart_all_replicas().await?;
    let (revision, digest) = cluster.converged().await?;
    voice.say(&format!("all replicas report state digest {digest} at revision {revision}"));
    Ok(())
}

impl DemoArgs {
    /// Whether page bytes go through the stand-in.
    pub fn through_standin(&self) -> bool {
        self.l3.split(',').next() == Some(USRBIO)
    }
}

fn l3_spec(args: &DemoArgs) -> Result<L3Spec, BadInput> {
    if args.through_standin() {
        let lib = match args.l3.strip_prefix(USRBIO).unwrap_or_default() {
            "" => None,
            rest => {
                let lib = rest.strip_prefix(",lib=").filter(|lib| lib.starts_with('/'));
                Some(lib.ok_or_else(|| BadInput::new("l3", format!("usrbio[,lib=/path], got {:?}", args.l3)))?.into())
            }
        };
        return Ok(L3Spec::Usrbio { faults: args.fault.clone(), lib, direct: false });
    }
    if args.fault.is_some() || args.kill_l3 {
        let field = if args.kill_l3 { "kill_l3" } else { "fault" };
        return Err(BadInput::new(field, "--l3 usrbio: only the stand-in has faults and can be killed"));
    }
    match args.l3.as_str() {
        POSIX => Ok(L3Spec::Posix),
        "memory" => Err(BadInput::new("l3", "posix or usrbio: one process's memory cannot be read by another agent")),
        other => Err(BadInput::new("l3", format!("posix or usrbio, got {other:?}"))),
    }
}

/// What cluster the arguments and the script ask for.
fn spec(args: &DemoArgs, script: &Script) -> anyhow::Result<Spec> {
    let l3 = l3_spec(args)?;
    let through_standin = matches!(l3, L3Spec::Usrbio { .. });
    for (field, count, max) in [("replicas", args.replicas, 9), ("agents", args.agents, 64)] {
        if count == 0 || count > max {
            return Err(BadInput::new(field, format!("1 to {max}, got {count}")).into());
        }
    }
    if !args.no_kill && args.replicas < 3 {
        return Err(BadInput::new("replicas", "at least 3 to survive a kill, or --no-kill").into());
    }
    let chunk_bytes = u64::from(CHUNK_BYTES_MIN);
    let slot_bytes = script.namespace.geometry().slot_bytes(CHUNK_BYTES_MIN);
    let room = (script.ideal.distinct * slot_bytes * ROOM).max(L3_BYTES_MIN).next_multiple_of(chunk_bytes);
    let l3_bytes = args.l3_bytes.map_or(room, |size| size.0);
    let slab_bytes = (l3_bytes / SLABS).min(SLAB_BYTES_MAX) / slot_bytes * slot_bytes;
    if slab_bytes == 0 {
        let expected = format!("room for {SLABS} slabs of at least one slot of {slot_bytes} bytes");
        return Err(BadInput::new("l3_bytes", format!("{expected}, got {}", Size(l3_bytes))).into());
    }
    let by_l3 = args.l3_bytes.map_or(ARENA_BYTES_DEFAULT, |size| size.0 / L1_OF_L3);
    Ok(Spec {
        binary: std::env::current_exe().context("this binary's own path")?,
        dir: args.dir.clone(),
        keep: args.keep,
        replicas: args.replicas,
        agents: args.agents,
        l3,
        l3_bytes,
        slab_bytes,
        chunk_bytes,
        arena_bytes: args.l1_bytes.map_or(by_l3, |size| size.0),
        lease: LEASE,
        read_rest: REST,
        write_rest: if through_standin { USRBIO_WRITE_REST } else { REST },
        config: format!("{CONFIG}{}", if through_standin { USRBIO_CONFIG } else { "" }),
        generated: None,
    })
}
