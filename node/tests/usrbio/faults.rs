//! What the store makes of a daemon that fails: every I/O is answered, or its frame is set aside; no byte is wrong.

use std::time::Duration;

use foreword_node::store::{PageStore, StoreError, Transfer, UsrbioSettings};

use crate::harness::{Bench, CHUNK, arena, bytes_of, completions, on_a_mount, open, page, read, runtime, until, write};

const SLOTS: u64 = 64;

fn settings(ring_entries: u32, patience: Duration) -> UsrbioSettings {
    UsrbioSettings { lanes: 2, ring_entries, patience }
}

/// Writes and reads slots while I/Os fail as `faults` says; each answer is checked. Gives (errors, short results).
fn run(faults: &str, figure: &str) -> (usize, usize) {
    let bench = Bench::new(faults);
    let mount = bench.attach();
    let arena = arena(&mount, 4 * SLOTS * CHUNK);
    let store = bench.store(&mount, settings(32, Duration::from_secs(60)));
    let (mut errors, mut short) = (0, 0);
    runtime().block_on(async {
        open(&store, 1, SLOTS).await;
        for round in 0..6u8 {
            let byte_of = |slot: u64| round.wrapping_mul(64).wrapping_add(slot as u8) | 1;
            store.submit((0..SLOTS).map(|slot| write(slot, 1, slot, page(&arena, byte_of(slot)))).collect());
            let written = completions(&store, SLOTS as usize).await;
            store.submit((0..SLOTS).map(|slot| read(slot, 1, slot, page(&arena, 0))).collect());
            let seen = completions(&store, SLOTS as usize).await;
            for (slot, done) in &seen {
                let whole = written[slot].result == Ok(CHUNK);
                match &done.result {
                    Ok(bytes) => {
                        short += usize::from(*bytes < CHUNK);
                        let right = bytes_of(done)[..*bytes as usize].iter().all(|byte| *byte == byte_of(*slot));
                        assert!(right || !whole, "slot {slot} was written and holds other bytes");
                    }
                    Err(error) => {
                        assert_eq!(*error, StoreError::Errno(libc::EIO));
                        errors += 1;
                    }
                }
            }
        }
    });
    assert_eq!(arena.status().frame_bytes_used, 0);
    assert_eq!(store.counters(), Default::default());
    assert!(bench.figure(figure) > 0, "{figure} did not happen");
    (errors, short)
}

#[test]
fn errors_are_errors() {
    on_a_mount(|| assert!(run("eio=10%", "fault_eio").0 > 0));
}

#[test]
fn short_results_are_short() {
    on_a_mount(|| assert!(run("short=10%", "fault_short").1 > 0));
}

#[test]
fn late_answers_are_awaited() {
    on_a_mount(|| assert_eq!(run("latency=30ms:10%,reorder=20%,stall=300ms:1%", "fault_latency"), (0, 0)));
}

