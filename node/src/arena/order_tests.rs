//! Segments: when they are ordered, for whom, and when their memory goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tests::{Failing, PAGE, heap};
use super::*;

fn class(tenant: TenantId) -> FrameClass {
    FrameClass { tenant, frame_bytes: PAGE }
}

#[test]
fn taking_a_frame_makes_no_segment_and_the_next_is_ordered_ahead() {
    let arena = heap(8 * PAGE, 4 * PAGE);
    assert_eq!(arena.take(class(1), PAGE).unwrap_err(), Missing::Ordered);
    assert_eq!(arena.take(class(1), PAGE).unwrap_err(), Missing::Ordered, "one at a time");
    assert!(matches!((arena.make_next(), arena.make_next()), (Made::Segment, Made::Nothing)));
    let _first = arena.take(class(1), PAGE).unwrap();
    assert!(matches!(arena.make_next(), Made::Nothing), "most of the segment is free");
    let _second = arena.take(class(1), PAGE).unwrap();
    assert!(matches!(arena.make_next(), Made::Segment));
    assert_eq!(arena.segments().len(), 2);
}

#[test]
fn who_waits_for_a_segment_goes_before_what_is_ordered_ahead() {
    let arena = heap(4 * PAGE, 4 * PAGE);
    arena.prepare(class(1));
    assert_eq!(arena.take(class(2), PAGE).unwrap_err(), Missing::Ordered);
    assert_eq!(arena.take(class(3), PAGE).unwrap_err(), Missing::Full, "the second tenant waits itself");
    assert!(matches!(arena.make_next(), Made::Segment));
    assert!(arena.take(class(2), PAGE).is_ok());
}

#[test]
fn while_segments_cannot_be_made_nobody_waits_for_one() {
    let settings = ArenaSettings { arena_bytes: 4 * PAGE, segment_bytes: 2 * PAGE };
    let provider = Arc::new(Failing(AtomicUsize::new(0)));
    let arena = Arena::new(settings, provider.clone()).unwrap();
    assert_eq!(arena.take(class(1), PAGE).unwrap_err(), Missing::Ordered);
    assert!(matches!(arena.make_next(), Made::Failed(_)));
    assert_eq!(arena.take(class(1), PAGE).unwrap_err(), Missing::Stalled);
    assert_eq!(arena.take(class(2), PAGE).unwrap_err(), Missing::Stalled);
    provider.0.store(usize::MAX, Ordering::Relaxed);
    assert!(matches!(arena.make_next(), Made::Segment));
    assert!(arena.take(class(1), PAGE).is_ok());
    assert_eq!(arena.take(class(2), PAGE).unwrap_err(), Missing::Ordered);
}

#[test]
fn the_memory_of_a_retired_segment_goes_with_its_keeper_and_not_with_its_last_reader() {
    let arena = heap(2 * PAGE, 2 * PAGE);
    let reader = arena.allocate(1, PAGE).unwrap().freeze();
    arena.retire_segment(reader.id().segment);
    assert!(!arena.forget_retired(), "it is held");
    drop(reader);
    assert!(arena.forget_retired());
}
