//! A ring driven against a daemon of the test's own, in the same memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foreword_usrbio::{
    Cqe, Cursor, IoArgs, IovId, LinkKind, LinkName, NamedSemaphore, Priority, RingLayout, RingMemory, RingName,
};
use tempfile::TempDir;

use crate::arena::{Arena, ArenaSettings, HeapRegions};
use crate::store::usrbio::attachment::{Attachment, Submits};
use crate::store::usrbio::client::{Client, RegionPass, RegisteredFile};
use crate::store::usrbio::native::NativeRing;
use crate::store::usrbio::outlet::Outlet;
use crate::store::usrbio::regions::RegionTicket;
use crate::store::usrbio::ring::{Owner, Ready, Ring};
use crate::store::usrbio::worker::Worker;
use crate::store::usrbio::{clock, shm};
use crate::store::{Completion, Io, OpId, StoreError, Transfer};

const PAGE: u64 = 4096;
const LONG: Duration = Duration::from_secs(30);
/// So long that nothing is given up.
const PATIENT: Duration = Duration::from_secs(3600);

/// The daemon's side of a ring: takes submissions, answers what it is told.
struct Daemon {
    memory: RingMemory,
    submit: NamedSemaphore,
    taken: u32,
    answered: u32,
}

impl Daemon {
    fn wait_submit(&self) {
        assert!(self.submit.wait(LONG), "no submit came");
    }

    /// Takes so many I/Os, waiting for them; each must have been submitted.
    fn take(&mut self, count: usize) -> Vec<IoArgs> {
        let layout = self.memory.layout();
        let mut taken = Vec::new();
        while taken.len() < count {
            if self.memory.load(Cursor::SqeHead) as u32 == self.taken {
                self.wait_submit();
                continue;
            }
            let sqe = self.memory.sqe(self.taken);
            let args = self.memory.args(sqe.index as u32);
            assert_eq!(args.userdata, sqe.userdata);
            taken.push(args);
            self.taken = layout.next(self.taken);
        }
        taken
    }

    fn release_submissions(&self) {
        self.memory.store(Cursor::SqeTail, self.taken as i32);
    }

    fn answer(&mut self, userdata: u64, result: i64) {
        self.answer_as((userdata & 0xf_ffff) as i32, userdata, result);
    }

    fn answer_as(&mut self, index: i32, userdata: u64, result: i64) {
        let next = self.memory.layout().next(self.answered);
        assert_ne!(next, self.memory.load(Cursor::CqeTail) as u32, "no room for a completion");
        self.memory.set_cqe(self.answered, &Cqe { index, result, userdata });
        self.answered = next;
        self.memory.store(Cursor::CqeHead, next as i32);
        self.memory.post();
    }
}

#[derive(Default)]
struct Asked(AtomicUsize);

