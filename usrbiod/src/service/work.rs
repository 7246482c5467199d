//! A job from its submissions to its completions.
//!
//! One thread prepares it: copies and checks every I/O, draws its fate. Then any number of threads do the I/Os; the one that ends
//! last writes all completions. An I/O that a fault delays leaves its job and has a completion of its own, later.

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
use super::faults::{Fate, Outcome, shortened};
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
    /// Nobody hears of it.
    dropped: bool,
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
}

#[derive(Debug, Clone, Copy)]
struct Reorder {
    hold: Duration,
    seed: u64,
}

/// An I/O that a fault holds back; it has left its job.
#[derive(Debug)]
pub(super) struct Late {
    ring: Arc<Ring>,
    sqe: Sqe,
    work: Work,
}

/// What the timer lets go.
#[derive(Debug)]
pub(super) enum Held {
    Io(Late),
    Completions(Arc<Batch>),
}

impl Shared {
    /// Does a job, with the help of other threads when it has several I/Os.
    pub(super) fn do_job(&self, job: Job) {
        let batch = Arc::new(self.prepare(job));
        if batch.ios.is_empty() {
            return self.complete(&batch);
        }
        let moves = batch.ios.iter().filter(|io| matches!(io.work, Work::Move(_))).count();
        self.pool.call_help(&batch, moves.saturating_sub(1).min(self.threads - 1));
        self.do_ios(&batch);
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

    /// Does an I/O that was held back.
    pub(super) fn do_late(&self, late: &Late) {
        let result = self.run(&late.work, late.ring.for_read);
        late.ring.finish_late(self.answer(&late.ring, late.sqe, result));
    }

    /// Lets go what the timer held.
    pub(super) fn release(&self, held: Held) {
        match held {
            Held::Io(late) => self.pool.put_late(late),
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
        let mut completions = Vec::with_capacity(batch.ios.len());
        for (io, result) in batch.ios.iter().zip(&batch.results) {
            if !io.dropped {
                completions.push(self.answer(&batch.job.ring, io.sqe, result.load(Ordering::Relaxed)));
            }
        }
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

    fn prepare(&self, job: Job) -> Batch {
        let mut checked = self.check(&job);
        if job.ring.for_read {
            fail_overlaps(&mut checked);
        }
        let seed = self.seed.wrapping_add(self.jobs_begun.fetch_add(1, Ordering::Relaxed).wrapping_mul(SEED_STEP));
        let (ios, reorder) = if self.faults.is_empty() {
            let io = |(sqe, work)| Io { sqe, work, dropped: false };
            (checked.into_iter().map(io).collect(), None)
        } else {
            self.spoil(&job, checked, seed)
        };
        let results = ios.iter().map(|_| AtomicI64::new(0)).collect();
        let left = AtomicUsize::new(ios.len());
        Batch { job, ios, results, next: AtomicUsize::new(0), left, reorder }
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

    /// Draws the fate of each I/O that would be done. Those that are late leave the job.
    fn spoil(&self, job: &Job, checked: Vec<(Sqe, Work)>, seed: u64) -> (Vec<Io>, Option<Reorder>) {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut ios, mut reorder) = (Vec::with_capacity(checked.len()), None::<Reorder>);
        for (sqe, work) in checked {
            let fate = self.faults.fate(&mut random);
            let Work::Move(transfer) = work else {
                ios.push(Io { sqe, work, dropped: false });
                continue;
            };
            if let Some(hold) = fate.reorder {
                self.tally.add(Count::Reorder, 1);
                reorder = Some(Reorder { hold, seed });
            }
            let dropped = matches!(fate.outcome, Outcome::Drop { .. });
            let mut work = self.outcome(transfer, fate.outcome);
            if !dropped {
                match self.delay(job, sqe, work, fate) {
                    Ok(()) => continue,
                    Err(back) => work = back,
                }
            }
            ios.push(Io { sqe, work, dropped });
        }
        (ios, reorder)
    }

    /// Holds an I/O back if that is its fate; else gives it back.
    fn delay(&self, job: &Job, sqe: Sqe, work: Work, fate: Fate) -> Result<(), Work> {
        let delays = [(Count::Latency, fate.latency), (Count::Stall, fate.stall)];
        let late = delays.iter().filter_map(|(_, delay)| *delay).reduce(|sum, delay| sum + delay);
        let Some(late) = late else { return Err(work) };
        match self.timer.hold(late, Held::Io(Late { ring: Arc::clone(&job.ring), sqe, work })) {
            Ok(()) => {
                for (count, delay) in delays {
                    self.tally.add(count, u64::from(delay.is_some()));
                }
                Ok(())
            }
            Err(Held::Io(late)) => Err(late.work),
            Err(Held::Completions(_)) => Err(Work::Nothing),
        }
    }

    fn outcome(&self, transfer: Transfer, outcome: Outcome) -> Work {
        match outcome {
            Outcome::Normal => Work::Move(transfer),
            Outcome::Eio => {
                self.tally.add(Count::Eio, 1);
                Work::Answer(Errno::IO)
            }
            Outcome::Short(draw) => {
                self.tally.add(Count::Short, 1);
                Work::Move(Transfer { len: shortened(transfer.len, draw), ..transfer })
            }
            Outcome::Drop { moves } => {
                self.tally.add(Count::Drop, 1);
                if moves { Work::Move(transfer) } else { Work::Nothing }
            }
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
