//! Faults on demand: what goes wrong, and how often. Pure but for the generator it is given.
//!
//! 3FS's daemon takes what a ring submitted as one job, and completes it as a whole: one slow chunk makes all of its
//! I/Os late, one that fails makes all of them fail. So the faults are a job's; only how much of it comes is each I/O's
//! own.

use std::str::FromStr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// Short I/Os end at a multiple of this.
const SHORT_BYTES: u64 = 4096;
/// A job that is reordered is held back for less than this.
const REORDER_HOLD_US: u64 = 2_000;
/// The longest delay a list may ask for.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// What goes wrong on purpose; by default nothing does.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FaultPlan {
    /// Jobs that are late by so much.
    latency: Option<Delay>,
    /// As `latency`, counted apart: meant to be longer than a client's patience.
    stall: Option<Delay>,
    /// -EIO for all of the job, and nothing moves.
    eio: Option<Chance>,
    /// Of single I/Os: fewer bytes than asked for, a multiple of 4,096; the result says how many.
    short: Option<Chance>,
    /// Never completed, no I/O of the job; the bytes may or may not have moved.
    drop: Option<Chance>,
    /// The job completes after others, its completions in another order.
    reorder: Option<Chance>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Delay {
    by: Duration,
    chance: Chance,
}

/// A probability from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Chance(f64);

/// A list of faults that says nothing: which part, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault '{part}': expected {expected}")]
pub struct FaultError {
    pub part: String,
    pub expected: &'static str,
}

/// What becomes of one job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) latency: Option<Duration>,
    pub(super) stall: Option<Duration>,
    pub(super) outcome: Outcome,
    /// How long its completions are held back.
    pub(super) reorder: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    Normal,
    Eio,
    Drop { moves: bool },
}

impl FaultPlan {
    /// True if nothing goes wrong.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Decides for one job. Draws as often whatever comes out, so that one fault's chance does not move the others.
    pub(super) fn fate(&self, random: &mut StdRng) -> Fate {
        let mut fires = |chance: Option<Chance>| random.gen_bool(chance.map_or(0.0, |chance| chance.0));
        let latency = fires(self.latency.map(|delay| delay.chance));
        let stall = fires(self.stall.map(|delay| delay.chance));
        let (eio, drop) = (fires(self.eio), fires(self.drop));
        let reorder = fires(self.reorder);
        let moves = random.gen_bool(0.5);
        let hold = Duration::from_micros(random.gen_range(0..REORDER_HOLD_US));
        Fate {
            latency: self.latency.filter(|_| latency).map(|delay| delay.by),
            stall: self.stall.filter(|_| stall).map(|delay| delay.by),
            outcome: match (drop, eio) {
                (true, _) => Outcome::Drop { moves },
                (_, true) => Outcome::Eio,
                _ => Outcome::Normal,
            },
            reorder: reorder.then_some(hold),
        }
    }

    /// Decides for one I/O of a job that is done: the draw for [`shortened`], if it is cut short. Draws as often
    /// whatever comes out.
    pub(super) fn short(&self, random: &mut StdRng) -> Option<u64> {
        let short = random.gen_bool(self.short.map_or(0.0, |chance| chance.0));
        let draw = random.gen_range(0..u64::MAX);
        short.then_some(draw)
    }
}

/// Fewer than `len` bytes, a multiple of 4,096, by a random number; an empty I/O stays empty.
pub(super) fn shortened(len: u64, draw: u64) -> u64 {
    match len.div_ceil(SHORT_BYTES) {
        0 => 0,
        blocks => draw % blocks * SHORT_BYTES,
    }
}

impl FromStr for FaultPlan {
    type Err = FaultError;

    /// A list such as `latency=20ms:2%,stall=5s:0.001,eio=2%,short=2%,drop=2%,reorder`; without a chance: always.
    fn from_str(list: &str) -> Result<Self, FaultError> {
        let mut plan = Self::default();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = |expected| FaultError { part: part.to_owned(), expected };
            let (kind, value) = part.split_once('=').map_or((part, None), |(kind, value)| (kind, Some(value)));
            let new = match kind {
                "latency" => plan.latency.replace(delay(value).map_err(wrong)?).is_none(),
                "stall" => plan.stall.replace(delay(value).map_err(wrong)?).is_none(),
                "eio" => plan.eio.replace(chance(value).map_err(wrong)?).is_none(),
                "short" => plan.short.replace(chance(value).map_err(wrong)?).is_none(),
                "drop" => plan.drop.replace(chance(value).map_err(wrong)?).is_none(),
                "reorder" => plan.reorder.replace(chance(value).map_err(wrong)?).is_none(),
                _ => return Err(wrong("latency, stall, eio, short, drop or reorder")),
            };
            if !new {
                return Err(wrong("each kind once"));
            }
        }
        Ok(plan)
    }
}

