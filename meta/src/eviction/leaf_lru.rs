//! Exact leaf-first LRU: of all pages without a present child, the one that was asked for longest ago; then up its chain.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use foreword_proto::key::ParentHint;
use foreword_proto::{EntryKey, Epoch, NamespaceId};

use super::arena::{Arena, NONE, Node, NodeIndex, SpaceIndex, Standing};
use super::{EntryId, EvictionPolicy};
use crate::state::State;
use crate::state::command::{Event, Retirement};

/// Calls of `victims` after which a picked page whose retire has not been seen may be picked again.
const PICKED_CALLS_MAX: u64 = 16;
/// Nodes of cleared namespaces looked for with each event.
const SWEEP_NODES_PER_EVENT: usize = 256;
/// The class of namespaces whose slot size is not known yet.
const CLASS_UNKNOWN: u64 = 0;

/// A namespace between two clears.
#[derive(Debug, Clone, Copy)]
struct Space {
    namespace: NamespaceId,
    epoch: Epoch,
    /// Its slot size, 0 until a state was seen that has it.
    class: u64,
    /// Cleared, or its namespace was dropped.
    cleared: bool,
}

/// The policy. About 50 bytes a page, and 24 more for a page without children.
#[derive(Debug)]
pub struct LeafLru {
    arena: Arena,
    spaces: Vec<Space>,
    current: BTreeMap<NamespaceId, SpaceIndex>,
    /// Of each class, what may be picked next, by its last access.
    leaves: BTreeMap<u64, BTreeSet<(u64, NodeIndex)>>,
    accesses: u64,
    calls: u64,
    /// Picked pages by the call that picked them.
    picked: VecDeque<(u64, EntryId)>,
    /// Which nodes are still to be looked at for being of a cleared namespace.
    sweep: Range<usize>,
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
            current: BTreeMap::new(),
            leaves: BTreeMap::new(),
            accesses: 0,
            calls: 0,
            picked: VecDeque::new(),
            sweep: 0..0,
        }
    }

    /// Heap bytes of the nodes, from capacities.
    pub fn heap_bytes(&self) -> usize {
        self.arena.heap_bytes() + self.leaves.values().map(|leaves| leaves.len() * 24).sum::<usize>()
    }

    fn space_of(&mut self, namespace: NamespaceId) -> SpaceIndex {
        if let Some(space) = self.current.get(&namespace) {
            return *space;
        }
        // A namespace starts in epoch 1; one that was cleared before this policy began is known from `rebuild`.
        self.add_space(namespace, 1, CLASS_UNKNOWN)
    }

    fn add_space(&mut self, namespace: NamespaceId, epoch: Epoch, class: u64) -> SpaceIndex {
        let index = self.spaces.len() as SpaceIndex;
        self.spaces.push(Space { namespace, epoch, class, cleared: false });
        self.current.insert(namespace, index);
        index
    }

    fn next_stamp(&mut self) -> u64 {
        self.accesses += 1;
        self.accesses
    }

    fn leaves_of(&mut self, node: &Node) -> &mut BTreeSet<(u64, NodeIndex)> {
        let class = self.spaces[node.space as usize].class;
        self.leaves.entry(class).or_default()
    }

    /// Puts a node among the leaves if it is one.
    fn enter(&mut self, index: NodeIndex) {
        let node = *self.arena.node(index);
        if node.is_leaf() {
            self.leaves_of(&node).insert((node.stamp, index));
        }
    }

    /// Takes a node from the leaves if it is there.
    fn leave(&mut self, index: NodeIndex) {
        let node = *self.arena.node(index);
        if node.is_leaf() {
            self.leaves_of(&node).remove(&(node.stamp, index));
        }
    }

    fn published(&mut self, namespace: NamespaceId, key: EntryKey, parent: ParentHint) {
        let space = self.space_of(namespace);
        if let Some(index) = self.arena.page(space, &key) {
            // Known from a rebuild that was ahead of the events, or picked, retired and published anew.
            self.remove(index);
        }
        let index = self.arena.add_page(space, key);
        let stamp = self.next_stamp();
        self.arena.node_mut(index).stamp = stamp;
        self.attach(index, parent);
        self.enter(index);
    }

    /// Counts a page for its parent, which then is no leaf.
    fn attach(&mut self, index: NodeIndex, parent: ParentHint) {
        let node = *self.arena.node(index);
        if parent == 0 || parent == node.key.parent_hint() {
            return;
        }
        let above = self.arena.parent_node(node.space, parent);
        self.leave(above);
        self.arena.node_mut(above).children += 1;
        self.arena.node_mut(index).parent = above;
    }

    /// Takes a page off its parent, which may be a leaf again, or a ghost that nobody needs.
    fn detach(&mut self, index: NodeIndex) {
        let above = std::mem::replace(&mut self.arena.node_mut(index).parent, NONE);
        if above == NONE {
            return;
        }
        self.arena.node_mut(above).children -= 1;
        let parent = *self.arena.node(above);
        if parent.standing == Standing::Ghost && parent.children == 0 {
            self.arena.free(above);
        } else {
            self.enter(above);
        }
    }

    /// Forgets a page; if it has children, its ghost stays.
    fn remove(&mut self, index: NodeIndex) {
        self.leave(index);
        self.detach(index);
        if self.arena.node(index).children == 0 {
            self.arena.free(index);
        } else {
            self.arena.node_mut(index).standing = Standing::Ghost;
        }
    }

    fn cleared(&mut self, namespace: NamespaceId, epoch: Epoch) {
        let old = self.space_of(namespace);
        if self.spaces[old as usize].epoch == epoch {
            return;
        }
        let class = self.spaces[old as usize].class;
        self.give_up(old);
        self.add_space(namespace, epoch, class);
    }

    fn dropped(&mut self, namespace: NamespaceId) {
        if let Some(space) = self.current.remove(&namespace) {
            self.give_up(space);
        }
    }

    /// Nothing of this space is picked any more; its nodes are freed by and by.
    fn give_up(&mut self, space: SpaceIndex) {
        self.spaces[space as usize].cleared = true;
        self.sweep = 0..self.arena.len();
    }

    /// Frees some nodes of cleared namespaces. They have no more to do with any other.
    fn sweep_some(&mut self) {
        for _ in 0..SWEEP_NODES_PER_EVENT {
            let Some(index) = self.sweep.next() else { return };
            let index = index as NodeIndex;
            let node = *self.arena.node(index);
            if node.standing != Standing::Vacant && self.spaces[node.space as usize].cleared {
                self.drop_cleared(index);
            }
        }
    }

    fn drop_cleared(&mut self, index: NodeIndex) {
        let node = *self.arena.node(index);
        if node.standing == Standing::Ghost {
            // Its children are cleared too: the last of them frees it.
            return;
        }
        self.remove(index);
    }

    /// Learns slot sizes of namespaces that were registered since the last call.
    fn learn_classes(&mut self, state: &State) {
        let Some(unknown) = self.leaves.remove(&CLASS_UNKNOWN) else { return };
        for space in self.spaces.iter_mut().filter(|space| space.class == CLASS_UNKNOWN) {
            space.class = state.namespace(space.namespace).map_or(CLASS_UNKNOWN, |info| info.slot_bytes);
        }
        for (_, index) in unknown {
            self.enter(index);
        }
    }

    /// Lets pages be picked again whose retire was not seen for long: its proposal may have failed.
    fn forgive(&mut self, state: &State) {
        while self.picked.front().is_some_and(|(call, _)| call + PICKED_CALLS_MAX < self.calls) {
            let Some((_, id)) = self.picked.pop_front() else { return };
            let Some(space) = self.current.get(&id.namespace).copied() else { continue };
            let Some(index) = self.arena.page(space, &id.key) else { continue };
            if self.arena.node(index).standing == Standing::Picked && self.spaces[space as usize].epoch == id.epoch {
                self.arena.node_mut(index).standing = Standing::Present;
                self.attach(index, state.parent_of(id.namespace, &id.key).unwrap_or(0));
                self.enter(index);
            }
        }
    }

    /// The coldest leaf of a class. If hints form a circle there is none: any page will do then.
    fn coldest(&mut self, class: u64) -> Option<NodeIndex> {
        if let Some((_, index)) = self.leaves.get(&class).and_then(BTreeSet::first) {
            return Some(*index);
        }
        (0..self.arena.len() as NodeIndex).find(|index| {
            let node = self.arena.node(*index);
            node.standing == Standing::Present && self.spaces[node.space as usize].class == class
        })
    }

    /// Picks a page: gone, as far as its parent is concerned.
    fn pick(&mut self, index: NodeIndex) -> Option<EntryId> {
        self.leave(index);
        self.detach(index);
        self.arena.node_mut(index).standing = Standing::Picked;
        let node = *self.arena.node(index);
        let space = self.spaces[node.space as usize];
        (!space.cleared).then_some(EntryId { namespace: space.namespace, epoch: space.epoch, key: node.key })
    }
}

