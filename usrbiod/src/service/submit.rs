//! The three semaphores by which clients say that they have submitted something, and who looks then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use foreword_usrbio::{NamedSemaphore, Priority, SHM_DIR};
use parking_lot::Mutex;

use super::guard::Guard;

/// What the names of our semaphores begin with.
const PREFIX: &str = "foreword-usrbiod";
/// A semaphore's file holds 32 bytes of a page.
const SEMAPHORE_PAGE_BYTES: usize = 4096;
/// How long a watcher sleeps at most. A client may write into the semaphore so that a post does not wake us; the value
/// tells then.
const NAP: Duration = Duration::from_millis(100);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One submit semaphore. Clients may destroy its file: then another takes its place, for those that come later.
#[derive(Debug)]
pub(super) struct Submit {
    priority: Priority,
    now: Mutex<Arc<Semaphore>>,
}

#[derive(Debug)]
struct Semaphore {
    // Dropped before the memory is unmapped.
    guard: Guard,
    semaphore: NamedSemaphore,
}

impl Submit {
    pub(super) fn create(priority: Priority) -> io::Result<Self> {
        Ok(Self { priority, now: Mutex::new(Arc::new(Semaphore::create(priority)?)) })
    }

    /// Its file.
    pub(super) fn path(&self) -> PathBuf {
        self.now.lock().semaphore.path()
    }

    /// Says that something was submitted.
    pub(super) fn post(&self) {
        self.current().semaphore.post();
    }

    /// Waits for a while; true: something was submitted.
    pub(super) fn wait(&self) -> bool {
        let current = self.current();
        let posted = current.semaphore.wait_all(NAP);
        if current.guard.is_cut() {
            match Semaphore::create(self.priority) {
                Ok(new) => *self.now.lock() = Arc::new(new),
                Err(error) => {
                    tracing::error!(%error, "a client destroyed a submit semaphore, and another cannot be made")
                }
            }
        }
        posted
    }

    /// Takes its name away.
    pub(super) fn unlink(&self) {
        self.current().semaphore.unlink();
    }

    fn current(&self) -> Arc<Semaphore> {
        Arc::clone(&self.now.lock())
    }
}

impl Semaphore {
    fn create(priority: Priority) -> io::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let letter = match priority {
            Priority::High => 'h',
            Priority::Normal => 'n',
            Priority::Low => 'l',
        };
        let semaphore = NamedSemaphore::create(&format!("{PREFIX}.{}.{number}.{letter}", Process::this()?.name()))?;
        match Guard::new(semaphore.base(), SEMAPHORE_PAGE_BYTES) {
            Ok(guard) => Ok(Self { guard, semaphore }),
            Err(errno) => {
                semaphore.unlink();
                Err(errno.into())
            }
        }
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        self.semaphore.unlink();
    }
}

/// A process, told from all others that ever had its id: the pid namespace, the id in it, the start in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    namespace: u64,
    pid: u32,
    start: u64,
}

impl Process {
    fn this() -> io::Result<Self> {
        let link = fs::read_link("/proc/self/ns/pid")?;
        let digits = |text: &str| text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok();
        let namespace = link.to_str().and_then(digits).ok_or(io::ErrorKind::InvalidData)?;
        let pid = std::process::id();
        Ok(Self { namespace, pid, start: start_of(pid).ok_or(io::ErrorKind::InvalidData)? })
    }

    fn name(self) -> String {
        format!("{}.{}.{}", self.namespace, self.pid, self.start)
    }

    /// From the name of a semaphore's file, if it is one of ours.
    fn of_file(file: &str) -> Option<Self> {
        let mut parts = file.strip_prefix("sem.")?.strip_prefix(PREFIX)?.strip_prefix('.')?.split('.');
        let process = Self {
            namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        };
        (parts.count() == 2).then_some(process)
    }
}

/// When a process started, in clock ticks since the boot; None: there is none.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the start is field 22, the 20th after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes the semaphores of stand-ins that ended without doing so, known by the process in their names. Those of
/// another pid namespace cannot be told and stay.
pub(super) fn remove_those_of_the_dead() -> io::Result<()> {
    let this = Process::this()?;
    for file in fs::read_dir(SHM_DIR)? {
        let file = file?.file_name();
        let Some(process) = file.to_str().and_then(Process::of_file) else { continue };
        if process.namespace == this.namespace && start_of(process.pid) != Some(process.start) {
            // Another may be removing it too.
            let _ = fs::remove_file(Path::new(SHM_DIR).join(&file));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semaphores_of_the_dead_are_removed_and_no_others() {
        let this = Process::this().unwrap();
        let file = |process: Process, rest: &str| {
            let path = Path::new(SHM_DIR).join(format!("sem.{PREFIX}.{}.{rest}", process.name()));
            fs::write(&path, []).unwrap();
            path
        };
        let number = 4_000_000_000u32;
        let reborn = file(Process { start: this.start + 1, ..this }, &format!("{number}.n"));
        let dead = file(Process { pid: number, ..this }, &format!("{number}.h"));
        let stays = [
            file(this, &format!("{number}.l")),
            file(Process { pid: number, namespace: this.namespace + 1, ..this }, &format!("{number}.l")),
            file(Process { pid: number, ..this }, &format!("other-{}", this.start)),
        ];
        remove_those_of_the_dead().unwrap();
        assert!(!reborn.exists() && !dead.exists());
        for path in stays {
            assert!(path.exists(), "{}", path.display());
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_destroyed_semaphore_is_replaced() {
        let submit = Submit::create(Priority::Low).unwrap();
        let before = submit.path();
        submit.post();
        assert!(submit.wait());
        fs::File::options().write(true).open(&before).unwrap().set_len(0).unwrap();
        assert!(!submit.wait());
        assert!(!before.exists());
        assert_ne!(submit.path(), before);
        submit.post();
        assert!(submit.wait());
        submit.unlink();
        assert!(!submit.path().exists());
    }
}
