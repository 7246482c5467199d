//! The connection of this process to its agent: the runtime, the background that keeps a line, and what is open over
//! it.

mod keeper;
mod line;
mod opening;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foreword_proto::wire::common;
use foreword_seams::Endpoint;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};

use crate::fork::PerProcess;
use crate::transport::Failure;
use keeper::Shared;

pub(crate) use opening::{Opened, Opening};

/// How long a close waits for the agent to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long it waits after that for calls of other threads, which come back at once.
const CALLS_LEAVE: Duration = Duration::from_millis(500);

/// Pauses between attempts: 0.2 s, doubling to 5 s.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(Duration::from_millis(200))
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(5));
        pause
    }
}

/// A connection, in whatever process: a child that was forked makes its own of it.
pub(crate) struct Link {
    endpoint: Endpoint,
    tenant: String,
    closed: AtomicBool,
    here: PerProcess<Arc<Here>>,
}

impl Link {
    /// Begins to connect, and waits for nothing.
    pub(crate) fn new(endpoint: Endpoint, tenant: &str) -> Self {
        let link =
            Self { endpoint, tenant: tenant.to_owned(), closed: AtomicBool::new(false), here: PerProcess::new() };
        link.here();
        link
    }

    /// This process's part of it; None after a close.
    fn here(&self) -> Option<Arc<Here>> {
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.here.get(|| {
            let here = Arc::new(Here::start(self.endpoint.clone(), self.tenant.clone()));
            let all = ALL.get(Arc::default);
            let mut all = all.lock();
            all.retain(|here| here.strong_count() > 0);
            all.push(Arc::downgrade(&here));
            here
        }))
    }

    /// The transport, None where there is no connection, and why there is none.
    pub(crate) fn state(&self) -> (Option<&'static str>, Option<String>) {
        self.here().map_or((None, Some("closed".to_owned())), |here| here.shared.status())
    }

    /// Opens a namespace as soon as it can.
    pub(crate) fn open(&self, namespace: &common::Namespace) -> Result<Arc<Opening>, Failure> {
        Ok(self.here().ok_or(Failure::Closed)?.shared.add(namespace.clone()))
    }

    /// Runs a call on the caller's thread. A close waits until it is over.
    pub(crate) fn within<T>(&self, call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let here = self.here().ok_or(Failure::Closed)?;
        let _runs = here.enter()?;
        call()
    }

    /// Takes all pages of an open namespace out of the index; the revision. The error is for people.
    pub(crate) fn clear(&self, opened: &Opened, deadline: Instant) -> Result<u64, String> {
        let closed = "the connection is closed";
        let here = self.here().ok_or(closed)?;
        let runtime = here.enter().map_err(|_| closed)?;
        runtime.as_ref().ok_or(closed)?.block_on(async {
            tokio::select! {
                biased;
                () = here.shared.closing.cancelled() => Err(closed.to_owned()),
                cleared = opened.line.clear(opened.id, deadline) => cleared,
            }
        })
    }

    /// Ends everything, within 2 s.
    pub(crate) fn close(&self) {
        let here = self.here.peek();
        if !self.closed.swap(true, Ordering::Relaxed)
            && let Some(here) = here
        {
            here.say_farewell();
            here.close();
        }
    }
}

/// Those of this process.
static ALL: PerProcess<Arc<Mutex<Vec<Weak<Here>>>>> = PerProcess::new();

/// Ends all connections of this process, within 2 s unless it has many.
pub(crate) fn close_all() {
    let all: Vec<Arc<Here>> =
        ALL.peek().map_or_else(Vec::new, |all| all.lock().iter().filter_map(Weak::upgrade).collect());
    all.iter().for_each(|here| here.say_farewell());
    all.iter().for_each(|here| here.close());
}

/// One process's part.
struct Here {
    /// None after a close, or where no thread could be started.
    runtime: RwLock<Option<Runtime>>,
    shared: Arc<Shared>,
}

impl Here {
    fn start(endpoint: Endpoint, tenant: String) -> Self {
        let shared = Arc::new(Shared::new(endpoint, tenant));
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("foreword").enable_all().build();
        match &runtime {
            Ok(runtime) => drop(runtime.spawn(keeper::keep(shared.clone()))),
            Err(error) => shared.lost(&format!("no thread: {error}")),
        }
        Self { runtime: RwLock::new(runtime.ok()), shared }
    }

    /// The runtime, which stays for as long as this is held.
    fn enter(&self) -> Result<RwLockReadGuard<'_, Option<Runtime>>, Failure> {
        // Asked first: a close that waits for the lock holds up nobody.
        if self.shared.closing.is_cancelled() {
            return Err(Failure::Closed);
        }
        let runtime = self.runtime.read();
        if runtime.is_some() { Ok(runtime) } else { Err(Failure::Closed) }
    }

    /// Begins to tell the agent.
    fn say_farewell(&self) {
        self.shared.openings().iter().for_each(|opening| opening.end());
        self.shared.keeping.close();
    }

    fn close(&self) {
        if let Ok(runtime) = self.enter()
            && let Some(runtime) = &*runtime
        {
            // An agent that does not answer finds out by itself.
            let _ = runtime.block_on(async { timeout(FAREWELL, self.shared.keeping.wait()).await });
        }
        self.shared.closing.cancel();
        if let Some(mut runtime) = self.runtime.try_write_for(CALLS_LEAVE)
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}
