//! A daemon that dies, hangs, and comes again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use foreword_node::store::{PageStore, StoreError, UsrbioSettings};
use foreword_session::wire::Mapping;

use crate::harness::{
    Bench, CHUNK, CLUSTER, LONG, arena, bytes_of, completions, on_a_mount, open, our_files, page, read, runtime, until,
    write,
};

const SLOTS: u64 = 32;

fn settings(patience: Duration) -> UsrbioSettings {
    UsrbioSettings { lanes: 2, ring_entries: 16, patience }
}

#[test]
fn a_dead_daemon_is_noticed_and_the_next_one_is_used() {
    on_a_mount(|| {
        let mut bench = Bench::new("");
        let mount = bench.attach();
        let arena = arena(&mount, 256 * CHUNK);
        let store = bench.store(&mount, settings(Duration::from_secs(600)));
        assert_eq!((store.epoch(), mount.epoch(), mount.attached()), (1, 1, true));
        runtime().block_on(async {
            open(&store, 1, SLOTS).await;
            store.submit((0..SLOTS).map(|slot| write(slot, 1, slot, page(&arena, slot as u8))).collect());
            assert!(completions(&store, SLOTS as usize).await.values().all(|done| done.result == Ok(CHUNK)));
            for round in 2..4u64 {
                // I/Os are under way, and more wait, when it dies.
                let ios = (0..100).map(|op| read(op, 1, op % SLOTS, page(&arena, 0))).collect();
                let (old_frame, late_frame) = (page(&arena, 7), page(&arena, 7));
                // An engine has the memory mapped all the time: that says nothing of the daemon.
                let share = page(&arena, 7).freeze().share().unwrap().expect("its memory can be shared");
                let _engine = Mapping::of_sent(&share.descriptor, share.region_bytes as usize).unwrap();
                bench.daemon().stop();
                store.submit(ios);
                bench.kill_daemon();
                let gone = completions(&store, 100).await;
                assert!(gone.values().all(|done| done.result == Err(StoreError::Gone)), "{:?}", gone[&0].result);
                drop(gone);
                assert!(!mount.attached());
                assert_eq!(arena.status().quarantined_bytes, 0, "a dead daemon has no memory of ours");
                store.submit(vec![read(1, 1, 0, late_frame)]);
                assert_eq!(completions(&store, 1).await[&1].result, Err(StoreError::Gone));
                assert!(store.open_slab(2, CHUNK).await.is_err());

                bench.start("");
                until("the new daemon is found", || store.epoch() == round && mount.attached());
                store.submit(vec![read(1, 1, 0, page(&arena, 0))]);
                assert_eq!(completions(&store, 1).await[&1].result, Err(StoreError::NoSlab(1)));
                open(&store, 1, SLOTS).await;
                store.submit(vec![write(2, 1, 0, old_frame)]);
                assert_eq!(completions(&store, 1).await[&2].result, Err(StoreError::Unregistered));
                arena.outdate();
                store.submit((0..SLOTS).map(|slot| read(slot, 1, slot, page(&arena, 0xff))).collect());
                for (slot, done) in completions(&store, SLOTS as usize).await {
                    assert_eq!(done.result, Ok(CHUNK));
                    assert!(bytes_of(&done).iter().all(|byte| *byte == slot as u8));
                }
            }
        });
        assert_eq!(arena.status().frame_bytes_used, 0);
        assert_eq!(store.counters(), Default::default());
        drop((store, arena, mount));
        until("all links are gone", || bench.links().is_empty());
    });
}

#[test]
fn a_hung_daemon_holds_nobody_up() {
    on_a_mount(|| {
        let bench = Bench::new("");
        let mount = bench.attach();
        let arena = arena(&mount, 256 * CHUNK);
        let store = bench.store(&mount, settings(Duration::from_millis(300)));
        let runtime = runtime();
        runtime.block_on(open(&store, 1, SLOTS));
        let writes = (0..4).map(|slot| write(slot, 1, slot, page(&arena, 3))).collect();
        bench.daemon().stop();
        #[expect(clippy::disallowed_methods, reason = "real time is what is tested")]
        let began = Instant::now();
        runtime.block_on(async {
            store.submit(writes);
            let opening = tokio::time::timeout(Duration::from_millis(100), store.open_slab(2, CHUNK)).await;
            assert!(opening.is_err(), "nobody opens it");
        });
        until("all are given up", || store.counters().lost == 4);
        drop(store);
        drop(runtime);
        assert!(began.elapsed() < LONG / 2, "took {:?}", began.elapsed());
        assert_eq!(arena.status().quarantined_bytes, 4 * CHUNK, "a store that is gone leaves them set aside");
        bench.daemon().go_on();
        let store = bench.store(&mount, settings(LONG));
        crate::harness::runtime().block_on(async {
            open(&store, 1, SLOTS).await;
            // Reads go before writes: the daemon may not have come to those yet, and a slot nobody wrote has no bytes.
            loop {
                store.submit(vec![read(1, 1, 0, page(&arena, 0))]);
                let done = completions(&store, 1).await;
                match done[&1].result {
                    Ok(0) => continue,
                    Ok(CHUNK) => {
                        break assert!(bytes_of(&done[&1]).iter().all(|byte| *byte == 3), "it went on where it was");
                    }
                    ref other => panic!("{other:?}"),
                }
            }
        });
    });
}

#[test]
fn a_killed_client_leaves_nothing() {
    on_a_mount(|| {
        let bench = Bench::new("");
        let settings = [("FOREWORD_TEST_MOUNT", bench.mount_point().display().to_string())];
        let mut child =
            crate::harness::in_role("client", &settings).stdout(std::process::Stdio::null()).spawn().unwrap();
        until("the client has its links", || bench.links().len() >= 5);
        child.kill().unwrap();
        child.wait().unwrap();
        until("its links are gone", || bench.links().is_empty());
        drop(bench.attach());
        let of_others = our_files();
        assert!(of_others.iter().all(|path| fs::metadata(path).is_err() || is_locked(path)), "{of_others:?}");
    });
}

/// Whether somebody who lives has the file.
fn is_locked(path: &std::path::Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return true };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

#[test]
fn slabs_are_files_of_their_size_and_opened_once() {
    on_a_mount(|| {
        let bench = Bench::new("");
        let mount = bench.attach();
        let arena = arena(&mount, 64 * CHUNK);
        let store = bench.store(&mount, UsrbioSettings::default());
        let path = bench.backing().join(CLUSTER.to_string()).join("slabs/0000001f.slab");
        runtime().block_on(async {
            assert_eq!(store.cluster_mark().await, Ok(Some(bench.mark())));
            store.open_slab(0x1f, 1 << 40).await.unwrap();
            store.submit(vec![write(1, 0x1f, 1 << 20, page(&arena, 7))]);
            assert_eq!(completions(&store, 1).await[&1].result, Ok(CHUNK));
            let file = fs::File::open(&path).unwrap();
            let mut bytes = vec![0; CHUNK as usize];
            file.read_exact_at(&mut bytes, CHUNK << 20).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7));
            assert_eq!(file.metadata().unwrap().len(), 1 << 40);
            store.remove_slab(0x1f).await.unwrap();
            assert!(!path.exists());
        });
    });
}
