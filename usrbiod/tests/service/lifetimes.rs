//! Links that go while their I/Os are under way.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use foreword_usrbio::{Cursor, IoArgs};
use foreword_usrbiod::service::{BackingFiles, Service, ServiceSettings};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::client::{ALICE, BOB, Buffer, Client, Files, READS, pattern, pattern_file, service, until};

fn files() -> Arc<Files> {
    let files = Files::default();
    files.add(7, pattern_file(1 << 16), true);
    Arc::new(files)
}

/// File 8 is file 7, but who opens it waits at a gate.
struct Gate {
    files: Arc<Files>,
    arrived: Sender<()>,
    open: Mutex<Receiver<()>>,
}

impl BackingFiles for Gate {
    fn open(&self, ino: u64, write: bool) -> Result<Arc<OwnedFd>, Errno> {
        if ino == 8 {
            self.arrived.send(()).unwrap();
            self.open.lock().recv().unwrap();
        }
        self.files.open(7, write)
    }
}

/// A job's first I/O is ready and its second waits at the gate while the links end.
fn completes_late_after(end: impl FnOnce(&Service, &Buffer, &Client)) {
    let ((arrived, arrival), (opener, open)) = (channel(), channel());
    let gate = Arc::new(Gate { files: files(), arrived, open: Mutex::new(open) });
    let service = Service::start(ServiceSettings { threads: 2, ..Default::default() }, gate).unwrap();
    let buffer = Buffer::new(&service, 1 << 17, 0, ALICE);
    let mut client = Client::new(&service, 4, READS, ALICE);
    for number in [0, 1] {
        let (iov_offset, file) = (number << 16, 7 + number);
        let read = IoArgs { iov: buffer.id, iov_offset, file, file_offset: 0, len: 1 << 16, userdata: number };
        client.prepare(&read).unwrap();
    }
    client.submit();
    arrival.recv().unwrap();
    assert_eq!(client.memory.load(Cursor::CqeHead), 0, "it is under way");
    end(&service, &buffer, &client);
    assert_eq!(service.counters().links, 0);
    opener.send(()).unwrap();
    let done = client.wait(2);
    assert_eq!((done[0].result, done[1].result), (1 << 16, -22), "the second found its buffer gone");
    assert!(buffer.bytes(0, 1 << 16) == (0..1 << 16).map(pattern).collect::<Vec<_>>());
}

#[test]
fn late_completions_keep_their_memory_after_unlink() {
    completes_late_after(|service, buffer, client| {
        service.unlink(&buffer.name, ALICE.uid).unwrap();
        service.unlink(&client.name, ALICE.uid).unwrap();
    });
}

#[test]
fn late_completions_keep_their_memory_after_their_owner() {
    completes_late_after(|service, _, _| {
        service.owner_gone(BOB.pid);
        service.owner_gone(ALICE.pid);
    });
}

#[test]
fn an_unlinked_ring_is_not_served() {
    let service = service(&files(), "", 0);
    let buffer = Buffer::new(&service, 4096, 0, ALICE);
    let (mut gone, mut stays) = (Client::new(&service, 4, READS, ALICE), Client::new(&service, 4, READS, ALICE));
    let read = IoArgs { iov: buffer.id, iov_offset: 0, file: 7, file_offset: 0, len: 16, userdata: 0 };
    assert_eq!((gone.batch(&[read]), stays.batch(&[read])), (vec![16], vec![16]));
    service.unlink(&gone.name, ALICE.uid).unwrap();
    gone.prepare(&read).unwrap();
    assert_eq!(stays.batch(&[read]), [16]);
    gone.assert_quiet();
    service.unlink(&buffer.name, ALICE.uid).unwrap();
    assert_eq!(stays.batch(&[read]), [-22]);
}

#[test]
fn links_come_and_go_while_ios_run() {
    let service = service(&files(), "", 0);
    for round in 0..500 {
        let buffer = Buffer::new(&service, 1 << 16, 0, ALICE);
        let mut client = Client::new(&service, 8, READS, ALICE);
        for at in 0..8 {
            let read =
                IoArgs { iov: buffer.id, iov_offset: at << 13, file: 7, file_offset: 0, len: 1 << 13, userdata: 0 };
            client.prepare(&read).unwrap();
        }
        client.submit();
        if round % 2 == 0 {
            service.unlink(&buffer.name, ALICE.uid).unwrap();
            service.unlink(&client.name, ALICE.uid).unwrap();
        } else {
            service.owner_gone(ALICE.pid);
        }
    }
    assert_eq!(service.counters().links, 0);
    assert_eq!(service.counters().rejected, 0);
}

#[test]
fn a_service_stops_with_work_in_all_its_queues() {
    let service = service(&files(), "stall=3600s:50%,latency=1ms:50%,reorder=50%", 0);
    let buffer = Buffer::new(&service, 1 << 16, 0, ALICE);
    let mut client = Client::new(&service, 4096, READS, ALICE);
    for at in 0..4096 {
        let read = IoArgs { iov: buffer.id, iov_offset: at * 16, file: 7, file_offset: 0, len: 16, userdata: 0 };
        client.prepare(&read).unwrap();
    }
    client.submit();
    until("a fault", || service.counters().fault_stall > 0);
    service.stop();
}