impl EvictionPolicy for LeafLru {
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Published { namespace, page } => self.published(*namespace, page.key, page.parent),
            Event::Retired { namespace, key, .. } => {
                let space = self.space_of(*namespace);
                if let Some(index) = self.arena.page(space, key) {
                    self.remove(index);
                }
            }
            Event::Cleared { namespace, epoch } => self.cleared(*namespace, *epoch),
            Event::NamespaceDropped { namespace } => self.dropped(*namespace),
            Event::SessionEnded { .. } => {}
        }
        self.sweep_some();
    }

    fn heat(&mut self, entries: &[EntryId]) {
        for id in entries {
            let Some(space) = self.current.get(&id.namespace).copied() else { continue };
            let Some(index) = self.arena.page(space, &id.key) else { continue };
            let standing = self.arena.node(index).standing;
            if self.spaces[space as usize].epoch == id.epoch && standing == Standing::Present {
                self.leave(index);
                let stamp = self.next_stamp();
                self.arena.node_mut(index).stamp = stamp;
                self.enter(index);
            }
        }
    }

    fn victims(&mut self, state: &State, slot_bytes: u64, need_slots: usize) -> Vec<Retirement> {
        self.calls += 1;
        self.learn_classes(state);
        self.forgive(state);
        let mut victims = Vec::new();
        while victims.len() < need_slots {
            let Some(index) = self.coldest(slot_bytes) else { break };
            let Some(id) = self.pick(index) else { continue };
            self.picked.push_back((self.calls, id));
            // Gone from a state that is ahead of the events: its retire will be observed.
            if let Some(location) = state.location(id.namespace, &id.key) {
                victims.push(Retirement { namespace: id.namespace, key: id.key, slot: location.slot });
            }
        }
        victims
    }

    fn rebuild(&mut self, state: &State) {
        *self = Self::new();
        for info in state.namespaces() {
            self.add_space(info.id, info.epoch, info.slot_bytes);
            state.pages_of(info.id, |page| self.published(info.id, page.key, page.parent));
        }
    }
}
