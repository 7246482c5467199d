//! What the mirrors of an agent share with the one stream that feeds them: which revision is needed, and whether the
//! stream is any good.

use std::time::Duration;

use foreword_proto::Revision;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::heard::Heard;

/// How long a stream may tell less than the group was heard to have. After one that was left for this, the next one has
/// twice as long: where the whole group is slow, going elsewhere is of no use. One that has told everything starts the
/// count anew.
const PATIENCE: Duration = Duration::from_secs(3);
const PATIENCE_MAX: Duration = Duration::from_secs(48);

/// The stream, as its readers know it.
pub struct Feed {
    /// The highest revision that the group is known to have.
    known: watch::Sender<Revision>,
    /// The highest revision that the stream told of.
    told: watch::Sender<Revision>,
    /// The highest revision that somebody waits for.
    needed: watch::Sender<Revision>,
    stream: Mutex<Stream>,
}

struct Stream {
    heard: Heard,
    /// When a piece of a resync came last.
    filled: Instant,
    patience: Duration,
}

impl Default for Feed {
    fn default() -> Self {
        let (known, told, needed) = (watch::Sender::new(0), watch::Sender::new(0), watch::Sender::new(0));
        let now = Instant::now();
        let stream = Mutex::new(Stream { heard: Heard::new(now), filled: now, patience: PATIENCE });
        Self { known, told, needed, stream }
    }
}

fn raise(revision: &watch::Sender<Revision>, to: Revision) {
    revision.send_if_modified(|revision| *revision < to && std::mem::replace(revision, to) < to);
}

impl Feed {
    /// The group had this revision at this time: a stream that does not bring it is of no use.
    pub fn group_had(&self, revision: Revision, at: Instant) {
        self.stream.lock().heard.had(revision, at);
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

    /// The group is known to have more than the stream told of.
    pub(super) fn is_behind(&self) -> bool {
        *self.known.borrow() > self.told()
    }

    /// The stream tells of this revision.
    pub(super) fn tells(&self, revision: Revision) {
        if revision >= *self.known.borrow() {
            let mut stream = self.stream.lock();
            stream.heard.had(revision, Instant::now());
            stream.patience = PATIENCE;
        }
        raise(&self.told, revision);
    }

    /// The stream brings a piece of a resync.
    pub(super) fn fills(&self) {
        self.stream.lock().filled = Instant::now();
    }

    /// How far behind a mirror of this revision is: the time since the group was heard to have no more than that.
    pub fn age_of(&self, revision: Revision) -> Duration {
        self.stream.lock().heard.complete_at(revision).elapsed()
    }

    /// Waits until the stream has told less than the group had for some seconds, and does not bring a resync meanwhile:
    /// the replica at its other end was removed, is cut off, or is slower than others.
    pub(super) async fn stands_still(&self) {
        let patience = self.stream.lock().patience;
        let (mut known, mut told) = (self.known.subscribe(), self.told.subscribe());
        loop {
            let behind = known.wait_for(|known| *known > self.told()).await.map(|known| *known);
            let Ok(wanted) = behind else { return std::future::pending().await };
            let told = tokio::time::timeout(patience, told.wait_for(|told| *told >= wanted)).await;
            let mut stream = self.stream.lock();
            if told.is_err() && stream.filled.elapsed() >= patience {
                stream.patience = (patience * 2).min(PATIENCE_MAX);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn stands_still_within(feed: &Feed, time: Duration) -> bool {
        tokio::time::timeout(time, feed.stands_still()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_stands_still_when_the_group_has_more_than_it_tells() {
        let feed = Feed::default();
        assert!(!stands_still_within(&feed, PATIENCE * 10).await, "a group at rest");
        feed.group_had(7, Instant::now());
        let soon = PATIENCE + Duration::from_millis(1);
        assert!(stands_still_within(&feed, soon).await);
        assert!(!stands_still_within(&feed, soon).await, "the next one has more time");
        assert!(stands_still_within(&feed, soon * 2).await);
        // A reader's own idea of a revision says nothing of the group.
        feed.tells(7);
        feed.need(u64::MAX);
        assert!(!stands_still_within(&feed, PATIENCE * 10).await);
        // Whatever it tells: as long as that is less than the group had, another may do better.
        feed.group_had(90, Instant::now());
        let dawdling = async {
            for revision in 8.. {
                tokio::time::sleep(PATIENCE / 10).await;
                feed.tells(revision);
            }
        };
        tokio::select! {
            still = stands_still_within(&feed, soon) => assert!(still),
            () = dawdling => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_brings_a_resync_does_not_stand_still() {
        let feed = Feed::default();
        feed.group_had(9, Instant::now());
        let filling = async {
            for _ in 0..20 {
                tokio::time::sleep(PATIENCE / 2).await;
                feed.fills();
            }
        };
        tokio::select! {
            () = feed.stands_still() => panic!("pieces came"),
            () = filling => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_is_as_old_as_what_it_lacks() {
        let feed = Feed::default();
        feed.group_had(7, Instant::now());
        feed.tells(7);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(feed.age_of(7), Duration::from_secs(2), "nothing was heard since");
        // Frames that tell less than the group has are no news.
        for revision in 8..48 {
            feed.group_had(100 + revision, Instant::now());
            feed.tells(revision);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(feed.age_of(47), Duration::from_secs(42));
        feed.tells(200);
        assert_eq!(feed.age_of(200), Duration::ZERO);
        assert_eq!(feed.age_of(47), Duration::from_secs(42), "a mirror that is still being resynced");
    }
}