/// `2%` or `0.02`; none: always.
fn chance(text: Option<&str>) -> Result<Chance, &'static str> {
    let Some(text) = text else { return Ok(Chance(1.0)) };
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let chance = number.parse::<f64>().map(|number| number / unit);
    match chance {
        Ok(chance) if (0.0..=1.0).contains(&chance) => Ok(Chance(chance)),
        _ => Err("a chance from 0 to 1 or from 0% to 100%"),
    }
}

/// `20ms:2%`; without a chance: always.
fn delay(text: Option<&str>) -> Result<Delay, &'static str> {
    let expected = "a time of at most an hour in us, ms or s, and perhaps a chance: 20ms:2%";
    let text = text.ok_or(expected)?;
    let (time, share) = text.split_once(':').map_or((text, None), |(time, share)| (time, Some(share)));
    let unit = |suffix, seconds: f64| time.strip_suffix(suffix).map(|number: &str| (number, seconds));
    let (number, seconds) = unit("ms", 1e-3).or(unit("us", 1e-6)).or(unit("s", 1.0)).ok_or(expected)?;
    let seconds = number.parse::<f64>().map_err(|_| expected)? * seconds;
    let by = Duration::try_from_secs_f64(seconds).ok().filter(|by| *by <= DELAY_MAX).ok_or(expected)?;
    Ok(Delay { by, chance: chance(share)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_list_names_each_kind() {
        let plan: FaultPlan =
            "latency=20ms:2%, stall=5s:0.5,eio=2%,short=0.02,drop=100%,reorder".parse().expect("a good list");
        assert_eq!(plan.latency, Some(Delay { by: Duration::from_millis(20), chance: Chance(0.02) }));
        assert_eq!(plan.stall, Some(Delay { by: Duration::from_secs(5), chance: Chance(0.5) }));
        assert_eq!((plan.eio, plan.short), (Some(Chance(0.02)), Some(Chance(0.02))));
        assert_eq!((plan.drop, plan.reorder), (Some(Chance(1.0)), Some(Chance(1.0))));
        assert_eq!("latency=1.5us".parse::<FaultPlan>().unwrap().latency.unwrap().chance, Chance(1.0));
        assert!("".parse::<FaultPlan>().unwrap().is_empty());
    }

    #[test]
    fn a_bad_list_names_the_part() {
        for part in [
            "eoi",
            "eio=",
            "eio=2",
            "eio=-1%",
            "eio=NaN",
            "eio=101%",
            "latency",
            "latency=",
            "latency=20",
            "stall=-1s",
            "latency=20ms:",
            "latency=20ms:3",
            "stall=3601s",
            "stall=infs",
            "drop=x",
            "eio=1%=2%",
        ] {
            let error = format!("short=1%,{part},reorder").parse::<FaultPlan>().unwrap_err();
            assert_eq!(error.part, part);
            assert!(error.to_string().contains(part) && !error.expected.is_empty());
        }
        assert_eq!("eio,eio=2%".parse::<FaultPlan>().unwrap_err().expected, "each kind once");
    }

    #[test]
    fn chances_come_out_and_seeds_repeat() {
        let plan: FaultPlan = "latency=1s:10%,eio=20%,short=50%,drop=5%,reorder=30%".parse().unwrap();
        let fates = |seed| -> Vec<Fate> {
            let mut random = StdRng::seed_from_u64(seed);
            (0..20_000).map(|_| plan.fate(&mut random)).collect()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
        let share = |test: &dyn Fn(&Fate) -> bool| fates(3).iter().filter(|fate| test(fate)).count() as f64 / 20_000.0;
        assert!((share(&|fate| fate.latency.is_some()) - 0.1).abs() < 0.02);
        assert!(share(&|fate| fate.stall.is_some()) == 0.0);
        assert!((share(&|fate| matches!(fate.outcome, Outcome::Drop { .. })) - 0.05).abs() < 0.02);
        assert!((share(&|fate| fate.outcome == Outcome::Eio) - 0.95 * 0.2).abs() < 0.02);
        let mut random = StdRng::seed_from_u64(3);
        let short = (0..20_000).filter(|_| plan.short(&mut random).is_some()).count() as f64 / 20_000.0;
        assert!((short - 0.5).abs() < 0.02);
        assert!((share(&|fate| fate.reorder.is_some()) - 0.3).abs() < 0.02);
    }

    proptest! {
        #[test]
        fn short_is_shorter_and_aligned(len in 1u64..1 << 40, draw: u64) {
            let short = shortened(len, draw);
            prop_assert!(short < len && short.is_multiple_of(SHORT_BYTES));
        }

        #[test]
        fn no_list_panics(list in "[a-z=:,.%0-9ms-]{0,40}") {
            let _ = list.parse::<FaultPlan>();
        }
    }
}
