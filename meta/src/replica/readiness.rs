//! Whether a replica is ready, and why not: docs/OPERATIONS.md names the reasons.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::Revision;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::group::{Group, Leader};
use super::rejoin::Standing;

/// How often a replica looks at itself.
const LOOK: Duration = Duration::from_millis(50);
/// What was committed so long ago is applied.
const APPLY_WITHIN: Duration = Duration::from_secs(5);
/// One try at what was committed at the start.
const TRY: Duration = Duration::from_secs(5);

/// Why a replica is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// The group goes on without it.
    Removed,
    /// What was committed at its start is not applied yet.
    CatchingUp,
    /// `applied` did not reach `committed` for [`APPLY_WITHIN`].
    Behind { applied: Revision, committed: Revision },
    /// It leads, and has not heard a quorum within this time.
    NoQuorum { within: Duration },
    /// It does not lead, and has not heard a leader within this time.
    NoLeader { within: Duration },
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("removed from the group"),
            Self::CatchingUp => f.write_str("catching up with the commit index seen at start"),
            Self::Behind { applied, committed } => {
                let within = APPLY_WITHIN.as_secs();
                write!(f, "behind: revision {committed} is committed, {applied} is applied, and was {within} s ago")
            }
            Self::NoQuorum { within } => {
                write!(f, "no quorum: this leader heard no majority within {} ms", within.as_millis())
            }
            Self::NoLeader { within } => write!(f, "no leader: none was heard within {} ms", within.as_millis()),
        }
    }
}

/// What this replica heard of its leader last: when, and what was committed then.
#[derive(Debug, Default)]
pub struct Followed {
    last: Mutex<Option<(Instant, Revision)>>,
}

impl Followed {
    /// A leader was heard and followed.
    pub(crate) fn heard(&self, committed: Revision) {
        let mut last = self.last.lock();
        let before = last.map_or(0, |(_, committed)| committed);
        *last = Some((Instant::now(), committed.max(before)));
    }

    pub(super) fn within(&self, time: Duration) -> bool {
        self.last.lock().is_some_and(|(at, _)| at.elapsed() <= time)
    }

    fn committed(&self) -> Revision {
        self.last.lock().map_or(0, |(_, committed)| committed)
    }
}

/// What is to be applied, and since when.
struct Progress {
    goal: Revision,
    since: Instant,
}

impl Progress {
    /// The goal, if it was missed for too long.
    fn missed(&mut self, applied: Revision, committed: Revision) -> Option<Revision> {
        if applied >= self.goal {
            *self = Self { goal: committed, since: Instant::now() };
        }
        (applied < self.goal && self.since.elapsed() > APPLY_WITHIN).then_some(self.goal)
    }
}

/// Keeps `standing` told, until the task is dropped. `election`: the longest election timeout.
pub async fn keep_readiness(group: Arc<Group>, standing: Arc<Standing>, election: Duration) {
    while group.catch_up(Instant::now() + TRY).await.is_err() {}
    let within = election * 2;
    let mut progress = Progress { goal: 0, since: Instant::now() };
    loop {
        let (here, applied) = (group.leader() == Leader::Here, group.applied.revision());
        // A leader commits what it has; what it cannot commit is what it is not ready for.
        let committed = match here {
            true => group.raft.metrics().borrow().last_log_index.unwrap_or(0),
            false => group.followed.committed(),
        };
        let behind = progress.missed(applied, committed).map(|committed| NotReady::Behind { applied, committed });
        let alone = match here {
            true => (!group.quorum_heard_within(within)).then_some(NotReady::NoQuorum { within }),
            false => (!group.followed.within(within)).then_some(NotReady::NoLeader { within }),
        };
        let removed = standing.removed().then_some(NotReady::Removed);
        standing.readiness_is(removed.or(alone).or(behind));
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_stays_unapplied_is_missed_and_what_moves_on_is_not() {
        let mut progress = Progress { goal: 0, since: Instant::now() };
        let later = async || tokio::time::advance(APPLY_WITHIN / 2 + Duration::from_millis(1)).await;
        assert_eq!(progress.missed(7, 9), None);
        later().await;
        // What was asked for first is there; more has come meanwhile.
        assert_eq!(progress.missed(9, 20), None);
        later().await;
        assert_eq!(progress.missed(19, 30), None);
        later().await;
        assert_eq!(progress.missed(19, 40), Some(20));
        assert_eq!(progress.missed(20, 40), None);
        later().await;
        later().await;
        assert_eq!(progress.missed(40, 40), None, "nothing to apply");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_was_heard_for_a_while() {
        let followed = Followed::default();
        assert!(!followed.within(APPLY_WITHIN));
        followed.heard(5);
        followed.heard(3);
        assert_eq!((followed.within(APPLY_WITHIN), followed.committed()), (true, 5));
        tokio::time::advance(APPLY_WITHIN + Duration::from_millis(1)).await;
        assert!(!followed.within(APPLY_WITHIN));
    }
}
