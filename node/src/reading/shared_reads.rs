//! L3 reads under way in one namespace: who wants a page that is being read joins.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::{EntryKey, Epoch, SlotRef};
use futures::FutureExt;
use futures::future::Shared;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::api::Miss;
use crate::arena::Frame;
use crate::fair_semaphore::FairPermit;

/// What a read gave, for all its waiters: the frame, and its room until the last of them has it.
pub(super) type ReadAnswer = Result<(Frame, Arc<FairPermit>), Miss>;
/// A read under way. Dropping it does not end the read.
pub(super) type SharedRead = Shared<oneshot::Receiver<ReadAnswer>>;

/// What a read is of: a page in one epoch of its namespace, in one life of its slot. What was published anew is another
/// page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReadId {
    pub(super) epoch: Epoch,
    pub(super) key: EntryKey,
    pub(super) slot: SlotRef,
}

/// L3 reads under way, one a page.
#[derive(Default)]
pub(super) struct SharedReads {
    under_way: Mutex<BTreeMap<ReadId, SharedRead>>,
}

/// What who wants a page has now.
pub(super) enum Joined {
    /// Another's read of it.
    Present(SharedRead),
    /// A read of its own: to be begun, and ended with this answer.
    Own(SharedRead, oneshot::Sender<ReadAnswer>),
}

impl SharedReads {
    /// Joins the read of this page, or promises one.
    pub(super) fn join(&self, id: ReadId) -> Joined {
        let mut under_way = self.under_way.lock();
        if let Some(reading) = under_way.get(&id) {
            return Joined::Present(reading.clone());
        }
        let (answer, reading) = oneshot::channel();
        let reading = reading.shared();
        under_way.insert(id, reading.clone());
        Joined::Own(reading, answer)
    }

    /// The read of this page is over: the next asker starts anew.
    pub(super) fn ended(&self, id: &ReadId) {
        self.under_way.lock().remove(id);
    }
}
