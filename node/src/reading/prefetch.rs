//! Reading ahead of the gets.

use foreword_proto::{EntryKey, NamespaceId, PageKey};

use super::Reading;
use crate::api::ApiError;

impl Reading {
    /// Begins to read pages into L1, as many as the window allows; gives their number.
    pub(crate) fn prefetch(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<u32, ApiError> {
        let reads = self.namespaces.get(namespace)?;
        let open = &reads.open;
        let now_ms = self.started.elapsed().as_millis() as u64;
        let entries: Vec<EntryKey> = keys.iter().map(PageKey::entry).collect();
        let wanted: Vec<EntryKey> = open.mirror.read(|view| {
            let places = self.places(open, view);
            let away = entries.iter().zip(places.of_all(&entries)).filter(|(_, place)| !place.in_l1 && place.on_l3);
            away.map(|(key, _)| *key).collect()
        });
        let started = reads.ahead.lock().start(wanted, now_ms);
        let mut count = 0;
        for key in started {
            let location = open.mirror.read(|view| view.location(&key).map(|location| (view.epoch(), location)));
            // What gets take comes first.
            let room = self.room.take_now(open.asker(), open.geometry.frame_bytes);
            let (Some((epoch, location)), Some(room)) = (location, room) else {
                reads.ahead.lock().followed(&key);
                continue;
            };
            let room = std::future::ready(Some(room));
            let reading = self.reader.shared_read(&reads, epoch, key, location, room);
            count += 1;
            self.tasks.spawn(async move { drop(reading.await) });
        }
        Ok(count)
    }

    /// Pages that will not be asked for after all.
    pub(crate) fn release(&self, namespace: NamespaceId, keys: &[PageKey]) -> Result<(), ApiError> {
        let reads = self.namespaces.get(namespace)?;
        let mut ahead = reads.ahead.lock();
        for key in keys {
            ahead.followed(&key.entry());
        }
        Ok(())
    }
}
