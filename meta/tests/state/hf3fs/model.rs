//! Page files said plainly: one vector of uses, one list in the order of use, and a search wherever something is looked
//! for.

use std::collections::{BTreeMap, BTreeSet};

use foreword_meta::state::State;
use foreword_meta::state::hf3fs::{
    FileCounts, FileId, FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, PageUse, Presence, Reserved,
};
use foreword_proto::EntryKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Never,
    /// Nobody holds it since a clear or an import.
    Cleared,
    Reserved(EntryKey, u64),
    Confirmed(EntryKey),
    Resting(u64),
}

impl Use {
    fn key(&self) -> Option<EntryKey> {
        match self {
            Self::Reserved(key, _) | Self::Confirmed(key) => Some(*key),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ModelFile {
    pub(super) name: FileName,
    uses: Vec<Use>,
    /// Held by somebody at some time, or cleared when the group had its hand on it.
    ever: Vec<bool>,
    /// Confirmed pages, the least recently used first.
    lru: Vec<PageIndex>,
    /// Those of them that a reader used last, or used before writers did.
    read: BTreeSet<PageIndex>,
    /// The one heard of longest ago first.
    pub(super) reserved: Vec<PageIndex>,
    resting: Vec<PageIndex>,
    cleared_from_ms: u64,
    pub(super) counters: FileCounts,
    /// Pages given out anew after a clear or an import.
    pub(super) given_again: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) files: BTreeMap<FileId, ModelFile>,
    next_file: FileId,
    /// Names of dropped files, and until when their pages rest; nothing is forgotten.
    dropped: Vec<(FileName, u64)>,
    pub(super) tick_ms: u64,
    pub(super) term: u64,
    write_rest_ms: u64,
    /// Files made while pages of their names rested.
    pub(super) made_resting: u64,
}

impl Model {
    pub(super) fn new(write_rest_ms: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            next_file: 0,
            dropped: Vec::new(),
            tick_ms: 0,
            term: 1,
            write_rest_ms,
            made_resting: 0,
        }
    }

    pub(super) fn apply(&mut self, command: &Hf3fsCommand) -> Hf3fsOutcome {
        match command {
            Hf3fsCommand::Initialize { name, pages } => {
                if let Some((id, file)) = self.files.iter().find(|(_, file)| file.name == *name) {
                    let found = file.uses.len() as u32;
                    let same = found == *pages;
                    return if same {
                        Hf3fsOutcome::Initialized { file: *id }
                    } else {
                        Hf3fsOutcome::OtherSize { pages: found }
                    };
                }
                let mut file = ModelFile::new(name.clone(), *pages);
                let resting = self.dropped.iter().filter(|(dropped, due_ms)| dropped == name && *due_ms > self.tick_ms);
                if let Some(due_ms) = resting.map(|(_, due_ms)| *due_ms).max() {
                    file.uses.fill(Use::Cleared);
                    file.ever.fill(true);
                    file.cleared_from_ms = due_ms;
                    self.made_resting += 1;
                }
                self.files.insert(self.next_file, file);
                self.next_file += 1;
                Hf3fsOutcome::Initialized { file: self.next_file - 1 }
            }
            Hf3fsCommand::Drop { file, rest_ms } => {
                let Some(file) = self.files.remove(file) else { return Hf3fsOutcome::NoFile };
                let due_ms = self.tick_ms + (*rest_ms).max(self.write_rest_ms);
                // What rests already, or rests for another file that was dropped before, is waited for.
                let last_ms = self.dropped.last().map_or(0, |(_, due_ms)| *due_ms).max(file.last_due_ms());
                self.dropped.push((file.name, due_ms.max(last_ms).max(file.cleared_from_ms)));
                Hf3fsOutcome::Dropped
            }
            Hf3fsCommand::On { file, touched, operation } => {
                let (tick_ms, write_rest_ms, term) = (self.tick_ms, self.write_rest_ms, self.term);
                let Some(file) = self.files.get_mut(file) else { return Hf3fsOutcome::NoFile };
                file.apply(touched, operation, term, tick_ms, write_rest_ms)
            }
        }
    }

    /// Everything that can be asked of the real one, for all pages and these keys.
    pub(super) fn assert_equal(&self, state: &State, keys: &[EntryKey]) {
        assert_eq!(state.hf3fs().files().count(), self.files.len());
        for (id, model) in &self.files {
            let file = state.hf3fs().file(*id).unwrap();
            assert_eq!(state.hf3fs().file_id(&model.name), Some(*id));
            assert_eq!((file.name(), file.pages() as usize), (&model.name, model.uses.len()));
            for index in 0..=file.pages() {
                assert_eq!(file.page(index), model.page(index), "page {index} of file {id}");
            }
            let presences: Vec<Presence> = keys.iter().map(|key| model.presence(key)).collect();
            assert_eq!(keys.iter().map(|key| file.presence(key)).collect::<Vec<_>>(), presences);
            assert_eq!(file.presences(keys), presences);
            for tick_ms in [self.tick_ms, self.tick_ms + 100, self.tick_ms + 10_000] {
                assert_eq!(file.room(tick_ms), model.room(tick_ms), "at {tick_ms}");
            }
            assert_eq!(file.counts(), model.counts());
            assert_eq!(file.victims(usize::MAX, 1, |_| true), model.lru);
            let oldest = model.reserved.first().and_then(|index| match model.uses[*index as usize] {
                Use::Reserved(_, heard_ms) => Some(heard_ms),
                _ => None,
            });
            assert_eq!(file.oldest_reservation_ms(), oldest);
        }
    }
}

impl ModelFile {
    fn new(name: FileName, pages: u32) -> Self {
        Self {
            name,
            uses: vec![Use::Never; pages as usize],
            ever: vec![false; pages as usize],
            lru: Vec::new(),
            read: BTreeSet::new(),
            reserved: Vec::new(),
            resting: Vec::new(),
            cleared_from_ms: 0,
            counters: FileCounts::default(),
            given_again: 0,
        }
    }

