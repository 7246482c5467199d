//! Slots to write to: taken from the pool, refilled ahead of need, given back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_proto::limits::{SLOTS_PER_ABORT_MAX, SLOTS_PER_GRANT_MAX};
use foreword_proto::records;
use foreword_proto::wire::meta as wire;
use foreword_proto::{SessionId, SlotRef};
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pool::SlotPool;
use super::{CommandError, Session, Sessions};
use crate::plan::grants::{GRANTS_UNDER_WAY_MAX, WriteRate, slots_to_ask};

/// How soon to ask again when the group had no slot to give.
const FULL_RETRY: Duration = Duration::from_millis(25);

/// The slots of the present session.
pub struct Grants {
    sessions: Arc<Sessions>,
    started: Instant,
    books: Mutex<Books>,
    changed: Notify,
}

/// Until when a page waits for a slot.
#[derive(Debug, Clone, Copy)]
pub struct SlotWait {
    /// Where the group has said that it has none.
    pub full: Instant,
    /// Where it says nothing.
    pub silent: Instant,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// The group had none to give.
    Full,
    /// The group did not answer.
    Silent,
    SessionLost,
}

#[derive(Default)]
struct Books {
    /// None before the first.
    session: Option<SessionId>,
    pool: SlotPool,
    /// Grants under way: what each is expected to give.
    asking: BTreeMap<u32, Vec<u32>>,
    /// What the last grant gave: the group gives at most a part of its room.
    gave: BTreeMap<u32, u32>,
    /// Slot sizes for which the group last gave nothing, and when.
    gave_none: BTreeMap<u32, Instant>,
    /// Those for which it said that it has nothing.
    full: BTreeSet<u32>,
    rates: BTreeMap<u32, WriteRate>,
}

