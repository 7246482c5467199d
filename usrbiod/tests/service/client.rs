//! A client in this process: rings, buffers and files, as a test or the fuzzer uses them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_usrbio::{
    Cqe, Cursor, IoArgs, IovId, LinkKind, LinkName, NamedSemaphore, Priority, RingLayout, RingMemory, RingName,
    ShmFile, Sqe,
};
use foreword_usrbiod::service::{BackingFiles, Owner, Service, ServiceSettings};
use parking_lot::Mutex;
use rustix::io::Errno;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must happen where nothing should.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

pub(crate) const ALICE: Owner = Owner { uid: 1001, gid: 1001, pid: 501 };
pub(crate) const BOB: Owner = Owner { uid: 1002, gid: 1002, pid: 502 };

/// Files by number; some cannot be written.
#[derive(Default)]
pub(crate) struct Files {
    files: Mutex<BTreeMap<u64, (Arc<OwnedFd>, bool)>>,
}

impl Files {
    pub(crate) fn add(&self, number: u64, file: File, writable: bool) {
        self.files.lock().insert(number, (Arc::new(file.into()), writable));
    }
}

impl BackingFiles for Files {
    fn open(&self, ino: u64, write: bool) -> Result<Arc<OwnedFd>, Errno> {
        let files = self.files.lock();
        let (file, writable) = files.get(&ino).ok_or(Errno::NOENT)?;
        if write && !writable { Err(Errno::ROFS) } else { Ok(Arc::clone(file)) }
    }
}

/// A service over such files.
pub(crate) fn service(files: &Arc<Files>, faults: &str, seed: u64) -> Arc<Service> {
    let files: Arc<Files> = Arc::clone(files);
    let settings = ServiceSettings { threads: 3, faults: faults.parse().unwrap(), seed };
    Service::start(settings, files).unwrap()
}

pub(crate) fn new_id() -> IovId {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    IovId((u128::from(std::process::id()) << 64 | u128::from(number)).to_be_bytes())
}

/// A new file in /dev/shm that belongs to a user.
pub(crate) fn shm(bytes: u64) -> (ShmFile, IovId) {
    let id = new_id();
    (ShmFile::create(&format!("foreword-test-service-{id}"), bytes, 0o666, false).unwrap(), id)
}

/// Registered memory.
pub(crate) struct Buffer {
    pub(crate) id: IovId,
    pub(crate) name: String,
    pub(crate) file: ShmFile,
}

impl Buffer {
    pub(crate) fn new(service: &Service, bytes: u64, block_bytes: u64, owner: Owner) -> Self {
        let (file, id) = shm(bytes);
        let name = LinkName { id, kind: LinkKind::Data { block_bytes } }.to_string();
        service.link(&name, &file.path(), owner).unwrap();
        Self { id, name, file }
    }

    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = rustix::io::pread(&self.file, &mut bytes, offset).unwrap();
        assert_eq!(read, len);
        bytes
    }

    pub(crate) fn fill(&self, offset: u64, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.file, bytes, offset).unwrap(), bytes.len());
    }
}

pub(crate) const READS: RingName =
    RingName { for_read: true, io_depth: 0, priority: Priority::Normal, timeout_ms: 0, flags: 0 };
pub(crate) const WRITES: RingName = RingName { for_read: false, ..READS };

/// A ring as the vendor's library uses one.
pub(crate) struct Client {
    pub(crate) memory: RingMemory,
    /// The ring's file, which has no name any more.
    pub(crate) file: ShmFile,
    pub(crate) name: String,
    submit: NamedSemaphore,
    free: Vec<i32>,
}

impl Client {
    pub(crate) fn new(service: &Service, entries: u32, ring: RingName, owner: Owner) -> Self {
        let layout = RingLayout::with_entries(entries).unwrap();
        let (mut file, id) = shm(layout.bytes());
        let memory = RingMemory::new(file.map(layout.bytes() as usize).unwrap()).unwrap();
        let name = LinkName { id, kind: LinkKind::Ring(ring) }.to_string();
        service.link(&name, &file.path(), owner).unwrap();
        file.unlink();
        let submit = semaphore(service, ring.priority);
        Self { memory, file, name, submit, free: (0..entries as i32).rev().collect() }
    }

