//! A session of the bench with the group: what an agent does with the group, without the agent.
//!
//! It renews its lease, says that nothing is hot, is granted slots ahead of time, and publishes records for pages that
//! nobody wrote: page bytes never pass through the group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use foreword_meta::generated::{Keys, namespace};
use foreword_node::session::window::SequenceWindow;
use foreword_proto::limits::SLOTS_PER_GRANT_MAX;
use foreword_proto::records::{self, PageRecord, Record};
use foreword_proto::wire::meta as m;
use foreword_proto::{PublishOutcome, Revision, SlotRef};
use foreword_seams::{Endpoint, Entropy, OsEntropy};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tonic::{Code, Request, Status};

use crate::clients::{self, Replica};

/// How long one replica may take before another is asked.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// A caller gives up after this: far longer than any outage that is worth a figure.
const PATIENCE: Duration = Duration::from_secs(120);
const RETRY_PAUSE: Duration = Duration::from_millis(5);
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Slots that a session has in hand at least, as long as there is room: some tenths of a second of the fastest
/// publishing.
const SLOTS_AHEAD: usize = 4 * SLOTS_PER_GRANT_MAX as usize;
/// Pause before slots are asked for again when L3 had none.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(10);

/// The replicas of the group, as one session reaches them: over a connection of its own to the one whose turn it is.
pub(super) struct Replicas {
    replicas: Vec<Replica>,
    turn: AtomicUsize,
}

impl Replicas {
    /// Connections to these; the first one's turn is first.
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        Self { replicas: endpoints.iter().map(clients::replica).collect(), turn: AtomicUsize::new(0) }
    }

    /// Calls replicas in turn until one answers. The call must be idempotent.
    ///
    /// Errors: an answer that another try does not change; the last one after two minutes.
    pub(super) async fn call<R, T, F>(&self, message: R, call: impl Fn(Replica, Request<R>) -> F) -> Result<T, Status>
    where
        R: Clone,
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let until = Instant::now() + PATIENCE;
        loop {
            let turn = self.turn.load(Ordering::Relaxed);
            let mut request = Request::new(message.clone());
            request.set_timeout(CALL_TIMEOUT);
            let calling = call(self.replicas[turn % self.replicas.len()].clone(), request);
            let status = match timeout(CALL_TIMEOUT, calling).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            let final_answer =
                matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition);
            if final_answer || Instant::now() >= until {
                return Err(status);
            }
            // Of all that were refused here, one moves on.
            let _ = self.turn.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// A batch that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ack {
    pub(super) submitted: Instant,
    pub(super) acked: Instant,
    /// The number of its first page.
    pub(super) first: u64,
    pub(super) pages: usize,
    pub(super) revision: Revision,
}

/// An open session; dropped, it ends by its lease.
pub(super) struct Session {
    inner: Arc<Inner>,
    /// Renewal and grants.
    _tasks: JoinSet<()>,
}

struct Inner {
    replicas: Replicas,
    session: Bytes,
    namespace_id: u32,
    epoch: u32,
    slot_bytes: u32,
    keys: Keys,
    /// The number of the next page to publish, of all sessions of a namespace.
    next_page: Arc<AtomicU64>,
    window: Mutex<SequenceWindow>,
    window_moved: Notify,
    slots: Mutex<VecDeque<SlotRef>>,
    slots_came: Notify,
    slots_went: Notify,
    ended: AtomicBool,
}

