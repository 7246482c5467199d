//! A mount to test on, and what is done with it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use foreword_node::arena::{Arena, ArenaSettings, FrameMut};
use foreword_node::store::{
    ClientKind, ClusterMark, Completion, Io, OpId, PageStore, StoreError, Transfer, UsrbioMount, UsrbioRegions,
    UsrbioSettings, UsrbioStore, init_l3_root,
};
use foreword_proto::ClusterId;
use foreword_usrbio::is_hf3fs;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;
use tempfile::TempDir;

pub(crate) const CLUSTER: ClusterId = ClusterId([5; 16]);
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const CHUNK: u64 = 65_536;
/// How our files in /dev/shm begin: the first 8 bytes of their UUIDs are `foreword`.
pub(crate) const OUR_PREFIX: &str = "hf3fs-iov-666f7265776f7264";

/// Runs a test in a thread with a mount namespace of its own, or says why not.
pub(crate) fn on_a_mount(test: impl FnOnce() + Send + 'static) {
    let root = rustix::process::geteuid().is_root();
    if !root || fs::File::open("/dev/fuse").is_err() {
        let must = std::env::var("CI").is_ok_and(|ci| ci == "true") && root;
        assert!(!must, "no /dev/fuse, and CI with root must have it");
        println!("skipped: needs root and /dev/fuse");
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: only the mount namespace is unshared, and with it the root directory of this thread alone.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
        rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Polls for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(0);
    for _ in 0..LONG.as_millis() / 2 {
        if holds() {
            return;
        }
        // Nobody sends: this is a pause.
        let _ = receiver.recv_timeout(Duration::from_millis(2));
    }
    drop(sender);
    panic!("not within {LONG:?}: {what}");
}

/// A stand-in in a process of its own.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it: when this returns, none of its threads runs.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        let stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in parentheses. A thread that has ended has none.
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        until("all threads are stopped", || fs::read_dir(&tasks).unwrap().all(|task| stopped(task.unwrap())));
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The end of its input has it unmount and remove its semaphores; one that was stopped does so when it goes on.
        drop(self.child.stdin.take());
        if matches!(self.child.try_wait(), Ok(None)) {
            self.go_on();
        }
        let _ = self.child.wait();
    }
}

/// Starts this test binary in another role; see `roles.rs`.
pub(crate) fn in_role(role: &str, settings: &[(&str, String)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("roles::{role}"), "--nocapture", "--test-threads=1"])
        .env("FOREWORD_TEST_ROLE", role);
    command.envs(settings.iter().map(|(name, value)| (*name, value.as_str())));
    command
}

/// A directory with a backing, a mount point, and the daemon between them.
pub(crate) struct Bench {
    dir: TempDir,
    daemon: Option<Daemon>,
}

impl Bench {
    /// A mounted stand-in with these faults, and a cluster's L3 directory on it.
    pub(crate) fn new(faults: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["backing", "mount"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut bench = Self { dir, daemon: None };
        bench.start(faults);
        init_l3_root(&bench.mount_point(), &bench.mark()).unwrap();
        bench
    }

    pub(crate) fn start(&mut self, faults: &str) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let settings = [
            ("FOREWORD_TEST_BACKING", path("backing")),
            ("FOREWORD_TEST_MOUNT", path("mount")),
            ("FOREWORD_TEST_FAULTS", faults.to_owned()),
        ];
        let child = in_role("stand_in", &settings).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        self.daemon = Some(Daemon { child });
        let mount_point = self.mount_point();
        until("the stand-in is mounted", || {
            fs::File::open(&mount_point).is_ok_and(is_hf3fs) && mount_point.join("3fs-virt/iovs").is_dir()
        });
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon runs")
    }

