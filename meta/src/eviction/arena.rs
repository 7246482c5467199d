//! Pages as a forest of chains: who is whose parent, by the hints that publishes carry. 40 bytes a node and 5 to 11 to find it.
//!
//! A page whose children came first, or stayed when it left, is a *ghost*: a node that is only known by its hint. Counts
//! are thus right whatever order pages come and go in.

use foreword_proto::EntryKey;
use foreword_proto::key::ParentHint;
use hashbrown::HashTable;

/// Position of a node.
pub(super) type NodeIndex = u32;
/// No node.
pub(super) const NONE: NodeIndex = u32::MAX;
/// The entries of one namespace between two clears, as the policy numbers them.
pub(super) type SpaceIndex = u32;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A page that is in the index.
    Present,
    /// A page that was picked as a victim: gone already, as far as its parent is concerned.
    Picked,
    /// A parent that is not in the index while children of it are.
    Ghost,
    /// Not in use.
    Vacant,
}

/// One page, or ghost of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) key: EntryKey,
    /// When it was last asked for, in accesses.
    pub(super) stamp: u64,
    pub(super) space: SpaceIndex,
    /// Its parent's node; of a vacant node the next vacant one.
    pub(super) parent: NodeIndex,
    /// Children that are present.
    pub(super) children: u32,
    pub(super) standing: Standing,
}

const _: () = assert!(size_of::<Node>() == 40);

impl Node {
    /// True for a page that may be picked next.
    pub(super) fn is_leaf(&self) -> bool {
        self.standing == Standing::Present && self.children == 0
    }
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Arena {
    nodes: Vec<Node>,
    vacant: NodeIndex,
    places: HashTable<NodeIndex>,
}

fn hash_of(space: SpaceIndex, hint: ParentHint) -> u64 {
    let product = u128::from(hint ^ 0xa076_1d64_78bd_642f) * u128::from(u64::from(space) ^ 0xe703_7ed1_a0b4_28db);
    product as u64 ^ (product >> 64) as u64
}

impl Arena {
    pub(super) fn new() -> Self {
        Self { nodes: Vec::new(), vacant: NONE, places: HashTable::new() }
    }

    pub(super) fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index as usize]
    }

    pub(super) fn node_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.nodes[index as usize]
    }

    /// Nodes there are places for, vacant ones included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The page of this key, present or picked.
    pub(super) fn page(&self, space: SpaceIndex, key: &EntryKey) -> Option<NodeIndex> {
        let matches = |index: &NodeIndex| {
            let node = self.node(*index);
            node.key == *key && node.space == space && node.standing != Standing::Ghost
        };
        self.places.find(hash_of(space, key.parent_hint()), matches).copied()
    }

    /// A node with this hint: a page, else a ghost. (Two pages of one hint do not occur among digests; if they do, children count for either.)
    fn by_hint(&self, space: SpaceIndex, hint: ParentHint) -> Option<NodeIndex> {
        let matches = |index: &NodeIndex| {
            let node = self.node(*index);
            node.key.parent_hint() == hint && node.space == space
        };
        self.places.find(hash_of(space, hint), matches).copied()
    }

    /// The node that children with this hint count for; a new ghost if there is none.
    pub(super) fn parent_node(&mut self, space: SpaceIndex, hint: ParentHint) -> NodeIndex {
        self.by_hint(space, hint).unwrap_or_else(|| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&hint.to_le_bytes());
            self.add(space, EntryKey(key), Standing::Ghost)
        })
    }

    /// A node for a page that has none: the ghost of its hint, or a new one.
    pub(super) fn add_page(&mut self, space: SpaceIndex, key: EntryKey) -> NodeIndex {
        match self.by_hint(space, key.parent_hint()) {
            Some(index) if self.node(index).standing == Standing::Ghost => {
                let node = self.node_mut(index);
                (node.key, node.standing) = (key, Standing::Present);
                index
            }
            _ => self.add(space, key, Standing::Present),
        }
    }

    fn add(&mut self, space: SpaceIndex, key: EntryKey, standing: Standing) -> NodeIndex {
        let node = Node { key, stamp: 0, space, parent: NONE, children: 0, standing };
        let index = if self.vacant == NONE {
            self.nodes.push(node);
            self.nodes.len() as NodeIndex - 1
        } else {
            let index = self.vacant;
            self.vacant = self.node(index).parent;
            *self.node_mut(index) = node;
            index
        };
        let nodes = &self.nodes;
        let rehash = |index: &NodeIndex| {
            let node = &nodes[*index as usize];
            hash_of(node.space, node.key.parent_hint())
        };
        self.places.insert_unique(hash_of(space, key.parent_hint()), index, rehash);
        index
    }

    /// Gives a node up.
    pub(super) fn free(&mut self, index: NodeIndex) {
        let node = *self.node(index);
        let hash = hash_of(node.space, node.key.parent_hint());
        if let Ok(found) = self.places.find_entry(hash, |found| *found == index) {
            found.remove();
        }
        let vacant = self.vacant;
        let node = self.node_mut(index);
        (node.standing, node.parent) = (Standing::Vacant, vacant);
        self.vacant = index;
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.places.allocation_size()
    }
}
