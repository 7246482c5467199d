//! What belongs to the simulation of the current thread: its time, its trace, and the random numbers of the world.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use xxhash_rust::xxh3::Xxh3;

use super::interpose;

/// Simulated time since the beginning: what an observer outside of all hosts would measure. Hosts' own clocks drift
/// from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SimTime(pub u64);

impl SimTime {
    /// Nanoseconds since the beginning.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the beginning.
    pub fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// A time this many milliseconds after the beginning.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }
}

impl std::ops::Add<Duration> for SimTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration.as_nanos() as u64)
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}

/// What kind of thing happened: the first word of each line of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A host started, ended, crashed, paused.
    Host = 1,
    /// A message or a connection's end was delivered.
    Net = 2,
    /// An operation on the disk of a log.
    Disk = 3,
    /// An operation on plain files.
    File = 4,
    /// An operation on L3.
    L3 = 5,
    /// A task of a host ran: a timer fired, or something woke it.
    Task = 6,
    /// A random number was drawn.
    Draw = 7,
    /// A fault of the schedule began or ended.
    Fault = 8,
    /// A client's call began or ended.
    Client = 9,
    /// What an observer of the group saw: an entry was committed, a replica applied.
    Group = 10,
}

/// Lines that a failure shows.
const LINES_KEPT: usize = 400;

/// The world of one thread.
struct Context {
    now: SimTime,
    digest: Xxh3,
    events: u64,
    lines: VecDeque<String>,
    random: StdRng,
    print: bool,
}

thread_local! {
    static CONTEXT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&mut Context) -> T) -> T {
    CONTEXT.with_borrow_mut(|context| work(context.as_mut().expect("no simulation runs on this thread")))
}

/// Makes this thread a simulation's. `print`: every line of the trace goes to stderr as it happens.
pub fn begin(seed: u64, print: bool) {
    let context = Context {
        now: SimTime::default(),
        digest: Xxh3::with_seed(seed),
        events: 0,
        lines: VecDeque::with_capacity(LINES_KEPT),
        random: StdRng::seed_from_u64(seed),
        print,
    };
    CONTEXT.set(Some(context));
    interpose::begin(seed);
}

/// The time now.
pub fn now() -> SimTime {
    with(|context| context.now)
}

/// Moves time on; the world's step does.
pub(crate) fn set_now(now: SimTime) {
    with(|context| context.now = now);
    interpose::set_now_nanos(now.0);
}

/// Something happened that is too small for a line: it goes into the digest only.
pub fn digest(kind: Kind, words: &[u64], bytes: &[u8]) {
    with(|context| mix(context, kind, words, bytes));
}

/// Something happened: it goes into the digest, and its line is kept for a while.
pub fn event(kind: Kind, line: impl FnOnce() -> String) {
    with(|context| {
        let line = line();
        mix(context, kind, &[], line.as_bytes());
        let line = format!("{} {kind:?} {line}", context.now);
        if context.print {
            eprintln!("{line}");
        }
        if context.lines.len() == LINES_KEPT {
            context.lines.pop_front();
        }
        context.lines.push_back(line);
    });
}

/// A line for a reader of the printed trace only: it goes nowhere else.
pub fn aside(line: impl FnOnce() -> String) {
    with(|context| {
        if context.print {
            eprintln!("{} {}", context.now, line());
        }
    });
}

fn mix(context: &mut Context, kind: Kind, words: &[u64], bytes: &[u8]) {
    context.events += 1;
    let mut head = [0; 17];
    head[0] = kind as u8;
    head[1..9].copy_from_slice(&context.now.0.to_le_bytes());
    head[9..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    context.digest.update(&head);
    for word in words {
        context.digest.update(&word.to_le_bytes());
    }
    context.digest.update(bytes);
}

/// 64 random bits of the world: latencies, faults, what a crash leaves. They go into the digest.
pub fn random() -> u64 {
    with(|context| {
        let drawn = context.random.next_u64();
        mix(context, Kind::Draw, &[drawn], &[]);
        drawn
    })
}

/// A random number in `0..below`; `below` is at least 1.
pub fn random_below(below: u64) -> u64 {
    assert!(below > 0, "an empty range has no member to draw");
    ((u128::from(random()) * u128::from(below)) >> 64) as u64
}

/// True so often in a million.
pub fn random_chance(per_million: u32) -> bool {
    per_million > 0 && random_below(1_000_000) < u64::from(per_million)
}

/// What a trace ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEnd {
    /// Over every event.
    pub digest: u128,
    /// How many events there were.
    pub events: u64,
    /// The last lines, oldest first.
    pub lines: Vec<String>,
}

/// The trace so far.
pub fn trace() -> TraceEnd {
    with(|context| TraceEnd {
        digest: context.digest.digest128(),
        events: context.events,
        lines: context.lines.iter().cloned().collect(),
    })
}
