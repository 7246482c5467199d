use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use foreword_usrbio::{NamedSemaphore, SHM_DIR, ShmFile};
use rustix::fs::FlockOperation;

use crate::arena::lease;
use crate::store::usrbio::reserve::Reserve;
use crate::store::usrbio::worker::Worker;
use crate::store::usrbio::{ClientKind, UsrbioMount, shm};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn work_is_done_in_order_and_after_its_owner_left() {
    let worker = Worker::start("test-order").unwrap();
    assert_eq!(worker.call(LONG, || 7).unwrap(), 7);
    let (sender, receiver) = sync_channel(100);
    for number in 0..100 {
        let sender = sender.clone();
        assert!(worker.post(move || sender.send(number).unwrap()));
    }
    drop((worker, sender));
    assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_call_that_hangs_ends_for_its_caller_and_its_result_is_dropped_there() {
    struct Made(Arc<AtomicUsize>);
    impl Drop for Made {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (worker, dropped) = (Worker::start("test-hang").unwrap(), Arc::new(AtomicUsize::new(0)));
    let (go, gone) = sync_channel::<()>(0);
    let made = Made(dropped.clone());
    let error = worker
        .call(Duration::from_millis(20), move || {
            let _ = gone.recv();
            made
        })
        .err()
        .unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let error = worker.call(Duration::from_millis(1), || ()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "what hangs before it is not waited for");
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(go);
    assert!(worker.call(LONG, || ()).is_ok());
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_tick_comes_between_other_work() {
    let worker = Worker::start("test-tick").unwrap();
    let (sender, receiver) = sync_channel(1);
    worker.set_tick(Duration::from_millis(1), move || {
        let _ = sender.try_send(());
    });
    for _ in 0..3 {
        receiver.recv_timeout(LONG).unwrap();
        assert!(worker.call(LONG, || ()).is_ok());
    }
}

#[test]
fn only_files_that_nobody_has_locked_are_left_over() {
    let mut alive = shm::create(4096).unwrap();
    assert!(alive.path().exists());
    let name = alive.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("hf3fs-iov-666f7265776f7264") && name.len() == "hf3fs-iov-".len() + 32, "{name}");
    // A killed process's file: no lock. Made by hand, so that its drop does not remove it.
    let left: Vec<PathBuf> = (0..3)
        .map(|number| {
            let name = format!("hf3fs-iov-666f7265776f7264{:016x}", u64::from(std::process::id()) << 8 | number);
            let path = PathBuf::from(SHM_DIR).join(name);
            std::fs::write(&path, "left").unwrap();
            path
        })
        .collect();
    let others = PathBuf::from(SHM_DIR).join(format!("hf3fs-iov-{:032x}", std::process::id()));
    std::fs::write(&others, "another program's").unwrap();
    // Another process that attaches just now may remove it before it is locked.
    let locked = loop {
        std::fs::write(&left[0], "held").unwrap();
        let Ok(file) = ShmFile::open(left[0].file_name().unwrap().to_str().unwrap()) else { continue };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        if locked.is_ok() && left[0].exists() {
            break file;
        }
    };
    shm::remove_leftovers().unwrap();
    let exist = (left[0].exists(), left[1].exists(), left[2].exists(), others.exists(), alive.path().exists());
    drop(locked);
    shm::remove_leftovers().unwrap();
    assert!(!left[0].exists());
    std::fs::remove_file(&others).unwrap();
    alive.unlink();
    assert_eq!(exist, (true, false, false, true, true));
}

#[test]
fn a_lease_tells_whether_another_has_the_memory() {
    let file = shm::create(8192).unwrap();
    let own = file.map(8192).unwrap();
    assert!(lease::is_ours_alone(&file), "our own mapping is of our own descriptor");
    let name = file.path().file_name().unwrap().to_str().unwrap().to_owned();
    let other = ShmFile::open(&name).unwrap();
    assert!(!lease::is_ours_alone(&file));
    let mapped = other.map(8192).unwrap();
    drop(other);
    assert!(!lease::is_ours_alone(&file), "a mapping without a descriptor counts");
    drop(mapped);
    assert!(lease::is_ours_alone(&file));
    drop(own);
}

#[test]
fn the_reserve_lends_and_takes_back() {
    let mut reserve = Reserve::default();
    reserve.refill();
    reserve.add(1 << 20).unwrap();
    assert_eq!(reserve.held_bytes(), 1 << 20);
    let lent = reserve.lend(700 << 10);
    assert_eq!((lent, reserve.held_bytes()), (700 << 10, 324 << 10));
    let rest = reserve.lend(1 << 20);
    assert_eq!((rest, reserve.held_bytes()), (324 << 10, 0));
    reserve.give_back(lent);
    reserve.refill();
    assert_eq!(reserve.held_bytes(), 700 << 10);
    let error = reserve.add(1 << 60).unwrap_err().to_string();
    assert!(error.contains("/dev/shm") && error.contains("bytes free"), "{error}");
    assert_eq!(reserve.held_bytes(), 700 << 10);
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = UsrbioMount::attach(dir.path(), ClientKind::Native).err().unwrap();
    assert_eq!(error.field, "l3");
    assert!(error.expected.contains("fuse.hf3fs"), "{error}");
    let error = UsrbioMount::attach(&dir.path().join("none"), ClientKind::Native).err().unwrap();
    assert!(error.expected.contains("none"), "{error}");
    let library = dir.path().join("libnone.so");
    let error = UsrbioMount::attach(dir.path(), ClientKind::Library(library)).err().unwrap();
    assert_eq!(error.field, "lib");
    assert!(error.expected.contains("libnone.so"), "{error}");
    let error = UsrbioMount::attach(dir.path(), ClientKind::Library("libc.so.6".into())).err().unwrap();
    assert!(error.expected.contains("hf3fs_iovwrap"), "{error}");
    assert!(NamedSemaphore::open("foreword-none").is_err());
}
