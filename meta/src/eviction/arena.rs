//! Pages as a forest of chains: who is whose parent, by the hints that publishes carry. 40 bytes a node and 5 to 11 to
//! find it.
//!
//! A page whose children came first, or stayed when it left, is a *ghost*: a node that is only known by its hint.
//! Counts are thus right whatever order pages come and go in.

use foreword_proto::EntryKey;
use foreword_proto::key::ParentHint;
use hashbrown::HashTable;

/// Position of a node.
pub(super) type NodeIndex = u32;
/// No node.
pub(super) const NONE: NodeIndex = u32::MAX;
/// The entries of one namespace between two clears, as the policy numbers them.
pub(super) type SpaceIndex = u32;
/// When a page was last asked for, in accesses. Given out anew when they run out.
pub(super) type Stamp = u32;

/// Nodes are allocated so many at a time, and never move: a growing vector would hold half as many again.
const CHUNK_NODES: usize = 1024;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
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
    pub(super) stamp: Stamp,
    pub(super) space: SpaceIndex,
    /// Its parent's node; of a vacant node the next vacant one.
    pub(super) parent: NodeIndex,
    /// Its neighbours in the order of its class: asked for before it, and after it.
    pub(super) colder: NodeIndex,
    pub(super) hotter: NodeIndex,
    /// Children that are present, and in the highest two bits what it stands for.
    children_standing: u32,
}

const _: () = assert!(size_of::<Node>() == 40);

const STANDING_SHIFT: u32 = 30;
const CHILDREN_MASK: u32 = (1 << STANDING_SHIFT) - 1;

impl Node {
    const VACANT: Self = Self::new(EntryKey([0; 16]), 0, Standing::Vacant);

    const fn new(key: EntryKey, space: SpaceIndex, standing: Standing) -> Self {
        let children_standing = (standing as u32) << STANDING_SHIFT;
        Self { key, stamp: 0, space, parent: NONE, colder: NONE, hotter: NONE, children_standing }
    }

    pub(super) fn standing(&self) -> Standing {
        match self.children_standing >> STANDING_SHIFT {
            0 => Standing::Present,
            1 => Standing::Picked,
            2 => Standing::Ghost,
            _ => Standing::Vacant,
        }
    }

    pub(super) fn stand_as(&mut self, standing: Standing) {
        self.children_standing = self.children() | (standing as u32) << STANDING_SHIFT;
    }

    /// Children that are present.
    pub(super) fn children(&self) -> u32 {
        self.children_standing & CHILDREN_MASK
    }

    pub(super) fn add_child(&mut self) {
        debug_assert!(self.children() < CHILDREN_MASK, "more children than there can be nodes in use");
        self.children_standing += 1;
    }

    pub(super) fn remove_child(&mut self) {
        debug_assert!(self.children() > 0, "a child that was not counted");
        self.children_standing -= 1;
    }

