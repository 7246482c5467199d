//! One session: its memory, the segments it was told of, and what its calls hold.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_proto::NamespaceId;
use foreword_session::wire::control::{CONTROL_BYTES, DONE};
use foreword_session::wire::ops::{PageRecord, Status, is_taken};
use foreword_session::wire::{Control, Mapping, SLOTS, SharedMemory, SlotRef, futex};
use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{Opened, PageBytes};
use crate::arena::{Frame, SegmentId, SegmentShare, SegmentWatch};

/// How long an engine may go without copying any page of a get, whatever it asked for: they hold the arena, and keep
/// others of its tenant from theirs.
pub(super) const HELD_MAX: Duration = Duration::from_secs(10);
/// How long a namespace is used without its agent being told: much shorter than an idle one stays open.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// How long it may take to let go of a segment that has left the arena.
const UNMAP_WAIT: Duration = Duration::from_secs(10);

/// One session.
pub(super) struct Attached {
    pub(super) tenant: String,
    pub(super) control: Control,
    /// Where the engine's puts lie; this side only reads it.
    pub(super) staging: Mapping,
    /// Rung by the engine while the agent sleeps.
    pub(super) doorbell: OwnedFd,
    /// The session is over, whoever ended it.
    pub(super) ended: CancellationToken,
    slots: [Call; SLOTS],
    segments: Mutex<BTreeMap<SegmentId, Told>>,
    /// Those that its calls named, and when the agent was last told that they are in use.
    namespaces: Mutex<BTreeMap<NamespaceId, (Arc<Opened>, Instant)>>,
}

/// What the engine is handed with the answer to its hello.
pub(super) struct Handover {
    pub(super) control: SharedMemory,
    pub(super) staging: SharedMemory,
    pub(super) doorbell: OwnedFd,
}

/// A segment that an answer named.
struct Told {
    /// Until the engine has asked for it.
    share: Option<SegmentShare>,
    watch: SegmentWatch,
    /// When the engine was told to let go of it.
    retired: Option<Instant>,
}

/// What the agent keeps of one slot.
#[derive(Default)]
pub(super) struct Call {
    /// A task of the runtime answers it.
    pub(super) under_way: AtomicBool,
    /// The engine took some pages, or left.
    pub(super) moved: Notify,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Pages that the engine has not copied yet, with their records' indices, in order.
    pages: VecDeque<(usize, PageBytes)>,
    until: Option<Instant>,
}

impl Attached {
    /// With memory of its own, and what the engine is to be given of it.
    pub(super) fn new(tenant: String, staging_bytes: usize) -> io::Result<(Self, Handover)> {
        let control = SharedMemory::create("foreword-control", CONTROL_BYTES)?;
        let staging = SharedMemory::create("foreword-staging", staging_bytes)?;
        let doorbell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let attached = Self {
            tenant,
            control: Control::create(control.map_writable()?)?,
            staging: staging.map_readable()?,
            doorbell: rustix::io::fcntl_dupfd_cloexec(&doorbell, 0)?,
            ended: CancellationToken::new(),
            slots: std::array::from_fn(|_| Call::default()),
            segments: Mutex::default(),
            namespaces: Mutex::default(),
        };
        Ok((attached, Handover { control, staging, doorbell }))
    }

    pub(super) fn call(&self, slot: usize) -> &Call {
        &self.slots[slot]
    }

    /// A namespace that a call named lately, if that call was allowed to. None: the agent is to be asked, for which it
    /// is in use.
    pub(super) fn known(&self, namespace: NamespaceId) -> Option<Arc<Opened>> {
        let namespaces = self.namespaces.lock();
        let (opened, told) = namespaces.get(&namespace)?;
        (told.elapsed() < KNOWN_FOR).then(|| opened.clone())
    }

    /// Remembers one. They are as many as the agent has open, or had.
    pub(super) fn remember(&self, opened: Opened) -> Arc<Opened> {
        let opened = Arc::new(opened);
        self.namespaces.lock().insert(opened.namespace, (opened.clone(), Instant::now()));
        opened
    }

    /// Forgets one that is closed.
    pub(super) fn forget(&self, namespace: NamespaceId) {
        self.namespaces.lock().remove(&namespace);
    }

