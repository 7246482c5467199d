//! Histories by hand, and against a search that tries every order.

use proptest::prelude::*;

use super::Action::{Publish, ReadAbsent, ReadAt, ReadPresent, Remove, Retire};
use super::*;

fn op(invoked: u64, returned: u64, action: Action) -> Operation {
    Operation { invoked, returned: Some(returned), action }
}

fn unknown(invoked: u64, action: Action) -> Operation {
    Operation { invoked, returned: None, action }
}

/// Name, why it is bad, history.
fn bad() -> Vec<(&'static str, &'static str, Vec<Operation>)> {
    vec![
        ("a page from nowhere", "nothing was published", vec![op(1, 2, ReadPresent)]),
        ("a lost publish", "it returned before the read began", vec![op(1, 2, Publish(1)), op(3, 4, ReadAbsent)]),
        (
            "seen too early",
            "the read ended before the publish began",
            vec![op(1, 2, ReadPresent), op(3, 4, Publish(1))],
        ),
        ("another place", "only place 1 was ever published", vec![op(1, 2, Publish(1)), op(3, 4, ReadAt(2))]),
        (
            "back from the dead",
            "nothing published it again",
            vec![op(1, 2, Publish(1)), op(3, 4, Retire(1)), op(5, 6, ReadPresent)],
        ),
        ("a retire of nothing", "the page was never there", vec![op(1, 2, Retire(1))]),
        (
            "a retire twice",
            "it left once already",
            vec![op(1, 2, Publish(1)), op(3, 4, Retire(1)), op(5, 6, Retire(1))],
        ),
        ("published over itself", "the page was present", vec![op(1, 2, Publish(1)), op(3, 4, Publish(2))]),
        (
            "two concurrent publishes",
            "one must have found the other's page",
            vec![op(1, 5, Publish(1)), op(1, 5, Publish(2))],
        ),
        (
            "flicker",
            "absent between two reads that saw it, and nothing removed it",
            vec![op(1, 2, Publish(1)), op(3, 4, ReadPresent), op(5, 6, ReadAbsent), op(7, 8, ReadPresent)],
        ),
        (
            "new then old",
            "the second read goes back to before the publish",
            vec![op(1, 20, Publish(1)), op(2, 3, ReadPresent), op(4, 5, ReadAbsent)],
        ),
        (
            "new then old, across a retire",
            "the retire was seen, then unseen",
            vec![op(1, 2, Publish(1)), op(3, 20, Retire(1)), op(4, 5, ReadAbsent), op(6, 7, ReadPresent)],
        ),
        (
            "an old place",
            "place 1 was retired before place 2 was published",
            vec![op(1, 2, Publish(1)), op(3, 4, Retire(1)), op(5, 6, Publish(2)), op(7, 8, ReadAt(1))],
        ),
        (
            "places in the wrong order",
            "2 was seen before 1, and each was published once",
            vec![
                op(1, 30, Publish(1)),
                op(1, 30, Retire(1)),
                op(1, 30, Publish(2)),
                op(1, 30, Retire(2)),
                op(2, 3, ReadAt(2)),
                op(4, 5, ReadAt(1)),
                op(6, 7, ReadAt(2)),
            ],
        ),
        (
            "a delete that was forgotten",
            "the delete returned before the read",
            vec![op(1, 2, Publish(1)), op(3, 4, Remove), op(5, 6, ReadPresent)],
        ),
        (
            "a delete that took the next page",
            "it had returned before the publish",
            vec![op(1, 2, Remove), op(3, 4, Publish(1)), op(5, 6, ReadAbsent)],
        ),
        (
            "two readers disagree on the order",
            "one saw the publish before the other missed it, and they do not overlap",
            vec![op(1, 100, Publish(1)), op(10, 20, ReadPresent), op(21, 30, ReadAbsent), op(5, 9, ReadAbsent)],
        ),
        (
            "an unknown publish from the future",
            "it was invoked after the read ended",
            vec![op(1, 2, ReadPresent), unknown(3, Publish(1))],
        ),
        (
            "an unknown publish that comes and goes",
            "it can take effect once",
            vec![unknown(1, Publish(1)), op(2, 3, ReadPresent), op(4, 5, ReadAbsent)],
        ),
        (
            "an unknown publish used twice",
            "one effect, two lives",
            vec![unknown(1, Publish(1)), op(2, 3, ReadPresent), op(4, 5, Retire(1)), op(6, 7, ReadPresent)],
        ),
        (
            "an unknown remove from the future",
            "it was invoked after the read ended",
            vec![op(1, 2, Publish(1)), op(3, 4, ReadAbsent), unknown(5, Remove)],
        ),
        (
            "an unknown retire of another place",
            "place 2 was never there",
            vec![op(1, 2, Publish(1)), unknown(3, Retire(2)), op(4, 5, ReadAbsent)],
        ),
        (
            "one unknown remove for two gaps",
            "it explains one absence, not the one after the next publish",
            vec![
                op(1, 2, Publish(1)),
                unknown(3, Remove),
                op(4, 5, ReadAbsent),
                op(6, 7, Publish(2)),
                op(8, 9, ReadAbsent),
            ],
        ),
    ]
}

