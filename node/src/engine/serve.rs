//! What a slot asks: read, checked, and answered at once where nothing needs to be waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foreword_proto::{NamespaceId, PageKey};
use foreword_session::wire::SlotRef;
use foreword_session::wire::ops::{Op, PutCode, Status, flags, store_put};
use tokio::time::Instant;

use super::Engines;
use super::attached::{Attached, HELD_MAX};
use super::work::{put_code, refusal_number, status_of};
use crate::api::{ApiError, Found, GetAsk, Opened, PageAnswer};

/// Pages of a get that are answered together.
const PAGES_AT_ONCE: usize = 16;
/// Questions of one session that are answered before the next session has its turn.
const SLOTS_PER_LOOK: usize = 8;
/// The longest that a call may wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A slot's question, copied out.
pub(super) struct Question {
    pub(super) op: Op,
    pub(super) namespace: NamespaceId,
    pub(super) shard: u32,
    pub(super) flags: u32,
    pub(super) min_revision: u64,
    pub(super) parent: Option<PageKey>,
    pub(super) keys: Vec<PageKey>,
    pub(super) deadline: Instant,
}

impl Question {
    /// None: it makes no sense.
    fn read(slot: SlotRef<'_>) -> Option<Self> {
        let head = slot.head();
        let flags = head.flags.load(Ordering::Relaxed);
        let wait = Duration::from_micros(head.wait_us.load(Ordering::Relaxed).into()).min(WAIT_MAX);
        Some(Self {
            op: Op::from_u32(head.op.load(Ordering::Relaxed))?,
            namespace: head.namespace.load(Ordering::Relaxed),
            shard: head.shard.load(Ordering::Relaxed),
            flags,
            min_revision: head.min_revision.load(Ordering::Relaxed),
            parent: (flags & flags::PARENT != 0).then(|| PageKey(slot.parent())),
            keys: slot.keys()?.into_iter().map(PageKey).collect(),
            deadline: Instant::now() + wait,
        })
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// Bits that were set, each once.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

impl Engines {
    /// Answers what a session asked since the last look. False: nothing.
    pub(super) fn serve_session(self: &Arc<Self>, session: &Arc<Attached>) -> bool {
        let head = session.control.head();
        let take = |word: &std::sync::atomic::AtomicU64| match word.load(Ordering::SeqCst) {
            0 => 0,
            _ => word.swap(0, Ordering::SeqCst),
        };
        let (released, submitted) = (take(&head.released.0), take(&head.submitted.0));
        if session.ended.is_cancelled() {
            return false;
        }
        bits(released).for_each(|slot| session.let_go(slot));
        let later = bits(submitted).skip(SLOTS_PER_LOOK).fold(0, |later, slot| later | 1 << slot);
        if later != 0 {
            head.submitted.0.fetch_or(later, Ordering::SeqCst);
        }
        bits(submitted).take(SLOTS_PER_LOOK).for_each(|slot| self.serve_slot(session, slot));
        released | submitted != 0
    }

    fn serve_slot(self: &Arc<Self>, session: &Arc<Attached>, slot: usize) {
        self.counts.calls.increment(1);
        let call = session.call(slot);
        session.let_go_all(slot);
        let shared = session.control.slot(slot);
        let question = (!call.under_way.load(Ordering::Acquire)).then(|| Question::read(shared)).flatten();
        let Some(question) = question else {
            self.closed(&session.tenant, "it wrote what makes no sense");
            session.ended.cancel();
            return;
        };
        match self.checked(session, &question) {
            Ok(opened) => self.answer(session, slot, question, &opened),
            Err((status, detail)) => session.refuse(slot, status, &detail),
        }
    }

    /// The namespace, if it is the session's tenant's.
    fn checked(&self, session: &Attached, question: &Question) -> Result<Arc<Opened>, (Status, String)> {
        if let Some(opened) = session.known(question.namespace) {
            return Ok(opened);
        }
        let opened = self.api.namespace(question.namespace).map_err(|error| status_of(&error))?;
        if opened.tenant != session.tenant {
            let expected = format!("namespace_id: expected one of the session's tenant {:?}", session.tenant);
            return Err((Status::BadInput, expected));
        }
        Ok(session.remember(opened))
    }

    fn answer(self: &Arc<Self>, session: &Arc<Attached>, slot: usize, question: Question, opened: &Arc<Opened>) {
        let waits = question.min_revision > 0 || question.has(flags::LINEARIZABLE);
        match question.op {
            Op::Lookup if !waits => {
                let found = self.api.lookup_now(question.namespace, &question.keys);
                self.answer_lookup(session, slot, question.namespace, found);
            }
            Op::Wanted => self.answer_wanted(session, slot, &question),
            Op::Prefetch => {
                let found = self.api.prefetch(question.namespace, &question.keys);
                let found = found.map(|pages| Found { pages, ..Found::default() });
                self.answer_lookup(session, slot, question.namespace, found);
            }
            Op::Get => self.answer_get(session, slot, question, opened),
            Op::Lookup | Op::Locate | Op::Put => self.spawn(session, slot, question, opened, 0),
        }
    }

    pub(super) fn answer_lookup(
        &self,
        session: &Attached,
        slot: usize,
        namespace: NamespaceId,
        found: Result<Found, ApiError>,
    ) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return self.answer_error(session, slot, namespace, &error),
        };
        let shared = session.control.slot(slot);
        let head = shared.head();
        head.pages.store(found.pages, Ordering::Relaxed);
        head.l1_pages.store(found.l1_pages, Ordering::Relaxed);
        head.l3_pages.store(found.l3_pages, Ordering::Relaxed);
        head.revision.store(found.revision, Ordering::Relaxed);
        session.done(slot, 0, Status::Ok);
    }

