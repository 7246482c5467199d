//! A client that writes anything into what it shares with the service, and an honest one beside it.
//!
//! The same in the tests for some seconds and in `examples/fuzz.rs` for millions of inputs. What comes out depends on
//! threads, so a seed repeats the inputs, not their interleaving.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foreword_usrbio::{
    Cursor, IoArgs, IovId, LinkKind, LinkName, NamedSemaphore, Priority, RingLayout, RingName, ShmFile, Sqe,
    shm_name_of,
};
use foreword_usrbiod::service::{Counters, FaultPlan, Owner, Service};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::client::{
    ALICE, BOB, Buffer, Client, Files, PATIENCE, READS, new_id, now, pattern, pattern_file, semaphore, service, shm,
};

const HONEST_FILE: u64 = 7;
const SCRATCH_FILE: u64 = 8;
const FILE_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: u64 = 1 << 16;
/// Rings the hostile client has at once.
const RINGS: usize = 4;
/// Of one ring: some fit a page, most do not.
const ENTRIES_MAX: u32 = 96;

/// Panics of services' threads since the first campaign began.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// When a campaign ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Inputs(u64),
}

/// What a campaign saw.
#[derive(Debug)]
pub(crate) struct Report {
    seed: u64,
    /// Writes into shared memory and semaphores, submits, links made and cut.
    ring_inputs: u64,
    /// Names, targets and fault lists given to the parsers.
    name_inputs: u64,
    links_refused: u64,
    honest_reads: u64,
    honest_wrong: u64,
    panics: u64,
    took: Duration,
    counters: Counters,
}

impl Report {
    /// Panics unless the honest client saw only right bytes, and the hostile one was heard.
    pub(crate) fn check(&self) {
        assert_eq!((self.honest_wrong, self.panics), (0, 0), "FOREWORD_FUZZ_SEED={} repeats it: {self}", self.seed);
        assert!(self.honest_reads > 100 && self.ring_inputs > 1000 && self.name_inputs > 100, "{self}");
        assert!(self.counters.errors > 100 && self.counters.rejected > 100 && self.links_refused > 0, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ios = self.counters.reads + self.counters.writes;
        writeln!(
            f,
            "{} inputs in {:.1} s (seed {}): {} into rings and semaphores, {} into parsers",
            self.ring_inputs + self.name_inputs,
            self.took.as_secs_f64(),
            self.seed,
            self.ring_inputs,
            self.name_inputs
        )?;
        writeln!(
            f,
            "answered {ios} I/Os in {} jobs, {} of them with errors; rejected {} times; refused {} links",
            self.counters.jobs, self.counters.errors, self.counters.rejected, self.links_refused
        )?;
        write!(f, "honest client: {} reads, {} wrong; panics: {}", self.honest_reads, self.honest_wrong, self.panics)
    }
}

/// Runs a campaign against a service of its own.
pub(crate) fn fuzz(seed: u64, until: Until) -> Report {
    count_panics();
    let files = Files::default();
    files.add(HONEST_FILE, pattern_file(FILE_BYTES), false);
    files.add(SCRATCH_FILE, pattern_file(BUFFER_BYTES), true);
    let service = service(&Arc::new(files), "", seed);
    let (stop, started) = (AtomicBool::new(false), now());
    let mut hostile = Hostile::new(&service, seed);
    let (honest_reads, honest_wrong) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| read_honestly(&service, seed, &stop));
        let going = |hostile: &Hostile<'_>| match until {
            Until::Time(time) => now() - started < time,
            Until::Inputs(inputs) => hostile.ring_inputs + hostile.name_inputs < inputs,
        };
        while going(&hostile) && !honest.is_finished() {
            (0..64).for_each(|_| hostile.step());
        }
        stop.store(true, Ordering::SeqCst);
        honest.join().expect("the honest client is served to the end")
    });
    let report = Report {
        seed,
        ring_inputs: hostile.ring_inputs,
        name_inputs: hostile.name_inputs,
        links_refused: hostile.links_refused,
        honest_reads,
        honest_wrong,
        panics: PANICS.load(Ordering::SeqCst),
        took: now() - started,
        counters: service.counters(),
    };
    service.stop();
    report
}

fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("usrbio-")) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(info);
        }));
    });
}

/// Reads until told to stop; returns reads and wrong ones. Panics if the service does not answer in time.
fn read_honestly(service: &Service, seed: u64, stop: &AtomicBool) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(!seed);
    let buffer = Buffer::new(service, 8 * BUFFER_BYTES, 0, ALICE);
    let mut client = Client::new(service, 8, READS, ALICE);
    let (mut reads, mut wrong) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let mut ios = Vec::new();
        for at in 0..8 {
            let (file_offset, len) = (random.gen_range(0..FILE_BYTES), random.gen_range(1..BUFFER_BYTES / 4));
            let (iov, iov_offset) = (buffer.id, at * BUFFER_BYTES);
            let io = IoArgs { iov, iov_offset, file: HONEST_FILE, file_offset, len, userdata: at };
            client.prepare(&io).expect("room");
            ios.push(io);
        }
        for cqe in submit_until_done(&mut client, 8) {
            let io = ios[cqe.userdata as usize];
            let expected: Vec<u8> = (io.file_offset..FILE_BYTES.min(io.file_offset + io.len)).map(pattern).collect();
            reads += 1;
            if cqe.result != expected.len() as i64 || buffer.bytes(io.iov_offset, expected.len()) != expected {
                wrong += 1;
            }
        }
    }
    (reads, wrong)
}

/// The hostile client may take a submit away from its semaphore: so it is said again.
fn submit_until_done(client: &mut Client, number: usize) -> Vec<foreword_usrbio::Cqe> {
    let started = now();
    let mut done = Vec::new();
    while done.len() < number {
        assert!(now() - started < PATIENCE, "the honest client waits in vain");
        client.submit();
        client.memory.wait(Duration::from_millis(20));
        done.extend(client.reap());
    }
    done
}

/// A ring of the hostile client, written through its file, which may be cut at any time.
struct Ring {
    layout: RingLayout,
    file: ShmFile,
    name: String,
    submit: NamedSemaphore,
    submit_path: PathBuf,
    head: u32,
}

struct Hostile<'a> {
    service: &'a Service,
    random: StdRng,
    rings: Vec<Ring>,
    buffer: Buffer,
    /// Ids of memory: its own, the honest client's, none.
    ids: Vec<IovId>,
    ring_inputs: u64,
    name_inputs: u64,
    links_refused: u64,
}

impl<'a> Hostile<'a> {
    fn new(service: &'a Service, seed: u64) -> Self {
        let buffer = Buffer::new(service, BUFFER_BYTES, 0, BOB);
        let others = Buffer::new(service, BUFFER_BYTES, 4096, ALICE);
        let ids = vec![buffer.id, buffer.id, buffer.id, others.id, new_id()];
        let random = StdRng::seed_from_u64(seed);
        let (rings, ring_inputs) = (Vec::new(), 0);
        let mut this = Self { service, random, rings, buffer, ids, ring_inputs, name_inputs: 0, links_refused: 0 };
        for _ in 0..RINGS {
            let ring = this.new_ring();
            this.rings.push(ring);
        }
        this
    }

    fn new_ring(&mut self) -> Ring {
        let entries = self.random.gen_range(1..=ENTRIES_MAX);
        let layout = RingLayout::with_entries(entries).unwrap();
        let (mut file, id) = shm(layout.bytes());
        let priority = *Priority::ALL.choose(&mut self.random).unwrap();
        let ring = RingName {
            for_read: self.random.gen_bool(0.6),
            io_depth: *[0, 0, 0, 1, entries as i32, -1, -7].choose(&mut self.random).unwrap(),
            priority,
            timeout_ms: self.random.gen_range(0..3),
            flags: self.random.gen_range(0..4),
        };
        let name = LinkName { id, kind: LinkKind::Ring(ring) }.to_string();
        self.service.link(&name, &file.path(), BOB).unwrap();
        file.unlink();
        let submit_path = self.service.submit_target(priority);
        Ring { layout, file, name, submit: semaphore(self.service, priority), submit_path, head: 0 }
    }

