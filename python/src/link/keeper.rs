//! What runs in the background of a connection: it connects, again and again, and opens what is wanted over each line.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foreword_proto::wire::common;
use foreword_seams::Endpoint;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Pauses;
use super::line::{Line, has_session};
use super::opening::Opening;

/// What the background and callers share.
pub(super) struct Shared {
    endpoint: Endpoint,
    tenant: String,
    status: Mutex<Status>,
    openings: Mutex<Vec<Weak<Opening>>>,
    /// Openings so far.
    opened: AtomicU64,
    /// What keeps them open.
    pub(super) keeping: TaskTracker,
    /// There are more openings.
    wake: Notify,
    /// Cancelled when callers are to come back.
    pub(super) closing: CancellationToken,
}

#[derive(Default)]
struct Status {
    transport: Option<&'static str>,
    error: Option<String>,
}

impl Shared {
    pub(super) fn new(endpoint: Endpoint, tenant: String) -> Self {
        Self {
            endpoint,
            tenant,
            status: Mutex::default(),
            openings: Mutex::default(),
            opened: AtomicU64::new(0),
            keeping: TaskTracker::new(),
            wake: Notify::new(),
            closing: CancellationToken::new(),
        }
    }

    /// The transport of the present line, and why there is none.
    pub(super) fn status(&self) -> (Option<&'static str>, Option<String>) {
        let status = self.status.lock();
        (status.transport, status.error.clone())
    }

    /// Opens a namespace as soon as there is a line.
    pub(super) fn add(&self, namespace: common::Namespace) -> Arc<Opening> {
        let opening = Arc::new(Opening::new(self.opened.fetch_add(1, Ordering::Relaxed), namespace));
        if let (None, Some(error)) = self.status() {
            opening.lost(&error);
        }
        let mut openings = self.openings.lock();
        openings.retain(|opening| opening.strong_count() > 0);
        openings.push(Arc::downgrade(&opening));
        drop(openings);
        self.wake.notify_one();
        opening
    }

    /// Those that are wanted.
    pub(super) fn openings(&self) -> Vec<Arc<Opening>> {
        let openings = self.openings.lock();
        openings.iter().filter_map(Weak::upgrade).filter(|opening| !opening.ended.is_cancelled()).collect()
    }

    /// There is no line, and why.
    pub(super) fn lost(&self, error: &str) {
        *self.status.lock() = Status { transport: None, error: Some(error.to_owned()) };
        self.openings().iter().for_each(|opening| opening.lost(error));
    }
}

/// Keeps a line, until the connection is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut pauses = Pauses::default();
    loop {
        let error = match Line::connect(&shared.endpoint, &shared.tenant).await {
            Err(error) => error,
            Ok(line) => {
                pauses = Pauses::default();
                let (transport, error) = (Some(line.transport.name()), line.no_session.clone());
                *shared.status.lock() = Status { transport, error };
                serve(&shared, Arc::new(line)).await;
                format!("{}: the connection was lost", shared.endpoint)
            }
        };
        shared.lost(&error);
        tokio::select! {
            () = tokio::time::sleep(pauses.next()) => {}
            () = shared.closing.cancelled() => return,
        }
    }
}

/// How often an agent that refused a session is asked again: it may have had too many, or this process too few
/// descriptors.
const SESSION_AGAIN: Duration = Duration::from_secs(60);

/// Opens over a line what is wanted, until the line is gone.
async fn serve(shared: &Shared, line: Arc<Line>) {
    let (mut kept, mut tasks) = (HashSet::new(), JoinSet::new());
    let mut again = tokio::time::interval_at(Instant::now() + SESSION_AGAIN, SESSION_AGAIN);
    loop {
        for opening in shared.openings() {
            if kept.insert(opening.number) {
                tasks.spawn(shared.keeping.track_future(opening.keep(line.clone())));
            }
        }
        // Those that are not wanted any more.
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            () = line.gone.cancelled() => return,
            () = shared.closing.cancelled() => return line.transport.end(),
            () = shared.wake.notified() => {}
            _ = again.tick(), if line.no_session.is_some() => {
                if has_session(&shared.endpoint, &shared.tenant).await {
                    // Another line will have one.
                    line.gone.cancel();
                }
            }
        }
    }
}