    /// Writes where a page of a get is, and holds it until the engine has copied it. False: its memory cannot be
    /// shared.
    pub(super) fn hand_over(&self, slot: usize, record: usize, tier: u32, page: PageBytes, until: Instant) -> bool {
        if !self.tell_of(&page.frame) {
            return false;
        }
        let id = page.frame.id();
        let generation = page.frame.generation();
        let answer = PageRecord::Page { tier, segment: id.segment, index: id.index, generation };
        answer.store(self.control.slot(slot).record(record));
        let mut held = self.slots[slot].held.lock();
        held.pages.push_back((record, page));
        held.until = Some(until);
        true
    }

    fn tell_of(&self, frame: &Frame) -> bool {
        let mut segments = self.segments.lock();
        let id = frame.id().segment;
        if segments.contains_key(&id) {
            return true;
        }
        let Ok(Some(share)) = frame.share() else { return false };
        segments.insert(id, Told { share: Some(share), watch: frame.segment_watch(), retired: None });
        true
    }

    /// The engine took some of a slot's pages, or all that it wanted.
    pub(super) fn let_go(&self, slot: usize) {
        let (shared, call) = (self.control.slot(slot), &self.slots[slot]);
        let left = shared.head().left.0.load(Ordering::SeqCst) != 0;
        let mut let_go = VecDeque::new();
        {
            let mut held = call.held.lock();
            while let Some((record, _)) = held.pages.front()
                && (left || is_taken(shared.record(*record)))
            {
                let_go.extend(held.pages.pop_front());
            }
            if !let_go.is_empty() {
                held.until = Some(Instant::now() + HELD_MAX);
            }
        }
        drop(let_go);
        call.moved.notify_one();
    }

    /// A new question is in the slot: what its last one held is copied, or wanted no more.
    pub(super) fn let_go_all(&self, slot: usize) {
        let pages = std::mem::take(&mut self.slots[slot].held.lock().pages);
        drop(pages);
    }

    /// The session is over.
    pub(super) fn let_go_of_everything(&self) {
        (0..SLOTS).for_each(|slot| self.let_go_all(slot));
        self.segments.lock().clear();
    }

    /// Lets go of pages that the engine did not copy in time.
    pub(super) fn let_go_late(&self, now: Instant) {
        for call in &self.slots {
            let late = {
                let mut held = call.held.lock();
                let late = held.until.is_some_and(|until| until <= now);
                if late { std::mem::take(&mut held.pages) } else { VecDeque::new() }
            };
            drop(late);
        }
    }

    /// What the engine needs to map a segment that it was told of. None: it was not, or has had it.
    pub(super) fn share(&self, segment: SegmentId) -> Option<SegmentShare> {
        self.segments.lock().get_mut(&segment)?.share.take()
    }

    /// The engine has a segment mapped no more: it is told of it anew when it needs it.
    pub(super) fn unmapped(&self, segment: SegmentId) {
        self.segments.lock().remove(&segment);
    }

    /// Segments that have left the arena since the last look. None: the engine did not let go of one in time.
    pub(super) fn retired(&self, now: Instant) -> Option<Vec<SegmentId>> {
        let mut retired = Vec::new();
        let mut segments = self.segments.lock();
        let mut in_time = true;
        segments.retain(|id, told| {
            if let Some(since) = told.retired {
                in_time &= now < since + UNMAP_WAIT;
            } else if told.watch.is_retired() {
                // Nobody has it mapped while it was not asked for.
                if told.share.is_some() {
                    return false;
                }
                told.retired = Some(now);
                retired.push(*id);
            }
            true
        });
        in_time.then_some(retired)
    }

    /// Says how far the answer is.
    pub(super) fn progress(&self, slot: usize, answered: usize) {
        let head = self.control.slot(slot).head();
        futex::publish(&head.progress.0, answered as u32, &head.engine_sleeps.0);
    }

    /// Ends a call.
    pub(super) fn done(&self, slot: usize, answered: usize, status: Status) {
        let head = self.control.slot(slot).head();
        head.status.0.store(status as u32, Ordering::Relaxed);
        self.slots[slot].under_way.store(false, Ordering::Release);
        futex::publish(&head.progress.0, answered as u32 | DONE, &head.engine_sleeps.0);
    }

    /// Ends a call that has no answer, and says why.
    pub(super) fn refuse(&self, slot: usize, status: Status, detail: &str) {
        self.control.slot(slot).set_detail(detail);
        self.done(slot, 0, status);
    }

    /// Whether the engine wants nothing more of a slot.
    pub(super) fn has_left(&self, slot: SlotRef<'_>) -> bool {
        slot.head().left.0.load(Ordering::SeqCst) != 0 || self.ended.is_cancelled()
    }
}
