//! The policy by itself: what the model of `tests/state/eviction.rs` is too small for.

use super::*;

const ALL: usize = usize::MAX;

fn key(number: u32) -> EntryKey {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&number.to_le_bytes());
    key[8..12].copy_from_slice(&number.to_le_bytes());
    EntryKey(key)
}

/// A policy with namespaces 1 and 2 of one class.
fn policy() -> LeafLru {
    let mut policy = LeafLru::new();
    policy.open(1, 1, 4096);
    policy.open(2, 1, 4096);
    policy
}

fn chain(policy: &mut LeafLru, namespace: NamespaceId, numbers: std::ops::Range<u32>) {
    let mut parent = 0;
    for number in numbers {
        policy.page(namespace, key(number), parent);
        parent = key(number).parent_hint();
    }
}

fn picked(policy: &mut LeafLru, need: usize) -> Vec<EntryKey> {
    policy.victims(4096, need, &mut ALL.clone()).into_iter().map(|id| id.key).collect()
}

fn cleared(namespace: NamespaceId) -> Event {
    Event::Cleared { namespace, epoch: 2 }
}

#[test]
fn the_order_outlives_the_last_stamp() {
    let mut policy = policy();
    chain(&mut policy, 1, 1..4);
    chain(&mut policy, 2, 11..14);
    // Passed by the cursor, and then a leaf: ripe.
    assert_eq!(picked(&mut policy, 1), [key(3)]);
    policy.accesses = Stamp::MAX - 1;
    for number in [11, 12, 13] {
        policy.heat(&EntryId { namespace: 2, epoch: 1, key: key(number) });
    }
    chain(&mut policy, 1, 21..23);
    assert!(policy.accesses < 100, "stamps were given out anew");
    assert_eq!(picked(&mut policy, ALL), [2, 1, 13, 12, 11, 22, 21].map(key));
}

/// An engine gave the last page of each chain as the parent of its first: such pages took room for ever, beside newer
/// ones that came and went.
#[test]
fn a_chain_whose_hints_form_a_circle_goes_before_what_is_hotter() {
    let mut policy = policy();
    for first in [0, 100] {
        for number in first..first + 40 {
            let parent = if number == first { first + 39 } else { number - 1 };
            policy.page(1, key(number + 1), key(parent + 1).parent_hint());
        }
    }
    chain(&mut policy, 2, 1_001..1_041);
    // The page that closed a circle has no parent: it goes last.
    let circle = |first: u32| (first..first + 39).rev().chain([first + 39]).map(key);
    assert_eq!(picked(&mut policy, 80), circle(1).chain(circle(101)).collect::<Vec<_>>());
    assert_eq!(picked(&mut policy, 1), [key(1_040)]);
}

/// At 1 M pages of a class that is above its watermark: each call does what it was allowed to, the sweep goes over each
/// node once, and what is asked of the applied state is the place of pages that are still there.
#[test]
fn pages_of_a_cleared_namespace_are_never_picked_and_leave_in_bounded_steps() {
    const CLEARED: u32 = 1_000_000;
    let mut policy = policy();
    for first in (0..CLEARED).step_by(50) {
        chain(&mut policy, 1, first..first + 50);
    }
    chain(&mut policy, 2, 0..64);
    let bytes = policy.heap_bytes();
    policy.observe(&cleared(1), &|_| None);
    // The coldest by far are those that were cleared.
    let (mut calls, mut victims) = (0, Vec::new());
    while victims.len() < 64 {
        let mut steps = 4096;
        victims.extend(policy.victims(4096, 64 - victims.len(), &mut steps));
        calls += 1;
    }
    assert!(victims.iter().all(|id| id.namespace == 2), "{victims:?}");
    assert!(calls <= CLEARED / 4096 + 2, "{calls} calls");
    while policy.sweep(4096) {}
    assert_eq!((policy.cleared, policy.vacant.len()), (0, 1));
    for first in (0..CLEARED).step_by(50) {
        chain(&mut policy, 1, first..first + 50);
    }
    assert!(policy.heap_bytes() < bytes + bytes / 8, "nodes are used again: {} of {bytes}", policy.heap_bytes());
}

#[test]
fn a_sweep_frees_what_was_cleared_whether_it_was_looked_at_before_or_not() {
    let mut policy = policy();
    chain(&mut policy, 1, 0..2000);
    chain(&mut policy, 2, 0..2000);
    policy.observe(&cleared(1), &|_| None);
    assert!(policy.sweep(1000));
    policy.observe(&Event::NamespaceDropped { namespace: 2 }, &|_| None);
    let mut slices = 0;
    while policy.sweep(1000) {
        slices += 1;
    }
    assert!(slices <= 4, "{slices}");
    assert_eq!((policy.cleared, policy.vacant.len(), picked(&mut policy, ALL).len()), (0, 2, 0));
}

#[test]
fn numbers_of_cleared_spaces_are_used_again() {
    let mut policy = policy();
    for epoch in 2..1000 {
        chain(&mut policy, 1, 0..3);
        policy.observe(&Event::Cleared { namespace: 1, epoch }, &|_| None);
        policy.sweep(100);
    }
    assert!(policy.spaces.len() <= 4, "{} spaces", policy.spaces.len());
}

/// Measured: printed with `--nocapture`.
#[test]
fn a_page_takes_at_most_52_bytes() {
    let mut policy = policy();
    for pages in [400_000, 800_000] {
        for first in (pages - 400_000..pages).step_by(50) {
            chain(&mut policy, 1, first..first + 50);
        }
        let per_page = policy.heap_bytes() as f64 / f64::from(pages);
        println!("{pages} pages: {per_page:.1} bytes a page");
        assert!(per_page <= 52.0, "{per_page}");
    }
}
