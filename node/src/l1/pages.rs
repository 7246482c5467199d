//! Which pages stay in the arena. A segmented LRU with reference bits for each frame class; classes take whole segments
//! from each other.
//!
//! Pure bookkeeping: "when" is the number of a touch, never a clock, and nothing is iterated in an order that depends
//! on hashes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_proto::status::ArenaStatus;
use foreword_proto::{EntryKey, Epoch, NamespaceId};
use lru::LruCache;

use super::page_id::Hashed;
use super::queues::{Page, Queues, SECOND_CHANCES_MAX};
use super::residents::Residents;
use super::segments::SegmentPages;
use super::{Entrance, PageId};
use crate::arena::{Arena, Frame, FrameClass, FrameMut, Missing, SegmentId, TenantId};

/// Pages one allocation evicts at most; a drain of a larger segment goes on with the next allocation.
pub const EVICTIONS_PER_ALLOCATION_MAX: usize = 4096;
/// Pages of another class's colder segment that go with each eviction of one's own.
const COLD_DRAIN_BATCH: usize = 64;
/// Segments that one allocation looks at, the coldest first, and drains at most, until one had something to give.
const SEGMENTS_LOOKED_AT_MAX: usize = 64;
const SEGMENTS_DRAINED_MAX: usize = 4;
/// Pins hold at most this part of the arena: 1/2.
const PINNED_SHARE: u64 = 2;

/// The pages in the arena.
pub struct Pages {
    arena: Arena,
    classes: BTreeMap<FrameClass, Queues>,
    /// In which class's queues a page is. Never iterated.
    class_of: HashMap<PageId, FrameClass, Hashed>,
    /// Has the pages of `class_of`, for who only asks.
    residents: Arc<Residents>,
    /// The coldest last. A segment that holds no page is not here.
    segments: LruCache<SegmentId, SegmentPages>,
    /// Those of them whose memory L3 does not know any more; their pages are still served.
    outdated: BTreeSet<SegmentId>,
    /// Never iterated. A pin outlives the page's removal, so that pins and unpins stay in pairs.
    pins: HashMap<PageId, Pin, Hashed>,
    pinned_bytes: u64,
    touches: AtomicU64,
    draining: Option<SegmentId>,
    /// Segments of lower ids are outdated.
    first_current: SegmentId,
}

#[derive(Debug, Clone, Copy)]
struct Pin {
    count: u32,
    bytes: u64,
}

impl Pages {
    /// An empty tier over this arena.
    pub fn new(arena: Arena) -> Self {
        Self {
            residents: Arc::new(Residents::new(arena.settings().arena_bytes)),
            arena,
            classes: BTreeMap::new(),
            class_of: HashMap::default(),
            segments: LruCache::unbounded(),
            outdated: BTreeSet::new(),
            pins: HashMap::default(),
            pinned_bytes: 0,
            touches: AtomicU64::new(0),
            draining: None,
            first_current: 0,
        }
    }

    /// The page's frame; counts as a use. Changes nothing but marks that whoever evicts looks at, so that uses wait for
    /// each other never.
    pub fn get(&self, id: &PageId) -> Option<Frame> {
        let page = self.classes.get(self.class_of.get(id)?)?.peek(id)?;
        let touch = self.next_touch();
        page.touch(touch);
        if let Some(pages) = self.segments.peek(&page.frame.id().segment) {
            pages.touch(touch);
        }
        Some(page.frame.clone())
    }