impl Owner for Asked {
    fn replace_later(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    ring: Arc<Ring>,
    attachment: Arc<Attachment>,
    outlet: Arc<Outlet>,
    owner: Option<Arc<Asked>>,
    arena: Arena,
    ticket: Arc<RegionTicket>,
    file: Arc<RegisteredFile>,
    _dir: TempDir,
}

fn bench(entries: u32, patience: Duration) -> (Bench, Daemon) {
    let dir = tempfile::tempdir().unwrap();
    let worker = Arc::new(Worker::start("test-ring").unwrap());
    let name = format!("foreword-test-{}", shm::random_id());
    let submit = NamedSemaphore::create(&name).unwrap();
    let open = || NamedSemaphore::open(&name).unwrap();
    let attachment = Attachment::over_dir(dir.path(), Submits { reads: open(), writes: open() }, worker.clone());
    submit.unlink();
    let attachment = Arc::new(attachment);
    let layout = RingLayout::with_entries(entries).unwrap();
    let file = shm::create(layout.bytes()).unwrap();
    let memory = || RingMemory::new(file.map(layout.bytes() as usize).unwrap()).unwrap();
    let ring_name = RingName { for_read: true, io_depth: 0, priority: Priority::Normal, timeout_ms: 0, flags: 0 };
    let link = LinkName { id: shm::random_id(), kind: LinkKind::Ring(ring_name) };
    let daemon = Daemon { memory: memory(), submit, taken: 0, answered: 0 };
    daemon.memory.init_semaphore();
    let port = Box::new(NativeRing::over(memory(), link, &attachment));
    let (outlet, owner) = (Arc::new(Outlet::new(patience)), Arc::new(Asked::default()));
    let weak: Weak<dyn Owner> = Arc::downgrade(&(owner.clone() as Arc<dyn Owner>));
    let ring = Ring::start(port, entries, attachment.clone(), outlet.clone(), weak, "test-ring").unwrap();
    let arena = Arena::new(ArenaSettings::new(256 * PAGE), Arc::new(HeapRegions)).unwrap();
    let ticket = Arc::new(RegionTicket::new(RegionPass { id: IovId([7; 16]), wrapped: None }, 1));
    let slab = std::fs::File::create(dir.path().join("slab")).unwrap();
    let file = Arc::new(Client::Native.register(slab.into(), &worker).unwrap());
    (Bench { ring, attachment, outlet, owner: Some(owner), arena, ticket, file, _dir: dir }, daemon)
}

impl Bench {
    fn ready(&self, op: OpId) -> Ready {
        let frame = self.arena.allocate(1, PAGE).unwrap();
        let io = Io { op, slab: 1, offset: op * PAGE, len: PAGE, transfer: Transfer::Read(frame), begin_by: None };
        let (ticket, file) = (self.ticket.clone(), self.file.clone());
        Ready { io, ticket, region_offset: op * PAGE, file, since: clock::now() }
    }

    fn submit(&self, ops: std::ops::Range<OpId>) {
        assert!(self.ring.submit(ops.map(|op| self.ready(op)).collect()).is_ok());
    }

    async fn some(&self) -> Vec<Completion> {
        tokio::time::timeout(LONG, self.outlet.completions.wait()).await.expect("a completion comes")
    }

    async fn results(&self, count: usize) -> Vec<(OpId, Result<u64, StoreError>)> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.some().await.into_iter().map(|done| (done.op, done.result)));
        }
        assert_eq!(all.len(), count);
        all.sort_by_key(|(op, _)| *op);
        all
    }

    fn used_bytes(&self) -> u64 {
        self.arena.status().frame_bytes_used
    }
}

/// Polls for a condition.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, polled).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn an_io_says_where_its_bytes_are_and_gets_its_own_answer() {
    let (bench, mut daemon) = bench(4, PATIENT);
    bench.submit(0..3);
    let taken = daemon.take(3);
    daemon.release_submissions();
    for (op, args) in taken.iter().enumerate() {
        let at = op as u64 * PAGE;
        assert_eq!((args.iov, args.iov_offset, args.file_offset, args.len), (IovId([7; 16]), at, at, PAGE));
        assert_eq!(args.file, bench.file.ino);
    }
    daemon.answer(taken[2].userdata, 0);
    daemon.answer(taken[0].userdata, -i64::from(libc::ENOSPC));
    daemon.answer(taken[1].userdata, 100);
    let errno = |number| Err(StoreError::Errno(number));
    assert_eq!(bench.results(3).await, [(0, errno(libc::ENOSPC)), (1, Ok(100)), (2, Ok(0))]);
    assert_eq!(bench.used_bytes(), 0);
}

#[tokio::test]
async fn what_does_not_fit_waits_and_goes_round_the_ring() {
    let (bench, mut daemon) = bench(3, PATIENT);
    bench.submit(0..200);
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let taken = daemon.take(1);
        daemon.release_submissions();
        seen.push(taken[0].file_offset / PAGE);
        daemon.answer(taken[0].userdata, PAGE as i64);
    }
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
    let expected: Vec<_> = (0..200).map(|op| (op, Ok(PAGE))).collect();
    assert_eq!(bench.results(200).await, expected);
    assert_eq!(bench.used_bytes(), 0);
}