impl Grants {
    /// No slots yet.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, started: Instant::now(), books: Mutex::default(), changed: Notify::new() }
    }

    /// A new session: slots of the one before are not ours any more.
    pub fn session_opened(&self, session: SessionId) {
        *self.books.lock() = Books { session: Some(session), ..Books::default() };
        self.changed.notify_waiters();
    }

    /// Takes 1 to `slots_max` slots for the session, waiting for a grant if there is none; asks ahead for more, also
    /// for the pages `waiting` behind these.
    pub async fn take(
        self: &Arc<Self>,
        session: &Arc<Session>,
        slot_bytes: u32,
        slots_max: usize,
        waiting: usize,
        wait: SlotWait,
    ) -> Result<Vec<SlotRef>, NoSlot> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if session.is_lost() {
                return Err(NoSlot::SessionLost);
            }
            let slots = self.take_now(session, slot_bytes, slots_max, waiting);
            if !slots.is_empty() {
                return Ok(slots);
            }
            let full = self.books.lock().full.contains(&slot_bytes);
            let (deadline, why) = if full { (wait.full, NoSlot::Full) } else { (wait.silent, NoSlot::Silent) };
            let now = Instant::now();
            if now >= deadline {
                return Err(why);
            }
            let _ = tokio::time::timeout_at(deadline.min(now + FULL_RETRY), changed).await;
        }
    }

    fn take_now(
        self: &Arc<Self>,
        session: &Arc<Session>,
        slot_bytes: u32,
        slots_max: usize,
        waiting: usize,
    ) -> Vec<SlotRef> {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let mut books = self.books.lock();
        if books.session != Some(session.id) {
            return Vec::new();
        }
        let slots = books.pool.take(slot_bytes, slots_max);
        let rate = books.rates.entry(slot_bytes).or_default();
        rate.count(now_ms, slots.len() as u64);
        let per_s = rate.per_s(now_ms);
        self.ask_ahead(&mut books, session, slot_bytes, waiting + slots_max - slots.len(), per_s);
        slots
    }

    fn ask_ahead(
        self: &Arc<Self>,
        books: &mut Books,
        session: &Arc<Session>,
        slot_bytes: u32,
        waiting: usize,
        per_s: u64,
    ) {
        let asked_lately = books.gave_none.get(&slot_bytes).is_some_and(|since| since.elapsed() < FULL_RETRY);
        let gives = books.gave.get(&slot_bytes).copied().unwrap_or(u32::MAX);
        let held = books.pool.held(slot_bytes);
        let asking = books.asking.entry(slot_bytes).or_default();
        while !asked_lately && asking.len() < GRANTS_UNDER_WAY_MAX {
            let coming: u32 = asking.iter().sum();
            let Some(ask) = slots_to_ask(held + coming as usize, waiting, per_s, gives) else { return };
            asking.push(ask.min(gives));
            tokio::spawn(self.clone().ask(session.clone(), slot_bytes, ask));
        }
    }

    async fn ask(self: Arc<Self>, session: Arc<Session>, slot_bytes: u32, slots: u32) {
        let answer = self
            .sessions
            .command(&session, |mut client, sequence| {
                let request = wire::GrantRequest { session: session.id.to_wire(), sequence, slot_bytes, slots };
                async move { client.grant(request).await }
            })
            .await;
        let granted = answer.map(|answer| {
            records::decode::<SlotRef>("slots", &answer.slots, 0, SLOTS_PER_GRANT_MAX as usize).unwrap_or_else(
                |error| {
                    tracing::error!(%error, "a grant could not be read");
                    Vec::new()
                },
            )
        });
        let mut books = self.books.lock();
        if books.session == Some(session.id) {
            books.asking.entry(slot_bytes).or_default().pop();
            match granted {
                Ok(slots) if !slots.is_empty() => {
                    books.gave_none.remove(&slot_bytes);
                    books.full.remove(&slot_bytes);
                    books.gave.insert(slot_bytes, slots.len() as u32);
                    books.pool.add(slot_bytes, &slots);
                }
                Ok(_) => {
                    books.gave_none.insert(slot_bytes, Instant::now());
                    books.full.insert(slot_bytes);
                }
                Err(error) => {
                    tracing::warn!(%error, slot_bytes, "no slots were granted");
                    books.gave_none.insert(slot_bytes, Instant::now());
                    books.full.remove(&slot_bytes);
                }
            }
        }
        drop(books);
        self.changed.notify_waiters();
    }

    /// Gives slots back to the pool to which nothing can still be writing: never submitted, or their write completed
    /// and no publish named them. Void if the session is not the present one.
    pub fn give_back(&self, session: SessionId, slot_bytes: u32, slots: &[SlotRef]) {
        let mut books = self.books.lock();
        if books.session != Some(session) || slots.is_empty() {
            return;
        }
        for slot in slots {
            sometimes(Marker::SlotGivenBack);
            books.pool.give_back(slot_bytes, *slot);
        }
        drop(books);
        self.changed.notify_waiters();
    }

    /// Tells the group that writes to these slots have no known result: they rest before anybody uses them again.
    pub fn abort_unknown(self: &Arc<Self>, session: &Arc<Session>, slots: Vec<SlotRef>) {
        if !slots.is_empty() {
            let (this, session) = (self.clone(), session.clone());
            tokio::spawn(async move { this.abort(&session, &[], &slots).await });
        }
    }

    /// Gives all unused slots back to the group.
    pub async fn return_unused(&self, deadline: Instant) {
        let Some(session) = self.sessions.current() else { return };
        let slots = self.books.lock().pool.drain();
        for batch in slots.chunks(SLOTS_PER_ABORT_MAX) {
            let _ = tokio::time::timeout_at(deadline, self.abort(&session, batch, &[])).await;
        }
    }

    async fn abort(&self, session: &Arc<Session>, unwritten: &[SlotRef], unknown: &[SlotRef]) {
        let unwritten: Bytes = records::encode(unwritten, 0);
        let unknown: Bytes = records::encode(unknown, 0);
        let aborted = self
            .sessions
            .command(session, |mut client, sequence| {
                let (unwritten, unknown) = (unwritten.clone(), unknown.clone());
                let request = wire::AbortRequest { session: session.id.to_wire(), sequence, unwritten, unknown };
                async move { client.abort(request).await }
            })
            .await;
        match aborted {
            // A session that is over takes its slots with it.
            Ok(_) | Err(CommandError::SessionLost) => {}
            Err(error) => tracing::warn!(%error, "slots could not be given back; they return when the session ends"),
        }
    }
}
