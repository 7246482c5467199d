//! How many resting pages are due at a tick, without a walk through them.

use std::collections::VecDeque;

/// The list of resting pages, counted by deadline.
#[derive(Debug, Clone, Default)]
pub(super) struct Dues {
    /// (deadline, pages pushed until then since the first), deadlines rising.
    groups: VecDeque<(u64, u64)>,
    /// Pages that left at the head since the first.
    left: u64,
}

impl Dues {
    /// A page joins the end of the list. `tick_ms` is now: deadlines that are over need not be told apart.
    pub(super) fn push(&mut self, due_ms: u64, tick_ms: u64) {
        while self.groups.get(1).is_some_and(|(second_ms, _)| *second_ms <= tick_ms) {
            self.groups.pop_front();
        }
        match self.groups.back_mut() {
            Some((last_ms, pushed)) if *last_ms == due_ms => *pushed += 1,
            last => {
                let pushed = last.map_or(self.left, |(_, pushed)| *pushed);
                self.groups.push_back((due_ms, pushed + 1));
            }
        }
    }

    /// The page at the head left.
    pub(super) fn pop(&mut self) {
        self.left += 1;
        if self.groups.front().is_some_and(|(_, pushed)| *pushed <= self.left) {
            self.groups.pop_front();
        }
    }

    /// Pages whose deadline is over.
    pub(super) fn due(&self, tick_ms: u64) -> u64 {
        let groups = self.groups.partition_point(|(due_ms, _)| *due_ms <= tick_ms);
        groups.checked_sub(1).map_or(0, |last| self.groups[last].1 - self.left)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<(u64, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a plain queue of deadlines, with heads that leave only when they are due.
    #[test]
    fn counts_as_a_walk_would() {
        let (mut dues, mut queue) = (Dues::default(), VecDeque::new());
        let (mut tick_ms, mut noise) = (0, 1u64);
        for _ in 0..20_000 {
            noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            match noise >> 61 {
                0 => tick_ms += noise >> 33 & 7,
                1..=4 => {
                    let due_ms = (tick_ms + 20 + (noise >> 40 & 3)).max(queue.back().copied().unwrap_or(0));
                    dues.push(due_ms, tick_ms);
                    queue.push_back(due_ms);
                }
                _ if queue.front().is_some_and(|due_ms| *due_ms <= tick_ms) => {
                    queue.pop_front();
                    dues.pop();
                }
                _ => {}
            }
            let walked = queue.iter().filter(|due_ms| **due_ms <= tick_ms).count();
            assert_eq!(dues.due(tick_ms), walked as u64);
        }
        assert!(dues.groups.len() < 64, "{}", dues.groups.len());
    }
}
