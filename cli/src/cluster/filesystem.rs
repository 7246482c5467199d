//! A small filesystem of a cluster's own for its L3, so that it can be full while the machine's disks are not.

use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::Cluster;

/// What fills it.
const FILLER: &str = "others-use-it-too";

/// A tmpfs. Dropping it unmounts it, and what is on it is gone.
pub(super) struct Filesystem(PathBuf);

impl Filesystem {
    /// Mounts one of so many bytes on `dir`, with mounts of this process's own.
    pub(super) fn mount(dir: &Path, bytes: u64) -> anyhow::Result<Self> {
        let options = CString::new(format!("size={bytes}"))?;
        let mounted = mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()));
        mounted.with_context(|| format!("a tmpfs of {bytes} bytes on {}", dir.display()))?;
        Ok(Self(dir.to_owned()))
    }

    /// Takes all bytes that are free.
    fn fill(&self) -> anyhow::Result<()> {
        let file = File::create(self.0.join(FILLER))?;
        let free = statvfs(&self.0)?;
        fallocate(&file, FallocateFlags::empty(), 0, free.f_bavail * free.f_bsize).context("what is free of a tmpfs")
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        // It may be gone already: no error.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

impl Cluster {
    /// Takes all bytes that are free on the filesystem of L3.
    ///
    /// Errors: L3 has no filesystem of its own.
    pub fn fill_l3(&self) -> anyhow::Result<()> {
        self.filesystem.as_ref().context("l3: expected a filesystem of its own")?.fill()
    }
}
