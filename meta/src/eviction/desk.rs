//! Where the leader's duty asks the policy for pages to evict, and finds the answer a round later: neither waits for
//! the other.

use std::sync::Arc;

use foreword_proto::Revision;
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::state::command::Retirement;

/// How many slots of a class are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) slot_bytes: u64,
    pub(super) slots: usize,
}

/// A question of one office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) term: u64,
    /// What the state had applied: the policy answers once it has, too.
    pub(super) revision: Revision,
    pub(super) needs: Vec<Need>,
}

/// What leaves, of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Victims {
    pub(super) slot_bytes: u64,
    pub(super) pages: Vec<Retirement>,
}

#[derive(Debug, Default)]
enum Paper {
    #[default]
    Nothing,
    Asked {
        question: Question,
        /// The policy has looked at it, and was behind.
        behind: bool,
    },
    /// The policy works on the question of this term.
    Taken(u64),
    Answered(Vec<Victims>),
}

/// Holds one question, or its answer.
#[derive(Debug)]
pub(super) struct Desk {
    paper: Mutex<Paper>,
    wake: Arc<Notify>,
}

impl Desk {
    /// A desk that wakes the policy with each question.
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        Self { paper: Mutex::default(), wake }
    }

    /// What was asked in an earlier office, or answered to it, is void.
    pub(super) fn clear(&self) {
        *self.paper.lock() = Paper::Nothing;
    }

    /// Asks; only when nothing is asked, and the last answer was taken.
    pub(super) fn ask(&self, question: Question) {
        *self.paper.lock() = Paper::Asked { question, behind: false };
        self.wake.notify_one();
    }

    /// The answer, if there is one. None while a question is open.
    pub(super) fn answer(&self) -> Option<Vec<Victims>> {
        let mut paper = self.paper.lock();
        match std::mem::take(&mut *paper) {
            Paper::Nothing => Some(Vec::new()),
            Paper::Answered(victims) => Some(victims),
            open => {
                *paper = open;
                None
            }
        }
    }

    /// The question, for a policy that has seen everything up to `seen`.
    pub(super) fn take(&self, seen: Revision) -> Option<Question> {
        let mut paper = self.paper.lock();
        let Paper::Asked { question, behind } = &mut *paper else { return None };
        if seen < question.revision {
            *behind = true;
            return None;
        }
        if *behind {
            sometimes(Marker::EvictionAwaitedPolicy);
        }
        let question = question.clone();
        *paper = Paper::Taken(question.term);
        Some(question)
    }

    /// The policy starts over: a question waits for it.
    pub(super) fn delay(&self) {
        if let Paper::Asked { behind, .. } = &mut *self.paper.lock() {
            *behind = true;
        }
    }

    /// Puts the answer there, unless the office has ended meanwhile.
    pub(super) fn put(&self, term: u64, victims: Vec<Victims>) {
        let mut paper = self.paper.lock();
        if matches!(*paper, Paper::Taken(taken) if taken == term) {
            *paper = Paper::Answered(victims);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(term: u64, revision: Revision) -> Question {
        Question { term, revision, needs: vec![Need { slot_bytes: 4096, slots: 1 }] }
    }

    #[test]
    fn a_question_waits_for_a_policy_that_is_behind() {
        let desk = Desk::new(Arc::default());
        assert_eq!(desk.answer(), Some(vec![]));
        desk.ask(question(1, 10));
        assert_eq!(desk.take(9), None);
        assert_eq!(desk.answer(), None, "it is open");
        assert_eq!(desk.take(10), Some(question(1, 10)));
        assert_eq!(desk.answer(), None, "it is being worked on");
        desk.put(1, vec![Victims { slot_bytes: 4096, pages: vec![] }]);
        assert_eq!(desk.answer().map(|victims| victims.len()), Some(1));
        assert_eq!(desk.answer(), Some(vec![]));
    }

    #[test]
    fn an_answer_to_an_earlier_office_is_void() {
        let desk = Desk::new(Arc::default());
        desk.ask(question(1, 10));
        desk.take(10).unwrap();
        desk.clear();
        desk.ask(question(2, 20));
        desk.take(20).unwrap();
        desk.put(1, vec![Victims { slot_bytes: 4096, pages: vec![] }]);
        assert_eq!(desk.answer(), None);
        desk.put(2, vec![]);
        assert_eq!(desk.answer(), Some(vec![]));
    }
}
