//! Random command sequences against the model, all invariants after each command, through snapshots and with frozen
//! views.

use bytes::BytesMut;
use foreword_meta::state::command::{ClusterSettings, Command};
use foreword_meta::state::invariants::{Summary, check, check_step};
use foreword_meta::state::{Frozen, RestoreError, State, codec};
use foreword_proto::PageKey;
use foreword_proto::limits::FORMAT_VERSION;
use foreword_proto::records::PageRecord;
use proptest::prelude::*;

use crate::model::Model;
use crate::operations::{self, Operation};

/// A view and what it showed when it was taken.
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
    commands: Vec<Command>,
    views: Vec<View>,
    revision: u64,
}

pub(crate) fn restored(state: &State) -> State {
    let pieces: Vec<_> = state.freeze().chunks().collect();
    State::restore::<RestoreError>(pieces.into_iter().map(Ok)).expect("its own snapshot")
}

impl Run {
    fn new(settings: &ClusterSettings) -> Self {
        let state = State::new(settings.clone());
        let model = Model::new(settings.clone());
        let twin = state.clone();
        let mut run = Self { state, twin, model, commands: Vec::new(), views: Vec::new(), revision: 0 };
        // A start that lets most operations do something.
        for which in [0, 2] {
            run.step(&Operation::Register { which });
        }
        for node in [0, 1] {
            run.step(&Operation::Open { node });
        }
        run
    }

    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Restart => {
                let again = restored(&self.state);
                assert_eq!(again.digest(), self.state.digest());
                self.state = again;
            }
            Operation::Freeze => self.views.push(View {
                frozen: self.state.freeze(),
                digest: self.state.digest(),
                model: self.model.clone(),
            }),
            operation => {
                if let Some(command) = operations::command(operation, &self.model, &self.commands) {
                    self.apply(&command);
                    self.commands.push(command);
                }
            }
        }
    }

    fn apply(&mut self, command: &Command) {
        let mut encoded = BytesMut::new();
        codec::encode_command(command, &mut encoded);
        let entry = codec::encode_batch(FORMAT_VERSION, &[encoded.freeze()]);
        let decoded = codec::decode_batch(entry).unwrap().remove(0);
        assert_eq!(&decoded, command);

        self.revision += 1;
        let before = Summary::of(&self.state);
        let (mut events, mut twin_events) = (Vec::new(), Vec::new());
        // As a replica does it; the twin copies what views share while it applies.
        let copies = self.state.copies_for(std::slice::from_ref(command));
        self.state.put_copies(copies);
        assert!(self.state.copies_for(std::slice::from_ref(command)).is_empty(), "{command:?}");
        let outcome = self.state.apply(self.revision, &decoded, &mut events);
        assert_eq!(self.twin.apply(self.revision, command, &mut twin_events), outcome);
        assert_eq!(twin_events, events);
        self.state.finish_entry(self.revision);
        self.twin.finish_entry(self.revision);
        let expected = self.model.apply(self.revision, command, &outcome, &self.state);
        assert_eq!((outcome, events), expected, "{command:?}");

        assert_eq!(self.state.digest(), self.twin.digest());
        check(&self.state).unwrap_or_else(|violation| panic!("{violation} after {command:?}"));
        check_step(&before, &self.state).unwrap_or_else(|violation| panic!("{violation} after {command:?}"));
        self.model.assert_equal(&self.state);
        assert_eq!(codec::decode_outcome(&mut codec::outcome_bytes(&expected.0)), Ok(expected.0));
    }

    fn finish(self) {
        for view in &self.views {
            let state = view.frozen.state();
            assert_eq!(state.digest_from_scratch(), view.digest);
            view.model.assert_equal(state);
            for info in state.namespaces() {
                let buckets: Vec<(u32, Vec<PageRecord>)> = view.frozen.entries_of(info.id).unwrap().collect();
                assert!(buckets.is_sorted_by_key(|(bucket, _)| *bucket));
                assert_eq!(buckets.iter().map(|(_, pages)| pages.len() as u64).sum::<u64>(), info.pages());
            }
            assert_eq!(restored(state).digest(), view.digest);
        }
        self.assert_lookups();
    }

    /// A lookup visits leading keys up to the first that is absent, or all.
    fn assert_lookups(&self) {
        let keys: Vec<PageKey> = (0..10)
            .map(|number| {
                let mut key = [7; 32];
                key[..16].copy_from_slice(&operations::key(number).0);
                PageKey(key)
            })
            .collect();
        for info in self.state.namespaces() {
            let present = |key: &PageKey| self.model.entries.get(&(info.id, key.entry())).map(|page| &page.location);
            for every_key in [false, true] {
                let mut seen = Vec::new();
                let visit = |at: usize, found: Option<foreword_meta::state::LocationRef<'_>>| {
                    assert_eq!(at, seen.len());
                    seen.push(found.map(|location| location.to_location()));
                };
                assert_eq!(self.state.lookup(info.id, &keys, every_key, visit), Some(info.epoch));
                let leading = keys.iter().take_while(|key| present(key).is_some()).count();
                let visited = if every_key { keys.len() } else { keys.len().min(leading + 1) };
                let expected: Vec<_> = keys[..visited].iter().map(|key| present(key).cloned()).collect();
                assert_eq!(seen, expected);
            }
        }
        assert_eq!(self.state.lookup(99, &keys, true, |_, _| panic!("no visit")), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn the_state_is_its_model(
        settings in operations::settings(),
        operations in prop::collection::vec(operations::operation(), 1..160),
    ) {
        let mut run = Run::new(&settings);
        for operation in &operations {
            run.step(operation);
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
    let strategy = (operations::settings(), prop::collection::vec(operations::operation(), 160..200));
    let (mut pages, mut reused, mut suspected, mut reclaimed, mut dropped) = (0, 0, 0, 0, 0);
    for _ in 0..24 {
        let (settings, operations) = strategy.new_tree(&mut runner).unwrap().current();
        let mut run = Run::new(&settings);
        for operation in &operations {
            run.step(operation);
            pages += run.model.entries.len();
            suspected += run.model.suspicions.len();
            reclaimed += usize::from(!run.model.cleared.is_empty());
        }
        reused += run.model.slots_reused;
        dropped += run.model.slabs_ever as usize - run.model.slabs.len();
        run.finish();
    }
    let seen = [pages, reused as usize, suspected, reclaimed, dropped];
    let least = [2000, 50, 50, 50, 3];
    let enough = seen.iter().zip(least).all(|(seen, least)| *seen >= least);
    assert!(enough, "pages, reused, suspected, reclaimed, dropped: {seen:?}");
}
