//! What the real daemon refuses, with its error numbers.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use foreword_usrbio::{IoArgs, RingName, Sqe};
use foreword_usrbiod::service::limits;

use crate::client::{ALICE, BOB, Buffer, Client, Files, READS, WRITES, new_id, pattern, pattern_file, service, until};

const EPERM: i64 = -1;
const EBADF: i64 = -9;
const EACCES: i64 = -13;
const EFAULT: i64 = -14;
const EINVAL: i64 = -22;
const EROFS: i64 = -30;
const ENODATA: i64 = -61;

fn files() -> Arc<Files> {
    let files = Files::default();
    files.add(7, pattern_file(1 << 16), true);
    files.add(8, pattern_file(4096), false);
    Arc::new(files)
}

fn io(buffer: &Buffer, iov_offset: u64, file_offset: u64, len: u64) -> IoArgs {
    IoArgs { iov: buffer.id, iov_offset, file: 7, file_offset, len, userdata: 0 }
}

#[test]
fn each_bad_io_has_its_errno_and_the_others_of_the_job_go_on() {
    let service = service(&files(), "", 0);
    let (buffer, bobs) = (Buffer::new(&service, 65_536, 4096, ALICE), Buffer::new(&service, 4096, 0, BOB));
    let mut client = Client::new(&service, 16, READS, ALICE);
    let good = io(&buffer, 0, 0, 4096);
    let ring_id = client.name[..32].parse().unwrap();
    let cases = [
        (good, 4096),
        (IoArgs { iov: bobs.id, ..good }, EPERM),
        (IoArgs { iov: new_id(), ..good }, EINVAL),
        (IoArgs { iov: ring_id, ..good }, EACCES),
        (IoArgs { iov_offset: 65_536, len: 1, ..good }, EINVAL),
        (IoArgs { iov_offset: u64::MAX, len: 2, ..good }, EINVAL),
        (IoArgs { iov_offset: 61_440, len: u64::MAX, ..good }, EINVAL),
        (IoArgs { iov_offset: 4095, len: 2, ..good }, EINVAL),
        (IoArgs { iov_offset: 8192, len: 4097, ..good }, EINVAL),
        (IoArgs { iov_offset: 4096, file: 99, ..good }, EBADF),
        (IoArgs { iov_offset: 4096, file_offset: u64::MAX, ..good }, EINVAL),
        (IoArgs { iov_offset: 12_288, file_offset: i64::MAX as u64 - 4095, ..good }, EINVAL),
        (IoArgs { iov_offset: 8192, file: 8, ..good }, 4096),
    ];
    let (ios, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(client.batch(&ios), expected);
    assert_eq!(buffer.bytes(0, 4096), (0..4096).map(pattern).collect::<Vec<_>>());
    assert_eq!(bobs.bytes(0, 4096), [0; 4096]);
    let mut writes = Client::new(&service, 4, WRITES, ALICE);
    assert_eq!(writes.batch(&[IoArgs { file: 8, ..good }, good]), [EROFS, 4096]);
    assert_eq!(service.counters().errors, 12);
    assert_eq!(service.counters().rejected, 0);
}

#[test]
fn overlapping_reads_fail_the_whole_job() {
    let service = service(&files(), "", 0);
    let buffer = Buffer::new(&service, 65_536, 0, ALICE);
    let mut client = Client::new(&service, 8, READS, ALICE);
    let [one, other, third] = [io(&buffer, 0, 0, 4096), io(&buffer, 4095, 0, 4096), io(&buffer, 40_000, 0, 1)];
    assert_eq!(client.batch(&[one, third, IoArgs { file: 99, ..one }, other]), [EINVAL, EINVAL, EBADF, EINVAL]);
    assert_eq!(buffer.bytes(0, 65_536), [0; 65_536]);
    assert_eq!(client.batch(&[one, third]), [4096, 1]);
    assert_eq!(client.batch(&[other]), [4096], "in another job it is no overlap");
    let mut writes = Client::new(&service, 8, WRITES, ALICE);
    assert_eq!(writes.batch(&[one, other]), [4096, 4096], "writes may share their source");
}

#[test]
fn an_io_has_a_limit() {
    let service = service(&files(), "", 0);
    let buffer = Buffer::new(&service, limits::IO_BYTES_MAX + 1, 0, ALICE);
    let mut client = Client::new(&service, 4, READS, ALICE);
    let whole = |len| client.batch(&[io(&buffer, 0, 0, len)]);
    assert_eq!([limits::IO_BYTES_MAX, limits::IO_BYTES_MAX + 1].map(whole), [[1 << 16], [EINVAL]]);
}

#[test]
fn holes_are_zeros_or_an_error() {
    let files = files();
    let sparse = tempfile::tempfile().unwrap();
    rustix::io::pwrite(&sparse, &[9; 4096], 1 << 20).unwrap();
    files.add(9, sparse, true);
    let service = service(&files, "", 0);
    let buffer = Buffer::new(&service, 4 << 20, 0, ALICE);
    buffer.fill(0, &[1; 8192]);
    let read = IoArgs { file: 9, ..io(&buffer, 0, 0, 2 << 20) };
    let mut client = Client::new(&service, 4, READS, ALICE);
    assert_eq!(client.batch(&[read]), [(1 << 20) + 4096]);
    assert_eq!(buffer.bytes(0, 8192), [0; 8192]);
    assert_eq!(buffer.bytes(1 << 20, 4096), [9; 4096]);
    let mut strict = Client::new(&service, 4, RingName { flags: 2, ..READS }, ALICE);
    assert_eq!(strict.batch(&[read]), [ENODATA]);
    assert_eq!(strict.batch(&[IoArgs { file_offset: 1 << 20, len: 4096, ..read }]), [4096]);
}

#[test]
fn a_submission_that_names_no_slot_is_answered_and_counted() {
    let service = service(&files(), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut client = Client::new(&service, 4, READS, ALICE);
    for (userdata, index) in [5, -1, i32::MAX, i32::MIN].into_iter().enumerate() {
        client.push(Sqe { index, userdata: userdata as u64 });
    }
    client.submit();
    let done = client.wait(4);
    assert!(done.iter().all(|cqe| cqe.result == EINVAL), "{done:?}");
    assert_eq!(done.iter().map(|cqe| cqe.index).collect::<Vec<_>>(), [5, -1, i32::MAX, i32::MIN]);
    assert_eq!(service.counters().rejected, 4);
    client.forget_lost();
    assert_eq!(client.batch(&[io(&buffer, 0, 0, 4096)]), [4096]);
}

#[test]
fn memory_that_was_cut_short_is_an_errno() {
    let service = service(&files(), "", 0);
    let buffer = Buffer::new(&service, 65_536, 0, ALICE);
    let (mut reads, mut writes) = (Client::new(&service, 4, READS, ALICE), Client::new(&service, 4, WRITES, ALICE));
    rustix::fs::ftruncate(&buffer.file, 4096).unwrap();
    assert_eq!(reads.batch(&[io(&buffer, 0, 0, 4096), io(&buffer, 8192, 0, 4096)]), [4096, EFAULT]);
    assert_eq!(reads.batch(&[io(&buffer, 0, 0, 65_536)]), [EFAULT]);
    assert_eq!(writes.batch(&[io(&buffer, 8192, 0, 4096)]), [EFAULT]);
}

#[test]
fn a_ring_that_was_cut_short_is_dead_and_the_others_live() {
    let service = service(&files(), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let mut alive = Client::new(&service, 4, READS, ALICE);
    let mut dead = Client::new(&service, 4, READS, ALICE);
    assert_eq!(dead.batch(&[io(&buffer, 0, 0, 4096)]), [4096]);
    rustix::fs::ftruncate(&dead.file, 0).unwrap();
    until("the dead ring is noticed", || {
        assert_eq!(alive.batch(&[io(&buffer, 0, 0, 4096)]), [4096]);
        service.counters().rejected > 0
    });
    // Long again, it stays dead.
    rustix::fs::ftruncate(&dead.file, dead.memory.layout().bytes()).unwrap();
    dead.forget_lost();
    dead.prepare(&io(&buffer, 0, 0, 4096)).unwrap();
    dead.submit();
    dead.assert_quiet();
    assert_eq!(service.unlink(&dead.name, ALICE.uid), Ok(()));
}

#[test]
fn direct_files_take_any_range() {
    const O_DIRECT: i32 = 0o40000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, (0..70_000).map(pattern).collect::<Vec<_>>()).unwrap();
    let Ok(direct) = File::options().read(true).write(true).custom_flags(O_DIRECT).open(&path) else {
        println!("skipped: no O_DIRECT in {}", dir.path().display());
        return;
    };
    let files = files();
    files.add(10, direct, true);
    let service = service(&files, "", 0);
    let buffer = Buffer::new(&service, 1 << 20, 0, ALICE);
    let mut client = Client::new(&service, 8, READS, ALICE);
    let aligned = IoArgs { file: 10, ..io(&buffer, 0, 0, 4096) };
    let results = client.batch(&[
        aligned,
        IoArgs { iov_offset: 4096, file_offset: 1, ..aligned },
        IoArgs { iov_offset: 8192, len: 100, ..aligned },
        IoArgs { iov_offset: 12_288 + 1, ..aligned },
        IoArgs { iov_offset: 1 << 17, len: 1 << 17, ..aligned },
    ]);
    assert_eq!(results, [4096, 4096, 100, 4096, 70_000]);
    assert!(buffer.bytes(1 << 17, 70_000) == (0..70_000).map(pattern).collect::<Vec<_>>());
}
