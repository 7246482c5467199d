use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::store::usrbio::clock;
use crate::store::usrbio::slots::{Completed, Slots};

#[derive(Debug, Clone)]
enum Step {
    Take,
    /// The use number of this index among all so far, finished or not.
    Complete(usize),
    /// Anything a daemon may write.
    Garbage(u64),
    /// All that were taken so many steps ago or earlier.
    Lose(u64),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Take),
        5 => any::<usize>().prop_map(Step::Complete),
        1 => any::<u64>().prop_map(Step::Garbage),
        1 => (0..1u64 << 21).prop_map(Step::Garbage),
        1 => (0..40u64).prop_map(Step::Lose),
        1 => Just(Step::Drain),
    ]
}

/// What the model knows of a use: its number, and whether it was given up.
type Model = BTreeMap<u64, (u64, Instant, bool)>;

fn check(slots: &Slots<u64, u64>, model: &Model, entries: u32) -> Result<(), TestCaseError> {
    let lost = model.values().filter(|(.., lost)| *lost).count();
    prop_assert_eq!(slots.lost(), lost);
    prop_assert_eq!(slots.busy(), model.len() - lost);
    prop_assert_eq!(slots.entries(), entries as usize);
    prop_assert_eq!(slots.next().is_none(), model.len() == entries as usize);
    Ok(())
}

proptest! {
    /// Every completion goes to the use whose userdata it has, once; no other userdata has an effect.
    #[test]
    fn a_completion_finds_its_use_and_no_other(
        steps in prop::collection::vec(step(), 1..300),
        entries in 1..20u32,
    ) {
        let mut slots: Slots<u64, u64> = Slots::new(entries);
        let start = clock::now();
        let (mut model, mut all): (Model, Vec<u64>) = (BTreeMap::new(), Vec::new());
        for (number, step) in steps.into_iter().enumerate() {
            let (number, now) = (number as u64, start + Duration::from_secs(number as u64));
            match step {
                Step::Take => {
                    let Some(userdata) = slots.next() else { continue };
                    prop_assert!(!all.contains(&userdata), "{userdata} was used before");
                    prop_assert!(Slots::<u64, u64>::slot_of(userdata) < entries);
                    let slot_taken = model.keys().any(|used| {
                        Slots::<u64, u64>::slot_of(*used) == Slots::<u64, u64>::slot_of(userdata)
                    });
                    prop_assert!(!slot_taken);
                    slots.take(now, number);
                    model.insert(userdata, (number, now, false));
                    all.push(userdata);
                }
                Step::Complete(_) if all.is_empty() => {}
                Step::Complete(at) => {
                    let userdata = all[at % all.len()];
                    let expected = match model.remove(&userdata) {
                        Some((number, _, false)) => Completed::UnderWay(number),
                        Some((number, _, true)) => Completed::Lost(number + 1_000_000),
                        None => Completed::Stray,
                    };
                    prop_assert_eq!(slots.complete(userdata), expected);
                }
                Step::Garbage(userdata) => {
                    if !model.contains_key(&userdata) {
                        prop_assert_eq!(slots.complete(userdata), Completed::Stray);
                    }
                }
                Step::Lose(steps_ago) => {
                    let Some(before) = now.checked_sub(Duration::from_secs(steps_ago)) else { continue };
                    let mut expected = 0;
                    for (.., lost) in model.values_mut().filter(|(_, since, lost)| !lost && *since <= before) {
                        *lost = true;
                        expected += 1;
                    }
                    prop_assert_eq!(slots.lose(before, |number| number + 1_000_000), expected);
                    prop_assert_eq!(slots.lost_mut().count(), slots.lost());
                }
                Step::Drain => {
                    let (mut busy, mut lost) = slots.drain();
                    busy.sort_unstable();
                    lost.sort_unstable();
                    let of = |wanted: bool| {
                        let uses = model.values().filter(move |(.., lost)| *lost == wanted);
                        let mut numbers: Vec<u64> = uses.map(|(number, ..)| *number).collect();
                        numbers.sort_unstable();
                        numbers
                    };
                    prop_assert_eq!(busy, of(false));
                    prop_assert_eq!(lost, of(true).into_iter().map(|number| number + 1_000_000).collect::<Vec<_>>());
                    model.clear();
                }
            }
            check(&slots, &model, entries)?;
        }
    }
}
