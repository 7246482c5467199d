use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_proto::SlabId;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;
use crate::arena::{ArenaSettings, HeapRegions, MemfdRegions};
use crate::store::completions::Completions;
use crate::store::{
    Completion, Decision, Faults, Io, IoView, LateWrite, MemoryL3, MemoryStore, PageStore, PosixStore, StoreError,
    Transfer, init_l3_root,
};

const CLUSTER: ClusterId = ClusterId([3; 16]);
const ARENA_BYTES: u64 = 256 * (16 << 10);

struct Posix {
    root: PathBuf,
    chunk_bytes: u32,
    threads: usize,
}

impl Subject for Posix {
    fn mark(&self) -> ClusterMark {
        ClusterMark::new(CLUSTER, self.chunk_bytes, "test")
    }

    fn store(&self, cluster_id: ClusterId) -> SharedStore {
        Arc::new(PosixStore::new(&self.root, cluster_id, self.chunk_bytes, self.threads).unwrap())
    }
}

#[tokio::test]
async fn posix_conforms() {
    for (seed, threads, chunk_bytes) in [(1, 1, 4096), (2, 4, 4096), (3, 8, 65_536)] {
        let root = tempfile::tempdir().unwrap();
        let subject = Posix { root: root.path().into(), chunk_bytes, threads };
        init_l3_root(root.path(), &subject.mark()).unwrap();
        let settings = ArenaSettings::new(256 * u64::from(chunk_bytes.max(16 << 10)));
        let arena = Arena::new(settings, Arc::new(MemfdRegions::default())).unwrap();
        Suite { seed, ..Suite::default() }.run(&subject, &arena).await.unwrap();
    }
}

/// Memory, with whatever a test puts between the suite and it.
struct Memory<W> {
    l3: MemoryL3,
    /// False: each store has an L3 of its own.
    shared: bool,
    chunk_bytes: u32,
    wrap: W,
}

impl<W: Fn(MemoryL3, ClusterId) -> SharedStore + Send + Sync> Memory<W> {
    fn new(wrap: W) -> Self {
        Self { l3: MemoryL3::default(), shared: true, chunk_bytes: 4096, wrap }
    }

    fn init(&self, l3: &MemoryL3) {
        assert!(l3.init(&ClusterMark::new(CLUSTER, 4096, "memory")));
    }

    async fn run(&self) -> Result<(), Violation> {
        self.init(&self.l3);
        let arena = Arena::new(ArenaSettings::new(ARENA_BYTES), Arc::new(HeapRegions)).unwrap();
        // Memory answers at once: what has not come after a second never comes.
        let suite = Suite { patience: Duration::from_secs(1), batches: 50, ..Suite::default() };
        suite.run(self, &arena).await
    }
}

impl<W: Fn(MemoryL3, ClusterId) -> SharedStore + Send + Sync> Subject for Memory<W> {
    fn mark(&self) -> ClusterMark {
        ClusterMark::new(CLUSTER, self.chunk_bytes, "memory")
    }

    fn store(&self, cluster_id: ClusterId) -> SharedStore {
        if self.shared {
            return (self.wrap)(self.l3.clone(), cluster_id);
        }
        let l3 = MemoryL3::default();
        self.init(&l3);
        (self.wrap)(l3, cluster_id)
    }
}

fn plain(l3: MemoryL3, cluster_id: ClusterId) -> SharedStore {
    Arc::new(MemoryStore::new(l3, cluster_id, 4096))
}

#[tokio::test]
async fn memory_conforms() {
    Memory::new(plain).run().await.unwrap();
}

#[tokio::test]
async fn memory_with_delays_conforms() {
    /// Every third I/O is late, by less and less: completions come out of order.
    struct Late(AtomicU64);
    impl Faults for Late {
        fn on(&self, _: &IoView) -> Decision {
            match self.0.fetch_add(1, Ordering::Relaxed) % 9 {
                late @ (0 | 3 | 6) => Decision::Delay(Duration::from_micros(700 - late * 100)),
                _ => Decision::Proceed,
            }
        }
    }
    let late = |l3, cluster_id| {
        Arc::new(MemoryStore::with_faults(l3, cluster_id, 4096, Arc::new(Late(AtomicU64::new(0))))) as SharedStore
    };
    let subject = Memory::new(late);
    subject.init(&subject.l3);
    let arena = Arena::new(ArenaSettings::new(ARENA_BYTES), Arc::new(HeapRegions)).unwrap();
    Suite { batches: 50, ..Suite::default() }.run(&subject, &arena).await.unwrap();
}

