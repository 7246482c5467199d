//! Reading ahead of the gets.

use std::sync::Arc;

use foreword_proto::{EntryKey, NamespaceId, PageKey};

use super::Core;
use crate::api::ApiError;

impl Core {
    pub(super) fn prefetch(self: &Arc<Self>, namespace: NamespaceId, keys: &[PageKey]) -> Result<u32, ApiError> {
        let open = self.open(namespace)?;
        let now_ms = self.started.elapsed().as_millis() as u64;
        if !self.l3.asked() {
            return Ok(0);
        }
        let wanted: Vec<EntryKey> = open.mirror.read(|view| {
            let entries = keys.iter().map(PageKey::entry);
            self.l1.read(|pages| {
                let away = |key: &EntryKey| !pages.contains(&open.page(view.epoch(), *key));
                entries.filter(|key| away(key) && view.present(key)).collect()
            })
        });
        let started = open.ahead.lock().start(wanted, now_ms);
        let mut count = 0;
        for key in started {
            let location = open.mirror.read(|view| view.location(&key).map(|location| (view.epoch(), location)));
            // What gets take comes first.
            let room = self.get_room.take_now(open.geometry.frame_bytes);
            let (Some((epoch, location)), Some(room)) = (location, room) else {
                open.ahead.lock().followed(&key);
                continue;
            };
            let reading = self.shared_read(&open, epoch, key, location);
            count += 1;
            self.spawn(async move {
                let _ = reading.await;
                drop(room);
            });
        }
        Ok(count)
    }

    pub(super) fn release(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<(), ApiError> {
        let open = self.open(namespace)?;
        let mut ahead = open.ahead.lock();
        for key in keys {
            ahead.followed(&key.entry());
        }
        Ok(())
    }
}