fn good() -> Vec<(&'static str, Vec<Operation>)> {
    vec![
        ("nothing", vec![]),
        ("absent at first", vec![op(1, 2, ReadAbsent)]),
        (
            "a life in sequence",
            vec![op(1, 2, Publish(1)), op(3, 4, ReadAt(1)), op(5, 6, Retire(1)), op(7, 8, ReadAbsent)],
        ),
        ("a read during a publish misses", vec![op(1, 5, Publish(1)), op(2, 4, ReadAbsent)]),
        ("a read during a publish finds", vec![op(1, 5, Publish(1)), op(2, 4, ReadPresent)]),
        ("reads around the moment", vec![op(1, 9, Publish(1)), op(2, 3, ReadAbsent), op(4, 5, ReadPresent)]),
        ("touching ends are concurrent", vec![op(1, 2, Publish(1)), op(2, 3, ReadAbsent)]),
        ("two lives", vec![op(1, 2, Publish(1)), op(3, 4, Retire(1)), op(5, 6, Publish(2)), op(7, 8, ReadAt(2))]),
        (
            "a retire between two concurrent publishes",
            vec![op(1, 9, Publish(1)), op(1, 9, Publish(2)), op(1, 9, Retire(1))],
        ),
        ("a delete of nothing", vec![op(1, 2, Remove), op(3, 4, ReadAbsent)]),
        ("an unknown publish that happened", vec![unknown(1, Publish(1)), op(5, 6, ReadPresent)]),
        ("an unknown publish that did not", vec![unknown(1, Publish(1)), op(5, 6, ReadAbsent)]),
        (
            "an unknown publish that happened late",
            vec![unknown(1, Publish(1)), op(5, 6, ReadAbsent), op(7, 8, ReadPresent)],
        ),
        ("an unknown remove that happened", vec![op(1, 2, Publish(1)), unknown(3, Remove), op(4, 5, ReadAbsent)]),
        ("an unknown remove that did not", vec![op(1, 2, Publish(1)), unknown(3, Remove), op(4, 5, ReadPresent)]),
        (
            "an unknown remove that happened late",
            vec![op(1, 2, Publish(1)), unknown(3, Remove), op(4, 5, ReadPresent), op(6, 7, ReadAbsent)],
        ),
        ("of two unknown publishes one", vec![unknown(1, Publish(1)), unknown(1, Publish(2)), op(3, 4, ReadAt(2))]),
        (
            "two unknowns, one after the other",
            vec![
                unknown(1, Publish(1)),
                unknown(1, Remove),
                op(3, 4, ReadPresent),
                op(5, 6, ReadAbsent),
                op(7, 8, ReadAbsent),
            ],
        ),
        (
            "intervals as wide as can be",
            vec![
                op(0, 50, Publish(1)),
                op(0, 60, Retire(1)),
                op(0, 70, Publish(2)),
                op(0, 80, Retire(2)),
                op(10, 20, ReadAt(1)),
                op(21, 30, ReadAbsent),
                op(31, 40, ReadAt(2)),
                op(75, 79, ReadAbsent),
            ],
        ),
    ]
}

#[test]
fn bad_histories_are_refused() {
    let bad = bad();
    assert!(bad.len() >= 20);
    for (name, why, history) in bad {
        assert_eq!(check(&history), Verdict::Broken, "{name}: {why}");
        if history.len() <= 7 {
            assert!(!any_order(&history), "the other search, {name}: {why}");
        }
    }
}

