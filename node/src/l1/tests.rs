use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foreword_proto::EntryKey;
use proptest::prelude::*;

use super::pages::EVICTIONS_PER_ALLOCATION_MAX;
use super::*;
use crate::arena::{ArenaSettings, FrameClass, FrameMut, HeapRegions, Made, TenantId};

const PAGE: u64 = 4096;

fn l1(pages: u64, segment_pages: u64) -> Pages {
    let settings = ArenaSettings { arena_bytes: pages * PAGE, segment_bytes: segment_pages * PAGE };
    Pages::new(Arena::new(settings, Arc::new(HeapRegions)).unwrap())
}

fn id_in(namespace: u32, number: u32) -> PageId {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&number.to_le_bytes());
    PageId { namespace, epoch: 1, key: EntryKey(key) }
}

fn id(number: u32) -> PageId {
    id_in(1, number)
}

/// A frame, with every segment made that was ordered.
fn allocate(l1: &mut Pages, tenant: TenantId, frame_bytes: u64) -> Option<FrameMut> {
    loop {
        while let Made::Segment = l1.arena().make_next() {}
        let frame = l1.allocate(tenant, frame_bytes);
        if frame.is_some() || matches!(l1.arena().make_next(), Made::Nothing) {
            return frame;
        }
    }
}

fn add_to(l1: &mut Pages, tenant: TenantId, id: PageId, pages: u64, entrance: Entrance) -> bool {
    let Some(mut frame) = allocate(l1, tenant, pages * PAGE) else { return false };
    frame.bytes_mut()[..16].copy_from_slice(&id.key.0);
    l1.insert(id, frame.freeze(), entrance);
    true
}

fn add(l1: &mut Pages, number: u32, entrance: Entrance) -> bool {
    add_to(l1, 1, id(number), 1, entrance)
}

fn present(l1: &Pages, numbers: std::ops::Range<u32>) -> Vec<u32> {
    numbers.filter(|number| l1.contains(&id(*number))).collect()
}