    /// Puts an I/O into the ring; its slot, or None when it is full.
    pub(crate) fn prepare(&mut self, args: &IoArgs) -> Option<i32> {
        let index = self.free.pop()?;
        self.memory.set_args(index as u32, args);
        self.push(Sqe { index, userdata: args.userdata });
        Some(index)
    }

    /// Puts a submission into the ring, whatever it names.
    pub(crate) fn push(&mut self, sqe: Sqe) {
        let layout = self.memory.layout();
        let head = self.memory.load(Cursor::SqeHead) as u32;
        assert_ne!(layout.next(head), self.memory.load(Cursor::SqeTail) as u32, "the ring is full");
        self.memory.set_sqe(head, &sqe);
        self.memory.store(Cursor::SqeHead, layout.next(head) as i32);
    }

    pub(crate) fn submit(&self) {
        self.submit.post();
    }

    /// Takes what is completed, and says so to the service, which may have waited for room.
    pub(crate) fn reap(&mut self) -> Vec<Cqe> {
        let taken = self.reap_silently();
        if !taken.is_empty() {
            self.submit();
        }
        taken
    }

    /// Takes what is completed. Nobody looks at the ring for it.
    pub(crate) fn reap_silently(&mut self) -> Vec<Cqe> {
        let layout = self.memory.layout();
        let mut taken = Vec::new();
        let mut tail = self.memory.load(Cursor::CqeTail) as u32;
        while tail != self.memory.load(Cursor::CqeHead) as u32 {
            let cqe = self.memory.cqe(tail);
            tail = layout.next(tail);
            self.memory.store(Cursor::CqeTail, tail as i32);
            self.free.push(cqe.index);
            taken.push(cqe);
        }
        taken
    }

    /// Waits for so many completions.
    pub(crate) fn wait(&mut self, number: usize) -> Vec<Cqe> {
        let mut taken = self.reap();
        while taken.len() < number {
            // The completion may have come with an earlier post.
            let posted = self.memory.wait(PATIENCE);
            let more = self.reap();
            assert!(posted || !more.is_empty(), "{} of {number} completions came", taken.len());
            taken.extend(more);
        }
        assert_eq!(taken.len(), number);
        taken
    }

    /// Waits for one post, and takes what is completed then, silently.
    pub(crate) fn wait_some(&mut self) -> Vec<Cqe> {
        assert!(self.memory.wait(PATIENCE), "no completion came");
        self.reap_silently()
    }

    /// Submits these I/Os as one batch, waits for them, returns the results in the order of the I/Os. Their userdata is
    /// overwritten.
    pub(crate) fn batch(&mut self, ios: &[IoArgs]) -> Vec<i64> {
        for (userdata, io) in ios.iter().enumerate() {
            self.prepare(&IoArgs { userdata: userdata as u64, ..*io }).expect("room");
        }
        self.submit();
        let mut done = self.wait(ios.len());
        done.sort_by_key(|cqe| cqe.userdata);
        assert!(done.iter().enumerate().all(|(at, cqe)| cqe.userdata == at as u64), "{done:?}");
        done.into_iter().map(|cqe| cqe.result).collect()
    }

    /// Nothing is completed, and nothing will be for a while.
    pub(crate) fn assert_quiet(&mut self) {
        let started = now();
        // A post may still come of a completion that was taken without waiting for it.
        while let Some(left) = QUIET.checked_sub(now() - started) {
            self.memory.wait(left);
        }
        assert_eq!(self.reap(), []);
    }

    /// Gives slots back whose completions never came.
    pub(crate) fn forget_lost(&mut self) {
        self.free = (0..self.memory.layout().entries() as i32).collect();
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

/// The submit semaphore, opened as a client does.
pub(crate) fn semaphore(service: &Service, priority: Priority) -> NamedSemaphore {
    let target = service.submit_target(priority);
    let file = target.file_name().and_then(|name| name.to_str()).expect("a file name");
    NamedSemaphore::open(file.strip_prefix("sem.").expect("a semaphore")).unwrap()
}

/// Polls until a condition holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = now();
    while !holds() {
        assert!(now() - started < PATIENCE, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[expect(clippy::disallowed_methods, reason = "what is waited for is another process of this machine")]
pub(crate) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// The byte at an offset of a file that is filled with a pattern.
pub(crate) fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// A file of so many bytes of the pattern.
pub(crate) fn pattern_file(bytes: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..bytes).map(pattern).collect();
    assert_eq!(rustix::io::pwrite(&file, &content, 0).unwrap() as u64, bytes);
    file
}
