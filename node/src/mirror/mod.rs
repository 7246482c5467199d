//! The mirrors of the namespaces open on an agent: what the watch stream told, and own publishes ahead of it.

pub mod avoid;
pub mod departed;
pub mod feed;
mod heard;
pub mod overlay;
pub mod saved;
pub mod table;
pub mod view;
pub mod watcher;

use std::sync::Arc;

use foreword_proto::{Epoch, Revision};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use feed::Feed;
use table::Table;
pub use view::{SavedTable, View};

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
    feed: Arc<Feed>,
}

impl Mirror {
    /// Knows nothing yet; the stream behind `feed` is to fill it.
    pub fn new(shards: usize, epoch: Epoch, feed: Arc<Feed>) -> Self {
        Self { view: RwLock::new(View::new(shards, epoch)), progress: watch::Sender::new(Progress::default()), feed }
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
        let seen = progress.borrow_and_update().revision;
        if seen >= revision {
            return seen;
        }
        self.feed.need(revision);
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
}

/// Frees a table a piece at a time: all at once, millions of pages would hold up whoever runs on the same thread.
pub async fn let_go(table: Table) {
    for piece in table.into_pieces() {
        drop(piece);
        tokio::task::yield_now().await;
    }
}
