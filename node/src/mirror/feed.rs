//! What the mirrors of an agent share with the one stream that feeds them: which revision is needed, and whether the stream is any good.

use std::time::Duration;

use foreword_proto::Revision;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

/// The stream, as its readers know it.
pub struct Feed {
    /// The highest revision that the group is known to have.
    known: watch::Sender<Revision>,
    /// The highest revision that the stream told of.
    told: watch::Sender<Revision>,
    /// The highest revision that somebody waits for.
    needed: watch::Sender<Revision>,
    last_frame: RwLock<Instant>,
}

impl Default for Feed {
    fn default() -> Self {
        let (known, told, needed) = (watch::Sender::new(0), watch::Sender::new(0), watch::Sender::new(0));
        Self { known, told, needed, last_frame: RwLock::new(Instant::now()) }
    }
}

fn raise(revision: &watch::Sender<Revision>, to: Revision) {
    revision.send_if_modified(|revision| *revision < to && std::mem::replace(revision, to) < to);
}

impl Feed {
    /// The group was heard to have this revision: a stream that does not bring it is of no use.
    pub fn group_has(&self, revision: Revision) {
        raise(&self.known, revision);
    }

    /// Somebody waits for this revision.
    pub fn need(&self, revision: Revision) {
        raise(&self.needed, revision);
    }

    /// Follows what is waited for.
    pub(super) fn needs(&self) -> watch::Receiver<Revision> {
        self.needed.subscribe()
    }

    /// The highest revision that the stream told of.
    pub(super) fn told(&self) -> Revision {
        *self.told.borrow()
    }

    /// A frame of the stream came, which told of this revision, or of none (0).
    pub fn heard(&self, revision: Revision) {
        *self.last_frame.write() = Instant::now();
        raise(&self.told, revision);
    }

    /// Time since the last frame.
    pub fn age(&self) -> Duration {
        self.last_frame.read().elapsed()
    }

    /// Waits until the group is known to have more than what the stream told of for `patience`, in which no frame came: the replica at
    /// its other end was removed, or is cut off.
    pub async fn stands_still(&self, patience: Duration) {
        let (mut known, mut told) = (self.known.subscribe(), self.told.subscribe());
        loop {
            let behind = known.wait_for(|known| *known > self.told()).await.map(|known| *known);
            let Ok(wanted) = behind else { return std::future::pending().await };
            let moved = tokio::time::timeout(patience, told.wait_for(|told| *told >= wanted)).await;
            if moved.is_err() && self.age() >= patience {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    async fn stands_still_within(feed: &Feed, time: Duration) -> bool {
        tokio::time::timeout(time, feed.stands_still(PATIENCE)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_stands_still_when_the_group_has_more_and_nothing_comes() {
        let feed = Feed::default();
        assert!(!stands_still_within(&feed, PATIENCE * 10).await, "a group at rest");
        feed.group_has(7);
        assert!(stands_still_within(&feed, PATIENCE * 2).await);
        // A reader's own idea of a revision says nothing of the group.
        feed.heard(7);
        feed.need(u64::MAX);
        assert!(!stands_still_within(&feed, PATIENCE * 10).await);
        // A long resync brings no revision before its end, and frames all the time.
        feed.group_has(9);
        let filling = async {
            for _ in 0..20 {
                tokio::time::sleep(PATIENCE / 2).await;
                feed.heard(0);
            }
        };
        tokio::select! {
            () = feed.stands_still(PATIENCE) => panic!("frames came"),
            () = filling => {}
        }
    }
}
