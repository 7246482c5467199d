//! A job from its submissions to its completions.
//!
//! One thread prepares it: copies and checks every I/O, draws the job's fate. Then, later if a fault delays it, any
//! number of threads do the I/Os; the one that ends last writes all completions.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use foreword_usrbio::{Cqe, IoArgs, Sqe};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rustix::io::Errno;

use super::Shared;
use super::batch::overlap;
use super::counters::Count;
use super::faults::{Outcome, shortened};
use super::limits::{IO_BYTES_MAX, TURN_BYTES};
use super::ring::{Job, Ring};
use super::transfer::Transfer;

/// Successive seeds are this far apart: the golden ratio of 64 bits.
const SEED_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One I/O of a job.
#[derive(Debug)]
struct Io {
    sqe: Sqe,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Answer(Errno),
    Move(Transfer),
    Nothing,
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Batch {
    job: Job,
    ios: Vec<Io>,
    results: Vec<AtomicI64>,
    /// The next I/O to do.
    next: AtomicUsize,
    /// I/Os that are not done.
    left: AtomicUsize,
    reorder: Option<Reorder>,
    /// Nobody hears of it.
    dropped: bool,
}

/// By how much a job is late.
#[derive(Debug, Clone, Copy, Default)]
struct Delays {
    latency: Option<Duration>,
    stall: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Reorder {
    hold: Duration,
    seed: u64,
}

/// What the timer lets go.
#[derive(Debug)]
pub(super) enum Held {
    /// A job that has not begun.
    Job(Arc<Batch>),
    /// The completions of one that is done.
    Completions(Arc<Batch>),
}

impl Shared {
    /// Does a job, unless a fault makes it late.
    pub(super) fn do_job(&self, job: Job) {
        let (batch, delays) = self.prepare(job);
        let batch = Arc::new(batch);
        if !self.delay(&batch, delays) {
            self.begin(&batch);
        }
    }

    /// Does the I/Os of a job, with the help of other threads when there are several.
    pub(super) fn begin(&self, batch: &Arc<Batch>) {
        if batch.ios.is_empty() {
            return self.complete(batch);
        }
        self.pool.call_help(batch, batch.moves().saturating_sub(1).min(self.threads - 1));
        self.do_ios(batch);
    }

    /// Does I/Os of a job until none is left to begin, it is the others' turn, or the service stops.
    pub(super) fn do_ios(&self, batch: &Arc<Batch>) {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES || !self.pool.give_way(batch) {
            let at = batch.next.fetch_add(1, Ordering::Relaxed);
            let Some(io) = batch.ios.get(at).filter(|_| !self.stopping.load(Ordering::SeqCst)) else { return };
            let result = self.run(&io.work, batch.job.ring.for_read);
            turn_bytes += result.max(0) as u64;
            batch.results[at].store(result, Ordering::Relaxed);
            if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                return self.complete_or_hold(batch);
            }
        }
    }

    fn complete_or_hold(&self, batch: &Arc<Batch>) {
        let hold = batch.reorder.map(|reorder| (reorder.hold, Held::Completions(Arc::clone(batch))));
        let held = hold.is_some_and(|(time, completions)| self.timer.hold(time, completions).is_ok());
        if !held {
            self.complete(batch);
        }
    }

    /// Lets go what the timer held.
    pub(super) fn release(&self, held: Held) {
        match held {
            Held::Job(batch) => self.pool.put_late(batch),
            Held::Completions(batch) => self.complete(&batch),
        }
    }

    /// The bytes moved, or a negated errno.
    fn run(&self, work: &Work, for_read: bool) -> i64 {
        let moved = match work {
            Work::Answer(errno) => Err(*errno),
            Work::Move(transfer) => transfer.run(),
            Work::Nothing => Ok(0),
        };
        let bytes = if for_read { Count::ReadBytes } else { Count::WriteBytes };
        self.tally.add(bytes, moved.unwrap_or(0));
        moved.map_or_else(|errno| -i64::from(errno.raw_os_error()), |bytes| bytes as i64)
    }

    fn complete(&self, batch: &Batch) {
        let answered = batch.ios.iter().zip(&batch.results).filter(|_| !batch.dropped);
        let mut completions: Vec<Cqe> =
            answered.map(|(io, result)| self.answer(&batch.job.ring, io.sqe, result.load(Ordering::Relaxed))).collect();
        if let Some(reorder) = batch.reorder {
            completions.shuffle(&mut StdRng::seed_from_u64(reorder.seed));
        }
        let dropped = (batch.ios.len() - completions.len()) as u32;
        self.tally.add(Count::Jobs, 1);
        batch.job.ring.finish(batch.job.number, &completions, dropped);
    }

    fn answer(&self, ring: &Ring, sqe: Sqe, result: i64) -> Cqe {
        self.tally.add(if ring.for_read { Count::Reads } else { Count::Writes }, 1);
        self.tally.add(Count::Errors, u64::from(result < 0));
        Cqe { index: sqe.index, result, userdata: sqe.userdata }
    }

