use super::*;
use crate::arena::{Arena, ArenaSettings, FrameMut, HeapRegions};

const CLUSTER: ClusterId = ClusterId([5; 16]);
const PAGE: u64 = 4096;

/// Decides by the I/O's number.
struct ByOp(fn(OpId) -> Decision);

impl Faults for ByOp {
    fn on(&self, io: &IoView) -> Decision {
        (self.0)(io.op)
    }
}

struct Host {
    l3: MemoryL3,
    store: MemoryStore,
    arena: Arena,
}

fn host(faults: fn(OpId) -> Decision) -> Host {
    let l3 = MemoryL3::default();
    assert!(l3.init(&ClusterMark::new(CLUSTER, 4096, "memory")));
    let store = MemoryStore::with_faults(l3.clone(), CLUSTER, 4096, Arc::new(ByOp(faults)));
    let arena = Arena::new(ArenaSettings::new(16 * PAGE), Arc::new(HeapRegions)).unwrap();
    store.open_slab(1, 4 * PAGE).now_or_never().unwrap().unwrap();
    Host { l3, store, arena }
}

impl Host {
    fn page(&self, byte: u8) -> FrameMut {
        let mut frame = self.arena.allocate(1, PAGE).unwrap();
        frame.bytes_mut().fill(byte);
        frame
    }

    fn submit(&self, op: OpId, transfer: Transfer) {
        self.store.submit(vec![Io { op, slab: 1, offset: 0, len: PAGE, transfer, begin_by: None }]);
    }

    fn write(&self, op: OpId, byte: u8) -> Option<Completion> {
        self.submit(op, Transfer::Write(self.page(byte).freeze()));
        self.store.complete().now_or_never()?.pop()
    }

    /// What another store reads.
    fn stored(&self) -> Vec<u8> {
        let slab = self.l3.open(CLUSTER, 1, 0).unwrap();
        let mut bytes = vec![0; PAGE as usize];
        slab.lock().read(0, &mut bytes);
        bytes
    }
}

#[test]
fn faults_do_what_they_say() {
    let host = host(|op| match op {
        1 => Decision::Errno(libc::EIO),
        2 => Decision::Short(100),
        3 => Decision::Tear(200),
        4 => Decision::FlipBit(8 * 10),
        _ => Decision::Proceed,
    });
    assert_eq!(host.write(0, 1).unwrap().result, Ok(PAGE));
    assert_eq!(host.write(1, 2).unwrap().result, Err(StoreError::Errno(libc::EIO)));
    assert!(host.stored().iter().all(|byte| *byte == 1));
    assert_eq!(host.write(2, 3).unwrap().result, Ok(100));
    assert_eq!((host.stored()[99], host.stored()[100]), (3, 1));
    assert_eq!(host.write(3, 4).unwrap().result, Ok(PAGE));
    assert_eq!((host.stored()[199], host.stored()[200]), (4, 1));
    assert_eq!(host.write(4, 5).unwrap().result, Ok(PAGE));
    assert_eq!((host.stored()[9], host.stored()[10], host.stored()[11]), (5, 4, 5));
    host.submit(4, Transfer::Read(host.page(9)));
    let done = host.store.complete().now_or_never().unwrap().pop().unwrap();
    let Transfer::Read(frame) = &done.transfer else { panic!("a read") };
    assert_eq!((frame.bytes()[10], frame.bytes()[11]), (5, 5), "flipped back");
}

#[test]
fn a_lost_io_keeps_its_frame_until_the_restart() {
    let host = host(|op| Decision::Drop { done: op == 1 });
    assert!(host.write(0, 1).is_none());
    assert!(host.stored().iter().all(|byte| *byte == 0));
    assert!(host.write(1, 2).is_none());
    assert!(host.stored().iter().all(|byte| *byte == 2));
    assert_eq!((host.store.lost(), host.arena.status().frame_bytes_used), (2, 2 * PAGE));
    assert_eq!(host.store.epoch(), 0);
    host.store.restart();
    assert_eq!((host.store.epoch(), host.store.lost(), host.arena.status().frame_bytes_used), (1, 0, 0));
}

#[test]
fn after_a_restart_slabs_are_opened_again() {
    let host = host(|_| Decision::Proceed);
    assert_eq!(host.write(0, 1).unwrap().result, Ok(PAGE));
    host.store.restart();
    assert_eq!(host.write(1, 2).unwrap().result, Err(StoreError::NoSlab(1)));
    host.store.open_slab(1, 4 * PAGE).now_or_never().unwrap().unwrap();
    assert_eq!(host.stored()[0], 1);
}

#[tokio::test]
async fn a_delayed_write_arrives_late() {
    let host = host(|op| if op == 0 { Decision::Delay(Duration::from_millis(5)) } else { Decision::Proceed });
    host.submit(0, Transfer::Write(host.page(1).freeze()));
    host.submit(1, Transfer::Write(host.page(2).freeze()));
    assert_eq!(host.stored()[0], 2);
    let mut ops = Vec::new();
    while ops.len() < 2 {
        ops.extend(host.store.complete().await.iter().map(|completion| completion.op));
    }
    assert_eq!((ops, host.stored()[0]), (vec![1, 0], 1), "the late writer wins");
}

#[test]
fn a_late_write_lands_without_its_store() {
    let late = |op| match op {
        0 => Decision::Late(LateWrite::whole(Duration::from_millis(5))),
        1 => Decision::Late(LateWrite { after: Duration::from_millis(9), bytes_max: 100, flip: Some(8 * 7), tag: 6 }),
        _ => Decision::Proceed,
    };
    let mut host = host(late);
    host.l3.advance(Duration::from_secs(1));
    assert!(host.write(0, 1).is_none());
    assert!(host.write(1, 2).is_none());
    assert_eq!(host.write(2, 3).unwrap().result, Ok(PAGE));
    assert_eq!(host.l3.next_due(), Some(Duration::from_millis(1005)));
    assert_eq!(host.l3.advance(Duration::from_millis(1004)), []);
    let landed = host.l3.advance(Duration::from_millis(1005));
    let first = Landed { slab: 1, offset: 0, bytes: PAGE, order: 1, over: Some(3), answered: true, tag: 0 };
    assert_eq!((landed, host.stored()[0]), (vec![first], 1));
    let done = host.store.complete().now_or_never().unwrap().pop().unwrap();
    assert_eq!((done.op, done.result), (0, Ok(PAGE)));
    drop(done.transfer);

    host.store = MemoryStore::new(host.l3.clone(), CLUSTER, 4096);
    assert_eq!(host.arena.status().frame_bytes_used, 0, "the device has a copy");
    let landed = host.l3.advance(Duration::from_secs(2));
    let torn = Landed { slab: 1, offset: 0, bytes: 100, order: 2, over: Some(1), answered: false, tag: 6 };
    assert_eq!((landed, host.l3.next_due()), (vec![torn], None));
    assert_eq!((host.stored()[6], host.stored()[7], host.stored()[99], host.stored()[100]), (2, 3, 2, 1));
}
