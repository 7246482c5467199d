//! L3 over USRBIO on one machine: the stand-in for a 3FS mount, as a process of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use foreword_node::config::L3Location;
use foreword_usrbio::VIRT_DIR;
use foreword_usrbiod::COUNTERS_FILE;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use super::child::Child;
use super::{Cluster, L3Spec};
use crate::human::Size;

const MOUNT: &str = "3fs";
/// How long the stand-in may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The stand-in's process and its mount. Dropping it leaves neither.
pub(super) struct StandIn {
    child: Option<Child>,
    mount: PathBuf,
}

impl StandIn {
    /// A mount below `dir`, not served yet.
    pub(super) fn below(dir: &Path) -> std::io::Result<Self> {
        let mount = dir.join(MOUNT);
        std::fs::create_dir(&mount)?;
        Ok(Self { child: None, mount })
    }

    fn kill(&mut self) {
        drop(self.child.take());
    }

    /// Ends it in order: it unmounts, and takes its semaphores along.
    fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            child.terminate(STOP_PATIENCE);
        }
    }
}

/// A stand-in that stands still. A process that waits for it cannot even be killed: it goes on when this is dropped.
pub struct Stopped<'a>(&'a Child);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop();
        // A mount whose process was killed stays, and answers nothing but errors. It may be gone already: no error.
        let _ = unmount(&self.mount, UnmountFlags::DETACH);
    }
}

impl Cluster {
    /// Starts the stand-in if the cluster has one; it is mounted when this returns.
    pub(super) async fn start_standin(&mut self) -> anyhow::Result<()> {
        let L3Spec::Usrbio { faults, direct, .. } = &self.spec.l3 else { return Ok(()) };
        let standin = self.standin.as_ref().context("a stand-in that was laid out")?;
        let mut args = vec![
            "usrbiod".to_owned(),
            format!("--mount={}", standin.mount.display()),
            format!("--backing={}", self.backing().display()),
            format!("--chunk-bytes={}", Size(self.spec.chunk_bytes)),
        ];
        args.extend(faults.iter().map(|faults| format!("--fault={faults}")));
        args.extend(direct.then(|| "--direct".to_owned()));
        let child = Child::start(&self.spec.binary, "usrbiod", &args, &self.log("usrbiod")).await?;
        self.standin.as_mut().context("a stand-in that was laid out")?.child = Some(child);
        Ok(())
    }

    /// SIGKILL for the stand-in; returns when it is dead. Its mount stays, and answers nothing but errors.
    pub fn kill_standin(&mut self) -> anyhow::Result<()> {
        self.standin.as_mut().context("standin: expected --l3 usrbio")?.kill();
        Ok(())
    }

    /// Starts a killed stand-in again, on the same mount point.
    pub async fn restart_standin(&mut self) -> anyhow::Result<()> {
        self.start_standin().await
    }

    /// Starts the stand-in anew, without its faults: what is on L3 is to be seen as it is.
    pub async fn end_faults(&mut self) -> anyhow::Result<()> {
        self.change_faults(None).await
    }

    /// Starts the stand-in anew with these faults, if it has others.
    pub async fn change_faults(&mut self, faults: Option<String>) -> anyhow::Result<()> {
        let L3Spec::Usrbio { faults: present, .. } = &mut self.spec.l3 else { return Ok(()) };
        if std::mem::replace(present, faults.clone()) != faults {
            self.standin.as_mut().context("a stand-in that was laid out")?.stop();
            self.start_standin().await?;
        }
        Ok(())
    }

    /// SIGSTOP for the stand-in: it answers nothing, and its mount stays. It goes on when what this gives is dropped.
    pub fn stop_standin(&self) -> anyhow::Result<Stopped<'_>> {
        let child = self.standin.as_ref().and_then(|standin| standin.child.as_ref());
        let child = child.context("standin: expected it to run")?;
        child.signal(Signal::STOP);
        Ok(Stopped(child))
    }

    /// What the stand-in counted since its start; None if the cluster has none.
    pub async fn standin_counters(&self) -> anyhow::Result<Option<serde_json::Value>> {
        let Some(standin) = &self.standin else { return Ok(None) };
        let path = standin.mount.join(VIRT_DIR).join(COUNTERS_FILE);
        let text = tokio::fs::read_to_string(&path).await.with_context(|| path.display().to_string())?;
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Process id of the stand-in, if it runs.
    pub fn standin_pid(&self) -> Option<u32> {
        Some(self.standin.as_ref()?.child.as_ref()?.announced.pid)
    }

    /// Process ids of the agents that run.
    pub fn agent_pids(&self) -> Vec<u32> {
        self.agents.iter().filter_map(|agent| agent.child.as_ref()).map(|child| child.announced.pid).collect()
    }

    pub(super) fn standin_ended(&mut self) -> Option<String> {
        self.standin.as_mut().and_then(|standin| standin.child.as_mut()).and_then(Child::ended)
    }

    /// The store's name for `--l3`.
    pub(super) fn l3(&self) -> String {
        match (&self.spec.l3, &self.standin) {
            (L3Spec::Usrbio { lib, .. }, Some(standin)) => {
                let lib = lib.as_ref().map(|lib| format!(",lib={}", lib.display())).unwrap_or_default();
                format!("usrbio:{}{lib}", standin.mount.display())
            }
            _ => format!("posix:{}", self.backing().display()),
        }
    }

    /// Where an agent finds L3.
    pub fn l3_location(&self) -> anyhow::Result<L3Location> {
        Ok(self.l3().parse()?)
    }

    /// The directory the bytes are in at last.
    pub fn backing(&self) -> PathBuf {
        self.dir.path().join("l3")
    }
}
