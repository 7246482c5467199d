//! Random operations on page files against the model, all invariants after each, through snapshots and with frozen
//! views.

use bytes::BytesMut;
use foreword_meta::state::command::{Command, Outcome};
use foreword_meta::state::hf3fs::{FileId, Hf3fsCommand, Hf3fsOperation, PageIndex};
use foreword_meta::state::invariants::{Summary, check, check_command, check_step};
use foreword_meta::state::{Frozen, State, codec};
use foreword_proto::EntryKey;
use foreword_proto::limits::FORMAT_VERSION;
use proptest::collection::vec;
use proptest::prelude::*;

use super::model::Model;
use super::{WRITE_REST_MS, file_name, key, keys, settings};
use crate::random::restored;

const KEYS: u64 = 40;

#[derive(Debug, Clone)]
enum Step {
    Tick(u16),
    /// Another leader.
    Term,
    Initialize {
        which: u8,
        pages: u8,
    },
    Reserve {
        file: u8,
        keys: Vec<u8>,
        /// Pages of which this is a remainder are protected.
        protected: u8,
        skips_max: u8,
        stray_victims: Vec<u8>,
        other_term: bool,
        touched: Vec<u8>,
    },
    Confirm {
        file: u8,
        /// Which reservations, and how they are wrong.
        written: Vec<(u8, Wrong)>,
        released: Vec<(u8, Wrong)>,
        touched: Vec<u8>,
    },
    Delete {
        file: u8,
        keys: Vec<u8>,
        rest_ms: u16,
    },
    Clear {
        file: u8,
        rest_ms: u16,
    },
    Drop {
        file: u8,
        rest_ms: u16,
    },
    Touch {
        file: u8,
        touched: Vec<u8>,
    },
    Expire {
        file: u8,
        age_ms: u16,
        pages_max: u8,
    },
    Import {
        file: u8,
        entries: Vec<(u8, u8)>,
        rest_ms: u16,
    },
    Restart,
    Freeze,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Not,
    Key,
    Page,
    FarPage,
}

fn wrong() -> impl Strategy<Value = Wrong> {
    prop_oneof![12 => Just(Wrong::Not), 1 => Just(Wrong::Key), 1 => Just(Wrong::Page), 1 => Just(Wrong::FarPage)]
}

fn step() -> impl Strategy<Value = Step> {
    let few = || vec(any::<u8>(), 0..6);
    let reserve = (
        any::<u8>(),
        vec(any::<u8>(), 0..9),
        any::<u8>(),
        0u8..9,
        vec(any::<u8>(), 0..2),
        prop::bool::weighted(0.05),
        few(),
    );
    prop_oneof![
        6 => (0u16..150).prop_map(Step::Tick),
        1 => (0u16..2000).prop_map(Step::Tick),
        1 => Just(Step::Term),
        3 => (0u8..4, 0u8..3).prop_map(|(which, pages)| Step::Initialize { which, pages }),
        16 => reserve.prop_map(|(file, keys, protected, skips_max, stray_victims, other_term, touched)| {
            Step::Reserve { file, keys, protected, skips_max, stray_victims, other_term, touched }
        }),
        14 => (any::<u8>(), vec((any::<u8>(), wrong()), 0..8), vec((any::<u8>(), wrong()), 0..3), few())
            .prop_map(|(file, written, released, touched)| Step::Confirm { file, written, released, touched }),
        2 => (any::<u8>(), few(), 0u16..600).prop_map(|(file, keys, rest_ms)| Step::Delete { file, keys, rest_ms }),
        1 => (any::<u8>(), 0u16..600).prop_map(|(file, rest_ms)| Step::Clear { file, rest_ms }),
        1 => (any::<u8>(), 0u16..600).prop_map(|(file, rest_ms)| Step::Drop { file, rest_ms }),
        3 => (any::<u8>(), few()).prop_map(|(file, touched)| Step::Touch { file, touched }),
        4 => (any::<u8>(), 0u16..200, 0u8..5).prop_map(|(file, age_ms, pages_max)| Step::Expire { file, age_ms, pages_max }),
        1 => (any::<u8>(), vec((any::<u8>(), any::<u8>()), 0..9), 0u16..600)
            .prop_map(|(file, entries, rest_ms)| Step::Import { file, entries, rest_ms }),
        1 => Just(Step::Restart),
        1 => Just(Step::Freeze),
    ]
}

