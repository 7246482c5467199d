use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

pub(super) const PAGE: u64 = 4096;

pub(super) fn heap(arena_bytes: u64, segment_bytes: u64) -> Arena {
    Arena::new(ArenaSettings { arena_bytes, segment_bytes }, Arc::new(HeapRegions)).unwrap()
}

fn fill(arena: &Arena, tenant: TenantId, frame_bytes: u64) -> Vec<FrameMut> {
    std::iter::from_fn(|| arena.allocate(tenant, frame_bytes).ok()).collect()
}

#[test]
fn default_segments_fit_the_arena() {
    for (arena_bytes, segment_bytes) in [
        (4096, 4096),
        (1_125_000, 256 << 10),
        (4_687_500, 256 << 10),
        (37_500_000, 585_728),
        (160 << 20, 2 << 20),
        (1 << 30, 16 << 20),
        (64 << 30, 64 << 20),
        (1 << 40, 1 << 30),
    ] {
        let settings = ArenaSettings::new(arena_bytes);
        assert_eq!(settings, ArenaSettings { arena_bytes, segment_bytes });
        assert!(settings.validate().is_ok());
    }
}

#[test]
fn settings_out_of_range_are_named() {
    for (arena_bytes, segment_bytes, field) in
        [(0, 0, "arena_bytes"), (8192, 0, "segment_bytes"), (8192, 8193, "segment_bytes")]
    {
        let error = Arena::new(ArenaSettings { arena_bytes, segment_bytes }, Arc::new(HeapRegions)).err().unwrap();
        assert!(matches!(&error, ArenaError::Settings(bad) if bad.field == field), "{error}");
    }
}

#[test]
fn one_class_uses_the_whole_arena() {
    for (arena_bytes, frame_bytes) in [(4_687_500, 4096), (1_125_000, 8192), (3 << 20, 1 << 20), (10_000, 8192)] {
        let arena = Arena::new(ArenaSettings::new(arena_bytes), Arc::new(HeapRegions)).unwrap();
        let frames = fill(&arena, 1, frame_bytes);
        assert_eq!(frames.len() as u64, arena_bytes / frame_bytes, "{arena_bytes} in {frame_bytes}");
        assert_eq!(arena.status().frame_bytes_used, frames.len() as u64 * frame_bytes);
        assert_eq!(arena.allocate(1, frame_bytes).unwrap_err(), NoRoom { needed_bytes: frame_bytes });
        drop(frames);
        assert_eq!(arena.status().frame_bytes_used, 0);
    }
}

#[test]
fn a_frame_larger_than_a_segment_gets_its_own() {
    let arena = heap(64 * PAGE, 8 * PAGE);
    assert!(arena.fits(64 * PAGE) && !arena.fits(64 * PAGE + 1));
    let large = arena.allocate(1, 40 * PAGE).unwrap();
    assert_eq!(large.len() as u64, 40 * PAGE);
    assert_eq!(fill(&arena, 1, PAGE).len(), 24);
    assert!(arena.allocate(1, 64 * PAGE).is_err());
    drop(large);
    assert!(arena.allocate(1, 64 * PAGE + 1).is_err());
    assert!(arena.allocate(1, 64 * PAGE).is_ok());
    assert!(arena.allocate(1, 0).is_err());
    assert!(arena.allocate(1, u64::MAX).is_err());
}

#[test]
fn an_unaligned_frame_has_its_own_length() {
    let arena = heap(8 * PAGE, 8 * PAGE);
    let mut frame = arena.allocate(1, 5000).unwrap();
    assert_eq!((frame.len(), frame.bytes_mut().len()), (5000, 5000));
    assert_eq!(frame.freeze().class(), FrameClass { tenant: 1, frame_bytes: 8192 });
    assert_eq!(fill(&arena, 1, 5000).len(), 4);
}

#[test]
fn another_tenant_never_sees_bytes() {
    let arena = heap(16 * PAGE, 4 * PAGE);
    let mut frames = fill(&arena, 1, PAGE);
    frames.iter_mut().for_each(|frame| frame.bytes_mut().fill(0xa5));
    assert!(arena.allocate(2, PAGE).is_err());
    // One frame keeps its segment; the other three segments may change hands.
    frames.truncate(1);
    let others = fill(&arena, 2, PAGE);
    assert_eq!(others.len(), 12);
    assert!(others.iter().all(|frame| frame.bytes().iter().all(|byte| *byte == 0)));
    assert!(frames[0].bytes().iter().all(|byte| *byte == 0xa5));
}

