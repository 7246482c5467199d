//! Pages found bad, until the group is told.

use std::mem;

use foreword_proto::NamespaceId;
use foreword_proto::limits::SUSPECTS_PER_REPORT_MAX;
use foreword_proto::records::SuspectRecord;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Reports waiting; more are dropped, since the agent avoids the pages anyway and the next reader reports again.
const WAITING_MAX: usize = 4 * SUSPECTS_PER_REPORT_MAX;

/// Reports that wait to be sent.
#[derive(Default)]
pub(crate) struct Suspects {
    waiting: Mutex<Vec<(NamespaceId, SuspectRecord)>>,
    added: Notify,
}

impl Suspects {
    pub(super) fn add(&self, namespace: NamespaceId, suspect: SuspectRecord) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push((namespace, suspect));
        }
        drop(waiting);
        self.added.notify_one();
    }

    /// Waits until some were added since the last time.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// All that wait, in the order of their coming.
    pub(crate) fn take(&self) -> Vec<(NamespaceId, SuspectRecord)> {
        mem::take(&mut *self.waiting.lock())
    }
}
