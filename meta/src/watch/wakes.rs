//! Which streams an entry wakes: those that watch a namespace it changed, and those that wait for any revision at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_proto::{NamespaceId, Revision};
use tokio::sync::Notify;

use super::encoded::EncodedEntry;

/// One stream, as the hub wakes it.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// The last entry that changed a namespace of the stream.
    touched: AtomicU64,
    notify: Notify,
}

impl Wake {
    pub(super) fn up(&self) {
        self.notify.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }

    pub(super) fn touched(&self) -> Revision {
        self.touched.load(Ordering::Acquire)
    }

    fn touch(&self, revision: Revision) {
        self.touched.fetch_max(revision, Ordering::AcqRel);
    }
}

/// The streams of one replica.
#[derive(Default)]
pub(super) struct Wakes {
    by_namespace: BTreeMap<NamespaceId, Vec<Arc<Wake>>>,
    eager: Vec<Arc<Wake>>,
    /// The last entry that was asked about here: who follows from now on has to look at it himself.
    last: Revision,
}

impl Wakes {
    pub(super) fn follow(&mut self, namespace: NamespaceId, wake: &Arc<Wake>) {
        wake.touch(self.last);
        self.by_namespace.entry(namespace).or_default().push(wake.clone());
    }

    pub(super) fn leave(&mut self, namespace: NamespaceId, wake: &Arc<Wake>) {
        let Some(wakes) = self.by_namespace.get_mut(&namespace) else { return };
        wakes.retain(|other| !Arc::ptr_eq(other, wake));
        if wakes.is_empty() {
            self.by_namespace.remove(&namespace);
        }
    }

    pub(super) fn be_eager(&mut self, wake: &Arc<Wake>, eager: bool) {
        self.eager.retain(|other| !Arc::ptr_eq(other, wake));
        if eager {
            self.eager.push(wake.clone());
        }
    }

    /// Notes an entry with those whom it concerns; they are to be woken once its revision is told.
    pub(super) fn touched(&mut self, entry: &EncodedEntry) -> Vec<Arc<Wake>> {
        self.last = entry.revision;
        let followed = entry.namespaces().filter_map(|namespace| self.by_namespace.get(&namespace));
        let wakes: Vec<Arc<Wake>> = followed.flatten().cloned().collect();
        wakes.iter().for_each(|wake| wake.touch(entry.revision));
        wakes
    }

    /// Like [`Self::touched`], for something that concerns all.
    pub(super) fn all(&mut self, revision: Revision) -> Vec<Arc<Wake>> {
        self.last = revision;
        let wakes: Vec<Arc<Wake>> = self.by_namespace.values().flatten().cloned().collect();
        wakes.iter().for_each(|wake| wake.touch(revision));
        wakes
    }

    pub(super) fn eager(&self) -> impl Iterator<Item = &Arc<Wake>> {
        self.eager.iter()
    }
}
