//! Exact leaf-first LRU: of all pages without a present child, the one that was asked for longest ago; then up its
//! chain.

use std::collections::{BTreeMap, VecDeque};

use foreword_proto::key::ParentHint;
use foreword_proto::{EntryKey, Epoch, NamespaceId};

use super::arena::{Arena, NONE, NodeIndex, SpaceIndex, Stamp, Standing};
use super::order::Order;
use super::{EntryId, EvictionPolicy};
use crate::state::command::Event;

/// Rounds after which a picked page whose retire has not been seen may be picked again.
const PICKED_ROUNDS_MAX: u64 = 16;

/// Pages of the longest circle of hints that is seen when it closes. Pages of a longer one go when there are no leaves
/// left.
const CIRCLE_PAGES_MAX: usize = 4096;

/// A namespace between two clears.
#[derive(Debug, Clone, Copy)]
struct Space {
    namespace: NamespaceId,
    epoch: Epoch,
    /// Which of the orders its pages stand in.
    order: usize,
    /// Nodes of it that are in use, and those of pages that may be picked.
    nodes: u32,
    present: u32,
    /// Cleared, or its namespace was dropped: none of it is picked, its nodes are freed by and by, and then its number
    /// is.
    cleared: bool,
}

/// A page that was picked and whose retire was not seen yet.
#[derive(Debug, Clone, Copy)]
struct Picked {
    round: u64,
    id: EntryId,
    parent: ParentHint,
}

/// The policy. 40 bytes a page and 5 to 11 to find it.
#[derive(Debug)]
pub struct LeafLru {
    arena: Arena,
    spaces: Vec<Space>,
    /// Spaces whose number is free.
    vacant: Vec<SpaceIndex>,
    current: BTreeMap<NamespaceId, SpaceIndex>,
    /// One of each class.
    orders: Vec<Order>,
    accesses: Stamp,
    rounds: u64,
    picked: VecDeque<Picked>,
    /// Cleared spaces that have nodes.
    cleared: usize,
    /// The next node to be looked at for being of a cleared space, and how many are left to be.
    sweep_next: usize,
    sweep_left: usize,
}

impl Default for LeafLru {
    fn default() -> Self {
        Self::new()
    }
}

impl LeafLru {
    /// A policy that knows no page.
    pub fn new() -> Self {
        Self {
            arena: Arena::new(),
            spaces: Vec::new(),
            vacant: Vec::new(),
            current: BTreeMap::new(),
            orders: Vec::new(),
            accesses: 0,
            rounds: 0,
            picked: VecDeque::new(),
            cleared: 0,
            sweep_next: 0,
            sweep_left: 0,
        }
    }

    fn space_of(
        &mut self,
        namespace: NamespaceId,
        slot_bytes_of: &dyn Fn(NamespaceId) -> Option<u64>,
    ) -> Option<SpaceIndex> {
        if let Some(space) = self.current.get(&namespace) {
            return Some(*space);
        }
        // Registered since this policy began, and a namespace begins in epoch 1.
        let slot_bytes = slot_bytes_of(namespace)?;
        let order = self.order_of(slot_bytes);
        Some(self.add_space(namespace, 1, order))
    }

    fn order_of(&mut self, slot_bytes: u64) -> usize {
        let found = self.orders.iter().position(|order| order.slot_bytes == slot_bytes);
        found.unwrap_or_else(|| {
            self.orders.push(Order::new(slot_bytes));
            self.orders.len() - 1
        })
    }

