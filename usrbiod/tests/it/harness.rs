//! Mounts for tests: each in a mount namespace of its own thread, so that nothing is left behind.
//!
//! Needs root and /dev/fuse: a test without them prints that it is skipped; with CI=true and as root it fails instead.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use foreword_usrbiod::{Config, StandIn, enter_private_mounts, start};
use rustix::io::Errno;

/// How long a condition may take to come true. Far more than it needs: only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// A user that is neither root nor anyone else.
pub(crate) const OTHER: u32 = 54_321;

/// Two empty directories, one to mount on and one to show.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for path in [place.dir.path(), &place.mount(), &place.backing()] {
            std::fs::create_dir_all(path).unwrap();
            // Other users have to get through.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        place
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    pub(crate) fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }

    /// Settings for a stand-in here, with few threads.
    pub(crate) fn config(&self) -> Config {
        Config { threads: 2, ..Config::new(self.mount(), self.backing()) }
    }

    pub(crate) fn start(&self) -> StandIn {
        start(self.config()).unwrap()
    }
}

/// Can this process mount? Prints why not; panics instead where it must be able to.
fn can_mount() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new("/dev/fuse").exists() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI runs as root but has no /dev/fuse");
        "/dev/fuse"
    } else {
        return true;
    };
    println!("skipped: it needs {missing}");
    false
}

/// Runs `test` in a thread with a mount namespace of its own, which its threads and children inherit.
pub(crate) fn in_private_mounts(test: impl FnOnce(&Place) + Send) {
    if !can_mount() {
        return;
    }
    thread::scope(|scope| {
        let body = move || {
            enter_private_mounts().unwrap();
            test(&Place::new());
        };
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `test` with a mounted stand-in: its mount point and its backing. Afterwards nothing is mounted any more.
pub(crate) fn with_mount(test: impl FnOnce(&Path, &Path) + Send) {
    in_private_mounts(|place| {
        let standin = place.start();
        test(&place.mount(), &place.backing());
        standin.unmount().unwrap();
        assert!(!place.mount().join("3fs-virt").exists(), "it is not mounted any more");
    });
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if condition() {
            return;
        }
        thread::park_timeout(STEP);
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// One ioctl, with `argument` as what it reads or writes.
pub(crate) fn ioctl(fd: impl AsFd, number: u32, argument: &mut [u8]) -> Result<(), Errno> {
    let size = (number >> 16 & 0x3fff) as usize;
    assert!(argument.len() >= size, "the argument is shorter than the number says");
    // SAFETY: the number's size field bounds what the kernel reads and writes, and the argument has as much.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::c_ulong::from(number), argument.as_mut_ptr()) };
    if answer == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()) }
}

/// The errno of a failed call.
pub(crate) fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().as_ref().and_then(Errno::from_io_error)
}
