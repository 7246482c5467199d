//! One epoch's tie to the daemon: the open link directory, which says whether the daemon lives, and the links made
//! through it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use foreword_usrbio::{
    IOVS_DIR, LinkKind, LinkName, NamedSemaphore, Priority, ShmFile, VIRT_DIR, is_hf3fs, shm_name_of, submit_link,
};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::shm;
use super::worker::Worker;
use crate::arena::lease;

/// What glibc puts in front of a semaphore's name to get its file's.
const SEMAPHORE_PREFIX: &str = "sem.";
/// Bytes of a witness.
const WITNESS_BYTES: u64 = 4096;

/// What wakes the daemon for a ring. Reads have the daemon's high priority: engines wait for them, and for no write.
pub(super) struct Submits {
    pub(super) reads: NamedSemaphore,
    pub(super) writes: NamedSemaphore,
}

/// The priority of a ring.
pub(super) fn priority(for_read: bool) -> Priority {
    if for_read { Priority::High } else { Priority::Normal }
}

/// The time between one attach and the daemon's death. Whatever was registered in it is worth nothing in the next.
pub(super) struct Attachment {
    epoch: u64,
    mount_point: PathBuf,
    /// Keeping it open keeps our links; asking for its state tells a dead daemon.
    iovs: OwnedFd,
    submits: Submits,
    over: AtomicBool,
    witness: Mutex<Weak<Witness>>,
    registrar: Arc<Worker>,
}

/// Memory that nobody but the daemon has mapped beside us: while it has, it may have the regions of this epoch. Whether
/// it has those cannot be seen, since engines map them too. It is there as long as a region is, and takes no memory
/// unless the daemon touches it.
pub(super) struct Witness {
    file: ShmFile,
    link: LinkName,
    attachment: Arc<Attachment>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.attachment.unlink_later(self.link);
    }
}

impl Attachment {
    /// Opens the mount. On the registrar only: the daemon drops our links when the *thread* that opened the directory
    /// goes.
    ///
    /// Errors: no 3FS there, its daemon is dead, or it shows no submit semaphore.
    pub(super) fn open(mount_point: &Path, epoch: u64, registrar: Arc<Worker>) -> io::Result<Self> {
        let dir = mount_point.join(VIRT_DIR).join(IOVS_DIR);
        let named = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let root = File::open(mount_point).map_err(|error| named(&mount_point.display().to_string(), error))?;
        if !is_hf3fs(&root) {
            return Err(io::Error::other(format!("{} does not answer as a 3FS mount", mount_point.display())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let iovs = rustix::fs::open(&dir, flags, Mode::empty())
            .map_err(|error| named(&dir.display().to_string(), error.into()))?;
        let submit = |for_read| {
            let link = submit_link(priority(for_read));
            open_submit(&iovs, &link).map_err(|error| named(&dir.join(&link).display().to_string(), error))
        };
        let submits = Submits { reads: submit(true)?, writes: submit(false)? };
        let over = AtomicBool::new(false);
        Ok(Self {
            epoch,
            mount_point: mount_point.to_owned(),
            iovs,
            submits,
            over,
            witness: Mutex::default(),
            registrar,
        })
    }

    /// A plain directory in the mount's place.
    #[cfg(test)]
    pub(super) fn over_dir(dir: &Path, submits: Submits, registrar: Arc<Worker>) -> Self {
        let iovs = File::open(dir).expect("a directory").into();
        let over = AtomicBool::new(false);
        Self { epoch: 1, mount_point: dir.to_owned(), iovs, submits, over, witness: Mutex::default(), registrar }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    pub(super) fn registrar(&self) -> &Arc<Worker> {
        &self.registrar
    }

    /// True once the daemon was found dead.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Asks whether the daemon lives. Blocks for as long as a hung daemon does.
    pub(super) fn daemon_lives(&self) -> bool {
        // Synchronised: a real mount lets the kernel answer from its cache for half a minute, dead or not.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        let asked = rustix::fs::statx(&self.iovs, "", flags, StatxFlags::MODE);
        // Any other answer is a living daemon's.
        !matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV))
    }

    /// Registers shared memory; the daemon has mapped it when this returns. On the registrar only.
    pub(super) fn link(&self, name: &LinkName, target: &Path) -> io::Result<()> {
        rustix::fs::symlinkat(target, &self.iovs, name.to_string())?;
        Ok(())
    }

    /// This epoch's witness, which the daemon has mapped. On the registrar only.
    pub(super) fn witness(self: &Arc<Self>) -> io::Result<Arc<Witness>> {
        let mut kept = self.witness.lock();
        if let Some(witness) = kept.upgrade() {
            return Ok(witness);
        }
        let mut file = shm::create_sparse(WITNESS_BYTES)?;
        let link = LinkName { id: shm::random_id(), kind: LinkKind::Data { block_bytes: 0 } };
        self.link(&link, &file.path())?;
        file.unlink();
        let witness = Arc::new(Witness { file, link, attachment: self.clone() });
        *kept = Arc::downgrade(&witness);
        Ok(witness)
    }

    /// True once no daemon has memory of this epoch any more, by the kernel's word.
    pub(super) fn is_let_go(&self) -> bool {
        let witness = self.witness.lock().upgrade();
        witness.is_none_or(|witness| lease::is_ours_alone(&witness.file))
    }

    /// Takes a link away, without waiting for it. In a later epoch there is nothing to take away.
    pub(super) fn unlink_later(self: &Arc<Self>, name: LinkName) {
        if self.is_over() {
            return;
        }
        let attachment = self.clone();
        self.registrar.post(move || attachment.unlink(&name));
    }

    /// As [`Self::unlink_later`], at once. On the registrar only.
    pub(super) fn unlink(&self, name: &LinkName) {
        if self.is_over() {
            return;
        }
        let unlinked = rustix::fs::unlinkat(&self.iovs, name.to_string(), AtFlags::empty());
        if let Err(error) = unlinked
            && !matches!(error, Errno::NOENT | Errno::NOTCONN)
        {
            tracing::warn!(link = %name, %error, "a link to shared memory could not be removed");
        }
    }

    /// Wakes the daemon: I/Os were prepared in a ring.
    pub(super) fn submit(&self, for_read: bool) {
        let submit = if for_read { &self.submits.reads } else { &self.submits.writes };
        submit.post();
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} of {}", self.epoch, self.mount_point.display())
    }
}

fn open_submit(iovs: &OwnedFd, link: &str) -> io::Result<NamedSemaphore> {
    let target = rustix::fs::readlinkat(iovs, link, Vec::new())?;
    let text = target.to_string_lossy().into_owned();
    let strange = || io::Error::other(format!("points to {text}, which is no semaphore in /dev/shm"));
    let name = shm_name_of(Path::new(&text)).and_then(|name| name.strip_prefix(SEMAPHORE_PREFIX));
    let name = name.ok_or_else(strange)?.to_owned();
    NamedSemaphore::open(&name).map_err(|error| io::Error::new(error.kind(), format!("{text}: {error}")))
}
