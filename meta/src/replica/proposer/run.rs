//! The proposer's task: packs what waits, writes it, and answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use foreword_proto::Revision;
use futures::FutureExt;
use futures::stream::{FuturesOrdered, StreamExt};
use tokio::time::Instant;

use super::log::{WriteError, Written};
use super::queue::Waiting;
use super::{Parts, ProposeError};
use crate::consensus::types::EntryBatch;
use crate::state::codec::{encode_batch, encode_command};
use crate::state::command::{Command, Outcome};

/// Entries proposed and not yet applied. More would add latency without adding throughput: the next entry packs what
/// has come meanwhile.
pub(super) const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Runs until the log ends. `in_flight` says how many entries are.
///
/// An entry is let go of once the office is another than the one it was proposed in. A state is replaced by a snapshot
/// only under a leader of a later term, so this covers what a snapshot takes the place of.
pub(super) async fn run(parts: Parts, in_flight: &AtomicUsize) {
    let mut office = parts.log.office();
    let mut office_ended = parts.log.office_is_not(office);
    let mut writes = FuturesOrdered::new();
    // Of the same entries as `writes`. Dropped, they tell their callers that nobody knows.
    let mut waiting: VecDeque<Vec<Waiting>> = VecDeque::new();
    loop {
        in_flight.store(waiting.len(), Ordering::Relaxed);
        tokio::select! {
            biased;
            another = &mut office_ended => {
                if !another {
                    return;
                }
                office = parts.log.office();
                office_ended = parts.log.office_is_not(office);
                (writes, waiting) = Default::default();
            }
            Some(written) = writes.next(), if !writes.is_empty() => answer(written, waiting.pop_front().unwrap_or_default()),
            () = parts.queue.arrived(), if waiting.len() < ENTRIES_IN_FLIGHT_MAX => {
                if !office.leads {
                    parts.queue.answer_all(&ProposeError::NotLeader);
                    continue;
                }
                let pack = parts.queue.pack(Instant::now());
                if !pack.waiting.is_empty() {
                    let written = parts.log.write(entry(&parts, pack.level, pack.commands));
                    let (proposed, commit) = (Instant::now(), parts.queue.meters.commit.clone());
                    writes.push_back(written.inspect(move |_| commit.record(proposed.elapsed().as_secs_f64())));
                    waiting.push_back(pack.waiting);
                }
            }
        }
    }
}

/// The leader's time leads each entry, so that rests and leases count from now.
fn entry(parts: &Parts, level: u32, commands: Vec<Bytes>) -> EntryBatch {
    let mut tick = BytesMut::new();
    // Elected a moment ago and not in office yet, there is no time to tell. A tick behind the committed one is ignored.
    encode_command(&Command::Tick { now_ms: parts.clock.now_ms().unwrap_or(0) }, &mut tick);
    let led: Vec<_> = std::iter::once(tick.freeze()).chain(commands).collect();
    EntryBatch(encode_batch(level, &led))
}

fn answer(written: Written, waiting: Vec<Waiting>) {
    match written {
        Ok((revision, outcomes)) => answer_each(revision, outcomes, waiting),
        // Dropped without a word: nobody knows.
        Err(WriteError::Deposed) => {}
        Err(WriteError::Stopped(why)) => {
            for (_, reply) in waiting {
                // A caller that left does not need the answer.
                let _ = reply.send(Err(ProposeError::Stopped(why.clone())));
            }
        }
    }
}

fn answer_each(revision: Revision, outcomes: Vec<Outcome>, waiting: Vec<Waiting>) {
    let mut outcomes = outcomes.into_iter();
    // The leading tick's.
    outcomes.next();
    for (count, reply) in waiting {
        let own: Vec<_> = outcomes.by_ref().take(count).collect();
        assert_eq!(own.len(), count, "an applied entry has one outcome a command");
        let _ = reply.send(Ok((revision, own)));
    }
}