#[test]
fn another_size_takes_free_segments_together() {
    let arena = heap(16 * PAGE, 4 * PAGE);
    let mut frames = fill(&arena, 1, PAGE);
    let before: Vec<_> = arena.segments().iter().map(|segment| segment.id).collect();
    frames.retain(|frame| frame.id().segment >= before[2]);
    let large = arena.allocate(1, 8 * PAGE).unwrap();
    assert!(!before.contains(&large.id().segment), "ids are never reused");
    assert_eq!(arena.segments().len(), 3);
    assert!(arena.allocate(1, PAGE).is_err());
}

#[test]
fn each_use_has_the_next_generation() {
    let arena = heap(PAGE, PAGE);
    for generation in 1..100 {
        let frame = arena.allocate(1, PAGE).unwrap();
        assert_eq!(frame.generation(), generation);
        let frame = frame.freeze();
        assert_eq!((frame.generation(), frame.shared_generation()), (generation, generation));
    }
}

#[test]
fn a_frame_is_free_when_its_last_holder_goes() {
    let arena = heap(PAGE, PAGE);
    let mut writer = arena.allocate(1, PAGE).unwrap();
    writer.bytes_mut()[7] = 9;
    let first = writer.freeze();
    let second = first.clone();
    assert_eq!((first.holders(), second.bytes()[7], second.id()), (2, 9, first.id()));
    drop(first);
    assert_eq!(second.holders(), 1);
    assert!(arena.allocate(1, PAGE).is_err());
    drop(second);
    assert!(arena.allocate(1, PAGE).is_ok());
}

#[test]
fn frames_outlive_their_arena() {
    let arena = heap(2 * PAGE, PAGE);
    let mut frame = arena.allocate(1, PAGE).unwrap();
    drop(arena);
    frame.bytes_mut().fill(3);
    let frame = frame.freeze();
    let clone = frame.clone();
    drop(frame);
    assert!(clone.bytes().iter().all(|byte| *byte == 3));
}

#[test]
fn a_quarantined_frame_waits_for_its_completion() {
    let arena = heap(2 * PAGE, PAGE);
    let lost = arena.allocate(1, PAGE).unwrap().quarantine();
    assert_eq!(arena.status().quarantined_bytes, PAGE);
    let (segment, other) = (lost.id().segment, arena.allocate(1, PAGE).unwrap());
    assert!(arena.allocate(1, PAGE).is_err());
    lost.completed();
    assert_eq!(arena.status().quarantined_bytes, 0);
    assert_eq!(arena.allocate(1, PAGE).unwrap().id().segment, segment);
    drop(other);
}

#[test]
fn a_write_in_quarantine_keeps_its_readers() {
    let arena = heap(PAGE, PAGE);
    let page = arena.allocate(1, PAGE).unwrap().freeze();
    let (first, second) = (page.clone().quarantine(), page.clone().quarantine());
    assert_eq!((page.holders(), arena.status().quarantined_bytes), (3, PAGE));
    first.completed();
    assert_eq!((page.holders(), arena.status().quarantined_bytes), (2, PAGE));
    drop(page);
    assert!(arena.allocate(1, PAGE).is_err());
    second.completed();
    assert_eq!(arena.status().quarantined_bytes, 0);
    assert!(arena.allocate(1, PAGE).is_ok());
}

#[test]
fn a_lost_frame_comes_back_when_its_segment_is_retired() {
    let arena = heap(4 * PAGE, 2 * PAGE);
    let frames = fill(&arena, 1, PAGE);
    let segment = frames[0].id().segment;
    let mut frames = frames.into_iter();
    drop(frames.next().unwrap().quarantine());
    let reader = frames.next().unwrap().freeze();
    assert_eq!(reader.id().segment, segment);
    assert!(arena.allocate(1, PAGE).is_err(), "a dropped Quarantined frees nothing");
    assert_eq!(arena.segment(segment).unwrap().frames_quarantined, 1);
    arena.retire_segment(segment);
    assert_eq!((arena.segment(segment), arena.status().quarantined_bytes), (None, 0));
    let fresh = fill(&arena, 1, PAGE);
    assert_eq!(fresh.len(), 2);
    assert!(fresh.iter().all(|frame| frame.id().segment != segment));
    assert_eq!(reader.bytes().len() as u64, PAGE);
    drop(reader);
    assert!(arena.allocate(1, PAGE).is_err(), "a frame of a retired segment frees no room twice");
}