    fn page_of(&self, key: &EntryKey) -> Option<PageIndex> {
        let at = self.uses.iter().position(|used| used.key() == Some(*key))?;
        Some(at as PageIndex)
    }

    pub(super) fn pages(&self) -> u32 {
        self.uses.len() as u32
    }

    /// The key that a page holds, confirmed or not.
    pub(super) fn key_of(&self, index: PageIndex) -> Option<EntryKey> {
        self.uses.get(index as usize)?.key()
    }

    fn presence(&self, key: &EntryKey) -> Presence {
        match self.page_of(key) {
            None => Presence::Absent,
            Some(index) if self.is_confirmed(index) => Presence::Confirmed(index),
            Some(index) => Presence::Reserved(index),
        }
    }

    fn page(&self, index: PageIndex) -> Option<PageUse> {
        Some(match *self.uses.get(index as usize)? {
            Use::Never => PageUse::Unused,
            Use::Cleared => PageUse::Resting { due_ms: self.cleared_from_ms },
            Use::Reserved(key, heard_ms) => PageUse::Reserved { key, heard_ms },
            Use::Confirmed(key) => PageUse::Confirmed { key },
            Use::Resting(due_ms) => PageUse::Resting { due_ms },
        })
    }

    fn is_confirmed(&self, index: PageIndex) -> bool {
        matches!(self.uses.get(index as usize), Some(Use::Confirmed(_)))
    }

    fn room(&self, tick_ms: u64) -> u64 {
        let may_be_given = |used: &&Use| match used {
            Use::Never => true,
            Use::Cleared => self.cleared_from_ms <= tick_ms,
            Use::Resting(due_ms) => *due_ms <= tick_ms,
            Use::Reserved(..) | Use::Confirmed(_) => false,
        };
        self.uses.iter().filter(may_be_given).count() as u64
    }

    fn counts(&self) -> FileCounts {
        let count = |matches: fn(&Use) -> bool| self.uses.iter().filter(|used| matches(used)).count() as u64;
        FileCounts {
            confirmed: count(|used| matches!(used, Use::Confirmed(_))),
            reserved: count(|used| matches!(used, Use::Reserved(..))),
            resting: count(|used| matches!(used, Use::Resting(_) | Use::Cleared)),
            unused: count(|used| *used == Use::Never),
            ..self.counters
        }
    }