#[tokio::test]
async fn answers_of_a_mad_daemon_reach_nobody() {
    let (bench, mut daemon) = bench(4, PATIENT);
    bench.submit(0..2);
    let taken = daemon.take(2);
    daemon.release_submissions();
    let userdata = taken[0].userdata;
    daemon.answer(0, 1);
    daemon.answer(userdata + (1 << 20), 1);
    daemon.answer(u64::MAX, 1);
    until("the first three were taken", || bench.outlet.counts.read().strays == 3).await;
    daemon.answer_as(99, userdata, 1);
    daemon.answer(userdata, PAGE as i64 + 1);
    daemon.answer(userdata, PAGE as i64);
    until("the next were taken", || bench.outlet.counts.read().strays == 5).await;
    assert_eq!(bench.results(1).await, [(0, Err(StoreError::Errno(libc::EIO)))]);
    assert_eq!(bench.outlet.counts.read().overlong, 1);
    // Cursors that point nowhere: nothing is taken, and it goes on when they are right again.
    daemon.memory.store(Cursor::CqeHead, -1);
    daemon.memory.post();
    daemon.memory.store(Cursor::CqeHead, 5000);
    daemon.memory.post();
    daemon.memory.store(Cursor::SqeTail, i32::MIN);
    bench.submit(2..3);
    daemon.memory.store(Cursor::CqeHead, daemon.answered as i32);
    daemon.release_submissions();
    daemon.answer(taken[1].userdata, 7);
    assert_eq!(bench.results(1).await, [(1, Ok(7))]);
    let taken = daemon.take(1);
    daemon.answer(taken[0].userdata, i64::MIN);
    assert_eq!(bench.results(1).await, [(2, Err(StoreError::Errno(libc::EIO)))]);
    assert_eq!(bench.used_bytes(), 0);
}

#[tokio::test]
async fn a_lost_io_keeps_its_frame_until_its_answer_comes() {
    let (bench, mut daemon) = bench(8, Duration::from_millis(40));
    bench.submit(0..4);
    let taken = daemon.take(4);
    daemon.release_submissions();
    until("all are given up", || bench.outlet.counts.read().lost == 4).await;
    assert_eq!(bench.arena.status().quarantined_bytes, 4 * PAGE);
    let owner = bench.owner.clone().unwrap();
    until("half of the ring is lost", || owner.0.load(Ordering::SeqCst) > 0).await;
    daemon.answer(taken[1].userdata, PAGE as i64);
    until("one is back", || bench.outlet.counts.read().late == 1).await;
    until("its frame is free", || bench.used_bytes() == 3 * PAGE).await;
    assert_eq!(bench.arena.status().quarantined_bytes, 3 * PAGE);
    // Its segment is replaced: nothing waits for the others.
    let segments: Vec<_> = bench.arena.segments().iter().map(|segment| segment.id).collect();
    segments.into_iter().for_each(|segment| bench.arena.retire_segment(segment));
    assert_eq!((bench.arena.status().quarantined_bytes, bench.used_bytes()), (0, 0));
    bench.submit(4..5);
    let more = daemon.take(1);
    assert!(
        taken
            .iter()
            .all(|args| args.userdata & 0xf_ffff != more[0].userdata & 0xf_ffff || args.userdata == taken[1].userdata)
    );
    daemon.answer(more[0].userdata, 9);
    for args in [&taken[0], &taken[2], &taken[3]] {
        daemon.answer(args.userdata, PAGE as i64);
    }
    until("all came late", || bench.outlet.counts.read().late == 4).await;
    assert_eq!(bench.results(1).await, [(4, Ok(9))], "an I/O that was given up has no completion");
}

