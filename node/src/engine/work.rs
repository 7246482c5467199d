//! Calls that need to wait: answered by a task of the runtime.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use foreword_proto::bad_input::field_of;
use foreword_proto::{BadInput, PutOutcome};
use foreword_session::wire::ops::{MissCode, Op, PutCode, Status, flags, load_staged, store_put, store_tiers};
use futures::StreamExt;

use super::Engines;
use super::attached::Attached;
use super::serve::Question;
use super::staged::StagedBytes;
use crate::api::{ApiError, LookupAsk, Miss, Opened, PutAsk};

/// Bytes of a put that are copied before others on the same thread have a turn.
const PIECE_BYTES: u64 = 1 << 20;

impl Engines {
    /// Answers a call from record `answered` on.
    pub(super) fn spawn(
        self: &Arc<Self>,
        session: &Arc<Attached>,
        slot: usize,
        question: Question,
        opened: &Arc<Opened>,
        answered: usize,
    ) {
        session.call(slot).under_way.store(true, Ordering::Release);
        let (engines, session, opened) = (self.clone(), session.clone(), opened.clone());
        tokio::spawn(async move {
            let ended = session.ended.clone();
            tokio::select! {
                () = engines.work(&session, slot, question, &opened, answered) => {}
                () = ended.cancelled() => session.let_go_all(slot),
            }
        });
    }

    async fn work(&self, session: &Attached, slot: usize, question: Question, opened: &Opened, answered: usize) {
        match question.op {
            Op::Get => self.get(session, slot, &question, answered).await,
            Op::Put => self.put(session, slot, &question, opened).await,
            Op::Locate => self.locate(session, slot, &question).await,
            Op::Lookup | Op::Wanted | Op::Prefetch => {
                let found = self.api.lookup(question.lookup_ask()).await;
                self.answer_lookup(session, slot, question.namespace, found);
            }
        }
    }

    async fn locate(&self, session: &Attached, slot: usize, question: &Question) {
        let located = match self.api.locate(question.lookup_ask()).await {
            Ok(located) => located,
            Err(error) => return self.answer_error(session, slot, question.namespace, &error),
        };
        let shared = session.control.slot(slot);
        shared.head().revision.store(located.revision, Ordering::Relaxed);
        for (index, tiers) in located.tiers.iter().enumerate() {
            store_tiers(shared.record(index), *tiers);
        }
        session.done(slot, located.tiers.len(), Status::Ok);
    }

    async fn get(&self, session: &Attached, slot: usize, question: &Question, mut answered: usize) {
        let mut pages = match self.api.get(question.get_ask(answered)) {
            Ok(pages) => pages,
            Err(error) => return self.answer_error(session, slot, question.namespace, &error),
        };
        let (shared, call) = (session.control.slot(slot), session.call(slot));
        loop {
            let answer = tokio::select! {
                answer = pages.next() => answer,
                () = call.moved.notified() => {
                    if session.has_left(shared) { break } else { continue }
                }
            };
            let Some(answer) = answer else { break };
            self.hand_over(session, slot, answered, answer);
            answered += 1;
            session.progress(slot, answered);
        }
        session.done(slot, answered, Status::Ok);
    }

    async fn put(&self, session: &Attached, slot: usize, question: &Question, opened: &Opened) {
        match self.take(session, slot, question, opened).await {
            Ok(outcomes) => {
                let shared = session.control.slot(slot);
                for (index, outcome) in outcomes.iter().enumerate() {
                    let (code, revision) = put_code(outcome);
                    store_put(shared.record(index), code, refusal_number(Some(outcome)), revision);
                }
                session.done(slot, outcomes.len(), Status::Ok);
            }
            Err(error) => self.answer_error(session, slot, question.namespace, &error),
        }
    }

