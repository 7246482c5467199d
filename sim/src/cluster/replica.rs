//! A replica as the simulation starts it: the binary's `meta run`, on a simulated machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_meta::config::MetaConfig;
use foreword_meta::generated::stopped::Opened;
use foreword_meta::open::{LogParts, open_log};
use foreword_meta::replica::group::Group;
use foreword_meta::replica::rejoin::Standing;
use foreword_meta::replica::snapshots::Snapshots;
use foreword_meta::serve::{Deps, Failure, Handle, ServeError, serve};
use foreword_meta::storage::{LogEngine, LogStore, OpenError};
use foreword_seams::{Files, Net, Telemetry, on_a_task};
use parking_lot::Mutex;

use super::{EngineSeam, PolicyPace};
use crate::world::context::{self, Kind};
use crate::world::disk::Disk;
use crate::world::entropy::HostEntropy;
use crate::world::files::SimFiles;
use crate::world::net::HostId;

/// A replica's process, as a checker sees it from outside.
#[derive(Clone)]
pub struct RunningReplica {
    /// Processes of this machine so far.
    pub incarnation: u64,
    pub group: Arc<Group>,
    pub standing: Arc<Standing>,
}

/// What a replica's process is made of.
#[derive(Clone)]
pub struct ReplicaParts {
    pub host: HostId,
    pub config: MetaConfig,
    pub disk: Disk,
    pub snapshots: SimFiles,
    pub net: Arc<dyn Net>,
    pub engine: EngineSeam,
    pub policy: PolicyPace,
    /// Filled while it serves.
    pub running: Arc<Mutex<Option<RunningReplica>>>,
    /// Starts that served after a full disk had ended an earlier one, and how much of that was seen.
    pub recovered_from_full: Arc<AtomicU64>,
    pub full_seen: Arc<AtomicU64>,
}

/// The last index that a snapshot of this name covers: `snapshot-<index>-<term>`.
fn index_of_snapshot(name: &str) -> Option<u64> {
    name.strip_prefix("snapshot-")?.split('-').next()?.parse().ok()
}

impl ReplicaParts {
    /// The last entry that a power cut now would leave, in the log or in a snapshot.
    pub fn durable_last(&self) -> Option<u64> {
        self.disk.durable_last().max(self.covered())
    }

    /// The last entry that a durable snapshot covers.
    pub fn covered(&self) -> Option<u64> {
        self.snapshots.names().into_iter().filter_map(|name| index_of_snapshot(&name)).max()
    }

    /// The name under which others reach it.
    pub fn listens_at(&self) -> String {
        self.config.listen.to_string().split(':').next().unwrap_or_default().to_owned()
    }

    /// How often it served again after its disk was full.
    pub fn recovered_from_full(&self) -> u64 {
        self.recovered_from_full.load(Ordering::Relaxed)
    }

    /// The process's whole life; answers why it ended.
    pub async fn run(self, incarnation: u64) -> String {
        let served = match self.deps().await {
            Ok(deps) => self.serve(deps).await,
            Err(error) => return format!("did not open: {error}"),
        };
        match served {
            Ok(mut handle) => {
                let full = self.disk.counts().no_space;
                if self.full_seen.swap(full, Ordering::Relaxed) < full {
                    self.recovered_from_full.fetch_add(1, Ordering::Relaxed);
                }
                *self.running.lock() =
                    Some(RunningReplica { incarnation, group: handle.group().clone(), standing: handle.standing() });
                let failure = handle.failed().await;
                *self.running.lock() = None;
                if let Failure::Diverged(_) = failure {
                    handle.shutdown().await;
                    if let Err(error) = self.set_aside(&failure) {
                        return error;
                    }
                }
                failure.to_string()
            }
            Err(why) => format!("did not serve: {why}"),
        }
    }

    /// Serves; a replica whose snapshot is damaged begins again with nothing, as the binary does.
    async fn serve(&self, deps: Deps) -> Result<Handle, String> {
        match serve(self.config.clone(), deps).await {
            Err(lost @ ServeError::SnapshotLost { .. }) => {
                self.set_aside(&lost)?;
                let deps = self.deps().await?;
                serve(self.config.clone(), deps).await.map_err(|error| error.to_string())
            }
            served => served.map_err(|error| error.to_string()),
        }
    }

    /// Everything but the identity goes; the next start rejoins empty.
    fn set_aside(&self, why: &dyn std::fmt::Display) -> Result<(), String> {
        context::event(Kind::Host, || format!("h{} sets its log aside: {why}", self.host));
        self.disk.set_log_aside().map_err(|error| error.to_string())?;
        self.snapshots.wipe();
        Ok(())
    }

    async fn deps(&self) -> Result<Deps, String> {
        let log = self.log().map_err(|error| error.to_string())?;
        let identity = self.disk.identity();
        let snapshots = Arc::new(self.snapshots.open_dir()) as Arc<dyn Files>;
        let newest = Snapshots::new(snapshots.clone(), identity.cluster_id).load_newest().await;
        let newest = newest.map_err(|error| error.to_string())?;
        Ok(Deps {
            net: self.net.clone(),
            entropy: Arc::new(HostEntropy::new(self.host)),
            telemetry: Telemetry::new(),
            identity,
            identity_file: self.disk.identity_file(),
            log,
            snapshots,
            newest,
            policy: self.policy.place(self.host),
            aside: on_a_task(),
        })
    }

    /// The disk before any process was started: no canary is in its way.
    pub(super) fn opened(&self) -> Result<Opened, OpenError> {
        Ok(Opened {
            identity: self.disk.identity(),
            identity_file: self.disk.identity_file(),
            log: self.log_on(|| self.disk.engine())?,
            snapshots: Arc::new(self.snapshots.open_dir()),
        })
    }

    fn log(&self) -> Result<LogStore, OpenError> {
        let name = format!("meta-{}", self.disk.identity().replica_id);
        self.log_on(|| (self.engine)(&name, self.disk.engine()))
    }

    fn log_on(&self, engine: impl Fn() -> Box<dyn LogEngine>) -> Result<LogStore, OpenError> {
        let parts = || -> Result<LogParts, OpenError> { Ok((engine(), self.disk.mark())) };
        let set_aside = || {
            self.disk.set_log_aside()?;
            self.snapshots.wipe();
            Ok(())
        };
        open_log(parts, &on_a_task(), set_aside).map(|(log, _, _)| log)
    }
}