    /// A job with its fate, and how late it is.
    fn prepare(&self, job: Job) -> (Batch, Delays) {
        let mut checked = self.check(&job);
        if job.ring.for_read {
            fail_overlaps(&mut checked);
        }
        let ios: Vec<Io> = checked.into_iter().map(|(sqe, work)| Io { sqe, work }).collect();
        let results = ios.iter().map(|_| AtomicI64::new(0)).collect();
        let left = AtomicUsize::new(ios.len());
        let mut batch = Batch { job, ios, results, next: AtomicUsize::new(0), left, reorder: None, dropped: false };
        let number = self.jobs_begun.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed.wrapping_add(number.wrapping_mul(SEED_STEP));
        let delays = if self.faults.is_empty() { Delays::default() } else { self.spoil(&mut batch, seed) };
        (batch, delays)
    }

    /// Copies and checks each I/O.
    fn check(&self, job: &Job) -> Vec<(Sqe, Work)> {
        let mut last: Option<(u64, Result<Arc<OwnedFd>, Errno>)> = None;
        let mut checked = Vec::new();
        for (sqe, args) in job.ios() {
            let work = match args {
                Some(args) => {
                    // Most jobs stay with one file.
                    let file = match &last {
                        Some((number, file)) if *number == args.file => file.clone(),
                        _ => self.file(args.file, !job.ring.for_read),
                    };
                    last = Some((args.file, file.clone()));
                    file.and_then(|file| self.transfer(&job.ring, &args, file)).map_or_else(Work::Answer, Work::Move)
                }
                None => {
                    self.tally.add(Count::Rejected, 1);
                    Work::Answer(Errno::INVAL)
                }
            };
            checked.push((sqe, work));
        }
        checked
    }

    /// A file by its number; what is none is EBADF, as the real daemon says.
    fn file(&self, number: u64, write: bool) -> Result<Arc<OwnedFd>, Errno> {
        self.files.open(number, write).map_err(|errno| match errno {
            Errno::NOENT | Errno::ISDIR | Errno::INVAL => Errno::BADF,
            other => other,
        })
    }

    fn transfer(&self, ring: &Ring, args: &IoArgs, file: Arc<OwnedFd>) -> Result<Transfer, Errno> {
        let iov = self.table.read().iov(args.iov, ring.uid)?;
        iov.check(args.iov_offset, args.len)?;
        if args.len > IO_BYTES_MAX {
            return Err(Errno::INVAL);
        }
        Ok(Transfer {
            iov,
            iov_offset: args.iov_offset,
            file,
            file_offset: args.file_offset,
            len: args.len,
            write: !ring.for_read,
            holes_forbidden: ring.holes_forbidden,
        })
    }

    /// Draws the fate of a job that would move something, and of each I/O in it.
    fn spoil(&self, batch: &mut Batch, seed: u64) -> Delays {
        let mut random = StdRng::seed_from_u64(seed);
        let (fate, moves) = (self.faults.fate(&mut random), batch.moves() as u64);
        if moves == 0 {
            return Delays::default();
        }
        if let Some(hold) = fate.reorder {
            self.tally.add(Count::Reorder, moves);
            batch.reorder = Some(Reorder { hold, seed });
        }
        match fate.outcome {
            Outcome::Normal => self.shorten(batch, &mut random),
            Outcome::Eio => {
                self.tally.add(Count::Eio, moves);
                batch.instead_of_moves(|| Work::Answer(Errno::IO));
            }
            Outcome::Drop { moves: moved } => {
                self.tally.add(Count::Drop, batch.ios.len() as u64);
                batch.dropped = true;
                if !moved {
                    batch.instead_of_moves(|| Work::Nothing);
                }
            }
        }
        Delays { latency: fate.latency, stall: fate.stall }
    }

    fn shorten(&self, batch: &mut Batch, random: &mut StdRng) {
        for io in &mut batch.ios {
            let short = self.faults.short(random);
            if let (Work::Move(transfer), Some(draw)) = (&mut io.work, short) {
                self.tally.add(Count::Short, 1);
                transfer.len = shortened(transfer.len, draw);
            }
        }
    }

    /// Holds a job back if that is its fate; false: it is not late.
    fn delay(&self, batch: &Arc<Batch>, delays: Delays) -> bool {
        let Some(late) = [delays.latency, delays.stall].into_iter().flatten().reduce(|sum, delay| sum + delay) else {
            return false;
        };
        let held = self.timer.hold(late, Held::Job(Arc::clone(batch))).is_ok();
        if held {
            for (count, delay) in [(Count::Latency, delays.latency), (Count::Stall, delays.stall)] {
                self.tally.add(count, if delay.is_some() { batch.moves() as u64 } else { 0 });
            }
        }
        held
    }
}

impl Batch {
    /// I/Os that move something.
    fn moves(&self) -> usize {
        self.ios.iter().filter(|io| matches!(io.work, Work::Move(_))).count()
    }

    fn instead_of_moves(&mut self, work: impl Fn() -> Work) {
        for io in self.ios.iter_mut().filter(|io| matches!(io.work, Work::Move(_))) {
            io.work = work();
        }
    }
}

/// Two reads into the same bytes: the real daemon refuses all of the job.
fn fail_overlaps(checked: &mut [(Sqe, Work)]) {
    let mut ranges: Vec<_> = checked
        .iter()
        .filter_map(|(_, work)| match work {
            Work::Move(read) => Some((Arc::as_ptr(&read.iov) as usize, read.iov_offset, read.iov_offset + read.len)),
            _ => None,
        })
        .collect();
    if overlap(&mut ranges) {
        for (_, work) in checked.iter_mut().filter(|(_, work)| matches!(work, Work::Move(_))) {
            *work = Work::Answer(Errno::INVAL);
        }
    }
}
