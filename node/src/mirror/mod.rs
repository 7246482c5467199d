//! The mirror of one namespace's index: what the watch stream told, and own publishes ahead of it.

pub mod avoid;
pub mod overlay;
pub mod saved;
pub mod table;
pub mod view;
pub mod watcher;

use std::time::Duration;

use foreword_proto::{Epoch, Revision};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

pub use view::View;

/// How far the mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub revision: Revision,
    pub synced: bool,
}

/// A [`View`] that several tasks read while the watch stream changes it.
pub struct Mirror {
    view: RwLock<View>,
    progress: watch::Sender<Progress>,
    last_frame: RwLock<Instant>,
}

impl Mirror {
    /// Knows nothing yet.
    pub fn new(shards: usize, epoch: Epoch) -> Self {
        Self {
            view: RwLock::new(View::new(shards, epoch)),
            progress: watch::Sender::new(Progress::default()),
            last_frame: RwLock::new(Instant::now()),
        }
    }

    /// Reads the view; nothing changes meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read())
    }

    /// Changes the view, and tells those who wait for its revision.
    pub fn write<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        let (result, now) = {
            let mut view = self.view.write();
            let result = change(&mut view);
            (result, Progress { revision: view.revision(), synced: view.synced() })
        };
        self.progress.send_if_modified(|progress| std::mem::replace(progress, now) != now);
        result
    }

    /// Waits until this revision is applied; answers with the revision seen, a smaller one if the deadline came first.
    pub async fn reached(&self, revision: Revision, deadline: Instant) -> Revision {
        let mut progress = self.progress.subscribe();
        let waited = tokio::time::timeout_at(deadline, progress.wait_for(|now| now.revision >= revision)).await;
        drop(waited);
        self.read(View::revision)
    }

    /// Waits for the first whole sync. False: the deadline came first.
    pub async fn synced(&self, deadline: Instant) -> bool {
        let mut progress = self.progress.subscribe();
        let waited = tokio::time::timeout_at(deadline, progress.wait_for(|now| now.synced)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// A frame of the watch stream came.
    pub fn heard(&self) {
        *self.last_frame.write() = Instant::now();
    }

    /// Time since the last frame of the watch stream.
    pub fn age(&self) -> Duration {
        self.last_frame.read().elapsed()
    }
}
