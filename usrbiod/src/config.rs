//! What a stand-in is started with.

use std::path::PathBuf;

use foreword_usrbio::MOUNT_NAME_BYTES;

use crate::service::FaultPlan;
pub use crate::service::limits::THREADS_MAX;

/// The least chunk size: what I/O is aligned to.
pub const CHUNK_BYTES_MIN: u64 = 4 << 10;
/// The greatest chunk size of a 3FS.
pub const CHUNK_BYTES_MAX: u64 = 64 << 20;
/// What deploy guides of 3FS use.
pub const CHUNK_BYTES_DEFAULT: u64 = 1 << 20;
/// The name of the cluster when none is given.
pub const CLUSTER_DEFAULT: &str = "standin";

/// Settings of a stand-in. Fields are named as the flags of `foreword usrbiod`.
#[derive(Debug, Clone)]
pub struct Config {
    /// A directory to mount on.
    pub mount: PathBuf,
    /// The directory whose files are shown.
    pub backing: PathBuf,
    /// The mount's name, as an ioctl gives it: 1 to 31 bytes without commas and blanks.
    pub cluster: String,
    /// Shown as `st_blksize` of every file: a power of two from 4 KiB to 64 MiB.
    pub chunk_bytes: u64,
    /// Threads for posix requests, and as many for I/Os of rings.
    pub threads: usize,
    /// Faults of the I/Os that come through rings.
    pub faults: FaultPlan,
    /// Seed of the faults.
    pub seed: u64,
    /// I/Os of rings go around the backing's page cache (O_DIRECT).
    pub direct: bool,
}

impl Config {
    /// Everything but the two directories at its default.
    pub fn new(mount: impl Into<PathBuf>, backing: impl Into<PathBuf>) -> Self {
        Self {
            mount: mount.into(),
            backing: backing.into(),
            cluster: CLUSTER_DEFAULT.into(),
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            threads: std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(2, 16)),
            faults: FaultPlan::default(),
            seed: 0,
            direct: false,
        }
    }

    /// Checks what can be checked without the machine: the flag and what was expected of it.
    pub(crate) fn validate(&self) -> Result<(), (&'static str, String)> {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
        if self.cluster.is_empty() || self.cluster.len() >= MOUNT_NAME_BYTES || !self.cluster.bytes().all(plain) {
            let expected = format!("1 to {} letters, digits or signs but commas", MOUNT_NAME_BYTES - 1);
            return Err(("cluster", format!("{expected}, got {:?}", self.cluster)));
        }
        let sizes = CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX;
        if !self.chunk_bytes.is_power_of_two() || !sizes.contains(&self.chunk_bytes) {
            return Err(("chunk-bytes", format!("a power of two from 4KiB to 64MiB, got {}", self.chunk_bytes)));
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return Err(("threads", format!("1 to {THREADS_MAX}, got {}", self.threads)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named() {
        let good = Config::new("/a", "/b");
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(Config { cluster: "x".repeat(31), ..good.clone() }.validate(), Ok(()));
        let cases = [
            (Config { cluster: "x".repeat(32), ..good.clone() }, "cluster"),
            (Config { cluster: String::new(), ..good.clone() }, "cluster"),
            (Config { cluster: "a,b".into(), ..good.clone() }, "cluster"),
            (Config { chunk_bytes: 2048, ..good.clone() }, "chunk-bytes"),
            (Config { chunk_bytes: 5000, ..good.clone() }, "chunk-bytes"),
            (Config { chunk_bytes: 128 << 20, ..good.clone() }, "chunk-bytes"),
            (Config { threads: 0, ..good.clone() }, "threads"),
            (Config { threads: 257, ..good.clone() }, "threads"),
        ];
        for (config, flag) in cases {
            assert_eq!(config.validate().unwrap_err().0, flag);
        }
    }
}
