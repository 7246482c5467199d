//! Faults: each does what it says to a whole job, is counted, and spares the other jobs.

use std::collections::BTreeSet;
use std::sync::Arc;

use foreword_usrbio::{Cursor, IoArgs, RingName};
use foreword_usrbiod::service::Service;

use crate::client::{ALICE, Buffer, Client, Files, READS, WRITES, pattern, pattern_file, service, until};

const LEN: u64 = 16_384;
/// A ring whose I/Os are jobs of their own.
const EACH_A_JOB: RingName = RingName { io_depth: -1, ..READS };

fn started(faults: &str) -> (Arc<Service>, Buffer) {
    let files = Files::default();
    files.add(7, pattern_file(LEN), true);
    let service = service(&Arc::new(files), faults, 11);
    let buffer = Buffer::new(&service, 64 * LEN, 0, ALICE);
    (service, buffer)
}

fn read(buffer: &Buffer, at: u64) -> IoArgs {
    IoArgs { iov: buffer.id, iov_offset: at * LEN, file: 7, file_offset: 0, len: LEN, userdata: at }
}

fn right(buffer: &Buffer, at: u64) -> bool {
    buffer.bytes(at * LEN, LEN as usize) == (0..LEN).map(pattern).collect::<Vec<_>>()
}

#[test]
fn latency_delays_and_completes() {
    let (service, buffer) = started("latency=20ms");
    let mut client = Client::new(&service, 64, READS, ALICE);
    let ios: Vec<_> = (0..64).map(|at| read(&buffer, at)).collect();
    assert_eq!(client.batch(&ios), [LEN as i64; 64]);
    assert!((0..64).all(|at| right(&buffer, at)));
    assert_eq!(service.counters().fault_latency, 64);
}

#[test]
fn a_stall_holds_only_the_jobs_it_hits() {
    let (service, buffer) = started("stall=3600s:50%");
    let mut client = Client::new(&service, 64, EACH_A_JOB, ALICE);
    for at in 0..64 {
        client.prepare(&read(&buffer, at)).unwrap();
    }
    client.submit();
    let mut first = Vec::new();
    until("every job was seen", || {
        first.extend(client.reap());
        first.len() as u64 + service.counters().fault_stall == 64
    });
    assert!((1..64).contains(&first.len()));
    assert!(first.iter().all(|cqe| cqe.result == LEN as i64 && right(&buffer, cqe.userdata)));
    client.assert_quiet();
}