    /// True for a page that may be picked next.
    pub(super) fn is_leaf(&self) -> bool {
        self.children_standing == (Standing::Present as u32) << STANDING_SHIFT
    }
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Arena {
    chunks: Vec<Box<[Node]>>,
    /// Nodes that were ever in use: those behind them never were.
    used: usize,
    vacant: NodeIndex,
    places: HashTable<NodeIndex>,
}

fn hash_of(space: SpaceIndex, hint: ParentHint) -> u64 {
    let product = u128::from(hint ^ 0xa076_1d64_78bd_642f) * u128::from(u64::from(space) ^ 0xe703_7ed1_a0b4_28db);
    product as u64 ^ (product >> 64) as u64
}

fn node_of(chunks: &[Box<[Node]>], index: NodeIndex) -> &Node {
    &chunks[index as usize / CHUNK_NODES][index as usize % CHUNK_NODES]
}

impl Arena {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), used: 0, vacant: NONE, places: HashTable::new() }
    }

    pub(super) fn node(&self, index: NodeIndex) -> &Node {
        node_of(&self.chunks, index)
    }

    pub(super) fn node_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.chunks[index as usize / CHUNK_NODES][index as usize % CHUNK_NODES]
    }

    /// Nodes that were ever in use, vacant ones included: their indices are below it.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// The page of this key, present or picked.
    pub(super) fn page(&self, space: SpaceIndex, key: &EntryKey) -> Option<NodeIndex> {
        let matches = |index: &NodeIndex| {
            let node = self.node(*index);
            node.key == *key && node.space == space && node.standing() != Standing::Ghost
        };
        self.places.find(hash_of(space, key.parent_hint()), matches).copied()
    }

    /// A node with this hint: a page, else a ghost. (Two pages of one hint do not occur among digests; if they do,
    /// children count for either.)
    fn by_hint(&self, space: SpaceIndex, hint: ParentHint) -> Option<NodeIndex> {
        let matches = |index: &NodeIndex| {
            let node = self.node(*index);
            node.key.parent_hint() == hint && node.space == space
        };
        self.places.find(hash_of(space, hint), matches).copied()
    }

    /// The node that children with this hint count for; a new ghost, and true, if there is none.
    pub(super) fn parent_node(&mut self, space: SpaceIndex, hint: ParentHint) -> (NodeIndex, bool) {
        match self.by_hint(space, hint) {
            Some(index) => (index, false),
            None => {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&hint.to_le_bytes());
                (self.add(space, EntryKey(key), Standing::Ghost), true)
            }
        }
    }

    /// A node for a page: the ghost of its hint, or a new one, and true. The error is the page's own node, if it has
    /// one.
    pub(super) fn add_page(&mut self, space: SpaceIndex, key: EntryKey) -> Result<(NodeIndex, bool), NodeIndex> {
        match self.by_hint(space, key.parent_hint()) {
            None => return Ok((self.add(space, key, Standing::Present), true)),
            Some(index) if self.node(index).standing() != Standing::Ghost => {}
            // No page has the hint: had one, no ghost would.
            Some(index) => {
                let node = self.node_mut(index);
                node.key = key;
                node.stand_as(Standing::Present);
                return Ok((index, false));
            }
        }
        match self.page(space, &key) {
            Some(index) => Err(index),
            None => Ok((self.add(space, key, Standing::Present), true)),
        }
    }

    /// Makes room for so many more nodes at once.
    pub(super) fn reserve(&mut self, nodes: usize) {
        let chunks = &self.chunks;
        self.places.reserve(nodes, |index| {
            let node = node_of(chunks, *index);
            hash_of(node.space, node.key.parent_hint())
        });
    }

    fn add(&mut self, space: SpaceIndex, key: EntryKey, standing: Standing) -> NodeIndex {
        let index = self.take_vacant();
        *self.node_mut(index) = Node::new(key, space, standing);
        let chunks = &self.chunks;
        let rehash = |index: &NodeIndex| {
            let node = node_of(chunks, *index);
            hash_of(node.space, node.key.parent_hint())
        };
        self.places.insert_unique(hash_of(space, key.parent_hint()), index, rehash);
        index
    }

    fn take_vacant(&mut self) -> NodeIndex {
        if self.vacant != NONE {
            let index = self.vacant;
            self.vacant = self.node(index).parent;
            return index;
        }
        if self.used == self.chunks.len() * CHUNK_NODES {
            self.chunks.push(vec![Node::VACANT; CHUNK_NODES].into_boxed_slice());
        }
        assert!(self.used < NONE as usize, "slots are numbered by 32 bits, so pages are fewer than nodes can be");
        self.used += 1;
        self.used as NodeIndex - 1
    }

    /// Gives a node up.
    pub(super) fn free(&mut self, index: NodeIndex) {
        let node = *self.node(index);
        let hash = hash_of(node.space, node.key.parent_hint());
        if let Ok(found) = self.places.find_entry(hash, |found| *found == index) {
            found.remove();
        }
        *self.node_mut(index) = Node { parent: self.vacant, ..Node::VACANT };
        self.vacant = index;
    }

    /// Heap bytes, from capacities.
    pub(super) fn heap_bytes(&self) -> usize {
        let nodes = self.chunks.len() * CHUNK_NODES * size_of::<Node>();
        nodes + self.chunks.capacity() * size_of::<Box<[Node]>>() + self.places.allocation_size()
    }
}