    async fn take(
        &self,
        session: &Attached,
        slot: usize,
        question: &Question,
        opened: &Opened,
    ) -> Result<Vec<PutOutcome>, ApiError> {
        let shared = session.control.slot(slot);
        let shard_bytes = opened.geometry.shard_bytes.get(question.shard as usize).copied().unwrap_or(0);
        // Where the bytes are is asked once: the engine may write other places there meanwhile.
        let staged: Vec<u64> = (0..question.keys.len()).map(|index| load_staged(shared.record(index))).collect();
        let mut call = self.api.put(PutAsk {
            namespace: question.namespace,
            shard: question.shard,
            keys: question.keys.clone(),
            parent: question.parent,
            wait_published: question.has(flags::WAIT_PUBLISHED),
        })?;
        for (index, offset) in staged.into_iter().enumerate() {
            if StagedBytes::new(&session.staging, offset, shard_bytes).is_none() {
                let expected = format!("{shard_bytes} bytes within the staging memory, got offset {offset}");
                return Err(BadInput::new("staged", expected).into());
            }
            for from in (0..shard_bytes).step_by(PIECE_BYTES as usize) {
                if session.has_left(shared) {
                    return Err(BadInput::new("wait_us", "a caller that waits for the answer, it has left").into());
                }
                let bytes = PIECE_BYTES.min(shard_bytes - from);
                let piece = StagedBytes::new(&session.staging, offset + from, bytes);
                let piece = piece.ok_or_else(|| BadInput::new("staged", "an offset within the staging memory"))?;
                call.piece(index, from, &piece).await?;
                tokio::task::yield_now().await;
            }
        }
        let finish = call.finish();
        match tokio::time::timeout_at(question.deadline, finish).await {
            Ok(outcomes) => outcomes,
            // The pages go on by themselves.
            Err(_) => Ok(vec![PutOutcome::Taken; question.keys.len()]),
        }
    }
}

impl Question {
    fn lookup_ask(&self) -> LookupAsk {
        LookupAsk {
            namespace: self.namespace,
            keys: self.keys.clone(),
            min_revision: self.min_revision,
            linearizable: self.has(flags::LINEARIZABLE),
            deadline: self.deadline,
        }
    }
}

/// An error as the session says it.
pub(super) fn status_of(error: &ApiError) -> (Status, String) {
    let status = match error {
        ApiError::BadInput(_) => Status::BadInput,
        ApiError::UnknownNamespace(_) => Status::UnknownNamespace,
        ApiError::Group(status) if field_of(status) == Some("behind") => Status::Behind,
        ApiError::Group(_) | ApiError::TooManyNamespaces(_) | ApiError::MayNotClear(_) => Status::Unavailable,
    };
    (status, error.to_string())
}

/// A miss as the session says it.
pub(super) fn miss_code(miss: Miss) -> MissCode {
    match miss {
        Miss::Absent => MissCode::Absent,
        Miss::ReadFailed => MissCode::ReadFailed,
        Miss::Checksum => MissCode::Checksum,
        Miss::BreakerOpen => MissCode::BreakerOpen,
        Miss::Deadline => MissCode::Deadline,
        Miss::NoRoom => MissCode::NoRoom,
        Miss::Behind => MissCode::Behind,
    }
}

/// What became of a page as the session says it, and at which revision.
pub(super) fn put_code(outcome: &PutOutcome) -> (PutCode, u64) {
    match outcome {
        PutOutcome::Taken => (PutCode::Taken, 0),
        PutOutcome::Published { revision } => (PutCode::Published, *revision),
        PutOutcome::Exists { revision } => (PutCode::Exists, *revision),
        PutOutcome::Declined => (PutCode::Declined, 0),
        PutOutcome::Refused { .. } => (PutCode::Refused, 0),
    }
}

/// The refusal's number; 0: none.
pub(super) fn refusal_number(outcome: Option<&PutOutcome>) -> u32 {
    match outcome {
        Some(PutOutcome::Refused { reason }) => reason.number(),
        _ => 0,
    }
}
