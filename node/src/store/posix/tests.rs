use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::arena::{Arena, ArenaSettings, FrameMut, HeapRegions};
use crate::store::init_l3_root;

const CLUSTER: ClusterId = ClusterId([9; 16]);
const PAGE: u64 = 4096;

fn store(root: &Path, threads: usize) -> PosixStore {
    PosixStore::new(root, CLUSTER, 4096, threads).unwrap()
}

fn arena() -> Arena {
    Arena::new(ArenaSettings::new(64 * PAGE), Arc::new(HeapRegions)).unwrap()
}

fn page(arena: &Arena, byte: u8) -> FrameMut {
    let mut frame = arena.allocate(1, PAGE).unwrap();
    frame.bytes_mut().fill(byte);
    frame
}

async fn one(store: &PosixStore, slab: SlabId, offset: u64, transfer: Transfer) -> Completion {
    store.submit(vec![Io { op: 1, slab, offset, len: PAGE, transfer, begin_by: None }]);
    tokio::time::timeout(Duration::from_secs(30), store.complete()).await.unwrap().pop().unwrap()
}

#[tokio::test]
async fn slabs_are_sparse_files_of_their_size() {
    let root = tempfile::tempdir().unwrap();
    init_l3_root(root.path(), &ClusterMark::new(CLUSTER, 4096, "test")).unwrap();
    let (store, arena) = (store(root.path(), 2), arena());
    store.open_slab(0x1f, 1 << 40).await.unwrap();
    let done = one(&store, 0x1f, 1 << 39, Transfer::Write(page(&arena, 7).freeze())).await;
    assert_eq!(done.result, Ok(PAGE));
    let path = root.path().join(CLUSTER.to_string()).join("slabs/0000001f.slab");
    let file = std::fs::File::open(&path).unwrap();
    let mut bytes = [0; PAGE as usize];
    file.read_exact_at(&mut bytes, 1 << 39).unwrap();
    assert_eq!((bytes, file.metadata().unwrap().len()), ([7; PAGE as usize], 1 << 40));
    store.remove_slab(0x1f).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn faults_of_the_filesystem_are_numbers() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), 1);
    assert_eq!(store.open_slab(1, PAGE).await, Err(StoreError::Errno(libc::ENOENT)), "nobody made the directory");
    assert_eq!(store.cluster_mark().await, Ok(None));
    init_l3_root(root.path(), &ClusterMark::new(CLUSTER, 4096, "test")).unwrap();
    std::fs::write(root.path().join(CLUSTER.to_string()).join("CLUSTER"), "{}").unwrap();
    let error = store.cluster_mark().await.unwrap_err();
    assert!(matches!(&error, StoreError::BadMark(what) if what.contains("format")), "{error}");
    store.open_slab(1, PAGE).await.unwrap();
    let done = one(&store, 1, u64::MAX - PAGE, Transfer::Write(page(&arena(), 1).freeze())).await;
    assert_eq!(done.result, Err(StoreError::Errno(libc::EINVAL)), "an offset beyond any file");
}

/// Whoever opens this file to write waits, as in a filesystem that hangs, until this lease is given back.
struct Lease(std::fs::File);

impl Lease {
    fn take(path: &Path) -> Self {
        let file = std::fs::File::open(path).unwrap();
        // SAFETY: these calls take numbers only. The kernel tells who holds a lease that somebody waits for it by a
        // signal, which would end this process.
        let taken = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
        };
        assert_eq!(taken, 0, "{}", std::io::Error::last_os_error());
        Self(file)
    }

    fn somebody_waits(&self) -> bool {
        // SAFETY: it takes numbers only.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) == libc::F_UNLCK }
    }
}

#[tokio::test]
async fn a_write_whose_slab_took_too_long_to_open_is_not_done_any_more() {
    let root = tempfile::tempdir().unwrap();
    init_l3_root(root.path(), &ClusterMark::new(CLUSTER, 4096, "test")).unwrap();
    let first = store(root.path(), 1);
    first.open_slab(1, PAGE).await.unwrap();
    let shared = Arc::downgrade(&first.shared);
    drop(first);
    let closed = async {
        while shared.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), closed).await.expect("nobody else has the slab open");

    let path = root.path().join(CLUSTER.to_string()).join("slabs/00000001.slab");
    let (store, lease) = (store(root.path(), 2), Lease::take(&path));
    let begin_by = Instant::now() + Duration::from_secs(1);
    let transfer = Transfer::Write(page(&arena(), 7).freeze());
    store.submit(vec![Io { op: 1, slab: 1, offset: 0, len: PAGE, transfer, begin_by: Some(begin_by) }]);
    let waits = async {
        while !lease.somebody_waits() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waits).await.expect("the slab is opened when it is written");
    tokio::time::sleep_until(begin_by + Duration::from_millis(1)).await;
    drop(lease);
    let done = tokio::time::timeout(Duration::from_secs(30), store.complete()).await.unwrap().pop().unwrap();
    assert_eq!(done.result, Err(StoreError::TimedOut));
    assert_eq!(std::fs::read(path).unwrap(), [0; PAGE as usize]);
}

#[test]
fn settings_out_of_range_are_named() {
    for (chunk_bytes, threads, field) in [(5000, 1, "chunk_bytes"), (4096, 0, "io_threads"), (4096, 65, "io_threads")] {
        assert_eq!(PosixStore::new("/nowhere", CLUSTER, chunk_bytes, threads).err().unwrap().field, field);
    }
}

#[tokio::test]
async fn a_full_queue_answers_at_once() {
    let root = tempfile::tempdir().unwrap();
    let (store, frame) = (store(root.path(), 2), page(&arena(), 1).freeze());
    let io = |op| Io { op, slab: 1, offset: 0, len: PAGE, transfer: Transfer::Write(frame.clone()), begin_by: None };
    store.submit((0..IOS_QUEUED_MAX as u64 + 10).map(io).collect());
    let mut answers = Vec::new();
    while answers.len() < IOS_QUEUED_MAX + 10 {
        let done = tokio::time::timeout(Duration::from_secs(30), store.complete()).await.unwrap();
        answers.extend(done.into_iter().map(|completion| completion.result));
    }
    let refused = answers.iter().filter(|answer| **answer == Err(StoreError::Errno(libc::EAGAIN))).count();
    assert_eq!(refused, 10);
    assert_eq!(frame.holders(), 1);
}

#[tokio::test]
async fn a_dropped_store_gives_its_frames_back() {
    let root = tempfile::tempdir().unwrap();
    init_l3_root(root.path(), &ClusterMark::new(CLUSTER, 4096, "test")).unwrap();
    let (store, arena) = (store(root.path(), 4), arena());
    store.open_slab(1, 64 * PAGE).await.unwrap();
    let io = |op| Io {
        op,
        slab: 1,
        offset: op * PAGE,
        len: PAGE,
        transfer: Transfer::Read(page(&arena, 1)),
        begin_by: None,
    };
    store.submit((0..64).map(io).collect());
    let shared = Arc::downgrade(&store.shared);
    drop(store);
    let over = async {
        while shared.upgrade().is_some() || arena.status().frame_bytes_used > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), over).await.expect("the threads end");
}