#[test]
fn the_coldest_page_on_probation_goes_first() {
    let mut l1 = l1(8, 8);
    for number in 0..8 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert!(l1.get(&id(0)).is_some() && l1.peek(&id(1)).is_some());
    for number in 8..12 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert_eq!(present(&l1, 0..12), [0, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(l1.pages(), 8);
}

#[test]
fn pages_read_from_l3_outlive_a_flood_of_writes() {
    let mut l1 = l1(10, 10);
    for number in 0..5 {
        assert!(add(&mut l1, number, Entrance::Probation));
        assert!(add(&mut l1, 100 + number, Entrance::Protected));
    }
    for number in 200..300 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert_eq!(present(&l1, 100..105), [100, 101, 102, 103, 104]);
}

#[test]
fn held_and_pinned_pages_stay() {
    let mut l1 = l1(4, 4);
    for number in 0..4 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    let held = l1.peek(&id(0)).unwrap();
    assert!(l1.pin(&id(1)) && l1.pin(&id(1)) && l1.pin(&id(2)));
    assert!(!l1.pin(&id(3)), "pins hold half of the arena");
    assert!(!l1.pin(&id(9)), "not here");
    assert_eq!(l1.status().pinned_pages, 2);
    for number in 10..14 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert_eq!(present(&l1, 0..20), [0, 1, 2, 13]);
    let last = l1.get(&id(13)).unwrap();
    assert!(!add(&mut l1, 20, Entrance::Probation), "everything is held");
    l1.unpin(&id(1));
    assert!(!add(&mut l1, 20, Entrance::Probation), "pinned once more");
    l1.unpin(&id(1));
    l1.unpin(&id(1));
    assert!(add(&mut l1, 20, Entrance::Probation));
    assert_eq!(present(&l1, 0..30), [0, 2, 13, 20]);
    drop((held, last));
}

#[test]
fn a_pin_outlives_its_page() {
    let mut l1 = l1(2, 2);
    assert!(add(&mut l1, 0, Entrance::Probation) && l1.pin(&id(0)));
    assert!(l1.remove(&id(0)).is_some() && l1.remove(&id(0)).is_none());
    assert!(add(&mut l1, 0, Entrance::Probation));
    for number in 1..5 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert!(l1.contains(&id(0)));
    l1.unpin(&id(0));
    assert_eq!(l1.status().pinned_pages, 0);
}

#[test]
fn a_second_page_of_the_same_name_replaces_the_first() {
    let mut l1 = l1(4, 4);
    assert!(add(&mut l1, 0, Entrance::Protected));
    let mut frame = allocate(&mut l1, 1, PAGE).unwrap();
    frame.bytes_mut()[0] = 77;
    l1.insert(id(0), frame.freeze(), Entrance::Probation);
    assert_eq!((l1.pages(), l1.peek(&id(0)).unwrap().bytes()[0]), (1, 77));
    assert_eq!(l1.status().frame_bytes_used, PAGE);
}

#[test]
fn a_cleared_namespace_keeps_its_new_pages() {
    let mut l1 = l1(8, 8);
    let newer = PageId { epoch: 2, ..id(0) };
    for page in [id(0), id(1), newer, id_in(2, 0)] {
        assert!(add_to(&mut l1, 1, page, 1, Entrance::Probation));
    }
    assert_eq!(l1.remove_namespace(1, 1), 2);
    assert!(l1.contains(&newer) && l1.contains(&id_in(2, 0)));
    assert_eq!((l1.pages(), l1.status().frame_bytes_used), (2, 2 * PAGE));
}

#[test]
fn a_new_class_takes_the_coldest_segment() {
    let mut l1 = l1(16, 4);
    for number in 0..16 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    for number in (0..4).chain(8..16) {
        assert!(l1.get(&id(number)).is_some());
    }
    assert!(add_to(&mut l1, 2, id_in(2, 0), 1, Entrance::Probation), "another tenant");
    assert_eq!(present(&l1, 0..16), [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert!(add_to(&mut l1, 1, id_in(3, 0), 3, Entrance::Probation), "another size");
    assert_eq!(present(&l1, 0..16), [8, 9, 10, 11, 12, 13, 14, 15]);
    assert!(l1.contains(&id_in(2, 0)));
}

#[test]
fn a_class_grows_into_segments_colder_than_its_own_pages() {
    let mut l1 = l1(32, 4);
    for number in 0..32 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    // Tenant 1 never comes back: tenant 2 ends up with the arena, a segment at a time.
    for number in 0..400 {
        assert!(add_to(&mut l1, 2, id_in(2, number), 1, Entrance::Probation));
    }
    assert_eq!(present(&l1, 0..32), [] as [u32; 0]);
    assert_eq!(l1.pages(), 32);
}

#[test]
fn a_class_in_use_is_not_drained_by_a_colder_one() {
    let mut l1 = l1(32, 4);
    for number in 0..28 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    for number in 0..200 {
        assert!(add_to(&mut l1, 2, id_in(2, number), 1, Entrance::Probation));
        for number in 0..28 {
            assert!(l1.get(&id(number)).is_some());
        }
    }
}

#[test]
fn a_drain_waits_for_frames_in_flight() {
    let mut l1 = l1(4, 4);
    for number in 0..3 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    let in_flight = allocate(&mut l1, 1, PAGE).unwrap();
    assert!(allocate(&mut l1, 2, PAGE).is_none());
    assert!(allocate(&mut l1, 1, PAGE).is_none(), "a segment that is being drained gives nothing");
    drop(in_flight);
    assert!(allocate(&mut l1, 2, PAGE).is_some());
}

#[test]
fn a_drain_larger_than_one_call_goes_on() {
    let pages = EVICTIONS_PER_ALLOCATION_MAX as u64 * 5 / 2;
    let mut l1 = l1(pages, pages);
    for number in 0..pages as u32 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert!(allocate(&mut l1, 2, PAGE).is_none() && allocate(&mut l1, 2, PAGE).is_none());
    assert_eq!(l1.pages() as u64, pages - 2 * EVICTIONS_PER_ALLOCATION_MAX as u64);
    assert!(allocate(&mut l1, 2, PAGE).is_some());
}

#[test]
fn outdated_pages_are_served_until_their_segments_are_needed() {
    let mut l1 = l1(8, 2);
    for number in 0..8 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    l1.outdate();
    assert!(l1.get(&id(0)).is_some());
    let held = l1.peek(&id(1)).unwrap();
    // A page that was on its way still enters with its old frame.
    let moved = l1.remove(&id(7)).unwrap();
    l1.insert(id(17), moved, Entrance::Probation);
    for number in 20..22 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert_eq!(present(&l1, 0..8), [0, 1, 4, 5, 6], "one whole segment made room, and the coldest");
    for number in 22..26 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert_eq!(present(&l1, 0..22), [0, 1, 20, 21], "a segment that is held goes last");
    drop(held);
    assert!(add(&mut l1, 26, Entrance::Probation) && add(&mut l1, 27, Entrance::Probation));
    assert_eq!(present(&l1, 0..30), [20, 21, 22, 23, 24, 25, 26, 27]);
}

#[test]
fn a_retired_segment_leaves_the_tier() {
    let mut l1 = l1(8, 4);
    for number in 0..8 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    let segment = l1.peek(&id(0)).unwrap().id().segment;
    assert_eq!(l1.remove_segment(segment), 4);
    l1.arena().retire_segment(segment);
    for number in 8..12 {
        assert!(add(&mut l1, number, Entrance::Probation));
    }
    assert_eq!(l1.pages(), 8);
}

/// A segmented LRU of one class as two plain lists, the coldest first, and which of its pages were used since they came
/// to their places.
#[derive(Default)]
struct Model {
    probation: Vec<u32>,
    protected: Vec<u32>,
    used: BTreeSet<u32>,
    pins: BTreeMap<u32, u32>,
    room: usize,
}

impl Model {
    fn has(&self, number: u32) -> bool {
        self.probation.contains(&number) || self.protected.contains(&number)
    }

    fn take(&mut self, number: u32) -> Option<Entrance> {
        self.used.remove(&number);
        for (queue, entrance) in
            [(&mut self.probation, Entrance::Probation), (&mut self.protected, Entrance::Protected)]
        {
            if let Some(at) = queue.iter().position(|other| *other == number) {
                queue.remove(at);
                return Some(entrance);
            }
        }
        None
    }

    fn put(&mut self, number: u32, entrance: Entrance) {
        match entrance {
            Entrance::Probation => self.probation.push(number),
            Entrance::Protected => self.protected.push(number),
        }
        while self.protected.len() * 5 > (self.protected.len() + self.probation.len()) * 4 {
            self.probation.push(self.protected.remove(0));
        }
    }

    fn get(&mut self, number: u32) -> bool {
        if self.has(number) {
            self.used.insert(number);
        }
        self.has(number)
    }

    /// Those that would go first and were used are protected.
    fn settle(&mut self) {
        loop {
            let goes_first = if self.probation.is_empty() { Entrance::Protected } else { Entrance::Probation };
            let first = self.queue(goes_first).first().copied();
            let Some(used) = first.filter(|first| self.used.contains(first)) else { return };
            self.take(used);
            self.put(used, Entrance::Protected);
        }
    }

    fn evict(&mut self) -> bool {
        self.settle();
        for entrance in [Entrance::Probation, Entrance::Protected] {
            for _ in 0..self.queue(entrance).len() {
                while let Some(used) = self.queue(entrance).first().copied().filter(|first| self.used.contains(first)) {
                    self.take(used);
                    self.put(used, Entrance::Protected);
                }
                let Some(first) = self.queue(entrance).first().copied() else { break };
                self.queue(entrance).remove(0);
                if !self.pins.contains_key(&first) {
                    return true;
                }
                // Those that were passed over count as used.
                self.queue(entrance).push(first);
            }
        }
        false
    }

    fn queue(&mut self, entrance: Entrance) -> &mut Vec<u32> {
        match entrance {
            Entrance::Probation => &mut self.probation,
            Entrance::Protected => &mut self.protected,
        }
    }

    fn add(&mut self, number: u32, entrance: Entrance) -> bool {
        if self.probation.len() + self.protected.len() == self.room && !self.evict() {
            return false;
        }
        let entrance = if self.take(number) == Some(Entrance::Protected) { Entrance::Protected } else { entrance };
        self.put(number, entrance);
        true
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u32, bool),
    Get(u32),
    Remove(u32),
    Pin(u32),
    Unpin(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..24u32;
    prop_oneof![
        4 => (number.clone(), any::<bool>()).prop_map(|(number, protected)| Step::Add(number, protected)),
        4 => number.clone().prop_map(Step::Get),
        1 => number.clone().prop_map(Step::Remove),
        1 => number.clone().prop_map(Step::Pin),
        1 => number.prop_map(Step::Unpin),
    ]
}

proptest! {
    #[test]
    fn one_class_is_a_segmented_lru(steps in prop::collection::vec(step(), 1..300), segment_pages in 1..13u64) {
        let mut l1 = l1(12, segment_pages);
        let mut model = Model { room: 12, ..Model::default() };
        for step in steps {
            match step {
                Step::Add(number, protected) => {
                    let entrance = if protected { Entrance::Protected } else { Entrance::Probation };
                    prop_assert_eq!(add(&mut l1, number, entrance), model.add(number, entrance));
                }
                Step::Get(number) => {
                    let got = l1.get(&id(number));
                    prop_assert_eq!(got.is_some(), model.get(number));
                    prop_assert!(got.is_none_or(|frame| frame.bytes()[..16] == id(number).key.0));
                }
                Step::Remove(number) => {
                    prop_assert_eq!(l1.remove(&id(number)).is_some(), model.take(number).is_some());
                }
                Step::Pin(number) => {
                    let fits = model.pins.contains_key(&number) || model.pins.len() < 6;
                    let pinned = model.has(number) && fits;
                    prop_assert_eq!(l1.pin(&id(number)), pinned);
                    if pinned {
                        *model.pins.entry(number).or_default() += 1;
                    }
                }
                Step::Unpin(number) => {
                    l1.unpin(&id(number));
                    if let Some(count) = model.pins.get_mut(&number) {
                        *count -= 1;
                        if *count == 0 {
                            model.pins.remove(&number);
                        }
                    }
                }
            }
            for number in 0..24 {
                prop_assert_eq!(l1.contains(&id(number)), model.has(number), "page {}", number);
            }
            prop_assert_eq!(l1.status().frame_bytes_used, l1.pages() as u64 * PAGE);
        }
    }

    /// Several classes: allocation succeeds whenever nothing is held, and a page that is here has its own bytes.
    #[test]
    fn classes_never_starve_each_other(steps in prop::collection::vec((0..4u32, 1..4u64, 0..40u32), 1..200), segment_pages in 1..9u64) {
        let mut l1 = l1(12, segment_pages);
        for (tenant, pages, number) in steps {
            let page = id_in(tenant * 4 + pages as u32, number);
            if l1.get(&page).is_none() {
                prop_assert!(add_to(&mut l1, tenant, page, pages, Entrance::Probation));
            }
            let frame = l1.peek(&page).unwrap();
            prop_assert_eq!(&frame.bytes()[..16], &page.key.0[..]);
            prop_assert_eq!(frame.class(), FrameClass { tenant, frame_bytes: pages * PAGE });
        }
    }
}