#[test]
fn a_draining_segment_gives_nothing_until_it_is_free() {
    let arena = heap(4 * PAGE, 2 * PAGE);
    let mut frames = fill(&arena, 1, PAGE);
    let segment = frames[0].id().segment;
    arena.set_draining(segment, true);
    let other = frames.remove(0);
    drop(other);
    assert!(arena.allocate(1, PAGE).is_err());
    arena.set_draining(segment, false);
    let again = arena.allocate(1, PAGE).unwrap();
    assert_eq!(again.id().segment, segment);
    arena.set_draining(segment, true);
    drop(again);
    frames.remove(0);
    assert!(!arena.segment(segment).unwrap().draining);
    assert_eq!(fill(&arena, 1, PAGE).len(), 2);
}

/// Promises nothing and gives regions only while it may.
pub(super) struct Failing(pub(super) AtomicUsize);

impl RegionProvider for Failing {
    fn reserve(&self, arena_bytes: u64) -> std::io::Result<()> {
        if arena_bytes > 1 << 20 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn region(&self, bytes: u64) -> std::io::Result<Region> {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.0.store(0, Ordering::Relaxed);
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        HeapRegions.region(bytes)
    }
}

#[test]
fn memory_that_cannot_be_had_is_no_room() {
    let settings = ArenaSettings { arena_bytes: 4 * PAGE, segment_bytes: 2 * PAGE };
    let provider = Arc::new(Failing(AtomicUsize::new(1)));
    let arena = Arena::new(settings, provider.clone()).unwrap();
    let frames = fill(&arena, 1, PAGE);
    assert_eq!(frames.len(), 2);
    provider.0.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(fill(&arena, 1, PAGE).len(), 2, "the room of a failed segment is given back");
    let error = Arena::new(ArenaSettings::new(2 << 20), provider).err().unwrap();
    assert!(matches!(error, ArenaError::Region { .. }), "{error}");
    let error = Arena::new(ArenaSettings::new(1 << 50), Arc::new(MemfdRegions::default())).err().unwrap();
    assert!(error.to_string().contains("this machine has"), "{error}");
}

#[test]
fn a_memfd_can_only_be_read_by_others() {
    use rustix::mm::{MapFlags, ProtFlags};
    for prefault in [false, true] {
        let settings = ArenaSettings { arena_bytes: 4 * PAGE, segment_bytes: 4 * PAGE };
        let arena = Arena::new(settings, Arc::new(MemfdRegions::new(prefault))).unwrap();
        let mut frame = arena.allocate(1, PAGE).unwrap();
        assert!(frame.bytes().iter().all(|byte| *byte == 0));
        frame.bytes_mut().fill(0x5a);
        let frame = frame.freeze();
        let (region, offset) = frame.region();
        let (fd, bytes) = (region.fd().unwrap(), region.bytes());
        assert!(rustix::fs::ftruncate(fd, 0).is_err() && rustix::fs::ftruncate(fd, 1 << 30).is_err());
        assert!(rustix::io::pwrite(fd, &[1], 0).is_err());
        let map = |prot| {
            // SAFETY: a new mapping at an address of the kernel's choice; it replaces nothing and is left to the
            // process's end.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, fd, 0) }
        };
        assert!(map(ProtFlags::READ | ProtFlags::WRITE).is_err());
        assert!(map(ProtFlags::READ).is_ok());
        // What another process sees: the frame's bytes, and its generation behind all frames.
        let mut seen = [0; 16];
        rustix::io::pread(fd, &mut seen, offset).unwrap();
        assert_eq!(seen, [0x5a; 16]);
        let mut generation = [0; 8];
        rustix::io::pread(fd, &mut generation, 4 * PAGE + 8 * u64::from(frame.id().index)).unwrap();
        assert_eq!(u64::from_ne_bytes(generation), frame.generation());
    }
}

#[test]
fn threads_never_share_a_frame_they_write() {
    let arena = heap(8 * PAGE, 2 * PAGE);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let arena = &arena;
            scope.spawn(move || {
                for round in 0..2000u32 {
                    let Ok(mut frame) = arena.allocate(u32::from(thread % 2), PAGE) else { continue };
                    let mark = [thread, round as u8, (round >> 8) as u8, 1];
                    frame.bytes_mut()[..4].copy_from_slice(&mark);
                    frame.bytes_mut()[4092..].copy_from_slice(&mark);
                    let frame = frame.freeze();
                    let clone = frame.clone();
                    drop(frame);
                    assert_eq!((&clone.bytes()[..4], &clone.bytes()[4092..]), (&mark[..], &mark[..]));
                }
            });
        }
    });
    assert_eq!(arena.status().frame_bytes_used, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Allocate { tenant: u32, pages: u64 },
    Drop(usize),
    Share(usize),
    Drain(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3u32, 1..4u64).prop_map(|(tenant, pages)| Step::Allocate { tenant, pages }),
        3 => any::<usize>().prop_map(Step::Drop),
        1 => any::<usize>().prop_map(Step::Share),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(segment, on)| Step::Drain(segment, on)),
    ]
}