    /// As a leader picks them, the least recently used first; each queue is given up after so many that may not go.
    pub(super) fn victims(&self, count: usize, skips_max: usize, may_go: impl Fn(PageIndex) -> bool) -> Vec<PageIndex> {
        let (mut victims, mut skips) = (Vec::new(), [0, 0]);
        for index in &self.lru {
            let skips = &mut skips[usize::from(self.read.contains(index))];
            if victims.len() == count || *skips >= skips_max.max(1) {
                continue;
            }
            if may_go(*index) {
                victims.push(*index);
            } else {
                *skips += 1;
            }
        }
        victims
    }

    fn leave(&mut self, index: PageIndex) {
        for list in [&mut self.lru, &mut self.reserved, &mut self.resting] {
            list.retain(|other| *other != index);
        }
        self.read.remove(&index);
    }

    fn confirmed(&mut self, index: PageIndex, key: EntryKey, by_reader: bool) {
        let read = by_reader || self.read.contains(&index);
        self.leave(index);
        self.lru.push(index);
        if read {
            self.read.insert(index);
        }
        self.uses[index as usize] = Use::Confirmed(key);
        self.ever[index as usize] = true;
    }

    fn reserve_page(&mut self, index: PageIndex, key: EntryKey, tick_ms: u64) {
        self.leave(index);
        self.reserved.push(index);
        self.uses[index as usize] = Use::Reserved(key, tick_ms);
        self.ever[index as usize] = true;
    }

    fn last_due_ms(&self) -> u64 {
        let dues = self.uses.iter().map(|used| if let Use::Resting(due_ms) = used { *due_ms } else { 0 });
        dues.max().unwrap_or(0)
    }

    fn rest(&mut self, index: PageIndex, due_ms: u64) {
        let due_ms = due_ms.max(self.last_due_ms());
        self.leave(index);
        self.resting.push(index);
        self.uses[index as usize] = Use::Resting(due_ms);
    }

    fn apply(
        &mut self,
        touched: &[PageIndex],
        operation: &Hf3fsOperation,
        current_term: u64,
        tick_ms: u64,
        write_rest_ms: u64,
    ) -> Hf3fsOutcome {
        for index in touched {
            if let Some(Use::Confirmed(key)) = self.uses.get(*index as usize) {
                self.confirmed(*index, *key, true);
            }
        }
        let due_ms = |rest_ms: u64| tick_ms + rest_ms.max(write_rest_ms);
        match operation {
            Hf3fsOperation::Reserve { term, keys, victims } => {
                let victims = if *term == current_term { victims.clone() } else { Vec::new() };
                Hf3fsOutcome::Reserved { pages: self.reserve(keys, victims, tick_ms) }
            }
            Hf3fsOperation::Confirm { written, released } => self.confirm(written, released, due_ms(0)),
            Hf3fsOperation::Delete { keys, rest_ms } => {
                let mut pages = 0;
                for key in keys {
                    if let Presence::Confirmed(index) = self.presence(key) {
                        self.rest(index, due_ms(*rest_ms));
                        pages += 1;
                    }
                }
                Hf3fsOutcome::Deleted { pages }
            }
            Hf3fsOperation::Clear { rest_ms } => {
                self.clear(due_ms(*rest_ms));
                Hf3fsOutcome::Cleared
            }
            Hf3fsOperation::Touch => Hf3fsOutcome::Touched,
            Hf3fsOperation::Expire { unheard_ms, pages_max } => {
                let old = |file: &Self| {
                    let old = |index: &PageIndex| matches!(file.uses[*index as usize], Use::Reserved(_, heard_ms) if heard_ms + unheard_ms < tick_ms);
                    file.reserved.iter().copied().filter(old).collect::<Vec<_>>()
                };
                let ending: Vec<PageIndex> = old(self).into_iter().take(*pages_max as usize).collect();
                ending.iter().for_each(|index| self.rest(*index, due_ms(0)));
                self.counters.expired += ending.len() as u64;
                Hf3fsOutcome::Expired { pages: ending.len() as u32, left: !old(self).is_empty() }
            }
            Hf3fsOperation::Import { entries, rest_ms } => self.import(entries, due_ms(*rest_ms)),
        }
    }

