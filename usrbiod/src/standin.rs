//! Starting and stopping a stand-in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::fs::{Backing, Filesystem3fs};
use crate::mount::{self, Mounted};
use crate::service::{Counters, Service, ServiceSettings};

/// Why a stand-in did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting, by its flag, or something the machine lacks for it.
    #[error("{flag}: expected {expected}")]
    Bad { flag: &'static str, expected: String },
    #[error("{doing}")]
    Io { doing: &'static str, source: io::Error },
}

impl StartError {
    pub(crate) fn bad(flag: &'static str, expected: impl Into<String>) -> Self {
        Self::Bad { flag, expected: expected.into() }
    }
}

/// Becomes true when the kernel has let go of the mount.
#[derive(Debug, Default)]
struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn set(&self) {
        *self.ended.lock() = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.ended.lock()
    }

    fn wait(&self) {
        let mut ended = self.ended.lock();
        while !*ended {
            self.changed.wait(&mut ended);
        }
    }
}

/// A mounted stand-in. Dropping it unmounts it and ends its threads.
pub struct StandIn {
    mounted: Mounted,
    service: Arc<Service>,
    session: Option<JoinHandle<()>>,
    ended: Arc<Ended>,
}

/// Mounts a stand-in and serves it by threads of its own until it is dropped or unmounted.
///
/// The mount appears in the mount namespace of the calling thread, which has to be the one that drops it.
///
/// Errors: [`StartError::Bad`] names the flag that is wrong or that the machine cannot serve.
pub fn start(config: Config) -> Result<StandIn, StartError> {
    config.validate().map_err(|(flag, expected)| StartError::bad(flag, expected))?;
    // A descriptor for every file that callers know: the default of 1,024 is soon used up.
    let open_files = raise_open_files();
    let path = mount::prepare(&config.mount)?;
    let backing = open_backing(&config, &path, open_files)?;
    let device = mount::open_device()?;
    let settings = ServiceSettings { threads: config.threads, faults: config.faults, seed: config.seed };
    let service = Service::start(settings, backing.files())
        .map_err(|source| StartError::Io { doing: "starting the service of rings", source })?;
    let chunk_bytes = u32::try_from(config.chunk_bytes).expect("checked above");
    let filesystem = Filesystem3fs::new(&backing, Arc::clone(&service), chunk_bytes, &config.cluster, &path);
    let mounted = match Mounted::new(&device, path, &config.cluster) {
        Ok(mounted) => mounted,
        Err(error) => {
            service.stop();
            return Err(error);
        }
    };
    // From here on dropping it undoes everything.
    let mut standin = StandIn { mounted, service, session: None, ended: Arc::default() };
    let failed = |source| StartError::Io { doing: "serving /dev/fuse", source };
    let mut options = fuser::Config::default();
    options.n_threads = Some(config.threads.max(2));
    let session = Session::from_fd(filesystem, device, SessionACL::All, options).map_err(failed)?;
    let ended = Arc::clone(&standin.ended);
    let serve = move || {
        if let Err(error) = session.run() {
            tracing::warn!("the filesystem ended: {error}");
        }
        ended.set();
    };
    standin.session = Some(std::thread::Builder::new().name("standin-fuse".into()).spawn(serve).map_err(failed)?);
    Ok(standin)
}

fn open_backing(config: &Config, mount: &Path, open_files: u64) -> Result<Backing, StartError> {
    let shown = config.backing.display();
    let bad = |what: &str| StartError::bad("backing", format!("a directory, {shown}: {what}"));
    let path = config.backing.canonicalize().map_err(|error| bad(&error.to_string()))?;
    if !path.is_dir() {
        return Err(bad("not a directory"));
    }
    if path.starts_with(mount) {
        return Err(bad("it lies in the directory to mount on, which would hide it"));
    }
    if mount.starts_with(&path) {
        let expected = format!("a directory outside of the backing {}", path.display());
        return Err(StartError::bad("mount", format!("{expected}, got {}", mount.display())));
    }
    Backing::open(&path, open_files, config.direct).map_err(|error| bad(&error.to_string()))
}

/// Raises this process's soft limit of open files to its hard one. The limit in force afterwards.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        set_open_files(limit.maximum);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the hard limit too, as far as the machine lets root: for a process that does nothing but serve.
///
/// One that loads the vendor's client library must not: that makes a table of the hard limit's size.
pub fn raise_open_files_hard() {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let hard = getrlimit(Resource::Nofile).maximum;
    if let (Some(most), Some(hard)) = (most, hard)
        && most > hard
    {
        set_open_files(Some(most));
    }
}

fn set_open_files(limit: Option<u64>) {
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }) {
        // Common in containers. It matters only when so many files are known, and then that is said.
        tracing::debug!("the limit of open files is not raised to {limit:?}: {error}");
    }
}

impl StandIn {
    /// Where it is mounted, canonical.
    pub fn mount(&self) -> PathBuf {
        self.mounted.path().to_owned()
    }

    /// What it has done so far, as `3fs-virt/stand-in` shows it.
    pub fn counters(&self) -> Counters {
        self.service.counters()
    }

    /// A call that blocks until the mount is gone, also when someone else unmounts it.
    pub fn ended(&self) -> impl FnOnce() + Send + 'static {
        let ended = Arc::clone(&self.ended);
        move || ended.wait()
    }

    /// Unmounts it and ends its threads. Who still uses it gets ENOTCONN.
    ///
    /// Errors: what umount2(2) says; the mount then stays, dead.
    pub fn unmount(mut self) -> io::Result<()> {
        self.close()
    }

    fn close(&mut self) -> io::Result<()> {
        // Someone else has unmounted it already? Then what lies there now is not ours.
        let unmounted = if self.ended.is_set() { Ok(()) } else { self.mounted.unmount() };
        if let Some(session) = self.session.take()
            && unmounted.is_ok()
            && session.join().is_err()
        {
            tracing::error!("the filesystem's thread panicked");
        }
        self.service.stop();
        unmounted
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(mount = %self.mounted.path().display(), "not unmounted: {error}");
        }
    }
}
