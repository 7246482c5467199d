//! Page files that were dropped: until when their pages rest, and their memory.
//!
//! The bytes of a page file are in a file that is named after it. So when one of the same name is made anew, its pages
//! are those that readers and writers of the dropped one may still use: none is given out before its rest is over.

use std::collections::VecDeque;
use std::sync::Arc;

use super::FileName;
use super::file::{File, Remains};
use crate::state::codec::record;

/// A dropped page file whose pages may still be in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DroppedFile {
    pub(super) name: FileName,
    /// Its pages may be given out from this tick on.
    pub(super) due_ms: u64,
}

record!(DroppedFile { name, due_ms });

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// By `due_ms`; a name may be there twice.
    resting: VecDeque<DroppedFile>,
    /// What is to be let go of; not of the state itself.
    remains: VecDeque<Remains>,
}

/// What is to be let go of stays with the original.
impl Clone for Dropped {
    fn clone(&self) -> Self {
        Self { resting: self.resting.clone(), remains: VecDeque::new() }
    }
}

impl Dropped {
    /// Adds a file; returns until when its pages rest.
    pub(super) fn add(&mut self, file: Arc<File>, due_ms: u64) {
        // A file that is cleared may rest longer than a drop asks for.
        let last_ms = self.resting.back().map_or(0, |last| last.due_ms);
        let due_ms = due_ms.max(file.rests_until_ms()).max(last_ms);
        self.resting.push_back(DroppedFile { name: file.name().clone(), due_ms });
        // One that a snapshot still holds goes with the snapshot.
        if let Ok(file) = Arc::try_unwrap(file) {
            self.remains.push_back(file.into_remains());
        }
    }

    /// Until when the pages of a file of this name rest, if one was dropped lately.
    pub(super) fn rest_of(&self, name: &FileName) -> Option<u64> {
        self.resting.iter().rev().find(|dropped| dropped.name == *name).map(|dropped| dropped.due_ms)
    }

    /// Forgets those whose rest is over, and lets go of a part of what is left of them: all of a large file at once
    /// would take tens of milliseconds.
    pub(super) fn tick(&mut self, tick_ms: u64) {
        while self.resting.front().is_some_and(|first| first.due_ms <= tick_ms) {
            self.resting.pop_front();
        }
        if self.remains.front_mut().is_some_and(|first| !first.drop_some()) {
            self.remains.pop_front();
        }
    }

    /// In the order of their deadlines.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &DroppedFile> {
        self.resting.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.resting.len()
    }

    /// Puts one back, behind those that are there; false if it cannot be there.
    pub(super) fn put_back(&mut self, dropped: DroppedFile) -> bool {
        let ordered = self.resting.back().is_none_or(|last| last.due_ms <= dropped.due_ms);
        if ordered {
            self.resting.push_back(dropped);
        }
        ordered
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.remains.iter().map(Remains::heap_bytes).sum()
    }
}