/// The command that a step stands for now.
fn command(step: &Step, model: &Model) -> Option<Command> {
    let on = |file: u8, touched: &[u8], operation| {
        let file = file_id(model, file);
        let touched = touched.iter().map(|number| index(model, file, *number)).collect();
        Some(Command::Hf3fs(Hf3fsCommand::On { file, touched, operation }))
    };
    let some_keys = |numbers: &[u8]| keys(numbers.iter().map(|number| u64::from(*number) % KEYS));
    match step {
        Step::Tick(ms) => Some(Command::Tick { now_ms: (model.tick_ms + u64::from(*ms)).saturating_sub(10) }),
        Step::Initialize { which, pages } => {
            let name = file_name(["", "m", "", ""][*which as usize], i64::from(*which) % 2, "kv");
            Some(Command::Hf3fs(Hf3fsCommand::Initialize { name, pages: [3, 17, 30][*pages as usize] }))
        }
        Step::Reserve { file, keys, touched, .. } => {
            let operation = reserve(step, model, file_id(model, *file), some_keys(keys));
            on(*file, touched, operation)
        }
        Step::Confirm { file, written, released, touched } => {
            let id = file_id(model, *file);
            let written =
                written.iter().filter_map(|(number, wrong)| reservation(model, id, *number, *wrong)).collect();
            let released = released.iter().filter_map(|(number, wrong)| reservation(model, id, *number, *wrong));
            let released = released.map(|(_, index)| index).collect();
            on(*file, touched, Hf3fsOperation::Confirm { written, released })
        }
        Step::Delete { file, keys, rest_ms } => {
            on(*file, &[], Hf3fsOperation::Delete { keys: some_keys(keys), rest_ms: (*rest_ms).into() })
        }
        Step::Clear { file, rest_ms } => on(*file, &[], Hf3fsOperation::Clear { rest_ms: (*rest_ms).into() }),
        Step::Drop { file, rest_ms } => {
            let (file, rest_ms) = (file_id(model, *file), (*rest_ms).into());
            Some(Command::Hf3fs(Hf3fsCommand::Drop { file, rest_ms }))
        }
        Step::Touch { file, touched } => on(*file, touched, Hf3fsOperation::Touch),
        Step::Expire { file, age_ms, pages_max } => {
            let (unheard_ms, pages_max) = ((*age_ms).into(), (*pages_max).into());
            on(*file, &[], Hf3fsOperation::Expire { unheard_ms, pages_max })
        }
        Step::Import { file, entries, rest_ms } => {
            let id = file_id(model, *file);
            let entry = |(number, at): &(u8, u8)| (key(u64::from(*number) % KEYS), index(model, id, *at));
            let entries = entries.iter().map(entry).collect();
            on(*file, &[], Hf3fsOperation::Import { entries, rest_ms: (*rest_ms).into() })
        }
        Step::Term | Step::Restart | Step::Freeze => None,
    }
}

/// Mostly one there is.
fn file_id(model: &Model, number: u8) -> FileId {
    let known: Vec<FileId> = model.files.keys().copied().collect();
    match known.len() {
        0 => 0,
        _ if number > 250 => 9,
        files => known[number as usize % files],
    }
}

/// Mostly one the file has; without a file, any.
fn index(model: &Model, file: FileId, number: u8) -> PageIndex {
    let pages = model.files.get(&file).map_or(1, |file| file.pages());
    match number {
        255 => u32::MAX,
        250.. => pages + u32::from(number),
        _ => u32::from(number) % pages,
    }
}

/// A reserve as a leader proposes it: victims for what there is no room for, none of them protected.
fn reserve(step: &Step, model: &Model, file: FileId, keys: Vec<EntryKey>) -> Hf3fsOperation {
    let Step::Reserve { protected, skips_max, stray_victims, other_term, .. } = step else { unreachable!() };
    let strays = stray_victims.iter().map(|number| index(model, file, *number));
    let may_go = |index: PageIndex| index % 5 != u32::from(*protected) % 7;
    let victims = match model.files.get(&file) {
        Some(file) => file.victims(keys.len(), usize::from(*skips_max), may_go),
        None => Vec::new(),
    };
    let victims = if *protected % 8 == 0 { strays.chain(victims).collect() } else { victims };
    Hf3fsOperation::Reserve { term: model.term - u64::from(*other_term), keys, victims }
}

/// A reservation, or something like it.
fn reservation(model: &Model, file: FileId, number: u8, wrong: Wrong) -> Option<(EntryKey, PageIndex)> {
    let of_file = model.files.get(&file)?;
    let held = &of_file.reserved;
    let at = if held.is_empty() { index(model, file, number) } else { held[number as usize % held.len()] };
    let right = of_file.key_of(at).unwrap_or(key(u64::from(number) % KEYS));
    Some(match wrong {
        Wrong::Not => (right, at),
        Wrong::Key => (key(u64::from(number) % KEYS), at),
        Wrong::Page => (right, index(model, file, number)),
        Wrong::FarPage => (right, u32::MAX - u32::from(number)),
    })
}

struct View {
    frozen: Frozen,
    digest: u64,
    model: Model,
}

/// The real state, one that is never restarted, and the model, side by side.
struct Run {
    state: State,
    twin: State,
    model: Model,
    views: Vec<View>,
    revision: u64,
    restarts: u64,
}

