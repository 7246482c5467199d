//! The stand-in as a process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use foreword_node::store::{ClusterMark, init_l3_root};

use crate::CHUNK_BYTES;
use crate::paths::{CLUSTER, SLAB};

/// A stand-in as a process; its mount is this process's own.
pub(crate) struct StandIn {
    process: Child,
    pub(crate) mount: PathBuf,
    pub(crate) backing: PathBuf,
}

impl StandIn {
    /// Mounts a new directory in `dir`, an L3 root. `direct`: rings' I/O goes around the page cache.
    pub(crate) fn start(dir: &Path, direct: bool) -> anyhow::Result<Self> {
        let name = if direct { "direct" } else { "cached" };
        let (mount, backing) = (dir.join(format!("{name}-3fs")), dir.join(format!("{name}-backing")));
        std::fs::create_dir(&mount)?;
        std::fs::create_dir(&backing)?;
        init_l3_root(&backing, &ClusterMark::new(CLUSTER, CHUNK_BYTES, "bench"))?;
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
        Ok(Self { process, mount, backing })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The slab behind the mount, as a plain file.
    pub(crate) fn slab_file(&self) -> PathBuf {
        self.backing.join(CLUSTER.to_string()).join("slabs").join(format!("{SLAB:08x}.slab"))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // In order: it unmounts, and takes its semaphores along.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
        let _ = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH);
    }
}
