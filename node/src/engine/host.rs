//! The thread that looks at the slots of all sessions.
//!
//! It answers what needs no waiting itself, within the call's wait: lookups, and pages of L1. While engines ask in
//! quick succession it spins; else it sleeps until one of them rings. It starts with the first session.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_session::wire::spin::Spin;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, epoll};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Engines;
use super::attached::Attached;

/// The sessions, and what wakes their thread.
#[derive(Default)]
pub(super) struct Host {
    sessions: Mutex<Vec<Arc<Attached>>>,
    /// Changes whenever the sessions do.
    version: AtomicU64,
    /// Rung for the thread's own sake: sessions changed, or the agent stops. None: it does not run yet.
    bell: Mutex<Option<Arc<OwnedFd>>>,
}

impl Host {
    /// Sessions open now.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Looks at this session's slots from now on. Errors: the thread could not begin.
    pub(super) fn add(&self, engines: &Arc<Engines>, session: Arc<Attached>) -> io::Result<()> {
        self.start(engines)?;
        self.sessions.lock().push(session);
        self.changed();
        Ok(())
    }

    /// Looks at it no more.
    pub(super) fn remove(&self, session: &Arc<Attached>) {
        self.sessions.lock().retain(|other| !Arc::ptr_eq(other, session));
        self.changed();
    }

    /// Has the thread look whether the agent stops.
    pub(super) fn wake(&self) {
        if let Some(bell) = self.bell.lock().clone() {
            ring(&bell);
        }
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    fn start(&self, engines: &Arc<Engines>) -> io::Result<()> {
        let mut bell = self.bell.lock();
        if bell.is_none() {
            let rung = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            let (engines, runtime, bells) = (engines.clone(), Handle::current(), Bells::new(&rung)?);
            let thread = std::thread::Builder::new().name("foreword-engine".to_owned());
            thread.spawn(move || {
                let _entered = runtime.enter();
                engines.look_at_slots(bells);
            })?;
            *bell = Some(rung);
        }
        Ok(())
    }
}

impl Engines {
    fn look_at_slots(self: &Arc<Self>, mut bells: Bells) {
        let mut version = None;
        let spin = Spin::default();
        while !self.stop.is_cancelled() {
            let now = self.host.version.load(Ordering::SeqCst);
            if version != Some(now) {
                version = Some(now);
                bells.follow(self.host.sessions.lock().clone());
            }
            if self.serve_all(&bells.sessions) {
                continue;
            }
            self.wait(&bells, &spin);
        }
        // Whoever waits for an answer sees that the session ends.
        bells.sessions.iter().for_each(|session| session.ended.cancel());
    }

    /// Answers what was asked. False: nothing was.
    fn serve_all(self: &Arc<Self>, sessions: &[Arc<Attached>]) -> bool {
        // Each of them, whatever the ones before had.
        sessions.iter().filter(|session| self.serve_session(session)).count() > 0
    }

    /// Waits until something is asked, or the bell is rung.
    fn wait(&self, bells: &Bells, spin: &Spin) {
        let started = Instant::now();
        let budget = spin.budget();
        let version = self.host.version.load(Ordering::Relaxed);
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if bells.sessions.iter().any(|session| is_asked(session)) {
                    return spin.saw(started.elapsed());
                }
                std::hint::spin_loop();
            }
            if started.elapsed() >= budget || self.host.version.load(Ordering::Relaxed) != version {
                break;
            }
        }
        bells.sleep();
        spin.slept_after(budget);
    }
}

/// Looks at all slots' bits between looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;

fn is_asked(session: &Attached) -> bool {
    let head = session.control.head();
    head.submitted.0.load(Ordering::SeqCst) | head.released.0.load(Ordering::SeqCst) != 0
        && !session.ended.is_cancelled()
}

/// What wakes the thread: the doorbells of all sessions, and its own bell.
///
/// A doorbell is an eventfd whose other end an engine holds, with all that it may do to it: make it block, read it,
/// write it full. So it is never read here: each ring is an edge, which ends one sleep.
struct Bells {
    epoll: OwnedFd,
    sessions: Vec<Arc<Attached>>,
}

impl Bells {
    fn new(own: &OwnedFd) -> io::Result<Self> {
        let bells = Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, sessions: Vec::new() };
        bells.add(own)?;
        Ok(bells)
    }

    fn add(&self, bell: &OwnedFd) -> io::Result<()> {
        let (edges, nobody) = (epoll::EventFlags::IN | epoll::EventFlags::ET, epoll::EventData::new_u64(0));
        Ok(epoll::add(&self.epoll, bell, nobody, edges)?)
    }

    /// Listens to these sessions, and to no other any more.
    fn follow(&mut self, sessions: Vec<Arc<Attached>>) {
        let among =
            |session: &Arc<Attached>, others: &[Arc<Attached>]| others.iter().any(|other| Arc::ptr_eq(session, other));
        for gone in self.sessions.iter().filter(|session| !among(session, &sessions)) {
            // The engine may keep its end: closing ours ends nothing.
            let _ = epoll::delete(&self.epoll, &gone.doorbell);
        }
        for new in sessions.iter().filter(|session| !among(session, &self.sessions)) {
            if let Err(error) = self.add(&new.doorbell) {
                tracing::error!(%error, "a session's doorbell cannot be listened to: it is closed");
                new.ended.cancel();
            }
        }
        self.sessions = sessions;
    }

    /// Sleeps until rung. Whoever asks after it was said that the agent sleeps, rings; what was asked before is seen
    /// here.
    fn sleep(&self) {
        let sleeps = |asleep: u32| {
            let heads = self.sessions.iter().map(|session| session.control.head());
            heads.for_each(|head| head.agent_sleeps.0.store(asleep, Ordering::SeqCst));
        };
        sleeps(1);
        if !self.sessions.iter().any(|session| is_asked(session)) {
            let mut rung = [const { MaybeUninit::uninit() }; RINGS_AT_ONCE];
            // Interrupted, or without memory for it: it looks again.
            let _ = epoll::wait(&self.epoll, &mut rung, None);
        }
        sleeps(0);
    }
}

/// Rings that one wait takes; more are taken by the next.
const RINGS_AT_ONCE: usize = 64;

fn ring(bell: &OwnedFd) {
    // Full: it has been rung already.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}
