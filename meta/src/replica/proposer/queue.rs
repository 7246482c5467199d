//! Proposals that wait: the leader's own in a lane that nobody else can fill, and that goes first.

use std::collections::VecDeque;

use bytes::Bytes;
use foreword_proto::limits::{
    COMMANDS_PER_ENTRY_MAX, ENTRY_BYTES_MAX, ENTRY_BYTES_SOFT_MAX, ENTRY_FRAME_BYTES, PROPOSALS_OWN_BYTES_MAX,
    PROPOSALS_OWN_MAX, PROPOSALS_WAITING_BYTES_MAX, PROPOSALS_WAITING_MAX,
};
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::meters::Meters;
use super::{ProposeError, Proposed};
use crate::replica::checked::{Author, Checked};

/// Commands that share an entry, and who waits for their outcomes.
pub(super) struct Proposal {
    pub(super) checked: Checked,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Proposed>,
}

/// How many outcomes of an entry a proposal gets, and where to.
pub(super) type Waiting = (usize, oneshot::Sender<Proposed>);

/// Proposals of one entry.
#[derive(Default)]
pub(super) struct Pack {
    pub(super) commands: Vec<Bytes>,
    pub(super) waiting: Vec<Waiting>,
    /// The committed feature level: the entry is of its format version.
    pub(super) level: u32,
    bytes: usize,
}

impl Pack {
    /// The first always has room: it was checked against the limits of an entry.
    fn has_room_for(&self, next: &Checked) -> bool {
        let (bytes, commands) = (self.bytes + next.bytes(), self.commands.len() + next.count());
        self.waiting.is_empty()
            || self.bytes < ENTRY_BYTES_SOFT_MAX
                && bytes + ENTRY_FRAME_BYTES <= ENTRY_BYTES_MAX
                && commands <= COMMANDS_PER_ENTRY_MAX
    }

    fn add(&mut self, proposal: Proposal) {
        self.bytes += proposal.checked.bytes();
        self.level = self.level.max(proposal.checked.level());
        self.waiting.push((proposal.checked.count(), proposal.reply));
        self.commands.extend(proposal.checked.into_commands());
    }
}

/// One lane, first in, first out.
struct Lane {
    proposals: VecDeque<Proposal>,
    bytes: usize,
    proposals_max: usize,
    bytes_max: usize,
}

impl Lane {
    fn new(proposals_max: usize, bytes_max: usize) -> Self {
        Self { proposals: VecDeque::new(), bytes: 0, proposals_max, bytes_max }
    }

    fn push(&mut self, proposal: Proposal) -> Result<(), ProposeError> {
        let bytes = self.bytes + proposal.checked.bytes();
        if self.proposals.len() == self.proposals_max || bytes > self.bytes_max {
            return Err(ProposeError::QueueFull);
        }
        self.bytes = bytes;
        self.proposals.push_back(proposal);
        Ok(())
    }

    fn pop(&mut self) -> Option<Proposal> {
        let proposal = self.proposals.pop_front()?;
        self.bytes -= proposal.checked.bytes();
        Some(proposal)
    }

    /// Moves what fits into an entry. What nobody waits for any more is dropped.
    fn fill(&mut self, pack: &mut Pack, now: Instant, meters: &Meters) {
        while let Some(next) = self.proposals.front() {
            let dropped = match next {
                next if next.reply.is_closed() => &meters.caller_left,
                next if next.deadline <= now => &meters.late,
                next if pack.has_room_for(&next.checked) => {
                    self.pop().into_iter().for_each(|proposal| pack.add(proposal));
                    continue;
                }
                _ => return,
            };
            dropped.increment(1);
            self.answer_first(ProposeError::Late);
        }
    }

    fn answer_first(&mut self, error: ProposeError) {
        if let Some(proposal) = self.pop() {
            // A caller that left does not need the answer.
            let _ = proposal.reply.send(Err(error));
        }
    }
}

struct Lanes {
    own: Lane,
    callers: Lane,
    /// Why nothing is taken any more.
    closed: Option<String>,
}

/// The queue: many push, one packs.
pub(super) struct Queue {
    lanes: Mutex<Lanes>,
    /// Has a permit while something may wait that nobody has looked at.
    arrived: Notify,
    pub(super) meters: Meters,
}

impl Queue {
    pub(super) fn new(meters: Meters) -> Self {
        let own = Lane::new(PROPOSALS_OWN_MAX, PROPOSALS_OWN_BYTES_MAX);
        let callers = Lane::new(PROPOSALS_WAITING_MAX, PROPOSALS_WAITING_BYTES_MAX);
        Self { lanes: Mutex::new(Lanes { own, callers, closed: None }), arrived: Notify::new(), meters }
    }

    pub(super) fn push(&self, author: Author, proposal: Proposal) -> Result<(), ProposeError> {
        let mut lanes = self.lanes.lock();
        if let Some(why) = &lanes.closed {
            return Err(ProposeError::Stopped(why.clone()));
        }
        let lane = match author {
            Author::Leader => &mut lanes.own,
            Author::Caller => &mut lanes.callers,
        };
        lane.push(proposal).inspect_err(|_| {
            sometimes(Marker::ProposalQueueFull);
            self.meters.queue_full.increment(1);
        })?;
        self.measure(&lanes);
        drop(lanes);
        self.arrived.notify_one();
        Ok(())
    }

    /// Resolves when something waits.
    pub(super) async fn arrived(&self) {
        loop {
            let waits = |lanes: &Lanes| !lanes.own.proposals.is_empty() || !lanes.callers.proposals.is_empty();
            if waits(&self.lanes.lock()) {
                return;
            }
            self.arrived.notified().await;
        }
    }

    /// Takes what goes into the next entry; possibly nothing.
    pub(super) fn pack(&self, now: Instant) -> Pack {
        let mut pack = Pack::default();
        let mut lanes = self.lanes.lock();
        lanes.own.fill(&mut pack, now, &self.meters);
        lanes.callers.fill(&mut pack, now, &self.meters);
        self.measure(&lanes);
        pack
    }

    /// Answers everybody who waits: nothing of it was proposed.
    pub(super) fn answer_all(&self, error: &ProposeError) {
        let mut lanes = self.lanes.lock();
        let Lanes { own, callers, .. } = &mut *lanes;
        for lane in [own, callers] {
            while !lane.proposals.is_empty() {
                lane.answer_first(error.clone());
            }
        }
        self.measure(&lanes);
    }

    /// Takes nothing from now on, and answers everybody who waits.
    pub(super) fn close(&self, why: &str) {
        self.lanes.lock().closed = Some(why.to_owned());
        self.answer_all(&ProposeError::Stopped(why.to_owned()));
    }

    fn measure(&self, lanes: &Lanes) {
        self.meters.waiting.set((lanes.own.proposals.len() + lanes.callers.proposals.len()) as f64);
        self.meters.waiting_bytes.set((lanes.own.bytes + lanes.callers.bytes) as f64);
    }
}
