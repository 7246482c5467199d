//! Which replica is asked next. Pure.

use std::time::Duration;

use foreword_seams::Endpoint;
use tokio::time::Instant;

/// Members remembered; more than any group has.
const MEMBERS_MAX: usize = 32;
/// That nobody answers is said again after this.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// Where the group can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    /// By configuration: asked when no member that is known answers.
    configured: Vec<Endpoint>,
    /// By what a replica said last.
    told: Vec<Endpoint>,
}

impl Members {
    /// The configured ones; there is at least one.
    pub(crate) fn new(configured: &[Endpoint]) -> Self {
        Self { configured: configured.to_vec(), told: Vec::new() }
    }

    /// The group says who belongs to it now. True: that is news.
    pub(crate) fn are(&mut self, members: impl IntoIterator<Item = Endpoint>) -> bool {
        let mut told: Vec<Endpoint> = Vec::new();
        for member in members {
            if told.len() < MEMBERS_MAX && !told.contains(&member) {
                told.push(member);
            }
        }
        // A list without members says nothing.
        !told.is_empty() && told != self.told && {
            self.told = told;
            true
        }
    }

    /// All, in the order in which they are asked.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.told.iter().chain(self.unheard_of())
    }

    fn unheard_of(&self) -> impl Iterator<Item = &Endpoint> {
        self.configured.iter().filter(|endpoint| !self.told.contains(endpoint))
    }

    /// Whose turn it is after `last`, with so many failures in a row: the members that the group told of one after the
    /// other, then the other configured ones, and so on.
    fn after(&self, last: &Endpoint, failures: usize) -> &Endpoint {
        let turn = failures % self.all().count();
        let next_of = |list: &[Endpoint]| match list.iter().position(|endpoint| endpoint == last) {
            Some(at) => (at + 1) % list.len(),
            None => 0,
        };
        match self.told.len() {
            0 => &self.configured[next_of(&self.configured)],
            told if turn < told => &self.told[next_of(&self.told)],
            told => self.unheard_of().nth(turn - told).unwrap_or(&self.told[0]),
        }
    }
}

/// Whose turn it is, for one user of the group.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) at: Endpoint,
    /// Failures since the last answer.
    failures: usize,
}

impl Turn {
    pub(crate) fn new(at: Endpoint) -> Self {
        Self { at, failures: 0 }
    }

    /// Somebody answered.
    pub(crate) fn answered(&mut self) {
        self.failures = 0;
    }

    /// `endpoint` failed: if it is still its turn, it is the next one's. True: by now everybody has failed.
    pub(crate) fn failed(&mut self, endpoint: &Endpoint, members: &Members) -> bool {
        if self.at == *endpoint {
            self.failures += 1;
            self.at = members.after(endpoint, self.failures).clone();
        }
        self.failures >= members.all().count()
    }

    /// Everybody was asked since the last answer.
    pub(crate) fn went_round(&self, members: &Members) -> bool {
        self.failures >= members.all().count()
    }
}

/// What was said of a group that does not answer: at once, and then now and then.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    said: Option<Instant>,
}

impl Silence {
    /// True: say it.
    pub(crate) fn goes_on(&mut self, now: Instant) -> bool {
        let due = self.said.is_none_or(|said| now >= said + SAID_EVERY);
        if due {
            self.said = Some(now);
        }
        due
    }

    /// True: say that it is over.
    pub(crate) fn ends(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(names: &[&str]) -> Vec<Endpoint> {
        names.iter().map(|name| format!("{name}:1").parse().unwrap()).collect()
    }

    /// Who is asked, while all fail.
    fn asked(members: &Members, turn: &mut Turn, times: usize) -> String {
        let mut asked = String::new();
        for _ in 0..times {
            let at = turn.at.clone();
            asked.push_str(at.to_string().trim_end_matches(":1"));
            turn.failed(&at, members);
        }
        asked
    }

    #[test]
    fn members_are_asked_in_turn_and_the_configured_ones_when_none_answers() {
        let mut members = Members::new(&endpoints(&["a", "b", "c"]));
        let mut turn = Turn::new("b:1".parse().unwrap());
        assert_eq!(asked(&members, &mut turn, 4), "bcab");
        turn.answered();
        assert!(members.are(endpoints(&["c", "d", "e"])));
        assert!(!members.are(endpoints(&["c", "d", "e"])), "no news");
        assert!(!members.are([]), "nobody is no group");
        assert_eq!(asked(&members, &mut turn, 11), "cdeabcdeabc");
        turn.answered();
        turn.at = "d:1".parse().unwrap();
        assert_eq!(asked(&members, &mut turn, 5), "decab");
    }

    #[test]
    fn a_failure_that_comes_late_changes_nothing() {
        let members = Members::new(&endpoints(&["a", "b"]));
        let mut turn = Turn::new("a:1".parse().unwrap());
        let first = turn.at.clone();
        assert!(!turn.failed(&first, &members));
        assert!(!turn.failed(&first, &members), "it is another's turn already");
        assert_eq!(turn.at.to_string(), "b:1");
        let second = turn.at.clone();
        assert!(turn.failed(&second, &members) && turn.went_round(&members));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_at_once_and_once_a_minute() {
        let (mut silence, now) = (Silence::default(), Instant::now());
        assert!(!silence.ends(), "nothing was said");
        let said = (0..150).filter(|second| silence.goes_on(now + Duration::from_secs(*second)));
        assert_eq!(said.collect::<Vec<_>>(), [0, 60, 120]);
        assert!(silence.ends() && silence.goes_on(now));
    }
}
