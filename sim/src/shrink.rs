//! A smaller schedule of faults with which a seed still fails in the same way.
//!
//! Delta debugging (Zeller and Hildebrandt, 2002) over the faults of a schedule, then shorter times for those that are
//! left. What is left is minimal in that no single fault can be taken away; a smaller set may exist that taking away
//! one by one does not find.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::faults::Fault;

/// No fault is made shorter than this.
const LASTS_MS_MIN: u64 = 50;
/// A fault's time is halved so often at most.
const HALVINGS: u32 = 6;

/// What became of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// Fails as the one that was given.
    pub faults: Vec<Fault>,
    /// How many schedules were tried.
    pub tried: usize,
    /// False when the time was over before.
    pub to_the_end: bool,
}

/// How to shrink: every closure may be called from several threads at once.
pub struct Shrinker<'a> {
    /// True if the seed fails in the same way with this schedule.
    pub fails: &'a (dyn Fn(&[Fault]) -> bool + Sync),
    /// Schedules that are tried side by side. It changes how long it takes and nothing else.
    pub jobs: usize,
    /// True once no other schedule should be tried.
    pub time_is_over: &'a (dyn Fn() -> bool + Sync),
    /// Told each time a smaller one is found.
    pub progress: &'a dyn Fn(&Shrunk),
}

/// Positions in the first schedule.
type Subset = Vec<usize>;

struct Search<'a> {
    shrinker: &'a Shrinker<'a>,
    first: &'a [Fault],
    tried: usize,
    /// Subsets that are known not to fail: levels of the search meet some of them again.
    fine: BTreeSet<Subset>,
}

impl Shrinker<'_> {
    /// Shrinks a schedule that fails. The order of the faults stays.
    pub fn shrink(&self, faults: &[Fault]) -> Shrunk {
        let mut search = Search { shrinker: self, first: faults, tried: 0, fine: BTreeSet::new() };
        let left = search.fewer();
        let mut faults = search.faults(&left);
        search.shorter(&mut faults);
        Shrunk { faults, tried: search.tried, to_the_end: !(self.time_is_over)() }
    }
}

impl Search<'_> {
    fn faults(&self, subset: &[usize]) -> Vec<Fault> {
        subset.iter().map(|position| self.first[*position].clone()).collect()
    }

    /// A subset of which no single fault can be taken away.
    fn fewer(&mut self) -> Subset {
        let mut left: Subset = (0..self.first.len()).collect();
        // Without any fault: then none of them has to do with it.
        if left.is_empty() || self.first_failing(vec![Vec::new()]).is_some() {
            return Vec::new();
        }
        let mut parts = 2;
        while left.len() >= 2 && !(self.shrinker.time_is_over)() {
            let split = split(&left, parts.min(left.len()));
            let complement = |part: &Subset| left.iter().filter(|at| !part.contains(at)).copied().collect::<Subset>();
            // Of two halves each is the other's complement.
            let complements = if split.len() > 2 { split.iter().map(complement).collect() } else { Vec::new() };
            if let Some(smaller) = self.first_failing(split.clone()) {
                left = smaller;
                parts = 2;
            } else if let Some(smaller) = self.first_failing(complements) {
                left = smaller;
                parts = (split.len() - 1).max(2);
            } else if split.len() == left.len() {
                break;
            } else {
                parts = split.len() * 2;
                continue;
            }
            self.tell(self.faults(&left));
        }
        left
    }

    /// Makes each fault as short as it can be.
    fn shorter(&mut self, faults: &mut Vec<Fault>) {
        for position in 0..faults.len() {
            let lasts_ms = faults[position].lasts_ms;
            let candidates: Vec<Vec<Fault>> = (1..=HALVINGS)
                .rev()
                .map(|halvings| lasts_ms >> halvings)
                .filter(|lasts_ms| *lasts_ms >= LASTS_MS_MIN)
                .map(|lasts_ms| {
                    let mut shorter = faults.clone();
                    shorter[position].lasts_ms = lasts_ms;
                    shorter
                })
                .collect();
            if let Some(index) = self.first_of(&candidates) {
                faults.clone_from(&candidates[index]);
                self.tell(faults.clone());
            }
        }
    }

    fn tell(&self, faults: Vec<Fault>) {
        (self.shrinker.progress)(&Shrunk { faults, tried: self.tried, to_the_end: false });
    }

    fn first_failing(&mut self, mut subsets: Vec<Subset>) -> Option<Subset> {
        subsets.retain(|subset| !self.fine.contains(subset));
        let candidates: Vec<Vec<Fault>> = subsets.iter().map(|subset| self.faults(subset)).collect();
        let found = self.first_of(&candidates);
        // What was not tried for want of time is not met again either: the search ends.
        self.fine.extend(subsets.iter().take(found.unwrap_or(subsets.len())).cloned());
        found.map(|index| subsets.swap_remove(index))
    }

    /// The first of these that fails. Later ones that were begun meanwhile are not counted, so that threads change
    /// nothing.
    fn first_of(&mut self, candidates: &[Vec<Fault>]) -> Option<usize> {
        let Shrinker { fails, jobs, time_is_over, .. } = self.shrinker;
        let (next, found) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        std::thread::scope(|scope| {
            for _ in 0..(*jobs).clamp(1, candidates.len().max(1)) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let late = index >= candidates.len() || index > found.load(Ordering::Relaxed);
                        if late || time_is_over() {
                            return;
                        }
                        if fails(&candidates[index]) {
                            found.fetch_min(index, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let found = Some(found.into_inner()).filter(|index| *index < usize::MAX);
        self.tried += found.map_or(candidates.len(), |index| index + 1);
        found
    }
}

/// Cuts into so many parts of about the same size; 1 <= `parts` <= the length.
fn split(positions: &[usize], parts: usize) -> Vec<Subset> {
    let at = |part: usize| positions.len() * part / parts;
    (0..parts).map(|part| positions[at(part)..at(part + 1)].to_vec()).collect()
}

#[cfg(test)]
mod tests;
