//! Seeds side by side, each on threads of its own, and told in their order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// Does `work` for each number on `jobs` threads, and gives the results to `then` on this one, in the order of the
/// numbers.
pub fn in_order<T: Send>(
    numbers: Range<u64>,
    jobs: usize,
    work: impl Fn(u64) -> T + Sync,
    mut then: impl FnMut(u64, T),
) {
    let next = AtomicU64::new(numbers.start);
    let (done, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (done, next, work) = (done.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // The receiver is gone only when `then` panicked.
                    if number >= numbers.end || done.send((number, work(number))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut early = BTreeMap::new();
        let mut wanted = numbers.start;
        for (number, result) in results {
            early.insert(number, result);
            while let Some(result) = early.remove(&wanted) {
                then(wanted, result);
                wanted += 1;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_each_once() {
        let mut seen = Vec::new();
        let slow_first = |number: u64| {
            // The first ones take longest, so that they are overtaken.
            (0..(60 - number) * 2_000).fold(number, |sum, step| std::hint::black_box(sum ^ step ^ step))
        };
        in_order(10..60, 4, slow_first, |number, result| seen.push((number, result)));
        assert_eq!(seen, (10..60).map(|number| (number, number)).collect::<Vec<_>>());
    }
}
