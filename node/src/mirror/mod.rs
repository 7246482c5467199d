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
    /// The highest revision that the group is known to have.
    known: watch::Sender<Revision>,
    last_frame: RwLock<Instant>,
}

impl Mirror {
    /// Knows nothing yet.
    pub fn new(shards: usize, epoch: Epoch) -> Self {
        Self {
            view: RwLock::new(View::new(shards, epoch)),
            progress: watch::Sender::new(Progress::default()),
            known: watch::Sender::new(0),
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

    /// The group was heard to have this revision: a stream that does not bring it is of no use.
    pub fn group_has(&self, revision: Revision) {
        self.known.send_if_modified(|known| *known < revision && std::mem::replace(known, revision) < revision);
    }

    /// Waits until this revision is applied; answers with the revision seen, a smaller one if the deadline came first.
    pub async fn reached(&self, revision: Revision, deadline: Instant) -> Revision {
        let mut progress = self.progress.subscribe();
        let waited = tokio::time::timeout_at(deadline, progress.wait_for(|now| now.revision >= revision)).await;
        drop(waited);
        self.read(View::revision)
    }

    /// Waits until the group is known to have more than this mirror for `patience`, in which no frame of the watch stream came: the
    /// replica at its other end was removed, or is cut off.
    pub async fn stands_still(&self, patience: Duration) {
        let (mut known, mut progress) = (self.known.subscribe(), self.progress.subscribe());
        loop {
            let behind = known.wait_for(|known| *known > self.read(View::revision)).await.map(|known| *known);
            let Ok(wanted) = behind else { return std::future::pending().await };
            let moved = tokio::time::timeout(patience, progress.wait_for(|now| now.revision >= wanted)).await;
            if moved.is_err() && self.age() >= patience {
                return;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    async fn stands_still_within(mirror: &Mirror, time: Duration) -> bool {
        tokio::time::timeout(time, mirror.stands_still(PATIENCE)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_stands_still_when_the_group_has_more_and_nothing_comes() {
        let mirror = Mirror::new(1, 1);
        assert!(!stands_still_within(&mirror, PATIENCE * 10).await, "a group at rest");
        mirror.group_has(7);
        assert!(stands_still_within(&mirror, PATIENCE * 2).await);
        // A reader's own idea of a revision says nothing of the group.
        mirror.write(|view| view.restore(1, 7, table::Table::new(1, 0)));
        mirror.reached(u64::MAX, Instant::now() + PATIENCE).await;
        assert!(!stands_still_within(&mirror, PATIENCE * 10).await);
        // A long snapshot brings no revision before its end, and frames all the time.
        mirror.group_has(9);
        let filling = async {
            for _ in 0..20 {
                tokio::time::sleep(PATIENCE / 2).await;
                mirror.heard();
            }
        };
        tokio::select! {
            () = mirror.stands_still(PATIENCE) => panic!("frames came"),
            () = filling => {}
        }
    }
}
