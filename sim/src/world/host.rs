//! A host: one process at a time, in a tokio runtime of its own, on a clock of its own.

use std::cell::Cell;
use std::future::Future;

use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::time::Duration;

use super::context::{self, Kind};
use super::net::HostId;
use super::{interpose, logs};

thread_local! {
    /// Tasks polled in the current step, and a hash over where they were spawned: what the trace says of timers and
    /// wake-ups.
    static POLLS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// One machine. Its clock runs at its own rate; while it is paused nothing runs, and its clock jumps when it goes on.
pub struct Host {
    id: HostId,
    name: String,
    runtime: Option<Runtime>,
    /// Processes started so far.
    incarnation: u64,
    /// How much faster than true time its clock runs, in parts per million.
    drift_ppm: i64,
    /// Local time since the process started, and how much of it the runtime has seen.
    local_ns: u64,
    seen_ms: u64,
    paused: bool,
}

impl Host {
    /// A machine without a process.
    pub fn new(id: HostId, name: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            runtime: None,
            incarnation: 0,
            drift_ppm: 0,
            local_ns: 0,
            seen_ms: 0,
            paused: false,
        }
    }

    /// Its number.
    pub fn id(&self) -> HostId {
        self.id
    }

    /// Its name on the network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Processes started so far.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// True while a process is there, paused or not.
    pub fn runs(&self) -> bool {
        self.runtime.is_some()
    }

    /// True while its process stands still.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Starts a process.
    pub fn boot(&mut self, main: impl Future<Output = ()> + Send + 'static) {
        assert!(self.runtime.is_none(), "{}: a process runs already", self.name);
        let seed = context::random();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
            .on_before_task_poll(|task| {
                let (polls, hash) = POLLS.get();
                let spawned = task.spawned_at();
                let word = u64::from(spawned.line()) << 16 | u64::from(spawned.column());
                POLLS.set((polls + 1, (hash ^ word).wrapping_mul(0x0100_0000_01b3)));
            })
            .build()
            .expect("a runtime without I/O takes nothing that could fail");
        runtime.spawn(main);
        self.runtime = Some(runtime);
        self.incarnation += 1;
        (self.local_ns, self.seen_ms, self.paused) = (0, 0, false);
        context::event(Kind::Host, || format!("{} starts (process {})", self.name, self.incarnation));
    }

    /// Adds a task to the process, if there is one.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }

    /// Ends the process at once: everything it had in memory is gone.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            logs::set_host(&self.name);
            drop(runtime);
            logs::set_host("");
            self.paused = false;
            context::event(Kind::Host, || format!("{} is gone", self.name));
        }
    }

    /// Changes the rate of its clock.
    pub fn set_drift_ppm(&mut self, drift_ppm: i64) {
        self.drift_ppm = drift_ppm;
    }

    /// Stops the process, or lets it go on: its clock then jumps over the time it missed.
    pub fn set_paused(&mut self, paused: bool) {
        if self.paused && !paused {
            self.jump();
        }
        self.paused = paused;
    }

    fn jump(&mut self) {
        let missed_ms = self.missed_ms();
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async { tokio::time::advance(Duration::from_millis(missed_ms)).await });
            self.seen_ms += missed_ms;
        }
    }

    fn missed_ms(&self) -> u64 {
        self.local_ns / 1_000_000 - self.seen_ms
    }

    /// Lets the process run for one quantum of true time, which on its own clock is a little more or less.
    pub fn step(&mut self, quantum: Duration) {
        let Some(runtime) = &self.runtime else { return };
        let quantum_ns = quantum.as_nanos() as i64;
        self.local_ns += (quantum_ns + quantum_ns * self.drift_ppm / 1_000_000) as u64;
        let missed_ms = self.missed_ms();
        // tokio's timers know whole milliseconds: a slow clock skips a step now and then, a fast one makes a long one.
        if self.paused || missed_ms == 0 {
            return;
        }
        interpose::set_now_nanos(context::now().nanos());
        logs::set_host(&self.name);
        POLLS.set((0, 0));
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(missed_ms)).await });
        logs::set_host("");
        self.seen_ms += missed_ms;
        let (polls, hash) = POLLS.get();
        if polls > 0 {
            context::digest(Kind::Task, &[u64::from(self.id), self.local_ns, polls, hash], &[]);
        }
    }
}