impl Run {
    fn new() -> Self {
        let state = State::new(settings());
        let model = Model::new(WRITE_REST_MS);
        let mut run = Self { twin: state.clone(), state, model, views: Vec::new(), revision: 0, restarts: 0 };
        run.step(&Step::Initialize { which: 0, pages: 1 });
        run
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Restart => {
                let again = restored(&self.state);
                assert_eq!(again.digest(), self.state.digest());
                self.state = again;
                self.restarts += 1;
            }
            Step::Freeze => self.views.push(View {
                frozen: self.state.freeze(),
                digest: self.state.digest(),
                model: self.model.clone(),
            }),
            Step::Term => self.model.term += 1,
            step => {
                let command = command(step, &self.model).expect("a step that is a command");
                self.assert_victims(step);
                self.apply(&command);
            }
        }
    }

    /// What the real file offers as victims is what the model does.
    fn assert_victims(&self, step: &Step) {
        let Step::Reserve { file, protected, skips_max, keys, .. } = step else { return };
        let id = file_id(&self.model, *file);
        let Some((real, model)) = self.state.hf3fs().file(id).zip(self.model.files.get(&id)) else { return };
        let may_go = |index: PageIndex| index % 3 != u32::from(*protected) % 4;
        for state_skips in [usize::from(*skips_max), 1, 1000] {
            let expected = model.victims(keys.len(), state_skips, may_go);
            assert_eq!(real.victims(keys.len(), state_skips, may_go), expected);
        }
    }

    fn apply(&mut self, command: &Command) {
        let mut encoded = BytesMut::new();
        codec::encode_command(command, &mut encoded);
        let decoded = codec::decode_batch(codec::encode_batch(FORMAT_VERSION, &[encoded.freeze()])).unwrap().remove(0);
        assert_eq!(&decoded, command);

        self.revision += 1;
        let before = Summary::of(&self.state);
        let mut events = Vec::new();
        for state in [&mut self.state, &mut self.twin] {
            state.begin_entry(self.model.term, self.revision);
        }
        let outcome = self.state.apply(self.revision, &decoded, &mut events);
        assert_eq!(self.twin.apply(self.revision, command, &mut events), outcome);
        assert!(events.is_empty(), "{events:?}");
        self.state.finish_entry(self.revision);
        self.twin.finish_entry(self.revision);
        let expected = match command {
            Command::Hf3fs(command) => Outcome::Hf3fs(self.model.apply(command)),
            _ => {
                self.model.tick_ms = self.state.tick_ms();
                Outcome::Done
            }
        };
        assert_eq!(outcome, expected, "{command:?}");
        assert_eq!(codec::decode_outcome(&mut codec::outcome_bytes(&outcome)), Ok(expected));

        assert_eq!(self.state.digest(), self.twin.digest());
        check(&self.state).unwrap_or_else(|violation| panic!("{violation} after {command:?}"));
        check_step(&before, &self.state).unwrap_or_else(|violation| panic!("{violation} after {command:?}"));
        check_command(&before, command, &self.state).unwrap();
        self.model.assert_equal(&self.state, &keys(0..KEYS));
    }

    fn finish(self) {
        for view in &self.views {
            let state = view.frozen.state();
            assert_eq!(state.digest_from_scratch(), view.digest);
            view.model.assert_equal(state, &keys(0..KEYS));
            assert_eq!(restored(state).digest(), view.digest);
        }
        self.model.assert_equal(&self.twin, &keys(0..KEYS));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn page_files_are_their_model(steps in vec(step(), 1..160)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        run.finish();
    }
}

/// The random runs are worth something only if they get somewhere: over a fixed set of them, each kind of thing
/// happens.
#[test]
fn random_runs_reach_every_corner() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = vec(step(), 160..200);
    let mut seen = [0; 9];
    for _ in 0..24 {
        let mut run = Run::new();
        for step in &strategy.new_tree(&mut runner).unwrap().current() {
            run.step(step);
        }
        for file in run.model.files.values() {
            let counts = file.counters;
            let found = [
                counts.evicted,
                counts.expired,
                counts.no_page,
                counts.ignored_confirms,
                counts.ignored_releases,
                file.given_again,
            ];
            seen.iter_mut().zip(found).for_each(|(seen, found)| *seen += found);
        }
        seen[6] += run.restarts;
        seen[7] += run.views.len() as u64;
        seen[8] += run.model.made_resting;
        run.finish();
    }
    let least = [100, 15, 30, 100, 30, 100, 40, 40, 10];
    let enough = seen.iter().zip(least).all(|(seen, least)| *seen >= least);
    assert!(
        enough,
        "evicted, expired, no page, ignored confirms and releases, given again, restarts, views, made anew resting: {seen:?}"
    );
}
