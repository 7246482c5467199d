//! `foreword usrbiod`: the stand-in for a 3FS mount, until it is told to stop or is unmounted.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::Context;
use clap::Args;
use foreword_proto::BadInput;
use foreword_usrbiod::config::{CHUNK_BYTES_DEFAULT, CLUSTER_DEFAULT};
use foreword_usrbiod::service::FaultPlan;
use foreword_usrbiod::{Config, StandIn, StartError};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::Done;
use crate::human::Size;

const EXAMPLES: &str = "\
Examples:
  foreword usrbiod --mount /mnt/3fs --backing /var/lib/standin
  foreword usrbiod --mount /mnt/3fs --backing /nvme/standin --direct --threads 8 --chunk-bytes 4MiB
  foreword usrbiod --mount /mnt/3fs --backing /tmp/standin --fault latency=20ms:2%,eio=2% --fault drop=1% --seed 7

It needs root and /dev/fuse. Once mounted it prints one line of JSON on stdout: role, name, mount, pid. SIGTERM and SIGINT
unmount it; the mount of one that was killed is replaced at the next start. What it has done is in
<mount>/3fs-virt/stand-in. docs/STANDIN.md says what it does as a 3FS does, and what not.";

/// `foreword usrbiod`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct UsrbiodArgs {
    /// The directory to mount on
    #[arg(long, value_name = "DIR")]
    pub mount: PathBuf,
    /// The directory whose files it shows; neither may lie in the other
    #[arg(long, value_name = "DIR")]
    pub backing: PathBuf,
    /// The mount's name, 1 to 31 letters
    #[arg(long, value_name = "NAME", default_value = CLUSTER_DEFAULT)]
    pub cluster: String,
    /// Chunk size, shown as every file's block size: a power of two, 4KiB to 64MiB
    #[arg(long, value_name = "SIZE", default_value_t = Size(CHUNK_BYTES_DEFAULT))]
    pub chunk_bytes: Size,
    /// Threads for the I/Os of rings, and as many for posix calls [default: one a core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Faults of the I/Os of rings, with their chances: latency=TIME:2%, stall=TIME:1%, eio=2%, short=2%, drop=1%,
    /// reorder
    #[arg(long = "fault", value_name = "LIST")]
    pub faults: Vec<String>,
    /// Decides which I/Os the faults hit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// I/Os of rings go around the page cache of the backing (O_DIRECT)
    #[arg(long)]
    pub direct: bool,
    /// End with this process, if it is the parent
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with_parent: Option<u32>,
}

/// The one line it prints on stdout once it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// `usrbiod`.
    pub role: String,
    /// The cluster's name.
    pub name: String,
    /// Where it is mounted, canonical.
    pub mount: String,
    pub pid: u32,
}

impl UsrbiodArgs {
    fn config(self) -> Result<Config, BadInput> {
        // Several lists are one longer list.
        let faults = self.faults.join(",");
        let faults: FaultPlan = faults.parse().map_err(|error: foreword_usrbiod::service::FaultError| {
            BadInput::new("fault", format!("{}, got '{}'", error.expected, error.part))
        })?;
        let default = Config::new(self.mount, self.backing);
        Ok(Config {
            cluster: self.cluster,
            chunk_bytes: self.chunk_bytes.0,
            threads: self.threads.unwrap_or(default.threads),
            faults,
            seed: self.seed,
            direct: self.direct,
            ..default
        })
    }
}

/// Runs the command.
pub async fn run(args: UsrbiodArgs) -> Done {
    let config = args.config()?;
    let name = config.cluster.clone();
    foreword_usrbiod::raise_open_files_hard();
    // Heard from before the mount on: a signal that comes early unmounts as well.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let standin = start(config)?;
    announce(&Mounted {
        role: "usrbiod".into(),
        name,
        mount: standin.mount().display().to_string(),
        pid: std::process::id(),
    })?;
    let (send, unmounted) = oneshot::channel();
    let ended = standin.ended();
    let watch = move || {
        ended();
        let _ = send.send(());
    };
    thread::Builder::new().name("standin-watch".into()).spawn(watch)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = unmounted => tracing::info!("unmounted by someone else"),
    }
    tracing::info!("stopping");
    standin.unmount().context("unmounting")?;
    Ok(ExitCode::SUCCESS)
}

fn start(config: Config) -> anyhow::Result<StandIn> {
    foreword_usrbiod::start(config).map_err(|error| match error {
        StartError::Bad { flag, expected } => BadInput::new(flag, expected).into(),
        other => anyhow::Error::new(other).context("usrbiod"),
    })
}

fn announce(mounted: &Mounted) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, mounted)?;
    writeln!(out)?;
    out.flush().context("stdout: expected a reader of the announcement")
}