    fn reserve(&mut self, keys: &[EntryKey], mut victims: Vec<PageIndex>, tick_ms: u64) -> Vec<Reserved> {
        let mut answers: Vec<Option<Reserved>> = Vec::new();
        for key in keys {
            answers.push(match self.presence(key) {
                Presence::Confirmed(index) => {
                    self.confirmed(index, *key, false);
                    victims.retain(|victim| *victim != index);
                    Some(Reserved::Existing(index))
                }
                Presence::Reserved(index) => {
                    self.reserve_page(index, *key, tick_ms);
                    Some(Reserved::Page(index))
                }
                Presence::Absent => None,
            });
        }
        for (key, answer) in keys.iter().zip(&mut answers) {
            if answer.is_none() {
                let index = self.page_of(key).or_else(|| {
                    let index = self.free_page(&mut victims, tick_ms)?;
                    self.reserve_page(index, *key, tick_ms);
                    Some(index)
                });
                self.counters.no_page += u64::from(index.is_none());
                *answer = Some(index.map_or(Reserved::NoPage, Reserved::Page));
            }
        }
        answers.into_iter().flatten().collect()
    }

    fn free_page(&mut self, victims: &mut Vec<PageIndex>, tick_ms: u64) -> Option<PageIndex> {
        let rested = self.resting.iter().copied().find(|index| match self.uses[*index as usize] {
            Use::Resting(due_ms) => due_ms <= tick_ms,
            _ => false,
        });
        let last = |wanted: Use| self.uses.iter().rposition(|used| *used == wanted).map(|at| at as PageIndex);
        let cleared = last(Use::Cleared).filter(|_| self.cleared_from_ms <= tick_ms);
        let never = last(Use::Never);
        if rested.is_none() && cleared.is_some() {
            self.given_again += 1;
        }
        rested.or(cleared).or(never).or_else(|| {
            while !victims.is_empty() {
                let victim = victims.remove(0);
                if self.is_confirmed(victim) {
                    self.counters.evicted += 1;
                    return Some(victim);
                }
            }
            None
        })
    }

    fn confirm(&mut self, written: &[(EntryKey, PageIndex)], released: &[PageIndex], due_ms: u64) -> Hf3fsOutcome {
        let (mut ignored_confirms, mut ignored_releases) = (0, 0);
        for (key, index) in written {
            if self.page_of(key) == Some(*index) {
                self.confirmed(*index, *key, false);
            } else {
                ignored_confirms += 1;
            }
        }
        for index in released {
            if matches!(self.uses.get(*index as usize), Some(Use::Reserved(..))) {
                self.rest(*index, due_ms);
            } else {
                ignored_releases += 1;
            }
        }
        self.counters.ignored_confirms += u64::from(ignored_confirms);
        self.counters.ignored_releases += u64::from(ignored_releases);
        Hf3fsOutcome::Confirmed { ignored_confirms, ignored_releases }
    }

    fn clear(&mut self, due_ms: u64) {
        self.cleared_from_ms = due_ms.max(self.cleared_from_ms).max(self.last_due_ms());
        for at in 0..self.uses.len() {
            self.leave(at as PageIndex);
            if self.uses[at] != Use::Never {
                (self.uses[at], self.ever[at]) = (Use::Cleared, true);
            }
        }
    }

    fn import(&mut self, entries: &[(EntryKey, PageIndex)], due_ms: u64) -> Hf3fsOutcome {
        let mut conflicts = 0;
        for (key, index) in entries {
            let unheld = matches!(self.uses.get(*index as usize), Some(Use::Never | Use::Cleared));
            if self.presence(key) == Presence::Confirmed(*index) {
                continue;
            }
            if unheld && !self.ever[*index as usize] && self.page_of(key).is_none() {
                self.confirmed(*index, *key, false);
            } else {
                conflicts += 1;
            }
        }
        self.cleared_from_ms = due_ms.max(self.cleared_from_ms);
        self.uses.iter_mut().filter(|used| **used == Use::Never).for_each(|used| *used = Use::Cleared);
        Hf3fsOutcome::Imported { conflicts }
    }
}
