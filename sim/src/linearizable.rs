//! Is there one order of operations that explains what every client saw?
//!
//! One register a page: absent, or present in a slot. The search is Wing and Gong's (repeatedly take some operation
//! that no other one precedes in time, if its effect fits the state) with Lowe's memory of the (operations taken,
//! state) pairs that led nowhere. Sources: J. Wing and C. Gong, "Testing and verifying concurrent objects" (1993); G.
//! Lowe, "Testing for linearizability" (2017).

use std::collections::BTreeSet;

/// A page's place: some number that tells its lives apart.
pub type Place = u64;

/// What an operation did, or saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The page appeared: it was absent, and is at this place now.
    Publish(Place),
    /// The page left this place.
    Retire(Place),
    /// The page is absent afterwards, whether it was there or not: a delete or clear by a client who was not told.
    Remove,
    /// It was not there.
    ReadAbsent,
    /// It was there, wherever.
    ReadPresent,
    /// It was there, at this place.
    ReadAt(Place),
}

/// One operation on one page, with its interval in any unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    pub invoked: u64,
    /// None: it may have taken effect at any time after `invoked`, or never.
    pub returned: Option<u64>,
    pub action: Action,
}

/// What the search says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// No order explains the history.
    Broken,
    /// The search was given up: it had taken the steps it was allowed.
    Undecided,
}

/// Steps of a search, unless said otherwise: a history of some hundred operations, most of them in sequence, takes as
/// many.
pub const STEPS_MAX: u64 = 200_000;

impl Action {
    /// The state after the action, if it fits the state before.
    fn apply(self, state: Option<Place>) -> Option<Option<Place>> {
        let fits = match self {
            Self::Publish(_) | Self::ReadAbsent => state.is_none(),
            Self::Retire(place) | Self::ReadAt(place) => state == Some(place),
            Self::ReadPresent => state.is_some(),
            Self::Remove => true,
        };
        let after = match self {
            Self::Publish(place) => Some(place),
            Self::Retire(_) | Self::Remove => None,
            Self::ReadAbsent | Self::ReadPresent | Self::ReadAt(_) => state,
        };
        fits.then_some(after)
    }
}

/// Which operations were taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Taken(Vec<u64>);

impl Taken {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn flip(&mut self, index: usize) {
        self.0[index / 64] ^= 1 << (index % 64);
    }
}

/// Looks for an order of the operations of one page, which is absent at first.
///
/// An operation with an answer must be in the order once; one without may be, or not. One that returned before another
/// was invoked comes before it.
pub fn check(operations: &[Operation]) -> Verdict {
    check_within(operations, STEPS_MAX)
}

/// [`check`], with a bound on the steps of the search.
pub fn check_within(operations: &[Operation], steps_max: u64) -> Verdict {
    // In the order of invocation, so that candidates are found from the front.
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|operation| (operation.invoked, operation.returned.unwrap_or(u64::MAX)));
    Search { operations: sorted, steps_left: steps_max, dead: BTreeSet::new() }.run()
}

struct Search {
    operations: Vec<Operation>,
    steps_left: u64,
    /// Reached before, and led nowhere (or is being tried further up).
    dead: BTreeSet<(Taken, Option<Place>)>,
}

/// One choice of the search: the state before it, and the candidates that are left to try instead.
struct Choice {
    taken: usize,
    before: Option<Place>,
    next: usize,
}

impl Search {
    fn run(mut self) -> Verdict {
        let answered = self.operations.iter().filter(|operation| operation.returned.is_some()).count();
        let mut taken = Taken(vec![0; self.operations.len().div_ceil(64)]);
        let (mut state, mut left, mut from) = (None, answered, 0);
        let mut choices: Vec<Choice> = Vec::new();
        while left > 0 {
            if self.steps_left == 0 {
                return Verdict::Undecided;
            }
            self.steps_left -= 1;
            if let Some((index, after)) = self.candidate(&taken, state, from) {
                choices.push(Choice { taken: index, before: state, next: index + 1 });
                taken.flip(index);
                left -= usize::from(self.operations[index].returned.is_some());
                (state, from) = (after, 0);
                continue;
            }
            let Some(last) = choices.pop() else { return Verdict::Broken };
            taken.flip(last.taken);
            left += usize::from(self.operations[last.taken].returned.is_some());
            (state, from) = (last.before, last.next);
        }
        Verdict::Linearizable
    }

    /// The first operation at or after `from` that may come next and leads to something new.
    fn candidate(&mut self, taken: &Taken, state: Option<Place>, from: usize) -> Option<(usize, Option<Place>)> {
        let open = |index: &usize| !taken.has(*index);
        let earliest_return =
            (0..self.operations.len()).filter(open).filter_map(|index| self.operations[index].returned).min()?;
        for index in from..self.operations.len() {
            let operation = self.operations[index];
            if operation.invoked > earliest_return {
                return None;
            }
            if taken.has(index) {
                continue;
            }
            let Some(after) = operation.action.apply(state) else { continue };
            let mut then = taken.clone();
            then.flip(index);
            if self.dead.insert((then, after)) {
                return Some((index, after));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
