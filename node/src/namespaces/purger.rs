//! What the watch stream tells of one namespace: copies in L1 go, a new epoch begins, the namespace is gone.

use std::sync::{Arc, Weak};

use foreword_proto::{EntryKey, Epoch, NamespaceId};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Namespaces, OpenNamespace};
use crate::mirror::watcher::WatchEvents;

/// Pages of L1 that are looked at in one go after a resync.
const PURGE_SLICE_PAGES: usize = 1024;

/// Purges L1 of what was deleted or cleared.
pub(super) struct Purger {
    pub(super) namespaces: Weak<Namespaces>,
    pub(super) namespace: NamespaceId,
}

impl Purger {
    fn open(&self) -> Option<(Arc<Namespaces>, Arc<OpenNamespace>)> {
        let namespaces = self.namespaces.upgrade()?;
        let open = namespaces.get(self.namespace).ok()?;
        Some((namespaces, open))
    }
}

impl WatchEvents for Purger {
    fn purged(&self, keys: &[EntryKey]) {
        let Some((namespaces, open)) = self.open() else { return };
        let epoch = open.mirror.read(|view| view.epoch());
        namespaces.l1.write(|pages| {
            for key in keys {
                pages.remove(&open.page(epoch, *key));
            }
        });
    }

    fn purge_absent(&self) -> BoxFuture<'_, ()> {
        async {
            let Some((namespaces, open)) = self.open() else { return };
            let l1 = &namespaces.l1;
            let epoch = open.mirror.read(|view| view.epoch());
            // A slice at a time: the whole tier may hold millions of pages.
            for segment in l1.read(|pages| pages.segments()) {
                let mut copies = l1.read(|pages| pages.keys_in(segment, self.namespace, epoch));
                while !copies.is_empty() {
                    let slice = copies.split_off(copies.len().saturating_sub(PURGE_SLICE_PAGES));
                    open.mirror.read(|view| {
                        l1.write(|pages| {
                            for key in slice.iter().filter(|key| view.slot(key).is_none()) {
                                pages.remove(&open.page(epoch, *key));
                            }
                        });
                    });
                    tokio::task::yield_now().await;
                }
            }
        }
        .boxed()
    }

    fn epoch_began(&self, epoch: Epoch) {
        let Some(namespaces) = self.namespaces.upgrade() else { return };
        namespaces.l1.write(|pages| pages.remove_namespace(self.namespace, epoch.saturating_sub(1)));
    }

    fn dropped(&self) {
        if let Some(namespaces) = self.namespaces.upgrade() {
            namespaces.close_dropped(self.namespace);
        }
    }

    fn resynced(&self) {
        if let Some(namespaces) = self.namespaces.upgrade() {
            namespaces.counters.watch_resyncs.add(1);
        }
    }
}