#[tokio::test]
async fn memory_with_late_writes_conforms() {
    /// Every third I/O is late, a write by the device's time.
    struct Late(AtomicU64);
    impl Faults for Late {
        fn on(&self, _: &IoView) -> Decision {
            match self.0.fetch_add(1, Ordering::Relaxed) % 9 {
                late @ (0 | 3 | 6) => Decision::Late(LateWrite::whole(Duration::from_micros(700 - late * 100))),
                _ => Decision::Proceed,
            }
        }
    }
    let late = |l3, cluster_id| {
        Arc::new(MemoryStore::with_faults(l3, cluster_id, 4096, Arc::new(Late(AtomicU64::new(0))))) as SharedStore
    };
    let subject = Memory::new(late);
    subject.init(&subject.l3);
    let (l3, began) = (subject.l3.clone(), tokio::time::Instant::now());
    let device = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        loop {
            ticks.tick().await;
            l3.advance(began.elapsed());
        }
    });
    let arena = Arena::new(ArenaSettings::new(ARENA_BYTES), Arc::new(HeapRegions)).unwrap();
    Suite { batches: 50, ..Suite::default() }.run(&subject, &arena).await.unwrap();
    device.abort();
}

/// How a store breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breach {
    /// Answers a write before it is done.
    EarlyWrite,
    /// Swaps the offsets of two I/Os of a batch.
    MixedOffsets,
    /// Answers two I/Os of a batch with each other's frames.
    MixedFrames,
    /// Answers a write twice.
    Twice,
    /// Forgets to answer the last of a batch.
    Silent,
    /// Moves the whole frame, whatever was asked.
    WholeFrame,
    /// Says that all was read at the end of the file.
    FullAtEnd,
    /// Opens every slab that is asked for.
    AnySlab,
    /// Empties a slab that is opened again.
    Truncates,
    /// Keeps a removed slab.
    KeepsRemoved,
    /// Finds any cluster's mark.
    AnyMark,
    /// Drops the other I/Os of a batch with an unknown slab.
    FailsTogether,
}

struct Broken {
    inner: MemoryStore,
    breach: Breach,
    done: Completions,
    late: Mutex<Vec<Io>>,
}

impl Broken {
    fn perform(&self, batch: Vec<Io>) -> Vec<Completion> {
        self.inner.submit(batch);
        self.inner.complete().now_or_never().unwrap_or_default()
    }

    fn before(&self, mut batch: Vec<Io>) -> Vec<Io> {
        match self.breach {
            Breach::MixedOffsets if batch.len() > 1 => {
                let offset = batch[0].offset;
                batch[0].offset = batch[1].offset;
                batch[1].offset = offset;
            }
            Breach::WholeFrame => batch.iter_mut().for_each(|io| io.len = io.transfer.frame_bytes()),
            Breach::AnySlab => {
                for io in &batch {
                    self.inner.open_slab(io.slab, 0).now_or_never().unwrap().unwrap();
                }
            }
            Breach::FailsTogether if batch.iter().any(|io| io.slab == 0xdead) => {
                batch.iter_mut().for_each(|io| io.slab = 0xdead);
            }
            _ => {}
        }
        batch
    }

    fn after(&self, mut done: Vec<Completion>) -> Vec<Completion> {
        match self.breach {
            Breach::MixedFrames if done.len() > 1 => {
                let op = done[0].op;
                done[0].op = done[1].op;
                done[1].op = op;
            }
            Breach::Silent if done.len() > 1 => drop(done.pop()),
            Breach::FullAtEnd => {
                for completion in &mut done {
                    completion.result = completion.result.clone().map(|_| completion.transfer.frame_bytes());
                }
            }
            Breach::Twice => {
                let again = done.iter().find_map(|completion| match &completion.transfer {
                    Transfer::Write(frame) => Some((completion.op, frame.clone())),
                    Transfer::Read(_) => None,
                });
                done.extend(again.map(|(op, frame)| Completion {
                    op,
                    transfer: Transfer::Write(frame),
                    result: Ok(0),
                }));
            }
            _ => {}
        }
        done
    }

    /// Answers writes now and does them after the next batch.
    fn submit_early(&self, batch: Vec<Io>) {
        let mut late = Vec::new();
        let mut now = Vec::new();
        for io in batch {
            let Transfer::Write(frame) = &io.transfer else {
                now.push(io);
                continue;
            };
            late.push(Io { transfer: Transfer::Write(frame.clone()), ..io });
            let len = io.len;
            self.done.push(io.done(Ok(len)));
        }
        let before = std::mem::replace(&mut *self.late.lock(), late);
        self.perform(now).into_iter().for_each(|completion| self.done.push(completion));
        self.perform(before);
    }
}

