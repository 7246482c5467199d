//! SGLang's page files: examples of each promise, a model, codec and snapshots.

pub(crate) mod codec;
mod examples;
mod measure;
mod model;
mod random;
mod restore;

use foreword_meta::state::State;
use foreword_meta::state::command::{ClusterSettings, Command, Outcome};
use foreword_meta::state::hf3fs::{
    File, FileCounts, FileId, FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved,
};
use foreword_meta::state::invariants::{Summary, check, check_command, check_step};
use foreword_proto::{EntryKey, PageKey};

pub(crate) const WRITE_REST_MS: u64 = 300;

pub(crate) fn key(number: u64) -> EntryKey {
    PageKey::opaque(&number.to_le_bytes()).entry()
}

pub(crate) fn keys(numbers: impl IntoIterator<Item = u64>) -> Vec<EntryKey> {
    numbers.into_iter().map(key).collect()
}

pub(crate) fn file_name(deployment: &str, rank: i64, pool: &str) -> FileName {
    FileName { deployment: deployment.into(), rank, pool: pool.into() }
}

pub(crate) fn settings() -> ClusterSettings {
    ClusterSettings {
        chunk_bytes: 4096,
        slab_bytes: 40_960,
        l3_bytes: 40_960,
        read_rest_ms: 100,
        write_rest_ms: WRITE_REST_MS,
        first_feature_level: 1,
        hf3fs_protection_ms: 30_000,
        lease_ms: 1000,
    }
}

/// A state with page files, whose leader has term 1.
pub(crate) struct Files {
    pub(crate) state: State,
    pub(crate) term: u64,
}

impl Files {
    /// With file 0 of so many pages.
    pub(crate) fn with(pages: u32) -> Self {
        let mut files = Self { state: State::new(settings()), term: 1 };
        let initialized = files.initialize(file_name("", 0, "kv"), pages);
        assert_eq!(initialized, Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: 0 }));
        files
    }

    /// Applies an entry of one command; every invariant holds after it.
    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let before = Summary::of(&self.state);
        let outcome = self.apply_unchecked(&command);
        check(&self.state).unwrap_or_else(|violation| panic!("{violation} after {command:?}"));
        check_step(&before, &self.state).unwrap_or_else(|violation| panic!("{violation} after {command:?}"));
        check_command(&before, &command, &self.state).unwrap();
        outcome
    }

    pub(crate) fn apply_unchecked(&mut self, command: &Command) -> Outcome {
        let revision = self.state.revision() + 1;
        self.state.begin_entry(self.term, revision);
        let outcome = self.state.apply(revision, command, &mut Vec::new());
        self.state.finish_entry(revision);
        outcome
    }

    pub(crate) fn initialize(&mut self, name: FileName, pages: u32) -> Outcome {
        self.apply(Command::Hf3fs(Hf3fsCommand::Initialize { name, pages }))
    }

    pub(crate) fn tick(&mut self, ms: u64) {
        let now_ms = self.state.tick_ms() + ms;
        self.apply(Command::Tick { now_ms });
    }

    pub(crate) fn on(&mut self, file: FileId, touched: &[PageIndex], operation: Hf3fsOperation) -> Hf3fsOutcome {
        let command = Hf3fsCommand::On { file, touched: touched.to_vec(), operation };
        match self.apply(Command::Hf3fs(command)) {
            Outcome::Hf3fs(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn file(&self) -> &File {
        self.state.hf3fs().file(0).unwrap()
    }

    pub(crate) fn counts(&self) -> FileCounts {
        self.file().counts()
    }

    /// What a reserve on file 0 is answered; its victims are the leader's of the entry's term.
    pub(crate) fn reserve_with(&mut self, keys: &[EntryKey], victims: Vec<PageIndex>) -> Vec<Reserved> {
        let operation = Hf3fsOperation::Reserve { term: self.term, keys: keys.to_vec(), victims };
        match self.on(0, &[], operation) {
            Hf3fsOutcome::Reserved { pages } => pages,
            other => panic!("{other:?}"),
        }
    }

    /// The same, with as many victims as are needed when no page is protected.
    pub(crate) fn reserve(&mut self, keys: &[EntryKey]) -> Vec<Reserved> {
        let victims = self.file().victims(keys.len(), 0, |_| true);
        self.reserve_with(keys, victims)
    }

    /// What a confirm on file 0 ignored: confirms, releases.
    pub(crate) fn confirm(&mut self, written: &[(EntryKey, PageIndex)], released: &[PageIndex]) -> (u32, u32) {
        let operation = Hf3fsOperation::Confirm { written: written.to_vec(), released: released.to_vec() };
        match self.on(0, &[], operation) {
            Hf3fsOutcome::Confirmed { ignored_confirms, ignored_releases } => (ignored_confirms, ignored_releases),
            other => panic!("{other:?}"),
        }
    }

    /// Reserves and confirms keys on file 0; their pages.
    pub(crate) fn write(&mut self, numbers: impl IntoIterator<Item = u64>) -> Vec<PageIndex> {
        let keys = keys(numbers);
        let pages = pages(&self.reserve(&keys));
        let written: Vec<_> = keys.into_iter().zip(pages.iter().copied()).collect();
        assert_eq!(self.confirm(&written, &[]), (0, 0));
        pages
    }

    /// Readers were told of these pages, in this order.
    pub(crate) fn touch(&mut self, pages: &[PageIndex]) {
        assert_eq!(self.on(0, pages, Hf3fsOperation::Touch), Hf3fsOutcome::Touched);
    }
}

/// The pages of reserves that all got one to write.
pub(crate) fn pages(reserved: &[Reserved]) -> Vec<PageIndex> {
    let page = |reserved: &Reserved| match reserved {
        Reserved::Page(index) => *index,
        other => panic!("{other:?}"),
    };
    reserved.iter().map(page).collect()
}