    pub(crate) fn kill_daemon(&mut self) {
        self.daemon.take().expect("a daemon runs").kill();
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    pub(crate) fn backing(&self) -> PathBuf {
        self.dir.path().join("backing")
    }

    pub(crate) fn mark(&self) -> ClusterMark {
        ClusterMark::new(CLUSTER, CHUNK as u32, "test")
    }

    pub(crate) fn attach(&self) -> Arc<UsrbioMount> {
        UsrbioMount::attach(&self.mount_point(), ClientKind::Native).unwrap()
    }

    pub(crate) fn store(&self, mount: &Arc<UsrbioMount>, settings: UsrbioSettings) -> UsrbioStore {
        UsrbioStore::new(mount.clone(), self.mount_point(), CLUSTER, settings).unwrap()
    }

    /// Names in the link directory, but for the submit semaphores.
    pub(crate) fn links(&self) -> Vec<String> {
        let listed = fs::read_dir(self.mount_point().join("3fs-virt/iovs")).unwrap();
        let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with("submit-ios")).collect()
    }

    /// A figure of the stand-in.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.mount_point().join("3fs-virt/stand-in")).unwrap();
        let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
        figures[name].as_u64().unwrap_or_else(|| panic!("no figure {name} in {text}"))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.daemon.take());
        // A mount that is left is of this thread's namespace and goes with it; the directory below should go too.
        while rustix::mount::unmount(self.mount_point(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// An empty /dev/shm of this size for this test alone.
pub(crate) fn own_shm(bytes: u64) {
    let options = CString::new(format!("size={bytes}")).unwrap();
    rustix::mount::mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
}

/// Our files in /dev/shm, but for reserves, which have no name.
pub(crate) fn our_files() -> Vec<PathBuf> {
    let ours = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OUR_PREFIX));
    fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().path()).filter(|path| ours(path)).collect()
}

pub(crate) fn arena(mount: &Arc<UsrbioMount>, arena_bytes: u64) -> Arena {
    Arena::new(ArenaSettings::new(arena_bytes), Arc::new(UsrbioRegions::new(mount.clone()))).unwrap()
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A page of CHUNK bytes, each of them `byte`.
pub(crate) fn page(arena: &Arena, byte: u8) -> FrameMut {
    let mut frame = arena.allocate(1, CHUNK).unwrap();
    frame.bytes_mut().fill(byte);
    frame
}

pub(crate) fn write(op: OpId, slab: u32, slot: u64, frame: FrameMut) -> Io {
    Io { op, slab, offset: slot * CHUNK, len: CHUNK, transfer: Transfer::Write(frame.freeze()), begin_by: None }
}

pub(crate) fn read(op: OpId, slab: u32, slot: u64, frame: FrameMut) -> Io {
    Io { op, slab, offset: slot * CHUNK, len: CHUNK, transfer: Transfer::Read(frame), begin_by: None }
}

pub(crate) fn bytes_of(completion: &Completion) -> &[u8] {
    match &completion.transfer {
        Transfer::Read(frame) => frame.bytes(),
        Transfer::Write(frame) => frame.bytes(),
    }
}

/// So many completions, by their I/Os.
pub(crate) async fn completions(store: &UsrbioStore, count: usize) -> BTreeMap<OpId, Completion> {
    let mut all = BTreeMap::new();
    while all.len() < count {
        let done = tokio::time::timeout(LONG, store.complete()).await;
        let done = done.unwrap_or_else(|_| panic!("{} of {count} completions came", all.len()));
        for completion in done {
            let op = completion.op;
            assert!(all.insert(op, completion).is_none(), "I/O {op} completed twice");
        }
    }
    assert_eq!(all.len(), count);
    all
}

/// Opens a slab, again and again until the store has found the daemon.
pub(crate) async fn open(store: &UsrbioStore, slab: u32, slots: u64) {
    let opened = async {
        while let Err(error) = store.open_slab(slab, slots * CHUNK).await {
            assert!(matches!(error, StoreError::Gone | StoreError::Errno(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, opened).await.expect("the slab opens");
}
