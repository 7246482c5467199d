//! The pages of one class from the coldest to the hottest, as a list through their nodes, and where the coldest leaves
//! are in it.
//!
//! Pages with children stand in the list too, so that one whose last child leaves is at its place, and picked ones
//! until they are gone. A *cursor* goes through the list: before it no page is a leaf but those in `ripe`, which became
//! leaves after it had passed. Each page is passed once after each access, so finding the coldest leaf costs O(1) per
//! access.
//!
//! When no leaf is left and pages are, all of these have children: their hints form circles. The cursor then begins
//! anew, and stops at any page.

use std::collections::BTreeSet;

use super::arena::{Arena, NONE, NodeIndex, Stamp};

/// One class. Its nodes' stamps rise from `coldest` to `hottest`.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) slot_bytes: u64,
    coldest: NodeIndex,
    hottest: NodeIndex,
    /// The first page that was not looked at; [`NONE`] behind the last.
    cursor: NodeIndex,
    /// Leaves before the cursor.
    ripe: BTreeSet<(Stamp, NodeIndex)>,
    /// Pages in the list that are present, not picked, and of no cleared space.
    pub(super) present: usize,
    /// Pages up to this stamp are in circles of hints.
    circles_to: Stamp,
}

impl Order {
    pub(super) fn new(slot_bytes: u64) -> Self {
        Self {
            slot_bytes,
            coldest: NONE,
            hottest: NONE,
            cursor: NONE,
            ripe: BTreeSet::new(),
            present: 0,
            circles_to: 0,
        }
    }

    /// Puts a page that stands nowhere at the hot end.
    pub(super) fn push_hottest(&mut self, arena: &mut Arena, index: NodeIndex, stamp: Stamp) {
        let colder = self.hottest;
        let node = arena.node_mut(index);
        (node.stamp, node.colder, node.hotter) = (stamp, colder, NONE);
        match colder {
            NONE => self.coldest = index,
            _ => arena.node_mut(colder).hotter = index,
        }
        self.hottest = index;
        if self.cursor == NONE {
            self.cursor = index;
        }
    }

    /// Takes a page out, which is not among the ripe ones.
    pub(super) fn unlink(&mut self, arena: &mut Arena, index: NodeIndex) {
        let (colder, hotter) = (arena.node(index).colder, arena.node(index).hotter);
        match colder {
            NONE => self.coldest = hotter,
            _ => arena.node_mut(colder).hotter = hotter,
        }
        match hotter {
            NONE => self.hottest = colder,
            _ => arena.node_mut(hotter).colder = colder,
        }
        if self.cursor == index {
            self.cursor = hotter;
        }
    }

    fn is_passed(&self, arena: &Arena, index: NodeIndex) -> bool {
        self.cursor == NONE || arena.node(index).stamp < arena.node(self.cursor).stamp
    }

    /// A page became a leaf.
    pub(super) fn ripen(&mut self, arena: &Arena, index: NodeIndex) {
        if self.is_passed(arena, index) {
            self.ripe.insert((arena.node(index).stamp, index));
        }
    }

    /// A leaf is none any more, or is about to leave its place.
    pub(super) fn unripen(&mut self, arena: &Arena, index: NodeIndex) {
        if self.is_passed(arena, index) {
            self.ripe.remove(&(arena.node(index).stamp, index));
        }
    }

    /// The coldest page that may be a leaf: a ripe one, else the one at the cursor. None: there is no page that can be
    /// picked.
    pub(super) fn candidate(&mut self, arena: &Arena) -> Option<NodeIndex> {
        if let Some((_, index)) = self.ripe.first() {
            return Some(*index);
        }
        if self.cursor == NONE && self.present > 0 {
            self.cursor = self.coldest;
            self.circles_to = arena.node(self.hottest).stamp;
        }
        (self.cursor != NONE).then_some(self.cursor)
    }

    /// Whether a page that is present and has children is picked all the same.
    pub(super) fn is_in_circle(&self, stamp: Stamp) -> bool {
        stamp <= self.circles_to
    }

    /// The page at the cursor is not picked.
    pub(super) fn pass(&mut self, arena: &Arena) {
        self.cursor = arena.node(self.cursor).hotter;
    }

    /// Gives out stamps anew, from 1; the highest.
    pub(super) fn renumber(&mut self, arena: &mut Arena) -> Stamp {
        let was_ripe = std::mem::take(&mut self.ripe);
        // Found again when the cursor comes to the end.
        self.circles_to = 0;
        let (mut index, mut stamp) = (self.coldest, 0);
        while index != NONE {
            stamp += 1;
            arena.node_mut(index).stamp = stamp;
            index = arena.node(index).hotter;
        }
        self.ripe = was_ripe.into_iter().map(|(_, index)| (arena.node(index).stamp, index)).collect();
        stamp
    }

    /// Heap bytes of what is not in nodes, about.
    pub(super) fn heap_bytes(&self) -> usize {
        self.ripe.len() * 2 * size_of::<(Stamp, NodeIndex)>()
    }
}