impl Session {
    /// Opens a session that publishes pages of the generated namespace `at`, from `next_page` on. `endpoints`: the
    /// replica to talk to comes first.
    pub(super) async fn open(
        endpoints: &[Endpoint],
        name: &str,
        (at, keys): (usize, Keys),
        next_page: Arc<AtomicU64>,
    ) -> anyhow::Result<Self> {
        let replicas = Replicas::new(endpoints);
        let register = m::RegisterNamespaceRequest { namespace: Some((&namespace(at)).into()) };
        let registered =
            replicas.call(register, |mut to, request| async move { to.register_namespace(request).await }).await;
        let registered = registered.map_err(|status| clients::said_no("bench: register", &status))?;
        let open = m::OpenSessionRequest {
            node: name.to_owned(),
            incarnation: 1,
            endpoint: format!("{name}:1"),
            agent_id: Bytes::copy_from_slice(&OsEntropy.bytes16()),
        };
        let opened = replicas.call(open, |mut to, request| async move { to.open_session(request).await }).await;
        let opened = opened.map_err(|status| clients::said_no("bench: open a session", &status))?;
        let inner = Arc::new(Inner {
            replicas,
            session: opened.session,
            namespace_id: registered.namespace_id,
            epoch: registered.epoch,
            slot_bytes: registered.slot_bytes,
            keys,
            next_page,
            window: Mutex::new(SequenceWindow::new(opened.window)),
            window_moved: Notify::new(),
            slots: Mutex::default(),
            slots_came: Notify::new(),
            slots_went: Notify::new(),
            ended: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(renew(inner.clone()));
        tasks.spawn(grant_ahead(inner.clone()));
        Ok(Self { inner, _tasks: tasks })
    }

    /// Publishes the next `pages` pages in one batch, and waits until they are acknowledged.
    ///
    /// Errors: a page that was not published; a lost lease.
    pub(super) async fn publish(&self, pages: usize) -> anyhow::Result<Ack> {
        let inner = &*self.inner;
        let (first, records) = inner.records(pages).await?;
        let sequence = inner.sequence().await;
        let request = m::PublishRequest {
            session: inner.session.clone(),
            sequence,
            namespace_id: inner.namespace_id,
            epoch: inner.epoch,
            pages: records,
        };
        let submitted = Instant::now();
        let answer = inner.replicas.call(request, |mut to, request| async move { to.publish(request).await }).await;
        inner.answered(sequence);
        let m::PublishResponse { outcomes, revision, .. } =
            answer.map_err(|status| clients::said_no("bench: publish", &status))?;
        let published = outcomes.iter().filter(|outcome| **outcome == PublishOutcome::Published as u8).count();
        ensure!(published == pages, "publish: expected {pages} pages to be published, {published} were");
        Ok(Ack { submitted, acked: Instant::now(), first, pages, revision })
    }

    /// Waits until as many slots are in hand as a session keeps.
    pub(super) async fn stocked(&self) -> anyhow::Result<()> {
        loop {
            let came = self.inner.slots_came.notified();
            if self.inner.slots.lock().len() >= SLOTS_AHEAD {
                return Ok(());
            }
            timeout(PATIENCE, came).await.context("slots: expected room in L3")?;
        }
    }
}

impl Inner {
    /// Records for the next pages, with the first one's number, in slots in hand; waits for slots.
    async fn records(&self, pages: usize) -> anyhow::Result<(u64, Bytes)> {
        loop {
            let came = self.slots_came.notified();
            if let Some(records) = self.try_records(pages) {
                self.slots_went.notify_one();
                return Ok(records);
            }
            ensure!(!self.ended.load(Ordering::Relaxed), "session: expected it to go on, it has ended");
            timeout(PATIENCE, came).await.context("slots: expected room in L3")?;
        }
    }

    fn try_records(&self, pages: usize) -> Option<(u64, Bytes)> {
        let mut slots = self.slots.lock();
        if slots.len() < pages {
            return None;
        }
        let first = self.next_page.fetch_add(pages as u64, Ordering::Relaxed);
        let mut records = BytesMut::with_capacity(pages * PageRecord::bytes(1));
        for (number, slot) in (first..).zip(slots.drain(..pages)) {
            self.keys.record(number, slot).put(&mut records);
        }
        Some((first, records.freeze()))
    }

    async fn sequence(&self) -> u64 {
        loop {
            let moved = self.window_moved.notified();
            if let Some(sequence) = self.window.lock().begin() {
                return sequence;
            }
            moved.await;
        }
    }

    fn answered(&self, sequence: u64) {
        self.window.lock().end(sequence);
        self.window_moved.notify_waiters();
    }
}

/// Keeps the lease, and says that this agent saw no access, as an agent does: a new leader waits for that word.
async fn renew(inner: Arc<Inner>) {
    let mut ticks = interval(RENEW_EVERY);
    loop {
        ticks.tick().await;
        let renew = m::RenewSessionRequest { session: inner.session.clone() };
        if let Err(status) =
            inner.replicas.call(renew, |mut to, request| async move { to.renew_session(request).await }).await
        {
            tracing::error!(%status, "the bench's session has ended");
            inner.ended.store(true, Ordering::Relaxed);
            inner.slots_came.notify_waiters();
            return;
        }
        let heat = m::ReportHeatRequest { session: inner.session.clone(), ..Default::default() };
        let _ = inner.replicas.call(heat, |mut to, request| async move { to.report_heat(request).await }).await;
    }
}

/// Asks for slots before they are needed.
async fn grant_ahead(inner: Arc<Inner>) {
    loop {
        let went = inner.slots_went.notified();
        if inner.slots.lock().len() >= SLOTS_AHEAD {
            went.await;
            continue;
        }
        let sequence = inner.sequence().await;
        let grant = m::GrantRequest {
            session: inner.session.clone(),
            sequence,
            slot_bytes: inner.slot_bytes,
            slots: SLOTS_PER_GRANT_MAX,
        };
        let answer = inner.replicas.call(grant, |mut to, request| async move { to.grant(request).await }).await;
        inner.answered(sequence);
        let Ok(granted) = answer else { return };
        let slots = records::decode::<SlotRef>("slots", &granted.slots, 0, SLOTS_PER_GRANT_MAX as usize);
        let slots = slots.unwrap_or_default();
        if slots.is_empty() {
            sleep(NO_ROOM_PAUSE).await;
        }
        inner.slots.lock().extend(slots);
        inner.slots_came.notify_waiters();
    }
}