#[test]
fn one_misfortune_is_the_whole_jobs() {
    let (service, buffer) = started("eio=50%");
    // Exactly eight: a look in the middle of the batch takes none of it.
    let mut client = Client::new(&service, 8, RingName { io_depth: 8, ..READS }, ALICE);
    let ios: Vec<_> = (0..8).map(|at| read(&buffer, at)).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..64 {
        let results = client.batch(&ios);
        assert!(results == [-5; 8] || results == [LEN as i64; 8], "{results:?}");
        seen.insert(results[0]);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn eio_moves_nothing() {
    let (service, buffer) = started("eio");
    let (mut reads, mut writes) = (Client::new(&service, 4, READS, ALICE), Client::new(&service, 4, WRITES, ALICE));
    assert_eq!(reads.batch(&[read(&buffer, 0), read(&buffer, 1)]), [-5, -5]);
    assert_eq!(writes.batch(&[read(&buffer, 0)]), [-5]);
    assert_eq!(buffer.bytes(0, 2 * LEN as usize), [0; 2 * LEN as usize]);
    let counters = service.counters();
    assert_eq!((counters.fault_eio, counters.errors, counters.read_bytes, counters.write_bytes), (3, 3, 0, 0));
}

#[test]
fn short_moves_whole_blocks_and_says_how_many() {
    let (service, buffer) = started("short");
    let mut client = Client::new(&service, 64, READS, ALICE);
    let results = client.batch(&(0..64).map(|at| read(&buffer, at)).collect::<Vec<_>>());
    for (at, result) in results.iter().enumerate() {
        assert!((0..LEN as i64).contains(result) && result % 4096 == 0, "{result}");
        let expected = (0..LEN).map(|offset| if (offset as i64) < *result { pattern(offset) } else { 0 });
        assert!(buffer.bytes(at as u64 * LEN, LEN as usize) == expected.collect::<Vec<_>>());
    }
    assert_eq!(results.iter().collect::<BTreeSet<_>>().len(), 4, "0, 4096, 8192 and 12288");
    assert_eq!(service.counters().fault_short, 64);
}

#[test]
fn a_dropped_job_never_completes_and_the_ring_goes_on() {
    let (service, buffer) = started("drop=50%");
    let mut client = Client::new(&service, 16, READS, ALICE);
    let (mut submitted, mut completed) = (0, 0);
    for _ in 0..200 {
        for at in 0..16 {
            client.prepare(&read(&buffer, at)).unwrap();
        }
        submitted += 16;
        client.submit();
        until("the job", || client.memory.load(Cursor::SqeTail) == client.memory.load(Cursor::SqeHead));
        until("all that come", || {
            completed += client.reap().len() as u64;
            completed + service.counters().fault_drop == submitted
        });
        client.forget_lost();
    }
    assert!(completed > 800 && submitted - completed > 800, "{completed} of {submitted}");
    client.assert_quiet();
}

#[test]
fn reorder_shuffles_jobs_and_within_jobs() {
    let (service, buffer) = started("reorder");
    let mut client = Client::new(&service, 64, READS, ALICE);
    for at in 0..64 {
        client.prepare(&read(&buffer, at)).unwrap();
    }
    client.submit();
    let order: Vec<u64> = client.wait(64).iter().map(|cqe| cqe.userdata).collect();
    assert!(order.windows(2).any(|pair| pair[0] > pair[1]), "within a job: {order:?}");
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 64);
    assert!((0..64).all(|at| right(&buffer, at)));
    for at in 0..64 {
        client.prepare(&read(&buffer, at)).unwrap();
        client.submit();
        until("a job of its own", || service.counters().fault_reorder == 65 + at);
    }
    let order: Vec<u64> = client.wait(64).iter().map(|cqe| cqe.userdata).collect();
    assert!(order.windows(2).any(|pair| pair[0] > pair[1]), "jobs: {order:?}");
    assert_eq!((service.counters().jobs, service.counters().reads), (65, 128));
}

#[test]
fn all_faults_together_are_counted_and_what_succeeds_is_right() {
    let list = "latency=2ms:2%,stall=100ms:2%,eio=2%,short=2%,drop=2%,reorder=2%";
    let (service, buffer) = started(list);
    let mut client = Client::new(&service, 32, EACH_A_JOB, ALICE);
    let (mut submitted, mut completed) = (0u64, 0u64);
    let mut whole = 0;
    for _ in 0..200 {
        while client.free() > 0 {
            client.prepare(&read(&buffer, submitted % 64)).unwrap();
            submitted += 1;
        }
        client.submit();
        until("a round", || {
            for cqe in client.reap() {
                completed += 1;
                if cqe.result == LEN as i64 {
                    whole += 1;
                    assert!(right(&buffer, cqe.userdata));
                } else {
                    assert!(cqe.result == -5 || (cqe.result >= 0 && cqe.result % 4096 == 0), "{cqe:?}");
                }
            }
            completed + service.counters().fault_drop == submitted
        });
        until("the jobs are over", || client.memory.load(Cursor::SqeTail) == client.memory.load(Cursor::SqeHead));
        client.forget_lost();
    }
    let counters = service.counters();
    let faults = [
        counters.fault_latency,
        counters.fault_stall,
        counters.fault_eio,
        counters.fault_short,
        counters.fault_drop,
        counters.fault_reorder,
    ];
    assert!(faults.iter().all(|count| (50..300).contains(count)), "{faults:?} of {submitted}");
    assert_eq!(counters.errors, counters.fault_eio);
    assert!(whole > submitted * 9 / 10);
}