    fn add_space(&mut self, namespace: NamespaceId, epoch: Epoch, order: usize) -> SpaceIndex {
        let space = Space { namespace, epoch, order, nodes: 0, present: 0, cleared: false };
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.spaces.push(space);
            self.spaces.len() as SpaceIndex - 1
        });
        self.spaces[index as usize] = space;
        self.current.insert(namespace, index);
        index
    }

    fn order(&mut self, index: NodeIndex) -> (&mut Order, &mut Arena) {
        let space = self.arena.node(index).space;
        (&mut self.orders[self.spaces[space as usize].order], &mut self.arena)
    }

    /// A page of this node may be picked, or not any more.
    fn count_present(&mut self, index: NodeIndex, more: bool) {
        let space = &mut self.spaces[self.arena.node(index).space as usize];
        space.present = if more { space.present + 1 } else { space.present - 1 };
        if !space.cleared {
            let present = &mut self.orders[space.order].present;
            *present = if more { *present + 1 } else { *present - 1 };
        }
    }

    fn next_stamp(&mut self) -> Stamp {
        if self.accesses == Stamp::MAX {
            let highest = self.orders.iter_mut().map(|order| order.renumber(&mut self.arena)).max();
            self.accesses = highest.unwrap_or(0);
        }
        self.accesses += 1;
        self.accesses
    }

    /// Lets a node be picked if it is a leaf that nobody cleared.
    fn enter(&mut self, index: NodeIndex) {
        let node = self.arena.node(index);
        if node.is_leaf() && !self.spaces[node.space as usize].cleared {
            let (order, arena) = self.order(index);
            order.ripen(arena, index);
        }
    }

    /// Takes a node from the leaves if it is there.
    fn leave(&mut self, index: NodeIndex) {
        if self.arena.node(index).is_leaf() {
            let (order, arena) = self.order(index);
            order.unripen(arena, index);
        }
    }

    fn published(&mut self, space: SpaceIndex, key: EntryKey, parent: ParentHint) {
        let (index, new) = loop {
            match self.arena.add_page(space, key) {
                Ok(added) => break added,
                // Picked, retired and published anew in entries of which the policy saw the last only.
                Err(before) => self.remove(before),
            }
        };
        self.spaces[space as usize].nodes += u32::from(new);
        let stamp = self.next_stamp();
        let (order, arena) = self.order(index);
        order.push_hottest(arena, index, stamp);
        self.count_present(index, true);
        self.attach(index, parent);
        self.enter(index);
    }

    /// Counts a page for its parent, which then is no leaf.
    fn attach(&mut self, index: NodeIndex, parent: ParentHint) {
        let node = *self.arena.node(index);
        if parent == 0 || parent == node.key.parent_hint() {
            return;
        }
        let (above, new) = self.arena.parent_node(node.space, parent);
        self.spaces[node.space as usize].nodes += u32::from(new);
        // Only a page that has children already can close a circle: it goes without a parent, or none of the circle
        // would ever be a leaf.
        if !new && node.children() > 0 && self.leads_to(above, index) {
            return;
        }
        self.leave(above);
        self.arena.node_mut(above).add_child();
        self.arena.node_mut(index).parent = above;
    }

    /// Whether a node's chain upwards comes to another one, as far as is looked.
    fn leads_to(&self, from: NodeIndex, to: NodeIndex) -> bool {
        let above = |at: &NodeIndex| Some(self.arena.node(*at).parent).filter(|parent| *parent != NONE);
        std::iter::successors(Some(from), above).take(CIRCLE_PAGES_MAX).any(|at| at == to)
    }

    /// Takes a page off its parent, which may be a leaf again, or a ghost that nobody needs. Answers with its hint, 0
    /// for none.
    fn detach(&mut self, index: NodeIndex) -> ParentHint {
        let above = std::mem::replace(&mut self.arena.node_mut(index).parent, NONE);
        if above == NONE {
            return 0;
        }
        self.arena.node_mut(above).remove_child();
        let parent = *self.arena.node(above);
        if parent.standing() == Standing::Ghost && parent.children() == 0 {
            self.free(above);
        } else {
            self.enter(above);
        }
        parent.key.parent_hint()
    }

    /// Forgets a page; if it has children, its ghost stays.
    fn remove(&mut self, index: NodeIndex) {
        self.leave(index);
        if self.arena.node(index).standing() == Standing::Present {
            self.count_present(index, false);
        }
        let (order, arena) = self.order(index);
        order.unlink(arena, index);
        self.detach(index);
        if self.arena.node(index).children() == 0 {
            self.free(index);
        } else {
            self.arena.node_mut(index).stand_as(Standing::Ghost);
        }
    }

    /// Gives up a node that stands nowhere; the last one of a cleared space gives up the space.
    fn free(&mut self, index: NodeIndex) {
        let number = self.arena.node(index).space;
        self.arena.free(index);
        let space = &mut self.spaces[number as usize];
        space.nodes -= 1;
        if space.cleared && space.nodes == 0 {
            self.vacant.push(number);
            self.cleared -= 1;
        }
    }

    /// Nothing of this space is picked any more; [`EvictionPolicy::sweep`] frees its nodes.
    fn give_up(&mut self, number: SpaceIndex) {
        let space = &mut self.spaces[number as usize];
        space.cleared = true;
        self.orders[space.order].present -= space.present as usize;
        if space.nodes == 0 {
            self.vacant.push(number);
        } else {
            self.cleared += 1;
            self.sweep_left = self.arena.len();
        }
    }

    fn clear(&mut self, number: SpaceIndex, epoch: Epoch) {
        let Space { namespace, epoch: old, order, .. } = self.spaces[number as usize];
        if old != epoch {
            self.give_up(number);
            self.add_space(namespace, epoch, order);
        }
    }

    /// Picks a page: gone, as far as its parent is concerned.
    fn pick(&mut self, index: NodeIndex) -> EntryId {
        self.leave(index);
        self.arena.node_mut(index).stand_as(Standing::Picked);
        self.count_present(index, false);
        let parent = self.detach(index);
        let node = *self.arena.node(index);
        let Space { namespace, epoch, .. } = self.spaces[node.space as usize];
        let id = EntryId { namespace, epoch, key: node.key };
        self.picked.push_back(Picked { round: self.rounds, id, parent });
        id
    }

    /// The coldest leaf of a class, as far as `steps` go.
    fn coldest(&mut self, order: usize, steps: &mut usize) -> Option<NodeIndex> {
        while *steps > 0 {
            *steps -= 1;
            let index = self.orders[order].candidate(&self.arena)?;
            let node = *self.arena.node(index);
            if self.spaces[node.space as usize].cleared {
                // The sweep has not come here yet.
                self.remove(index);
                continue;
            }
            let present = node.standing() == Standing::Present;
            if node.is_leaf() || present && self.orders[order].is_in_circle(node.stamp) {
                return Some(index);
            }
            self.orders[order].pass(&self.arena);
        }
        None
    }

    /// The node of an entry, if it is of the epoch that the policy has.
    fn node_of(&self, id: &EntryId) -> Option<NodeIndex> {
        let space = *self.current.get(&id.namespace)?;
        if self.spaces[space as usize].epoch != id.epoch {
            return None;
        }
        self.arena.page(space, &id.key)
    }
}

