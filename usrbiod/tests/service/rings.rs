//! Rings: I/Os go in, completions come out.

use std::sync::Arc;

use foreword_usrbio::{Cursor, IoArgs, Priority, RingName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::{
    ALICE, BOB, Buffer, Client, Files, QUIET, READS, WRITES, now, pattern, pattern_file, service, until,
};

fn files(bytes: u64) -> Arc<Files> {
    let files = Files::default();
    files.add(7, pattern_file(bytes), true);
    Arc::new(files)
}

fn io(buffer: &Buffer, iov_offset: u64, file_offset: u64, len: u64) -> IoArgs {
    IoArgs { iov: buffer.id, iov_offset, file: 7, file_offset, len, userdata: 0 }
}

#[test]
fn bytes_are_read_and_written() {
    let service = service(&files(100_000), "", 0);
    let buffer = Buffer::new(&service, 1 << 20, 0, ALICE);
    let (mut reads, mut writes) = (Client::new(&service, 8, READS, ALICE), Client::new(&service, 8, WRITES, ALICE));
    assert_eq!(reads.batch(&[io(&buffer, 5, 1000, 3000)]), [3000]);
    assert_eq!(buffer.bytes(5, 3000), (1000..4000).map(pattern).collect::<Vec<_>>());
    assert_eq!(
        reads.batch(&[io(&buffer, 0, 99_000, 5000), io(&buffer, 8192, 100_000, 1), io(&buffer, 9000, 0, 0)]),
        [1000, 0, 0]
    );
    buffer.fill(4096, b"written through a ring");
    assert_eq!(writes.batch(&[io(&buffer, 4096, 200_000, 22)]), [22]);
    assert_eq!(reads.batch(&[io(&buffer, 0, 199_990, 100)]), [32]);
    assert_eq!(buffer.bytes(0, 32), b"\0\0\0\0\0\0\0\0\0\0written through a ring");
    let counters = service.counters();
    assert_eq!((counters.reads, counters.writes, counters.errors, counters.rejected), (5, 1, 0, 0));
    assert_eq!((counters.read_bytes, counters.write_bytes), (4032, 22));
}

#[test]
fn a_ring_goes_round_many_times() {
    let service = service(&files(1 << 20), "", 0);
    let buffer = Buffer::new(&service, 1 << 20, 0, ALICE);
    let mut random = StdRng::seed_from_u64(4);
    for entries in [1, 2, 3, 16] {
        let mut client = Client::new(&service, entries, READS, ALICE);
        for _ in 0..400 {
            let number = random.gen_range(1..=u64::from(entries));
            let ios: Vec<IoArgs> = (0..number)
                .map(|at| io(&buffer, at << 14, random.gen_range(0..1_000_000), random.gen_range(1..10_000)))
                .collect();
            assert_eq!(client.batch(&ios), ios.iter().map(|io| io.len as i64).collect::<Vec<_>>());
            for io in &ios {
                let expected: Vec<u8> = (io.file_offset..io.file_offset + io.len).map(pattern).collect();
                assert!(buffer.bytes(io.iov_offset, io.len as usize) == expected, "{io:?}");
            }
        }
    }
}

#[test]
fn a_full_ring_takes_no_more_until_completions_are_taken() {
    let service = service(&files(4096), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut client = Client::new(&service, 4, READS, ALICE);
    let read = |at: u64| io(&buffer, at, at, 1);
    for at in 0..4 {
        assert!(client.prepare(&read(at)).is_some());
    }
    assert!(client.prepare(&read(4)).is_none());
    client.submit();
    assert_eq!(client.wait(4).len(), 4);
    assert!(client.prepare(&read(4)).is_some());
}

#[test]
fn nothing_happens_without_a_submit() {
    let service = service(&files(4096), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut silent = Client::new(&service, 4, RingName { priority: Priority::High, ..READS }, ALICE);
    let mut other = Client::new(&service, 4, RingName { priority: Priority::Low, ..READS }, ALICE);
    silent.prepare(&io(&buffer, 0, 0, 1)).unwrap();
    assert_eq!(other.batch(&[io(&buffer, 0, 0, 1)]), [1]);
    silent.assert_quiet();
    silent.submit();
    silent.wait(1);
}

#[test]
fn a_job_completes_at_once_and_is_announced_once() {
    let service = service(&files(1 << 16), "", 0);
    let buffer = Buffer::new(&service, 1 << 16, 0, ALICE);
    let mut client = Client::new(&service, 16, READS, ALICE);
    for round in 0..200 {
        for at in 0..16 {
            client.prepare(&io(&buffer, at << 12, 0, 4096)).unwrap();
        }
        client.submit();
        let layout = client.memory.layout();
        let done = |client: &Client| {
            layout.distance(client.memory.load(Cursor::CqeTail) as u32, client.memory.load(Cursor::CqeHead) as u32)
        };
        until("a completion", || done(&client) > 0);
        assert_eq!(done(&client), 16, "round {round}");
        assert_eq!(client.wait_some().len(), 16);
    }
    assert!(!client.memory.wait(QUIET), "a job was announced twice");
}

#[test]
fn io_depth_above_zero_waits_for_that_many() {
    let service = service(&files(4096), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut client = Client::new(&service, 6, RingName { io_depth: 3, ..READS }, ALICE);
    for at in 0..2 {
        client.prepare(&io(&buffer, at, at, 1)).unwrap();
    }
    client.submit();
    client.assert_quiet();
    for at in 2..5 {
        client.prepare(&io(&buffer, at, at, 1)).unwrap();
    }
    client.submit();
    client.wait(3);
    client.assert_quiet();
    client.prepare(&io(&buffer, 5, 5, 1)).unwrap();
    client.submit();
    client.wait(3);
}

#[test]
fn io_depth_below_zero_keeps_a_partial_batch_for_a_later_submit() {
    let service = service(&files(4096), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut client = Client::new(&service, 8, RingName { io_depth: -4, timeout_ms: 50, ..READS }, ALICE);
    for at in 0..6 {
        client.prepare(&io(&buffer, at, at, 1)).unwrap();
    }
    client.submit();
    assert_eq!(client.wait_some().len(), 4);
    client.assert_quiet();
    client.submit();
    assert_eq!(client.wait_some().len(), 2);
}

#[test]
fn a_client_that_never_reaps_waits_and_nobody_else() {
    let service = service(&files(4096), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut lazy = Client::new(&service, 4, READS, ALICE);
    let bobs = Buffer::new(&service, 4096, 0, BOB);
    let mut other = Client::new(&service, 4, READS, BOB);
    for _ in 0..2 {
        for at in 0..4 {
            lazy.prepare(&io(&buffer, at, at, 1)).unwrap();
        }
        lazy.submit();
        until("the first four", || lazy.memory.load(Cursor::SqeTail) == 4);
        lazy.forget_lost();
    }
    for _ in 0..100 {
        assert_eq!(other.batch(&[io(&bobs, 0, 0, 1)]), [1]);
    }
    assert_eq!((lazy.memory.load(Cursor::SqeTail), lazy.memory.load(Cursor::CqeHead)), (4, 4), "no place for more");
    lazy.wait(8);
}

#[test]
fn rings_of_all_priorities_are_served_together() {
    let service = service(&files(1 << 20), "", 0);
    let started = now();
    std::thread::scope(|scope| {
        for priority in Priority::ALL.into_iter().cycle().take(6) {
            let service = &service;
            scope.spawn(move || {
                let buffer = Buffer::new(service, 1 << 20, 0, ALICE);
                let mut client = Client::new(service, 32, RingName { priority, ..READS }, ALICE);
                for _ in 0..300 {
                    let ios: Vec<_> = (0..32).map(|at| io(&buffer, at << 12, at << 12, 4096)).collect();
                    assert_eq!(client.batch(&ios), [4096; 32]);
                }
                let all: Vec<u8> = (0..32 << 12).map(pattern).collect();
                assert!(buffer.bytes(0, 32 << 12) == all);
            });
        }
    });
    println!("6 rings, 57,600 reads: {:?}", now() - started);
}

#[test]
fn a_long_job_lets_short_ones_pass() {
    let service = service(&files(64 << 20), "", 0);
    let (buffer, bobs) = (Buffer::new(&service, 64 << 20, 0, ALICE), Buffer::new(&service, 4096, 0, BOB));
    let mut long = Client::new(&service, 256, WRITES, ALICE);
    let mut short = Client::new(&service, 4, READS, BOB);
    for _ in 0..256 {
        long.prepare(&io(&buffer, 0, 0, 64 << 20)).unwrap();
    }
    long.submit();
    until("the long job", || service.counters().write_bytes > 0);
    assert_eq!(short.batch(&[io(&bobs, 0, 0, 4096)]), [4096]);
    assert_eq!(long.memory.load(Cursor::CqeHead), 0, "16 GiB are still to be written");
    service.stop();
}
