//! Sequence numbers of a session's commands.

use std::collections::BTreeSet;

use foreword_proto::Sequence;

/// Hands out sequence numbers so that the oldest command under way is always among the last `window` numbers: the group
/// keeps that many outcomes, and a retry of an older one would be refused.
#[derive(Debug, Clone)]
pub struct SequenceWindow {
    window: u64,
    next: Sequence,
    under_way: BTreeSet<Sequence>,
}

impl SequenceWindow {
    /// A new session's window; at least one command may be under way.
    pub fn new(window: u32) -> Self {
        Self { window: u64::from(window.max(1)), next: 1, under_way: BTreeSet::new() }
    }

    /// The next number, unless the oldest command under way would fall out of the window.
    pub fn begin(&mut self) -> Option<Sequence> {
        let oldest = self.under_way.first().copied().unwrap_or(self.next);
        if self.next - oldest >= self.window {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.under_way.insert(sequence);
        Some(sequence)
    }

    /// The command was answered.
    pub fn end(&mut self, sequence: Sequence) {
        self.under_way.remove(&sequence);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_command_under_way_never_leaves_the_window(picks in prop::collection::vec((any::<bool>(), 0usize..100), 0..500), window in 1u32..10) {
            let mut sequences = SequenceWindow::new(window);
            let mut under_way: Vec<u64> = Vec::new();
            let mut last = 0;
            for (begin, pick) in picks {
                if begin {
                    match sequences.begin() {
                        Some(sequence) => {
                            prop_assert_eq!(sequence, last + 1);
                            last = sequence;
                            under_way.push(sequence);
                        }
                        None => prop_assert!(!under_way.is_empty()),
                    }
                } else if !under_way.is_empty() {
                    let sequence = under_way.remove(pick % under_way.len());
                    sequences.end(sequence);
                }
                for sequence in &under_way {
                    prop_assert!(last - sequence < u64::from(window));
                }
            }
        }
    }
}