impl EvictionPolicy for LeafLru {
    fn restart(&mut self, pages: usize) {
        *self = Self::new();
        self.arena.reserve(pages);
    }

    fn open(&mut self, namespace: NamespaceId, epoch: Epoch, slot_bytes: u64) {
        let order = self.order_of(slot_bytes);
        self.add_space(namespace, epoch, order);
    }

    fn page(&mut self, namespace: NamespaceId, key: EntryKey, parent: ParentHint) {
        if let Some(space) = self.current.get(&namespace) {
            self.published(*space, key, parent);
        }
    }

    fn observe(&mut self, event: &Event, slot_bytes_of: &dyn Fn(NamespaceId) -> Option<u64>) {
        match event {
            Event::Published { namespace, page } => {
                if let Some(space) = self.space_of(*namespace, slot_bytes_of) {
                    self.published(space, page.key, page.parent);
                }
            }
            Event::Retired { namespace, key, .. } => {
                let space = self.current.get(namespace);
                if let Some(index) = space.and_then(|space| self.arena.page(*space, key)) {
                    self.remove(index);
                }
            }
            Event::AbsentDeleted { .. } => {}
            Event::Cleared { namespace, epoch } => {
                if let Some(space) = self.space_of(*namespace, slot_bytes_of) {
                    self.clear(space, *epoch);
                }
            }
            Event::NamespaceDropped { namespace } => {
                if let Some(space) = self.current.remove(namespace) {
                    self.give_up(space);
                }
            }
            Event::SessionEnded { .. } => {}
        }
    }

    fn heat(&mut self, id: &EntryId) {
        let Some(index) = self.node_of(id) else { return };
        if self.arena.node(index).standing() == Standing::Present {
            self.leave(index);
            let stamp = self.next_stamp();
            let (order, arena) = self.order(index);
            order.unlink(arena, index);
            order.push_hottest(arena, index, stamp);
            self.enter(index);
        }
    }

    fn begin_round(&mut self) {
        self.rounds += 1;
        while self.picked.front().is_some_and(|picked| picked.round + PICKED_ROUNDS_MAX < self.rounds) {
            let Some(Picked { id, parent, .. }) = self.picked.pop_front() else { return };
            let Some(index) = self.node_of(&id) else { continue };
            // Its proposal may have failed.
            if self.arena.node(index).standing() == Standing::Picked {
                self.arena.node_mut(index).stand_as(Standing::Present);
                self.count_present(index, true);
                self.attach(index, parent);
                self.enter(index);
            }
        }
    }

    fn victims(&mut self, slot_bytes: u64, need: usize, steps: &mut usize) -> Vec<EntryId> {
        let mut victims = Vec::new();
        let Some(order) = self.orders.iter().position(|order| order.slot_bytes == slot_bytes) else { return victims };
        while victims.len() < need {
            let Some(index) = self.coldest(order, steps) else { break };
            victims.push(self.pick(index));
        }
        victims
    }

    fn sweep(&mut self, nodes_max: usize) -> bool {
        for _ in 0..nodes_max {
            if self.cleared == 0 || self.sweep_left == 0 {
                return false;
            }
            let index = self.sweep_next as NodeIndex;
            self.sweep_next = if self.sweep_next + 1 < self.arena.len() { self.sweep_next + 1 } else { 0 };
            self.sweep_left -= 1;
            let node = self.arena.node(index);
            // The last child of a cleared ghost frees it.
            let page = matches!(node.standing(), Standing::Present | Standing::Picked);
            if page && self.spaces[node.space as usize].cleared {
                self.remove(index);
            }
        }
        self.cleared > 0 && self.sweep_left > 0
    }

    fn heap_bytes(&self) -> usize {
        let orders: usize = self.orders.iter().map(Order::heap_bytes).sum();
        let spaces = self.spaces.capacity() * size_of::<Space>() + self.vacant.capacity() * size_of::<SpaceIndex>();
        self.arena.heap_bytes() + orders + spaces + self.picked.capacity() * size_of::<Picked>()
    }
}

#[cfg(test)]
mod tests;
