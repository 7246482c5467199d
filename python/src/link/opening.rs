//! One namespace as this process has it open, or tries to.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::wire::{common, node as wire};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::line::Line;
use super::{FAREWELL, Pauses};
use crate::transport::Transport;

/// A namespace that is open at the agent at the other end of a line.
pub(crate) struct Opened {
    pub(super) line: Arc<Line>,
    pub(crate) id: u32,
}

impl Opened {
    /// What carries its calls.
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.line.transport
    }
}

/// One opening of a namespace, over whatever line there is.
pub(crate) struct Opening {
    /// Among those of its connection.
    pub(super) number: u64,
    pub(super) namespace: common::Namespace,
    state: Mutex<State>,
    changed: Condvar,
    /// The agent has closed it: open it again.
    pub(super) reopen: Notify,
    /// Cancelled when it is not wanted any more.
    pub(crate) ended: CancellationToken,
}

#[derive(Default)]
struct State {
    opened: Option<Arc<Opened>>,
    error: Option<String>,
}

impl Opening {
    pub(super) fn new(number: u64, namespace: common::Namespace) -> Self {
        Self {
            number,
            namespace,
            state: Mutex::default(),
            changed: Condvar::new(),
            reopen: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    /// It, if it is open.
    pub(crate) fn current(&self) -> Option<Arc<Opened>> {
        self.state.lock().opened.clone()
    }

    /// Why it is not open, in the agent's words.
    pub(crate) fn error(&self) -> Option<String> {
        self.state.lock().error.clone()
    }

    /// Waits until it is open, or will not be any more.
    pub(crate) fn wait(&self, time: Duration) -> Option<Arc<Opened>> {
        let mut state = self.state.lock();
        let waits = |state: &mut State| state.opened.is_none() && !self.ended.is_cancelled();
        self.changed.wait_while_for(&mut state, waits, time);
        state.opened.clone()
    }

    /// The agent did not know it: what this opening was is over, unless it has been opened again since.
    pub(crate) fn forgotten(&self, was: &Arc<Opened>) {
        let mut state = self.state.lock();
        if state.opened.as_ref().is_some_and(|opened| Arc::ptr_eq(opened, was)) {
            state.opened = None;
            self.reopen.notify_one();
        }
    }

    /// It is not wanted any more.
    pub(crate) fn end(&self) {
        self.ended.cancel();
        self.set(None, Some("closed".to_owned()));
    }

    /// The line is gone.
    pub(super) fn lost(&self, error: &str) {
        if !self.ended.is_cancelled() {
            self.set(None, Some(error.to_owned()));
        }
    }

    fn set(&self, opened: Option<Arc<Opened>>, error: Option<String>) {
        *self.state.lock() = State { opened, error };
        self.changed.notify_all();
    }

    /// Opens it over a line, and keeps it open, until it is not wanted any more or dropped with the line.
    pub(super) async fn keep(self: Arc<Self>, line: Arc<Line>) {
        let mut pauses = Pauses::default();
        loop {
            let request = wire::OpenNamespaceRequest { namespace: Some(self.namespace.clone()) };
            let opened = tokio::select! {
                opened = line.open(request) => opened,
                () = self.ended.cancelled() => return,
            };
            match opened {
                Ok(id) => {
                    pauses = Pauses::default();
                    // Nobody has been told of it yet: none can have said that it is closed.
                    self.set(Some(Arc::new(Opened { line: line.clone(), id })), None);
                    tokio::select! {
                        () = self.reopen.notified() => continue,
                        () = self.ended.cancelled() => {}
                    }
                    line.close(id, Instant::now() + FAREWELL).await;
                    return;
                }
                Err(error) => self.lost(&error),
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next()) => {}
                () = self.ended.cancelled() => return,
            }
        }
    }
}