    /// One input.
    fn step(&mut self) {
        let at = self.random.gen_range(0..RINGS);
        match self.random.gen_range(0..100_000) {
            0..15_000 => return self.name(),
            15_000..45_000 => self.submission(at),
            45_000..55_000 => self.cursor(at),
            55_000..65_000 => self.args(at),
            65_000..73_000 => self.noise(at, 64),
            73_000..85_000 => self.reap(at),
            85_000..99_000 => self.rings[at].submit.post(),
            99_000..99_400 => self.noise(at, usize::MAX),
            99_400..99_600 => self.completion_semaphore(at),
            99_600..99_800 => self.submit_semaphore(at),
            99_800..99_900 => self.cut_ring(at),
            99_900..99_990 => self.replace_ring(at),
            _ => self.replace_buffer(),
        }
        self.ring_inputs += 1;
    }

    fn write(&self, at: usize, offset: usize, bytes: &[u8]) {
        rustix::io::pwrite(&self.rings[at].file, bytes, offset as u64).expect("room in /dev/shm");
    }

    /// An I/O that may be good, put in as an honest client does.
    fn submission(&mut self, at: usize) {
        let (layout, head) = (self.rings[at].layout, self.rings[at].head);
        let index = self.random.gen_range(0..layout.cells());
        let args = self.some_args();
        self.write(at, layout.args_at(index), &args.to_bytes());
        let index = if self.random.gen_bool(0.9) { index as i32 } else { self.random.r#gen() };
        let sqe = Sqe { index, userdata: self.random.next_u64() };
        self.write(at, layout.sqe_at(head), &sqe.to_bytes());
        self.rings[at].head = layout.next(head);
        self.write(at, Cursor::SqeHead.at(), &self.rings[at].head.to_ne_bytes());
    }

    fn some_args(&mut self) -> IoArgs {
        let random = &mut self.random;
        let edge = |random: &mut StdRng, limit: u64| match random.gen_range(0..10) {
            0 => limit,
            1 => limit - 1,
            2 => u64::MAX - random.gen_range(0..5000),
            3 => i64::MAX as u64 - random.gen_range(0..5000),
            _ => random.gen_range(0..limit),
        };
        let len = if random.gen_bool(0.8) { random.gen_range(0..4096) } else { edge(random, BUFFER_BYTES) };
        IoArgs {
            iov: *self.ids.choose(random).unwrap(),
            iov_offset: edge(random, BUFFER_BYTES),
            file: *[HONEST_FILE, SCRATCH_FILE, SCRATCH_FILE, 9].choose(random).unwrap(),
            file_offset: edge(random, FILE_BYTES),
            len,
            userdata: random.next_u64(),
        }
    }

    fn cursor(&mut self, at: usize) {
        let cursors = [Cursor::SqeHead, Cursor::SqeTail, Cursor::CqeHead, Cursor::CqeTail];
        let cursor = *cursors.choose(&mut self.random).unwrap();
        let cells = self.rings[at].layout.cells() as i32;
        let wild = [cells, cells + 1, -1, i32::MIN, i32::MAX, self.random.r#gen()];
        let value = if self.random.gen_bool(0.7) {
            self.random.gen_range(0..cells)
        } else {
            *wild.choose(&mut self.random).unwrap()
        };
        self.write(at, cursor.at(), &value.to_ne_bytes());
    }

    fn args(&mut self, at: usize) {
        let index = self.random.gen_range(0..self.rings[at].layout.cells());
        let args = self.some_args();
        self.write(at, self.rings[at].layout.args_at(index), &args.to_bytes());
    }

    /// Any bytes, anywhere: `most` of them, or the whole ring.
    fn noise(&mut self, at: usize, most: usize) {
        let end = self.rings[at].layout.bytes() as usize;
        let (offset, len) = match most {
            usize::MAX => (0, end),
            // Short noise is for the parts that matter, not the spare bytes at the end.
            _ => (self.random.gen_range(0..end - 4096), self.random.gen_range(1..=most)),
        };
        let mut bytes = vec![0; len.min(end - offset)];
        self.random.fill_bytes(&mut bytes);
        self.write(at, offset, &bytes);
    }

    /// Makes room for completions, which noise may have taken.
    fn reap(&mut self, at: usize) {
        let mut head = [0; 4];
        let _ = rustix::io::pread(&self.rings[at].file, &mut head, Cursor::CqeHead.at() as u64);
        self.write(at, Cursor::CqeTail.at(), &head);
    }

    fn some_semaphore(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.random.fill_bytes(&mut bytes);
        for word in bytes.chunks_exact_mut(4) {
            let tame = [0u32, 1, 128, 129, i32::MAX as u32, u32::MAX].choose(&mut self.random).copied().unwrap();
            if self.random.gen_bool(0.7) {
                word.copy_from_slice(&tame.to_ne_bytes());
            }
        }
        bytes
    }

    fn completion_semaphore(&mut self, at: usize) {
        let bytes = self.some_semaphore();
        self.write(at, self.rings[at].layout.semaphore_at(), &bytes);
    }

    fn submit_semaphore(&mut self, at: usize) {
        let bytes = self.some_semaphore();
        let file = File::options().write(true).open(&self.rings[at].submit_path).expect("the semaphore's file");
        rustix::io::pwrite(file, &bytes, 0).unwrap();
    }

    /// Cuts a ring's memory. The inputs that follow go on with it, and make its file longer again.
    fn cut_ring(&mut self, at: usize) {
        let bytes = self.random.gen_range(0..self.rings[at].layout.bytes()) * u64::from(self.random.gen_bool(0.5));
        rustix::fs::ftruncate(&self.rings[at].file, bytes).unwrap();
        self.rings[at].submit.post();
    }

    /// Takes a ring's link away and makes another.
    fn replace_ring(&mut self, at: usize) {
        let new = self.new_ring();
        let old = std::mem::replace(&mut self.rings[at], new);
        old.submit.post();
        self.service.unlink(&old.name, BOB.uid).expect("its own link");
    }

    fn replace_buffer(&mut self) {
        rustix::fs::ftruncate(&self.buffer.file, self.random.gen_range(0..BUFFER_BYTES)).unwrap();
        let old = std::mem::replace(&mut self.buffer, Buffer::new(self.service, BUFFER_BYTES, 0, BOB));
        let still_used = self.random.gen_bool(0.5);
        for id in self.ids.iter_mut().filter(|id| **id == old.id).skip(usize::from(still_used)) {
            *id = self.buffer.id;
        }
        self.service.unlink(&old.name, BOB.uid).expect("its own link");
    }

    /// A name, a target or a list of faults, damaged; now and then given to the service as a link.
    fn name(&mut self) {
        self.name_inputs += 1;
        let good = [
            format!("{}.b4096", self.buffer.id),
            format!("{}.r16.ph.t20.f10", new_id()),
            format!("{}.w-4.pl.t0", new_id()),
            format!("/dev/shm/hf3fs-iov-{}", self.buffer.id),
            "latency=20ms:2%,stall=5s:0.5,eio=2%,short=0.02,drop,reorder=1%".to_owned(),
        ];
        let mut text = good.choose(&mut self.random).unwrap().clone().into_bytes();
        for _ in 0..self.random.gen_range(0..4) {
            let at = self.random.gen_range(0..=text.len());
            let byte = *b".-0129abfrtwpx=%:,/\0\xff".choose(&mut self.random).unwrap();
            match self.random.gen_range(0..3) {
                0 => text.insert(at, byte),
                1 if at < text.len() => text[at] = byte,
                _ => text.truncate(at),
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let _ = (text.parse::<LinkName>(), text.parse::<FaultPlan>(), shm_name_of(text.as_ref()));
        if self.random.gen_ratio(1, 64) {
            let owner = Owner { uid: self.random.gen_range(1000..1004), ..BOB };
            let target = if self.random.r#gen() { self.buffer.file.path() } else { PathBuf::from(&text) };
            match self.service.link(&text, &target, owner) {
                Ok(link) => self.service.unlink(&link.name, owner.uid).expect("just made"),
                Err(_) => self.links_refused += 1,
            }
        }
    }
}