#[tokio::test]
async fn a_replaced_ring_takes_nothing_and_ends_when_the_last_answer_came() {
    let (bench, mut daemon) = bench(2, Duration::from_millis(40));
    bench.submit(0..3);
    let taken = daemon.take(2);
    until("two are given up", || bench.outlet.counts.read().lost == 2).await;
    // The third never got a slot: it is answered.
    assert_eq!(bench.results(1).await, [(2, Err(StoreError::Errno(libc::EAGAIN)))]);
    assert!(bench.ring.replace().is_empty());
    let refused = bench.ring.submit(vec![bench.ready(9)]).unwrap_err();
    assert_eq!(refused[0].io.op, 9);
    drop(refused);
    daemon.answer(taken[0].userdata, 1);
    until("one is back", || bench.outlet.counts.read().late == 1).await;
    assert!(Arc::strong_count(&bench.ring) > 1, "one is still awaited");
    daemon.answer(taken[1].userdata, 1);
    until("the thread ended", || Arc::strong_count(&bench.ring) == 1).await;
    assert_eq!(bench.used_bytes(), 0);
}

#[tokio::test]
async fn waiting_ios_move_on_when_a_ring_is_replaced() {
    let (bench, mut daemon) = bench(1, PATIENT);
    bench.submit(0..5);
    let taken = daemon.take(1);
    let waiting = bench.ring.replace();
    assert_eq!(waiting.iter().map(|ready| ready.io.op).collect::<Vec<_>>(), [1, 2, 3, 4]);
    daemon.answer(taken[0].userdata, 1);
    assert_eq!(bench.results(1).await, [(0, Ok(1))]);
    until("the thread ended", || Arc::strong_count(&bench.ring) == 1).await;
}

#[tokio::test]
async fn a_dead_daemon_gives_back_what_it_has_no_more() {
    for released in [true, false] {
        let (bench, mut daemon) = bench(2, PATIENT);
        bench.submit(0..4);
        daemon.take(2);
        bench.ticket.set_released(released);
        bench.attachment.end();
        bench.ring.wake();
        let gone = |op| (op, Err(StoreError::Gone));
        let expected: Vec<_> = if released { (0..4).map(gone).collect() } else { (2..4).map(gone).collect() };
        assert_eq!(bench.results(expected.len()).await, expected);
        until("the thread ended", || Arc::strong_count(&bench.ring) == 1).await;
        let held = if released { 0 } else { 2 * PAGE };
        assert_eq!((bench.used_bytes(), bench.arena.status().quarantined_bytes), (held, held));
        assert!(bench.ring.submit(vec![bench.ready(9)]).is_err());
    }
}

#[tokio::test]
async fn a_ring_without_an_owner_finishes_what_is_under_way() {
    let (mut bench, mut daemon) = bench(2, PATIENT);
    bench.submit(0..4);
    let taken = daemon.take(2);
    bench.owner = None;
    until("what waits is free", || bench.used_bytes() == 2 * PAGE).await;
    for args in taken {
        daemon.answer(args.userdata, 5);
    }
    assert_eq!(bench.results(2).await, [(0, Ok(5)), (1, Ok(5))]);
    until("the thread ended", || Arc::strong_count(&bench.ring) == 1).await;
    assert_eq!(bench.used_bytes(), 0);
}

#[tokio::test]
async fn a_submission_that_keeps_the_ring_full_wears_it_out() {
    let (bench, mut daemon) = bench(8, Duration::from_millis(100));
    bench.submit(0..8);
    let taken = daemon.take(8);
    // The first is never answered, so the daemon's cursor stays; all others are.
    for args in &taken[1..] {
        daemon.answer(args.userdata, 1);
    }
    assert_eq!(bench.results(7).await.len(), 7);
    bench.submit(8..9);
    let owner = bench.owner.clone().unwrap();
    let asked = async {
        let mut op = 9;
        while owner.0.load(Ordering::SeqCst) == 0 {
            // What waits is refused after a time: there has to be one when the first is given up.
            bench.submit(op..op + 1);
            op += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, asked).await.expect("another ring is asked for");
    assert_eq!(bench.outlet.counts.read().lost, 1);
}
