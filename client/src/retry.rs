//! The one rule by which calls of the group are tried again. Pure: time and randomness come in.

use std::time::Duration;

use foreword_proto::bad_input::field_of;
use foreword_seams::Entropy;
use tokio::time::Instant;
use tonic::{Code, Status};

/// How long the first replica asked may take, before another one is. Whoever finds no answer in time gives the next one
/// twice as long, up to a limit: a group that is slow as a whole is waited for.
pub const ATTEMPT: Duration = Duration::from_secs(2);
pub const ATTEMPT_MAX: Duration = Duration::from_secs(8);
const BACKOFF_MS_MIN: u64 = 10;
const BACKOFF_MS_MAX: u64 = 100;

/// What a call that failed says about another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The group has answered: every replica would say the same.
    Final,
    /// This replica, or the way to it, failed: another one may do it.
    Elsewhere,
}

/// What a status says about another try of a call that may be repeated.
pub fn next(status: &Status) -> Next {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::Aborted
        | Code::ResourceExhausted => Next::Elsewhere,
        // What the caller has seen was not applied here yet.
        Code::FailedPrecondition if field_of(status) == Some("behind") => Next::Elsewhere,
        _ => Next::Final,
    }
}

/// The tries of one call.
#[derive(Debug, Clone)]
pub struct Tries {
    deadline: Option<Instant>,
    backoff: Backoff,
    attempt: Duration,
}

impl Tries {
    /// Tries until the deadline.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::endless() }
    }

    /// Tries until an answer is final.
    pub fn endless() -> Self {
        Self { deadline: None, backoff: Backoff::default(), attempt: ATTEMPT }
    }

    /// When an attempt that begins now has failed.
    pub fn attempt_ends(&self, now: Instant) -> Instant {
        let ends = now + self.attempt;
        self.deadline.map_or(ends, |deadline| ends.min(deadline))
    }

    /// The pause before the next attempt, after one that failed like this. None: there is none, the status is what the
    /// caller gets.
    pub fn pause(&mut self, status: &Status, now: Instant, entropy: &dyn Entropy) -> Option<Duration> {
        if next(status) == Next::Final {
            return None;
        }
        if status.code() == Code::DeadlineExceeded {
            self.attempt = (self.attempt * 2).min(ATTEMPT_MAX);
        }
        let pause = self.backoff.next(entropy);
        self.deadline.is_none_or(|deadline| now + pause < deadline).then_some(pause)
    }
}

/// Growing pauses between attempts, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    next_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next_ms: BACKOFF_MS_MIN }
    }
}

impl Backoff {
    /// The next pause: between half of the step and all of it.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let step = self.next_ms;
        self.next_ms = (step * 2).min(BACKOFF_MS_MAX);
        Duration::from_millis(step / 2 + entropy.below(step / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::bad_input::status_for;
    use foreword_seams::SeededEntropy;

    use super::*;

    #[test]
    fn a_failure_of_one_replica_is_another_ones_turn_and_an_answer_is_final() {
        let elsewhere = [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
            Code::Aborted,
            Code::ResourceExhausted,
        ];
        for code in (0..=16).map(Code::from).filter(|code| *code != Code::Ok) {
            let expected = if elsewhere.contains(&code) { Next::Elsewhere } else { Next::Final };
            assert_eq!(next(&Status::new(code, "no")), expected, "{code:?}");
        }
        assert_eq!(next(&status_for(Code::FailedPrecondition, "behind", "not yet")), Next::Elsewhere);
        assert_eq!(next(&status_for(Code::FailedPrecondition, "session", "over")), Next::Final);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_with_the_deadline() {
        let (now, entropy) = (Instant::now(), SeededEntropy::new(1));
        let gone = Status::unavailable("gone");
        let mut tries = Tries::until(now + Duration::from_secs(1));
        let mut at = now;
        let mut pauses = Vec::new();
        while let Some(pause) = tries.pause(&gone, at, &entropy) {
            at += pause;
            pauses.push(pause.as_millis() as u64);
        }
        assert!(at < now + Duration::from_secs(1), "no pause beyond the deadline");
        assert!((5..=10).contains(&pauses[0]) && (50..=100).contains(pauses.last().unwrap()), "{pauses:?}");
        assert!(pauses.len() >= 10, "{pauses:?}");
        assert!(Tries::endless().pause(&Status::not_found("no"), at, &entropy).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_longer_after_one_that_had_no_answer() {
        let (now, entropy) = (Instant::now(), SeededEntropy::new(1));
        let mut tries = Tries::endless();
        assert_eq!(tries.attempt_ends(now), now + ATTEMPT);
        tries.pause(&Status::unavailable("gone"), now, &entropy);
        assert_eq!(tries.attempt_ends(now), now + ATTEMPT, "who refuses at once is not slow");
        for _ in 0..5 {
            tries.pause(&Status::deadline_exceeded("late"), now, &entropy);
        }
        assert_eq!(tries.attempt_ends(now), now + ATTEMPT_MAX);
        let near = now + Duration::from_millis(7);
        assert_eq!(Tries::until(near).attempt_ends(now), near);
    }
}
