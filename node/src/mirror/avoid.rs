//! Pages whose bytes on L3 this agent found bad: not read again while the index still names that slot in that
//! generation.

use std::collections::{BTreeMap, VecDeque};

use foreword_proto::{EntryKey, SlotRef};

/// Pages avoided at most; beyond that the oldest is tried again.
pub const AVOIDED_PAGES_MAX: usize = 4096;

/// The avoided pages.
#[derive(Debug, Clone, Default)]
pub struct AvoidList {
    pages: BTreeMap<EntryKey, SlotRef>,
    order: VecDeque<EntryKey>,
}

impl AvoidList {
    /// Avoids a page at this slot.
    pub fn add(&mut self, key: EntryKey, slot: SlotRef) {
        if self.pages.insert(key, slot).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > AVOIDED_PAGES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.pages.remove(&oldest);
            }
        }
    }

    /// True if the page is avoided at this slot in this generation.
    pub fn has(&self, key: &EntryKey, slot: SlotRef) -> bool {
        !self.pages.is_empty() && self.pages.get(key) == Some(&slot)
    }

    /// The entry at this slot is gone, or its bytes can be read after all.
    pub fn retired(&mut self, key: &EntryKey, slot: SlotRef) {
        if self.has(key, slot) {
            self.pages.remove(key);
            self.order.retain(|other| other != key);
        }
    }
}