#[test]
fn good_histories_are_accepted() {
    let good = good();
    assert!(good.len() >= 15);
    for (name, history) in good {
        assert_eq!(check(&history), Verdict::Linearizable, "{name}");
    }
}

#[test]
fn a_search_that_is_too_long_is_given_up() {
    let concurrent = |place| [op(0, 1000, Publish(place)), op(0, 1000, Remove)];
    let mut history: Vec<Operation> = (0..20).flat_map(concurrent).collect();
    history.push(op(0, 1000, ReadAt(99)));
    assert_eq!(check_within(&history, 100), Verdict::Undecided);
}

/// Every subset of the operations without an answer, in every order.
fn any_order(history: &[Operation]) -> bool {
    fn explore(history: &[Operation], used: &mut Vec<usize>, state: Option<Place>) -> bool {
        let answered = |index: &usize| history[*index].returned.is_some();
        if (0..history.len()).filter(answered).all(|index| used.contains(&index)) {
            return true;
        }
        for index in 0..history.len() {
            let precedes = |other: usize| {
                !used.contains(&other)
                    && history[other].returned.is_some_and(|returned| returned < history[index].invoked)
            };
            if used.contains(&index) || (0..history.len()).any(precedes) {
                continue;
            }
            let Some(after) = history[index].action.apply(state) else { continue };
            used.push(index);
            if explore(history, used, after) {
                return true;
            }
            used.pop();
        }
        false
    }
    explore(history, &mut Vec::new(), None)
}

/// A register used in sequence, at times 10, 20, ...; each operation's interval is widened around its time, and some
/// answers are lost.
fn sequential(kinds: &[(u8, u64, u64, bool)]) -> Vec<Operation> {
    let mut state: Option<Place> = None;
    let mut history = Vec::new();
    for (index, (kind, before, after, lost)) in kinds.iter().enumerate() {
        let at = 100 + index as u64 * 10;
        let action = match (kind % 4, state) {
            (0, None) => Publish(index as u64),
            (1, Some(place)) => Retire(place),
            (2, _) => Remove,
            (3, Some(place)) => ReadAt(place),
            (_, Some(_)) => ReadPresent,
            (_, None) => ReadAbsent,
        };
        state = action.apply(state).expect("it was chosen to fit");
        let read = matches!(action, ReadAbsent | ReadPresent | ReadAt(_));
        let returned = (read || !lost).then_some(at + after);
        history.push(Operation { invoked: at - before, returned, action });
    }
    history
}

fn steps(most: usize) -> impl Strategy<Value = Vec<(u8, u64, u64, bool)>> {
    prop::collection::vec((any::<u8>(), 0u64..60, 0u64..60, prop::bool::weighted(0.2)), 1..=most)
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let action = prop_oneof![
        (1u64..3).prop_map(Publish),
        (1u64..3).prop_map(Retire),
        Just(Remove),
        Just(ReadAbsent),
        Just(ReadPresent),
        (1u64..3).prop_map(ReadAt),
    ];
    (0u64..12, 0u64..8, prop::bool::weighted(0.2), action).prop_map(|(invoked, length, lost, action)| {
        let read = matches!(action, ReadAbsent | ReadPresent | ReadAt(_));
        Operation { invoked, returned: (read || !lost).then_some(invoked + length), action }
    })
}

proptest! {
    #[test]
    fn what_a_register_did_is_accepted(kinds in steps(60)) {
        prop_assert_eq!(check(&sequential(&kinds)), Verdict::Linearizable);
    }

    /// One read is turned around: whether that breaks the history, the search over every order must say the same.
    #[test]
    fn a_flipped_read_is_judged_as_by_every_order(kinds in steps(6), which in any::<prop::sample::Index>()) {
        let mut history = sequential(&kinds);
        let reads: Vec<usize> = (0..history.len())
            .filter(|index| matches!(history[*index].action, ReadAbsent | ReadPresent | ReadAt(_)))
            .collect();
        prop_assume!(!reads.is_empty());
        let flipped = &mut history[reads[which.index(reads.len())]];
        flipped.action = if flipped.action == ReadAbsent { ReadPresent } else { ReadAbsent };
        prop_assert_eq!(check(&history) == Verdict::Linearizable, any_order(&history));
    }

    #[test]
    fn any_history_is_judged_as_by_every_order(history in prop::collection::vec(any_operation(), 0..=6)) {
        prop_assert_eq!(check(&history) == Verdict::Linearizable, any_order(&history));
    }
}