impl PageStore for Broken {
    fn chunk_bytes(&self) -> u32 {
        self.inner.chunk_bytes()
    }

    fn cluster_mark(&self) -> BoxFuture<'static, Result<Option<ClusterMark>, StoreError>> {
        match self.breach {
            Breach::AnyMark => futures::future::ready(Ok(Some(ClusterMark::new(CLUSTER, 4096, "memory")))).boxed(),
            _ => self.inner.cluster_mark(),
        }
    }

    fn open_slab(&self, slab: SlabId, bytes: u64) -> BoxFuture<'static, Result<(), StoreError>> {
        if self.breach == Breach::Truncates {
            self.inner.remove_slab(slab).now_or_never().unwrap().unwrap();
        }
        self.inner.open_slab(slab, bytes)
    }

    fn open_to_read(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        self.inner.open_to_read(slab)
    }

    fn reads_at_once(&self) -> usize {
        self.inner.reads_at_once()
    }

    fn submit(&self, batch: Vec<Io>) {
        if self.breach == Breach::EarlyWrite {
            return self.submit_early(batch);
        }
        let done = self.perform(self.before(batch));
        self.after(done).into_iter().for_each(|completion| self.done.push(completion));
    }

    fn complete(&self) -> BoxFuture<'_, Vec<Completion>> {
        Box::pin(self.done.wait())
    }

    fn remove_slab(&self, slab: SlabId) -> BoxFuture<'static, Result<(), StoreError>> {
        match self.breach {
            Breach::KeepsRemoved => futures::future::ready(Ok(())).boxed(),
            _ => self.inner.remove_slab(slab),
        }
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }
}

#[tokio::test]
async fn a_broken_store_fails() {
    let expected = [
        (Breach::EarlyWrite, "read_back"),
        // Writes and reads of like batches are swapped alike: only unlike ones show it.
        (Breach::MixedOffsets, "random_batches"),
        (Breach::MixedFrames, "read_back"),
        (Breach::Twice, "read_back"),
        (Breach::Silent, "read_back"),
        (Breach::WholeFrame, "lengths"),
        (Breach::FullAtEnd, "lengths"),
        (Breach::AnySlab, "unknown_slab"),
        (Breach::Truncates, "reopening"),
        (Breach::KeepsRemoved, "removal"),
        (Breach::AnyMark, "marks"),
        (Breach::FailsTogether, "unknown_slab"),
    ];
    for (breach, check) in expected {
        let broken = move |l3, cluster_id| {
            let inner = MemoryStore::new(l3, cluster_id, 4096);
            Arc::new(Broken { inner, breach, done: Completions::default(), late: Mutex::default() }) as SharedStore
        };
        let violation = Memory::new(broken).run().await.expect_err(&format!("{breach:?} was not found"));
        assert_eq!(violation.check, check, "{breach:?}: {violation}");
    }
}

#[tokio::test]
async fn a_store_with_faults_fails() {
    struct Every(Decision, AtomicU64);
    impl Faults for Every {
        fn on(&self, io: &IoView) -> Decision {
            // Only in the random run: what the single checks would find is found there too.
            let random = (10..14).contains(&io.slab) && self.1.fetch_add(1, Ordering::Relaxed) % 50 == 49;
            if random { self.0 } else { Decision::Proceed }
        }
    }
    for decision in [
        Decision::Errno(libc::EIO),
        Decision::Short(4096),
        Decision::Tear(4096),
        Decision::FlipBit(12_345),
        Decision::Drop { done: true },
        Decision::Drop { done: false },
    ] {
        let faulty = move |l3, cluster_id| {
            let faults = Arc::new(Every(decision, AtomicU64::new(0)));
            Arc::new(MemoryStore::with_faults(l3, cluster_id, 4096, faults)) as SharedStore
        };
        let violation = Memory::new(faulty).run().await.expect_err(&format!("{decision:?} was not found"));
        assert_eq!(violation.check, "random_batches", "{decision:?}: {violation}");
    }
}

#[tokio::test]
async fn stores_that_share_nothing_fail() {
    let violation = Memory { shared: false, ..Memory::new(plain) }.run().await.unwrap_err();
    assert_eq!(violation.check, "reopening", "{violation}");
    let violation = Memory { chunk_bytes: 8192, ..Memory::new(plain) }.run().await.unwrap_err();
    assert_eq!(violation.check, "marks", "{violation}");
}
