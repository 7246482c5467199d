//! How far a prefetch may run ahead of the gets.

use std::collections::BTreeMap;

use foreword_proto::EntryKey;

/// Pages a prefetch runs ahead, at most.
pub const PREFETCH_PAGES_MAX: usize = 128;
/// The part of the arena prefetched pages may fill.
pub const PREFETCH_ARENA_PART: u64 = 16;
/// A prefetched page that no get asked for within this time counts as given up.
pub const PREFETCH_KEPT_MS: u64 = 10_000;

/// Pages prefetched and not asked for yet. When no get follows, the window is full and prefetching stops.
#[derive(Debug, Clone)]
pub struct PrefetchWindow {
    pages_max: usize,
    /// key -> when it was started
    ahead: BTreeMap<EntryKey, u64>,
}

impl PrefetchWindow {
    /// The window of an arena of this size for pages of this size.
    pub fn new(arena_bytes: u64, frame_bytes: u64) -> Self {
        let by_room = (arena_bytes / PREFETCH_ARENA_PART / frame_bytes.max(1)) as usize;
        Self { pages_max: by_room.clamp(1, PREFETCH_PAGES_MAX), ahead: BTreeMap::new() }
    }

    /// The first of these keys that fit into the window; they count as ahead from now on.
    pub fn start(&mut self, keys: impl IntoIterator<Item = EntryKey>, now_ms: u64) -> Vec<EntryKey> {
        self.ahead.retain(|_, started| *started + PREFETCH_KEPT_MS > now_ms);
        let mut started = Vec::new();
        for key in keys {
            if self.ahead.len() >= self.pages_max {
                break;
            }
            if self.ahead.insert(key, now_ms).is_none() {
                started.push(key);
            }
        }
        started
    }

    /// A get asked for this page, or the engine released it: the window moves on.
    pub fn followed(&mut self, key: &EntryKey) {
        self.ahead.remove(key);
    }

    /// True if nothing is ahead.
    pub fn is_empty(&self) -> bool {
        self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u8>) -> Vec<EntryKey> {
        range.map(|i| EntryKey([i; 16])).collect()
    }

    #[test]
    fn it_stops_when_no_get_follows_and_goes_on_when_one_does() {
        let mut window = PrefetchWindow::new(16 * 4 * 4096, 4096);
        assert_eq!(window.start(keys(0..10), 0), keys(0..4));
        assert_eq!(window.start(keys(4..10), 1), []);
        window.followed(&keys(0..1)[0]);
        assert_eq!(window.start(keys(4..10), 2), keys(4..5));
        assert_eq!(window.start(keys(10..20), PREFETCH_KEPT_MS), keys(10..13));
    }

    #[test]
    fn it_is_bounded_by_pages_and_by_room_and_never_empty() {
        assert_eq!(PrefetchWindow::new(u64::MAX, 4096).pages_max, PREFETCH_PAGES_MAX);
        assert_eq!(PrefetchWindow::new(4096, 4 << 20).pages_max, 1);
    }
}
