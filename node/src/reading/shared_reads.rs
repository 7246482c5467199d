//! L3 reads under way in one namespace: who wants a page that is being read joins.

use std::collections::BTreeMap;

use foreword_proto::EntryKey;
use futures::FutureExt;
use futures::future::Shared;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::api::Miss;
use crate::arena::Frame;

/// What a read gave, for all its waiters.
pub(super) type ReadAnswer = Result<Frame, Miss>;
/// A read under way. Dropping it does not end the read.
pub(super) type SharedRead = Shared<oneshot::Receiver<ReadAnswer>>;

/// L3 reads under way, one a page.
#[derive(Default)]
pub(super) struct SharedReads {
    under_way: Mutex<BTreeMap<EntryKey, SharedRead>>,
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
    pub(super) fn join(&self, key: EntryKey) -> Joined {
        let mut under_way = self.under_way.lock();
        if let Some(reading) = under_way.get(&key) {
            return Joined::Present(reading.clone());
        }
        let (answer, reading) = oneshot::channel();
        let reading = reading.shared();
        under_way.insert(key, reading.clone());
        Joined::Own(reading, answer)
    }

    /// The read of this page is over: the next asker starts anew.
    pub(super) fn ended(&self, key: &EntryKey) {
        self.under_way.lock().remove(key);
    }
}
