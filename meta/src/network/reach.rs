//! Which other replicas can be reached, for people: one line when a peer is lost, one when it is back, and at most one
//! a minute for each.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_seams::seldom::LINE_EVERY;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A peer of which nothing was heard for so long while calls fail is lost.
const SILENCE: Duration = Duration::from_secs(1);

/// What was heard of the peers, by replica id.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    peers: Mutex<BTreeMap<u64, Peer>>,
}

#[derive(Debug)]
struct Peer {
    heard: Instant,
    lost: bool,
    /// What the last line said.
    told_lost: bool,
    told: Option<Instant>,
    /// Changes since the last line.
    changes: u64,
}

/// A line that is due.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Lost { changes: u64 },
    Back { changes: u64 },
}

impl Reach {
    /// The peer answered.
    pub(crate) fn heard(&self, peer: u64) {
        if let Some(Line::Back { changes }) = self.note(peer, true) {
            tracing::info!(peer, changes, "a peer is reachable again");
        }
    }

    /// A call to the peer had no answer.
    pub(crate) fn missed(&self, peer: u64, endpoint: &str, why: &str) {
        if let Some(Line::Lost { changes }) = self.note(peer, false) {
            tracing::warn!(peer, endpoint, changes, why, "a peer is unreachable");
        }
    }

    fn note(&self, peer: u64, answered: bool) -> Option<Line> {
        let now = Instant::now();
        let mut peers = self.peers.lock();
        // Silence counts from the first call.
        let peer =
            peers.entry(peer).or_insert(Peer { heard: now, lost: false, told_lost: false, told: None, changes: 0 });
        if answered {
            peer.heard = now;
        }
        let lost = !answered && (peer.lost || now >= peer.heard + SILENCE);
        peer.changes += u64::from(lost != peer.lost);
        peer.lost = lost;
        if lost == peer.told_lost || peer.told.is_some_and(|told| now < told + LINE_EVERY) {
            return None;
        }
        (peer.told_lost, peer.told) = (lost, Some(now));
        let changes = std::mem::take(&mut peer.changes);
        Some(if lost { Line::Lost { changes } } else { Line::Back { changes } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stays_away_and_comes_back_is_two_lines() {
        let reach = Reach::default();
        let mut lines = Vec::new();
        for step in 0..1200 {
            tokio::time::advance(Duration::from_millis(100)).await;
            lines.extend(reach.note(2, !(10..900).contains(&step)));
        }
        assert_eq!(lines, [Line::Lost { changes: 1 }, Line::Back { changes: 1 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_comes_and_goes_is_one_line_a_minute() {
        let reach = Reach::default();
        let mut lines = 0;
        for step in 0..600 {
            // Two seconds of misses, then one answer, for twenty minutes.
            tokio::time::advance(Duration::from_secs(2)).await;
            lines += usize::from(reach.note(2, step % 2 == 0).is_some());
        }
        assert!((15..=20).contains(&lines), "{lines}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_late_answer_is_no_line() {
        let reach = Reach::default();
        reach.note(2, true);
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(reach.note(2, false), None);
        assert_eq!(reach.note(2, true), None);
    }
}