    fn next_touch(&self) -> u64 {
        self.touches.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The page's frame, without counting as a use.
    pub fn peek(&self, id: &PageId) -> Option<Frame> {
        let class = self.class_of.get(id)?;
        self.classes.get(class)?.peek(id).map(|page| page.frame.clone())
    }

    /// True when the page is here. Does not count as a use.
    pub fn contains(&self, id: &PageId) -> bool {
        self.class_of.contains_key(id)
    }

    /// Adds a page; one of the same name is replaced, and keeps its standing if that is better. A frame holds one page.
    pub fn insert(&mut self, id: PageId, frame: Frame, entrance: Entrance) {
        let before = self.displace(&id).map(|(_, entrance)| entrance);
        if before.is_none() {
            self.residents.add(&id);
        }
        let entrance = if before == Some(Entrance::Protected) { Entrance::Protected } else { entrance };
        let touch = self.next_touch();
        let (class, place) = (frame.class(), frame.id());
        let pages = self.segments.get_or_insert_mut(place.segment, || SegmentPages::new(class));
        pages.put(place.index, id);
        pages.enter(touch);
        if place.segment < self.first_current {
            self.outdated.insert(place.segment);
        }
        self.class_of.insert(id, class);
        self.classes.entry(class).or_default().insert(id, Page::new(frame, touch), entrance);
        // Its holder may have been the only one: the page can be evicted now.
        self.arena.frames_changed();
    }

    /// Takes a page out. Its pins stay until they are unpinned.
    pub fn remove(&mut self, id: &PageId) -> Option<Frame> {
        self.take(id).map(|(frame, _)| frame)
    }

    /// Takes out all pages of a namespace in this epoch and earlier ones; gives their number.
    pub fn remove_namespace(&mut self, namespace: NamespaceId, epoch: Epoch) -> usize {
        let gone: Vec<PageId> = self
            .classes
            .values()
            .flat_map(Queues::ids)
            .filter(|id| id.namespace == namespace && id.epoch <= epoch)
            .collect();
        for id in &gone {
            self.take(id);
        }
        gone.len()
    }

    /// The segments that hold pages.
    pub fn segments(&self) -> Vec<SegmentId> {
        self.segments.iter().map(|(id, _)| *id).collect()
    }

    /// Which pages of a namespace's epoch lie in a segment.
    pub fn keys_in(&self, segment: SegmentId, namespace: NamespaceId, epoch: Epoch) -> Vec<EntryKey> {
        let ids = self.segments.peek(&segment).into_iter().flat_map(SegmentPages::ids);
        ids.filter(|id| id.namespace == namespace && id.epoch == epoch).map(|id| id.key).collect()
    }

    /// Takes out all pages of a segment, so that it can be retired; gives their number.
    pub fn remove_segment(&mut self, segment: SegmentId) -> usize {
        let gone: Vec<PageId> = self.segments.peek(&segment).map(|pages| pages.ids().collect()).unwrap_or_default();
        for id in &gone {
            self.take(id);
        }
        gone.len()
    }

    /// From now on no page enters a frame of today's segments, because L3 does not know their memory any more. Pages in
    /// them are served until their room is needed: they go first, a whole segment at a time.
    pub fn outdate(&mut self) {
        self.first_current = self.arena.outdate();
        self.outdated = self.segments.iter().map(|(id, _)| *id).filter(|id| *id < self.first_current).collect();
    }

    /// A frame for a page of `tenant`, evicting what nobody holds: the coldest page of the same class, and a segment of
    /// another class when that one is colder, or when this class has nothing to give. Makes no segment, and waits for
    /// none.
    ///
    /// None: a segment was ordered for it, and nothing is evicted meanwhile; or none can be made, and this class has
    /// nothing to give; or everything is held or pinned; or the frame is larger than the arena; or a drain needs more
    /// evictions than one call makes, and the next call goes on with it.
    pub fn allocate(&mut self, tenant: TenantId, frame_bytes: u64) -> Option<FrameMut> {
        let class = FrameClass::new(tenant, frame_bytes)?;
        if !self.arena.fits(frame_bytes) {
            return None;
        }
        let mut evictions_left = EVICTIONS_PER_ALLOCATION_MAX;
        loop {
            let missing = match self.arena.take(class, frame_bytes) {
                Ok(frame) => return Some(frame),
                Err(missing) => missing,
            };
            let evicted = match missing {
                Missing::Ordered => 0,
                // What goes would make room for a segment only.
                Missing::Stalled if !self.outdated.is_empty() => 0,
                Missing::Stalled => usize::from(self.evict_coldest(class)),
                Missing::Full => self.make_room(class, evictions_left),
            };
            if evicted == 0 || evicted >= evictions_left {
                // The last eviction may have been the one that mattered.
                return if evicted > 0 { self.arena.take(class, frame_bytes).ok() } else { None };
            }
            evictions_left -= evicted;
        }
    }

    /// Keeps a page from eviction until as many unpins. False: not here, or pins hold too much of the arena already.
    pub fn pin(&mut self, id: &PageId) -> bool {
        let Some(class) = self.class_of.get(id) else { return false };
        let bytes = class.frame_bytes;
        if let Some(pin) = self.pins.get_mut(id) {
            let Some(count) = pin.count.checked_add(1) else { return false };
            pin.count = count;
            return true;
        }
        if self.pinned_bytes + bytes > self.arena.settings().arena_bytes / PINNED_SHARE {
            return false;
        }
        self.pins.insert(*id, Pin { count: 1, bytes });
        self.pinned_bytes += bytes;
        true
    }

    /// Ends one pin. A page that is not pinned is no error.
    pub fn unpin(&mut self, id: &PageId) {
        let Some(pin) = self.pins.get_mut(id) else { return };
        pin.count -= 1;
        if pin.count == 0 {
            self.pinned_bytes -= pin.bytes;
            self.pins.remove(id);
            self.arena.frames_changed();
        }
    }

    /// Which pages are here, to be asked without this tier's lock.
    pub fn residents(&self) -> &Arc<Residents> {
        &self.residents
    }

    /// Number of pages here.
    pub fn pages(&self) -> usize {
        self.class_of.len()
    }

    /// The arena's status with the pages in it.
    pub fn status(&self) -> ArenaStatus {
        ArenaStatus { pages: self.pages() as u64, pinned_pages: self.pins.len() as u64, ..self.arena.status() }
    }

    /// The arena below.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Puts the coldest segments in which a page was used where they belong.
    fn settle_segments(&mut self) {
        for _ in 0..SECOND_CHANCES_MAX {
            let Some((id, _)) = self.segments.peek_lru().filter(|(_, pages)| pages.take_used()) else { return };
            let id = *id;
            self.segments.promote(&id);
        }
    }

    /// Evicts at most `max` pages towards a frame of `class`; 0: nothing can be evicted.
    fn make_room(&mut self, class: FrameClass, max: usize) -> usize {
        if !self.outdated.is_empty() {
            let first_current = self.first_current;
            let evicted = self.drain_best(max, |id, _| id < first_current);
            if evicted > 0 {
                return evicted;
            }
        }
        self.settle_segments();
        let own_coldest = self.classes.get_mut(&class).and_then(Queues::coldest_touch);
        let mut evicted = 0;
        if let Some(own_coldest) = own_coldest {
            if let Some(segment) = self.colder_segment(class, own_coldest) {
                evicted += self.drain(segment, max.min(COLD_DRAIN_BATCH));
            }
            if evicted < max && self.evict_coldest(class) {
                evicted += 1;
            }
        }
        if evicted > 0 { evicted } else { self.drain_best(max, |_, pages| pages.class() != class) }
    }

    fn evict_coldest(&mut self, class: FrameClass) -> bool {
        let pins = &self.pins;
        let Some(queues) = self.classes.get_mut(&class) else { return false };
        let Some(id) = queues.rotate_to_victim(|id, page| is_free_to_go(pins, id, page)) else { return false };
        self.take(&id);
        true
    }

    /// The coldest segment of another class, if all of it is colder than `touched`.
    fn colder_segment(&self, class: FrameClass, touched: u64) -> Option<SegmentId> {
        let coldest = self.segments.iter().rev().take(SEGMENTS_LOOKED_AT_MAX);
        let mut colder = coldest.filter(|(_, pages)| pages.touched() < touched);
        colder.find(|(_, pages)| pages.class() != class).map(|(id, _)| *id)
    }

    /// Drains the segment that can best be freed: the one that is being drained already, else least in the way, then
    /// coldest.
    fn drain_best(&mut self, max: usize, among: impl Fn(SegmentId, &SegmentPages) -> bool) -> usize {
        let in_the_way = |id: SegmentId, pages: &SegmentPages| {
            let usage = self.arena.segment(id)?;
            // What others hold is in L1, or on its way: counted as if all of it were in L1.
            let evictable = pages.pages().saturating_sub(usage.frames_shared as usize);
            let in_the_way = (usage.frames_used as usize).saturating_sub(evictable);
            (evictable > 0).then_some((!usage.draining, in_the_way))
        };
        let coldest = self.segments.iter().rev().filter(|(id, pages)| among(**id, pages));
        let looked_at = coldest.take(SEGMENTS_LOOKED_AT_MAX);
        let mut found: Vec<_> = looked_at.filter_map(|(id, pages)| Some((in_the_way(*id, pages)?, *id))).collect();
        // Stable: of equals the coldest comes first.
        found.sort_by_key(|(in_the_way, _)| *in_the_way);
        let drained = found.into_iter().take(SEGMENTS_DRAINED_MAX).map(|(_, id)| self.drain(id, max));
        drained.into_iter().find(|evicted| *evicted > 0).unwrap_or(0)
    }

    /// Evicts at most `max` pages of a segment; the arena gives out none of its frames until it is free as a whole.
    fn drain(&mut self, segment: SegmentId, max: usize) -> usize {
        if let Some(before) = self.draining.replace(segment).filter(|before| *before != segment) {
            self.arena.set_draining(before, false);
        }
        self.arena.set_draining(segment, true);
        let Some(pages) = self.segments.peek(&segment) else { return 0 };
        let victims: Vec<PageId> = pages.ids().filter(|id| self.is_evictable(id)).take(max).collect();
        for id in &victims {
            self.take(id);
        }
        victims.len()
    }

    fn is_evictable(&self, id: &PageId) -> bool {
        let page = self.class_of.get(id).and_then(|class| self.classes.get(class)?.peek(id));
        page.is_some_and(|page| is_free_to_go(&self.pins, id, page))
    }

    fn take(&mut self, id: &PageId) -> Option<(Frame, Entrance)> {
        let taken = self.displace(id)?;
        self.residents.remove(id);
        Some(taken)
    }

    /// Takes a page out to whose name another frame comes, or none.
    fn displace(&mut self, id: &PageId) -> Option<(Frame, Entrance)> {
        let class = self.class_of.remove(id)?;
        let queues = self.classes.get_mut(&class)?;
        let (page, entrance) = queues.remove(id)?;
        if queues.is_empty() {
            self.classes.remove(&class);
        }
        let place = page.frame.id();
        // No use of the segment: its place among the others stays.
        if let Some(pages) = self.segments.peek_mut(&place.segment) {
            pages.clear(place.index);
            if pages.pages() == 0 {
                self.segments.pop(&place.segment);
                self.outdated.remove(&place.segment);
            }
        }
        Some((page.frame, entrance))
    }
}

/// Nobody but the tier holds the page: it may be evicted.
fn is_free_to_go(pins: &HashMap<PageId, Pin, Hashed>, id: &PageId, page: &Page) -> bool {
    page.frame.holders() == 1 && !pins.contains_key(id)
}
