use super::tests::{PAGE, heap};
use super::*;

#[test]
fn the_parts_of_a_frame_are_written_side_by_side_and_are_it_again() {
    let arena = heap(PAGE, PAGE);
    let parts = arena.allocate(1, PAGE).unwrap().split([0..1000, 1000..1001, 2000..4096]);
    let parts = std::thread::scope(|scope| {
        let writers: Vec<_> = (1u8..)
            .zip(parts)
            .map(|(number, mut part)| {
                scope.spawn(move || {
                    part.bytes_mut().fill(number);
                    part
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let frame = FrameMut::join(parts).unwrap().freeze();
    let filled = |range: std::ops::Range<usize>, byte| frame.bytes()[range].iter().all(|found| *found == byte);
    assert!(filled(0..1000, 1) && filled(1000..1001, 2) && filled(1001..2000, 0) && filled(2000..4096, 3));
}

#[test]
fn a_frame_is_whole_only_with_all_its_parts_and_free_after_the_last() {
    let arena = heap(2 * PAGE, 2 * PAGE);
    let mut parts = arena.allocate(1, PAGE).unwrap().split([0..10, 10..20]);
    let mut others = arena.allocate(1, PAGE).unwrap().split([0..10, 10..20]);
    assert!(arena.allocate(1, PAGE).is_err());
    let last = parts.pop().unwrap();
    assert!(FrameMut::join(parts).is_none(), "one part is still away");
    assert!(arena.allocate(1, PAGE).is_err(), "and may be written");
    assert!(FrameMut::join(vec![last, others.pop().unwrap()]).is_none(), "of two frames");
    assert!(arena.allocate(1, PAGE).is_ok());
}

#[test]
#[should_panic(expected = "9..20 of")]
fn parts_never_overlap() {
    let _ = heap(PAGE, PAGE).allocate(1, PAGE).unwrap().split([0..10, 9..20]);
}
