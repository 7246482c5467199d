//! Mounting and unmounting, by mount(2) itself: no fusermount and no libfuse. Needs root and /dev/fuse.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use foreword_usrbio::FS_TYPE;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::StartError;

const DEVICE: &str = "/dev/fuse";
/// Of this thread, not of the process: a test's thread may have mounts of its own.
const MOUNT_TABLE: &str = "/proc/thread-self/mountinfo";
/// How many dead mounts may lie over each other.
const DEAD_MOUNTS_MAX: usize = 64;

/// The directory to mount on, canonical, after mounts of dead daemons on it have been detached.
pub(crate) fn prepare(dir: &Path) -> Result<PathBuf, StartError> {
    let bad = |what: String| StartError::bad("mount", format!("a directory to mount on, {}: {what}", dir.display()));
    for _ in 0..DEAD_MOUNTS_MAX {
        match dir.canonicalize().and_then(|path| path.metadata().map(|found| (path, found.is_dir()))) {
            Ok((path, true)) => {
                return match top_mount(&path) {
                    Some(top) if top.fs_type == FS_TYPE => Err(bad("a 3FS is mounted on it already".into())),
                    _ => Ok(path),
                };
            }
            Ok((_, false)) => return Err(bad("not a directory".into())),
            Err(error) if is_dead(&error) => {
                tracing::info!(mount = %dir.display(), "detaching the mount of a daemon that has died");
                rustix::mount::unmount(dir, UnmountFlags::DETACH)
                    .map_err(|error| bad(format!("the mount of a dead daemon is on it and stays: {error}")))?;
            }
            Err(error) => return Err(bad(error.to_string())),
        }
    }
    Err(bad(format!("more than {DEAD_MOUNTS_MAX} mounts of dead daemons are on it")))
}

fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error())
}

/// Opens the FUSE device.
pub(crate) fn open_device() -> Result<OwnedFd, StartError> {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    opened.map(OwnedFd::from).map_err(|error| {
        let expected =
            "the device /dev/fuse, readable and writable (modprobe fuse; in a container: --device /dev/fuse)";
        StartError::bad("mount", format!("{expected}: {error}"))
    })
}

/// A mount of ours. It stays until `unmount`.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
    entry: Option<TopMount>,
}

impl Mounted {
    /// Mounts `device` on `path`, which must be canonical.
    pub(crate) fn new(device: &OwnedFd, path: PathBuf, cluster: &str) -> Result<Self, StartError> {
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
        let options = CString::new(options).expect("no zero byte in it");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        match rustix::mount::mount(format!("hf3fs.{cluster}"), &path, FS_TYPE, flags, Some(options.as_c_str())) {
            Ok(()) => {
                let entry = top_mount(&path);
                Ok(Self { path, entry })
            }
            Err(Errno::PERM) => {
                let expected = "to be run by root with CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN)";
                Err(StartError::bad("mount", format!("{expected}: mount(2) is not permitted")))
            }
            Err(error) => Err(StartError::Io { doing: "mount(2)", source: error.into() }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts; a mount in use is cut off (who uses it gets ENOTCONN) and detached.
    ///
    /// Nothing happens if ours is not the topmost mount there: someone has unmounted it, or mounted over it. To be
    /// called only while the kernel still talks to `device`: afterwards the entry could be another mount's.
    pub(crate) fn unmount(&self) -> io::Result<()> {
        if self.entry.is_none() || top_mount(&self.path) != self.entry {
            return Ok(());
        }
        let plain = UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(&self.path, plain) {
            Err(Errno::BUSY) => {}
            other => return Ok(other?),
        }
        // Ends the connection, also where it does not end the mount.
        match rustix::mount::unmount(&self.path, plain | UnmountFlags::FORCE) {
            Err(Errno::BUSY) => Ok(rustix::mount::unmount(&self.path, plain | UnmountFlags::DETACH)?),
            other => Ok(other?),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct TopMount {
    /// Its number, used again once the mount is gone.
    id: u64,
    /// Major and minor of its filesystem, used again once the filesystem is gone: not while its daemon serves it.
    device: String,
    fs_type: String,
}

/// The mount one meets at `path`.
fn top_mount(path: &Path) -> Option<TopMount> {
    top_mount_in(&std::fs::read_to_string(MOUNT_TABLE).ok()?, path)
}

/// The last mount on `path` in a mount table, which is in the order of mounting.
fn top_mount_in(table: &str, path: &Path) -> Option<TopMount> {
    let escaped = escaped(path.to_str()?);
    let of_line = |line: &str| {
        let (mount, rest) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let id = fields.next()?.parse().ok()?;
        let device = fields.nth(1)?.to_owned();
        let here = fields.nth(1)? == escaped;
        here.then(|| TopMount { id, device, fs_type: rest.split(' ').next().unwrap_or_default().into() })
    };
    table.lines().rev().find_map(of_line)
}

/// As the mount table writes a path.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw - ext4 /dev/vda rw
40 22 0:3 / /mnt/3\\040fs rw shared:1 - fuse.hf3fs hf3fs.a rw
41 22 0:4 / /mnt/3\\040fs rw - tmpfs tmpfs rw
";

    #[test]
    fn the_last_mount_on_a_path_is_the_topmost() {
        let top = top_mount_in(TABLE, Path::new("/mnt/3 fs")).unwrap();
        assert_eq!(top, TopMount { id: 41, device: "0:4".into(), fs_type: "tmpfs".into() });
        assert_eq!(top_mount_in(TABLE, Path::new("/")).unwrap().id, 22);
        assert_eq!(top_mount_in(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn a_directory_that_cannot_be_mounted_on_is_named() {
        for path in ["/no/such/dir", "/etc/passwd"] {
            let error = prepare(Path::new(path)).unwrap_err().to_string();
            assert!(error.starts_with("mount: expected a directory to mount on"), "{error}");
        }
    }
}