    pub(super) fn answer_error(&self, session: &Attached, slot: usize, namespace: NamespaceId, error: &ApiError) {
        if matches!(error, ApiError::UnknownNamespace(_)) {
            session.forget(namespace);
        }
        let (status, detail) = status_of(error);
        session.refuse(slot, status, &detail);
    }

    fn answer_wanted(&self, session: &Attached, slot: usize, question: &Question) {
        let known = match self.api.wanted(question.namespace, question.shard, &question.keys) {
            Ok(known) => known,
            Err(error) => return self.answer_error(session, slot, question.namespace, &error),
        };
        let shared = session.control.slot(slot);
        for (index, known) in known.iter().enumerate() {
            let (code, revision) = known.as_ref().map_or((PutCode::Wanted, 0), put_code);
            store_put(shared.record(index), code, refusal_number(known.as_ref()), revision);
        }
        session.done(slot, known.len(), Status::Ok);
    }

    /// What is in L1 is answered here; the rest, if there is any, by a task.
    fn answer_get(self: &Arc<Self>, session: &Arc<Attached>, slot: usize, question: Question, opened: &Arc<Opened>) {
        let shard = question.shard as usize;
        if shard >= opened.geometry.shards() {
            let expected = format!("shard: expected one below {}, got {shard}", opened.geometry.shards());
            return session.refuse(slot, Status::BadInput, &expected);
        }
        let head = session.control.slot(slot).head();
        head.shard_offset.store(opened.geometry.shard_offsets[shard], Ordering::Relaxed);
        head.shard_bytes.store(opened.geometry.shard_bytes[shard], Ordering::Relaxed);
        let mut answered = 0;
        while answered < question.keys.len() && !question.has(flags::BYPASS_CACHE) {
            let some = &question.keys[answered..question.keys.len().min(answered + PAGES_AT_ONCE)];
            let pages = match self.api.get_now(question.namespace, some, question.min_revision) {
                Ok(pages) => pages,
                Err(error) => return self.answer_error(session, slot, question.namespace, &error),
            };
            let all = pages.len() == some.len();
            for page in pages {
                self.hand_over(session, slot, answered, page);
                answered += 1;
            }
            if !all {
                break;
            }
            // The engine copies these while the next are looked for.
            session.progress(slot, answered);
        }
        if answered == question.keys.len() {
            return session.done(slot, answered, Status::Ok);
        }
        session.progress(slot, answered);
        self.spawn(session, slot, question, opened, answered);
    }

    /// Writes one page's answer. False: it is a miss.
    pub(super) fn hand_over(&self, session: &Attached, slot: usize, record: usize, answer: PageAnswer) -> bool {
        use foreword_session::wire::ops::{MissCode, PageRecord};
        let miss = match answer.page {
            Ok((page, tier)) => {
                if session.hand_over(slot, record, tier as u32, page, Instant::now() + HELD_MAX) {
                    return true;
                }
                MissCode::Gone
            }
            Err(miss) => super::work::miss_code(miss),
        };
        PageRecord::Miss(miss).store(session.control.slot(slot).record(record));
        false
    }
}

impl Question {
    /// The get of its keys from this one on.
    pub(super) fn get_ask(&self, from: usize) -> GetAsk {
        GetAsk {
            namespace: self.namespace,
            keys: self.keys[from..].to_vec(),
            bypass_cache: self.has(flags::BYPASS_CACHE),
            every_key: self.has(flags::EVERY_KEY),
            min_revision: self.min_revision,
            deadline: self.deadline,
        }
    }
}
