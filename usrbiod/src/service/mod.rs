//! Links, rings and their I/Os: the part of the stand-in that serves USRBIO. It knows nothing of FUSE.
//!
//! A submit wakes the watcher of its priority, which takes jobs from all rings of that priority; threads of a pool do
//! them. What a client writes into shared memory is copied once, then checked; nothing of it is trusted.
//!
//! `guard.rs` and `transfer.rs` hold all `unsafe`.

mod batch;
mod clock;
mod counters;
mod faults;
mod guard;
pub mod limits;
mod link;
mod pool;
mod ring;
mod submit;
mod table;
mod timer;
mod transfer;
mod watch;
mod work;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use foreword_usrbio::Priority;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

pub use counters::Counters;
pub use faults::{FaultError, FaultPlan};
pub use table::{Link, Owner};

use counters::Tally;
use pool::Pool;
use ring::Ring;
use submit::Submit;
use table::{Memory, Table};
use timer::Timer;
use work::Held;

/// The files that I/Os name by number.
pub trait BackingFiles: Send + Sync {
    /// A descriptor for I/O on a regular file, by the inode number the mount shows.
    ///
    /// ENOENT, EISDIR and EINVAL stand for numbers that no open-able regular file has; clients get EBADF for them.
    fn open(&self, ino: u64, write: bool) -> Result<Arc<OwnedFd>, Errno>;
}

/// What a service is started with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceSettings {
    /// Threads that do I/O: from 1 to [`limits::THREADS_MAX`]; what is outside counts as the nearest.
    pub threads: usize,
    pub faults: FaultPlan,
    /// Decides which I/Os the faults hit.
    pub seed: u64,
}

/// Serves rings until it is stopped or dropped.
pub struct Service {
    shared: Arc<Shared>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share.
struct Shared {
    threads: usize,
    faults: FaultPlan,
    seed: u64,
    files: Arc<dyn BackingFiles>,
    table: RwLock<Table>,
    /// The rings of the table, for the watchers; changed under the table's lock.
    rings: Mutex<Arc<Vec<Arc<Ring>>>>,
    submits: Vec<Submit>,
    pool: Pool,
    timer: Timer<Held>,
    tally: Tally,
    jobs_begun: AtomicU64,
    stopping: AtomicBool,
}

impl Service {
    /// Starts: removes the semaphores of dead stand-ins, makes its own three, starts its threads.
    pub fn start(settings: ServiceSettings, files: Arc<dyn BackingFiles>) -> io::Result<Arc<Self>> {
        submit::remove_those_of_the_dead()?;
        let threads = settings.threads.clamp(1, limits::THREADS_MAX);
        let shared = Arc::new(Shared {
            threads,
            faults: settings.faults,
            seed: settings.seed,
            files,
            table: RwLock::default(),
            rings: Mutex::default(),
            submits: Vec::new(),
            pool: Pool::default(),
            timer: Timer::new(),
            tally: Tally::default(),
            jobs_begun: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        Self::run(shared)
    }

    fn run(mut shared: Arc<Shared>) -> io::Result<Arc<Self>> {
        for priority in Priority::ALL {
            let submit = Submit::create(priority)?;
            // Nobody else holds it yet.
            Arc::get_mut(&mut shared).ok_or(io::ErrorKind::ResourceBusy)?.submits.push(submit);
        }
        let service = Arc::new(Self { shared: Arc::clone(&shared), running: Mutex::default() });
        for priority in Priority::ALL {
            service.spawn("usrbio-watch", move |shared| shared.watch(priority))?;
        }
        service.spawn("usrbio-timer", Shared::release_held)?;
        for _ in 0..shared.threads {
            service.spawn("usrbio-io", Shared::do_tasks)?;
        }
        Ok(service)
    }

    fn spawn(&self, name: &str, run: impl FnOnce(&Shared) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))?;
        self.running.lock().push(thread);
        Ok(())
    }

    /// The target of the link to a submit semaphore: `/dev/shm/sem.<name>`.
    pub fn submit_target(&self, priority: Priority) -> PathBuf {
        self.shared.submit(priority).path()
    }

    /// Makes a link: maps its target, and for a ring makes the completion semaphore, before it returns.
    ///
    /// EINVAL for a bad name or target, a block or io_depth that exceeds the memory; EEXIST for a name or id that is
    /// known; EMFILE for too many links, EFBIG for too much memory; EACCES for memory that its owner may not use or
    /// that cannot be mapped.
    pub fn link(&self, name: &str, target: &Path, owner: Owner) -> Result<Link, Errno> {
        self.shared.link(name, target, owner)
    }

    /// Removes a link; jobs under way keep its memory. ENOENT; EPERM for another user's.
    pub fn unlink(&self, name: &str, uid: u32) -> Result<(), Errno> {
        let mut table = self.shared.table.write();
        let gone = table.remove(name, uid)?;
        self.shared.forget(table, vec![gone]);
        Ok(())
    }

    /// A link by its name. ENOENT; EPERM for another user's.
    pub fn lookup(&self, name: &str, uid: u32) -> Result<Link, Errno> {
        self.shared.table.read().lookup(name, uid)
    }

    /// A link by its descriptor. ENOENT; EPERM for another user's.
    pub fn by_descriptor(&self, descriptor: u32, uid: u32) -> Result<Link, Errno> {
        self.shared.table.read().by_descriptor(descriptor, uid)
    }

    /// A user's links, in the order of their descriptors.
    pub fn list(&self, uid: u32) -> Vec<Link> {
        self.shared.table.read().list(uid)
    }

    /// Removes all links of a process that is gone. 0 is no process.
    pub fn owner_gone(&self, pid: u32) {
        if pid != 0 {
            let mut table = self.shared.table.write();
            let gone = table.remove_owner(pid);
            self.shared.forget(table, gone);
        }
    }

    pub fn counters(&self) -> Counters {
        let (links, rings) = self.shared.table.read().sizes();
        self.shared.tally.counters(links, rings)
    }

    /// Ends the threads after the I/Os they are at, lets go what waits, removes the semaphores. Again: does nothing.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.pool.stop();
        self.shared.timer.stop();
        for submit in &self.shared.submits {
            submit.post();
        }
        for thread in std::mem::take(&mut *self.running.lock()) {
            // Its panic has been printed.
            let _ = thread.join();
        }
        for submit in &self.shared.submits {
            submit.unlink();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn submit(&self, priority: Priority) -> &Submit {
        let at = Priority::ALL.iter().position(|other| *other == priority).unwrap_or(0);
        &self.submits[at]
    }

    /// Makes a watcher look at its rings, as a submit does.
    fn wake(&self, priority: Priority) {
        self.submit(priority).post();
    }

    fn set_rings(&self, table: &Table) {
        *self.rings.lock() = Arc::new(table.rings().cloned().collect());
    }

    /// Leaves links that were removed; their memory is unmapped when nobody holds the table's lock.
    fn forget(&self, table: parking_lot::RwLockWriteGuard<'_, Table>, gone: Vec<Memory>) {
        self.set_rings(&table);
        drop(table);
        for memory in gone {
            if let Memory::Ring(ring) = memory {
                ring.retire();
            }
        }
    }
}