proptest! {
    /// Held frames keep their bytes, tenants never see each other's, and the books agree with what is held.
    #[test]
    fn frames_are_what_their_holders_think(steps in prop::collection::vec(step(), 1..200), segment_pages in 1..6u64) {
        let arena = heap(16 * PAGE, segment_pages * PAGE);
        let mut held: Vec<(Frame, u8, u32)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Allocate { tenant, pages } => {
                    let Ok(mut frame) = arena.allocate(tenant, pages * PAGE) else { continue };
                    let left = frame.bytes()[0];
                    prop_assert!(left == 0 || u32::from(left >> 6) == tenant + 1, "tenant {tenant} sees {left:#x}");
                    let mark = ((tenant as u8 + 1) << 6) | (number as u8 & 0x3f);
                    frame.bytes_mut().fill(mark);
                    held.push((frame.freeze(), mark, tenant));
                }
                Step::Drop(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
                Step::Share(at) if !held.is_empty() => held.push(held[at % held.len()].clone()),
                Step::Drain(at, on) => {
                    let segments = arena.segments();
                    if !segments.is_empty() {
                        arena.set_draining(segments[at % segments.len()].id, on);
                    }
                }
                _ => {}
            }
            let mut holders = BTreeMap::new();
            for (frame, mark, tenant) in &held {
                let bytes = frame.bytes();
                prop_assert!(bytes[0] == *mark && bytes[..bytes.len() - 1] == bytes[1..]);
                prop_assert_eq!(frame.class().tenant, *tenant);
                prop_assert_eq!(frame.generation(), frame.shared_generation());
                *holders.entry(frame.id()).or_insert(0) += 1;
            }
            for (frame, ..) in &held {
                prop_assert_eq!(frame.holders(), holders[&frame.id()]);
            }
            let used: u64 = arena.segments().iter().map(|segment| u64::from(segment.frames_used)).sum();
            prop_assert_eq!(used, holders.len() as u64);
            let all: u64 = arena.segments().iter().map(|s| u64::from(s.frames) * s.class.frame_bytes).sum();
            prop_assert!(all <= 16 * PAGE);
        }
    }
}

#[test]
fn outdated_segments_give_out_nothing_and_are_replaced_when_free() {
    let arena = heap(8 * PAGE, 4 * PAGE);
    let kept = arena.allocate(1, PAGE).unwrap();
    let first_current = arena.outdate();
    assert!(kept.id().segment < first_current);
    let fresh = fill(&arena, 1, PAGE);
    assert_eq!(fresh.len(), 4, "the outdated segment's other frames are not given out");
    assert!(fresh.iter().all(|frame| frame.id().segment >= first_current));
    assert_eq!(kept.bytes().len() as u64, PAGE);
    // A drain that ends opens no outdated segment again.
    arena.set_draining(kept.id().segment, true);
    arena.set_draining(kept.id().segment, false);
    assert!(arena.allocate(1, PAGE).is_err());
    drop(kept);
    assert_eq!(fill(&arena, 1, PAGE).len(), 4, "free as a whole, it was replaced");
}

#[test]
fn a_quarantined_frame_knows_when_its_segment_is_gone() {
    let arena = heap(4 * PAGE, 2 * PAGE);
    let lost = arena.allocate(1, PAGE).unwrap().quarantine();
    assert!(!lost.segment_is_retired());
    arena.retire_segment(lost.id().segment);
    assert!(lost.segment_is_retired());
    drop(lost);
    assert_eq!(fill(&arena, 1, PAGE).len(), 4);
}

/// An engine that keeps what it has mapped keeps that memory: beyond a quarter of the arena it is handed no more, and
/// everybody else goes on.
#[test]
fn memory_that_others_keep_mapped_is_bounded() {
    let regions = MemfdRegions::new(false);
    regions.reserve(64 * PAGE).unwrap();
    let lend = || regions.region(8 * PAGE).unwrap().share().unwrap();
    let mut kept: Vec<_> = (0..3).map(|_| lend().expect("a memfd can be shared")).collect();
    assert!(!regions.all_let_go());
    assert!(lend().is_none(), "more than a quarter of the arena is kept");
    kept.pop();
    assert!(lend().is_some());
    kept.clear();
    assert!(regions.all_let_go());
}
