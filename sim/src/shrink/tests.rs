use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::faults::FaultKind;

const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

/// Faults that can be told apart by when they begin.
fn faults(count: u64) -> Vec<Fault> {
    (0..count).map(|at_ms| Fault { at_ms, lasts_ms: 1_000, kind: FaultKind::L3Stall }).collect()
}

fn shrunk(fails: &(dyn Fn(&[Fault]) -> bool + Sync), count: u64, jobs: usize) -> Shrunk {
    Shrinker { fails, jobs, time_is_over: NEVER, progress: &|_| () }.shrink(&faults(count))
}

fn begins(shrunk: &Shrunk) -> Vec<u64> {
    shrunk.faults.iter().map(|fault| fault.at_ms).collect()
}

fn has(faults: &[Fault], at_ms: u64) -> bool {
    faults.iter().any(|fault| fault.at_ms == at_ms)
}

#[test]
fn two_of_24_are_found_wherever_they_are() {
    for (a, b) in [(0, 1), (3, 17), (11, 12), (0, 23), (22, 23)] {
        let found = shrunk(&|faults| has(faults, a) && has(faults, b), 24, 3);
        assert_eq!(begins(&found), [a, b]);
        assert!(found.to_the_end);
        assert!(found.tried <= 100, "{} tried", found.tried);
    }
}

#[test]
fn none_one_and_all_are_found() {
    assert_eq!(begins(&shrunk(&|_| true, 24, 2)), [0_u64; 0]);
    assert_eq!(begins(&shrunk(&|faults| has(faults, 7), 24, 2)), [7]);
    assert_eq!(begins(&shrunk(&|faults| faults.len() == 9, 9, 2)), (0..9).collect::<Vec<_>>());
    assert_eq!(begins(&shrunk(&|_| true, 0, 2)), [0_u64; 0]);
}

#[test]
fn times_become_as_short_as_they_can() {
    let long_enough = |faults: &[Fault], at_ms, lasts_ms| {
        faults.iter().any(|fault| fault.at_ms == at_ms && fault.lasts_ms >= lasts_ms)
    };
    let found = shrunk(&|faults| long_enough(faults, 4, 300) && long_enough(faults, 9, 1), 20, 2);
    let times: Vec<_> = found.faults.iter().map(|fault| (fault.at_ms, fault.lasts_ms)).collect();
    assert_eq!(times, [(4, 500), (9, 1_000 >> 4)], "halved while it fails, and not below 50 ms");
}

#[test]
fn no_schedule_is_tried_once_the_time_is_over() {
    let tried = AtomicU64::new(0);
    let fails = |faults: &[Fault]| {
        tried.fetch_add(1, Ordering::Relaxed);
        has(faults, 3) && has(faults, 17)
    };
    let time_is_over = || tried.load(Ordering::Relaxed) >= 12;
    let sizes = RefCell::new(Vec::new());
    let progress = |found: &Shrunk| sizes.borrow_mut().push(found.faults.len());
    let found =
        Shrinker { fails: &fails, jobs: 1, time_is_over: &time_is_over, progress: &progress }.shrink(&faults(24));
    assert_eq!(tried.into_inner(), 12);
    assert!(!found.to_the_end);
    assert!(has(&found.faults, 3) && has(&found.faults, 17), "what it has by then fails");
    let sizes = sizes.into_inner();
    assert!(sizes.is_sorted_by(|a, b| a > b) && sizes.last() == Some(&found.faults.len()), "{sizes:?}");
}

proptest! {
    // Each case starts some hundred threads.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_left_fails_with_no_fault_to_spare_whatever_the_threads(
        masks in prop::collection::vec(1_u32..1 << 16, 1..4),
        jobs in 1_usize..5,
    ) {
        let present = |faults: &[Fault]| faults.iter().fold(0_u32, |bits, fault| bits | 1 << fault.at_ms);
        // Not monotone: an odd number of other faults hides the first of several ways to fail.
        let fails = |faults: &[Fault]| {
            let here = present(faults);
            let hidden = masks.len() > 1 && here.count_ones() % 2 == 1 && here != masks[0] && here != 0xffff;
            masks.iter().skip(usize::from(hidden)).any(|mask| here & mask == *mask)
        };
        let found = shrunk(&fails, 16, jobs);
        prop_assert!(fails(&found.faults));
        for position in 0..found.faults.len() {
            let mut fewer = found.faults.clone();
            fewer.remove(position);
            prop_assert!(!fails(&fewer));
        }
        prop_assert_eq!(found, shrunk(&fails, 16, 1));
    }
}