#[test]
fn an_io_without_an_answer_keeps_its_frame() {
    on_a_mount(|| {
        let bench = Bench::new("drop=10%");
        let mount = bench.attach();
        let arena = arena(&mount, 8 * SLOTS * CHUNK);
        let store = bench.store(&mount, settings(16, Duration::from_millis(500)));
        runtime().block_on(async {
            open(&store, 1, SLOTS).await;
            // How many I/Os share a job, and with it a fate, is the daemon's to say: on until a ring has lost enough.
            for round in 0..64u64 {
                if round >= 4 && store.counters().rings_replaced > 0 {
                    break;
                }
                let before = store.counters().lost;
                store.submit((0..SLOTS).map(|slot| write(slot, 1, slot, page(&arena, round as u8))).collect());
                let mut answered = 0;
                // The others come; each is answered or lost, never both.
                while answered + (store.counters().lost - before) < SLOTS {
                    if let Ok(done) = tokio::time::timeout(Duration::from_millis(50), store.complete()).await {
                        // A ring that lost all its places is replaced, and what waited for one may be given back.
                        let given_back = Err(StoreError::Errno(libc::EAGAIN));
                        assert!(
                            done.iter().all(|done| done.result == Ok(CHUNK) || done.result == given_back),
                            "{done:?}"
                        );
                        answered += done.len() as u64;
                    }
                }
                assert_eq!(answered + store.counters().lost - before, SLOTS);
            }
        });
        let lost = store.counters().lost;
        assert_eq!(lost, bench.figure("fault_drop"));
        assert!(lost > 0);
        assert_eq!(arena.status().quarantined_bytes, lost * CHUNK);
        assert_eq!(arena.status().frame_bytes_used, lost * CHUNK);
        assert!(store.counters().rings_replaced > 0, "rings of 16 lost half of their slots: {:?}", store.counters());
        // Segments that hold lost frames are replaced, and the arena is whole again.
        arena.segments().iter().for_each(|segment| arena.retire_segment(segment.id));
        assert_eq!(arena.status().quarantined_bytes, 0);
        let frames: Vec<_> = (0..4 * SLOTS).map(|_| page(&arena, 1)).collect();
        drop(frames);
    });
}

#[test]
fn a_late_answer_ends_the_quarantine() {
    on_a_mount(|| {
        let bench = Bench::new("stall=1500ms");
        let mount = bench.attach();
        let arena = arena(&mount, 64 * CHUNK);
        let store = bench.store(&mount, settings(64, Duration::from_millis(200)));
        runtime().block_on(async {
            open(&store, 1, SLOTS).await;
            store.submit((0..8).map(|slot| write(slot, 1, slot, page(&arena, 9))).collect());
        });
        until("all are given up", || store.counters().lost == 8);
        assert_eq!(arena.status().quarantined_bytes, 8 * CHUNK);
        until("all came late", || store.counters().late == 8);
        until("all frames are free", || arena.status().frame_bytes_used == 0);
    });
}

#[test]
fn a_full_ring_is_no_fault() {
    on_a_mount(|| {
        let bench = Bench::new("");
        let mount = bench.attach();
        let arena = arena(&mount, 600 * CHUNK);
        let store =
            bench.store(&mount, UsrbioSettings { lanes: 1, ring_entries: 3, patience: Duration::from_secs(60) });
        runtime().block_on(async {
            open(&store, 1, 512).await;
            store.submit((0..512).map(|slot| write(slot, 1, slot, page(&arena, slot as u8))).collect());
            let written = completions(&store, 512).await;
            assert!(written.values().all(|done| done.result == Ok(CHUNK)));
            drop(written);
            store.submit((0..512).map(|slot| read(slot, 1, slot, page(&arena, 0))).collect());
            for (slot, done) in completions(&store, 512).await {
                assert!(bytes_of(&done).iter().all(|byte| *byte == slot as u8));
            }
        });
        assert_eq!(arena.status().frame_bytes_used, 0);
    });
}

#[test]
fn memory_that_is_not_registered_is_refused_without_an_io() {
    on_a_mount(|| {
        let bench = Bench::new("");
        let mount = bench.attach();
        let store = bench.store(&mount, UsrbioSettings::default());
        let heap = foreword_node::arena::Arena::new(
            foreword_node::arena::ArenaSettings::new(16 * CHUNK),
            std::sync::Arc::new(foreword_node::arena::HeapRegions),
        );
        let heap = heap.unwrap();
        runtime().block_on(async {
            open(&store, 1, SLOTS).await;
            store.submit(vec![write(1, 1, 0, page(&heap, 1)), read(2, 1, 0, page(&heap, 1))]);
            for done in completions(&store, 2).await.into_values() {
                assert_eq!(done.result, Err(StoreError::Unregistered));
                assert!(matches!(done.transfer, Transfer::Read(_) | Transfer::Write(_)));
            }
        });
        assert_eq!(bench.figure("reads") + bench.figure("writes"), 0);
    });
}
