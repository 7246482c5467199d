//! Whether this replica is alone: a watcher of one that is would stay at its revision, and not know.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::group::{Group, Leader};

/// How often a replica looks.
const LOOK: Duration = Duration::from_millis(100);
/// What was heard so long ago is heard: some heartbeats.
const HEARD: Duration = Duration::from_millis(500);
/// Alone after so long: an election whose first round fails is over by then, and watchers stay where they are.
const ALONE: Duration = Duration::from_secs(2);

/// Whether this replica has heard no quorum, while it leads, and no leader, while it does not, for [`ALONE`]. It begins
/// as if it had.
pub type Alone = watch::Sender<bool>;

/// Keeps the group's [`Alone`] told, until the task is dropped.
pub async fn listen_for_others(group: Arc<Group>) {
    let mut heard = Instant::now();
    loop {
        let hears = match group.leader() {
            Leader::Here => group.quorum_heard_within(HEARD),
            Leader::There(_) | Leader::Unknown => group.followed.within(HEARD),
        };
        if hears {
            heard = Instant::now();
        }
        let alone = heard.elapsed() >= ALONE;
        group.alone.send_if_modified(|before| std::mem::replace(before, alone) != alone);
        sleep(LOOK).await;
    }
}
