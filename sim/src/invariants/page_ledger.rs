//! What each page of each page file is used for, from commands and outcomes alone: what the checks of page files
//! follow.

use std::collections::BTreeMap;

use foreword_meta::state::command::{ClusterSettings, Command, Outcome};
use foreword_meta::state::hf3fs::{FileId, FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved};
use foreword_proto::EntryKey;

use super::{Violation, ensure};
use crate::oracle::AppliedEntry;

/// What is wrong with a step is of this invariant.
pub const NAME: &str = "one-page-one-key";

/// What a page is used for. A page of which nothing is known was never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `turn` orders reservations by when they were last heard of.
    Reserved {
        key: EntryKey,
        heard_ms: u64,
        turn: u64,
    },
    Confirmed {
        key: EntryKey,
    },
    /// From this tick on it may be given out.
    Resting {
        due_ms: u64,
    },
}

/// Something that happened to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was given to a key that did not have it.
    Given(EntryKey),
    /// A confirm fitted its reservation, or the page was the key's already.
    Confirmed(EntryKey),
    /// A confirm fitted nothing.
    Ignored(EntryKey),
    /// Its writer, or another of the same key, reserved it again.
    Heard(EntryKey),
    /// It was taken from a key.
    Taken { key: EntryKey, how: How },
}

/// How a page was taken from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was given to another in the same command.
    Evicted,
    /// Nothing was heard of its reservation.
    Expired,
    /// It was released, deleted or cleared.
    Asked,
}

/// A change, and whose page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageChange {
    pub file: FileId,
    pub page: PageIndex,
    pub change: Change,
}

/// One page file.
#[derive(Debug)]
pub struct FileLedger {
    pub name: FileName,
    pub pages: u32,
    uses: BTreeMap<PageIndex, Use>,
    keys: BTreeMap<EntryKey, PageIndex>,
    turn: u64,
}

/// All page files.
#[derive(Debug, Default)]
pub struct PageLedger {
    tick_ms: u64,
    files: BTreeMap<FileId, FileLedger>,
}

/// What a reserve may take, and when.
struct Giving<'a> {
    tick_ms: u64,
    /// Confirmed pages that the leader of this very term allows to go.
    victims: &'a [PageIndex],
}

impl PageLedger {
    /// The page files, by number.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &FileLedger)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }

    /// The number of a page file.
    pub fn id_of(&self, name: &FileName) -> Option<FileId> {
        self.files.iter().find(|(_, file)| file.name == *name).map(|(id, _)| *id)
    }

    /// A page file.
    pub fn file(&self, id: FileId) -> Option<&FileLedger> {
        self.files.get(&id)
    }

    /// Follows an entry of the leader of `term`; what happened to pages, in order.
    pub fn follow(
        &mut self,
        entry: &AppliedEntry,
        term: u64,
        settings: &ClusterSettings,
    ) -> Result<Vec<PageChange>, Violation> {
        let mut changes = Vec::new();
        for step in &entry.steps {
            let done = match (&step.command, &step.outcome) {
                (Command::Tick { now_ms }, _) => {
                    self.tick_ms = self.tick_ms.max(*now_ms);
                    Ok(())
                }
                (Command::Hf3fs(command), Outcome::Hf3fs(outcome)) => {
                    let context = Step { term, settings };
                    self.step(command, outcome, &context, &mut changes)
                }
                _ => Ok(()),
            };
            done.map_err(|Violation { name, detail }| {
                let detail = format!("revision {}, tick {}: {detail}", entry.revision, self.tick_ms);
                Violation { name, detail }
            })?;
        }
        Ok(changes)
    }

    fn step(
        &mut self,
        command: &Hf3fsCommand,
        outcome: &Hf3fsOutcome,
        context: &Step<'_>,
        changes: &mut Vec<PageChange>,
    ) -> Result<(), Violation> {
        let tick_ms = self.tick_ms;
        match (command, outcome) {
            (Hf3fsCommand::Initialize { name, pages }, Hf3fsOutcome::Initialized { file }) => {
                let ledger = self.files.entry(*file).or_insert_with(|| FileLedger::new(name.clone(), *pages));
                ensure(NAME, ledger.name == *name && ledger.pages == *pages, || {
                    format!("file {file} is {:?} of {} pages, and {name:?} of {pages}", ledger.name, ledger.pages)
                })
            }
            (Hf3fsCommand::On { file, operation, .. }, outcome) => {
                let Some(ledger) = self.files.get_mut(file) else {
                    return ensure(NAME, *outcome == Hf3fsOutcome::NoFile, || {
                        format!("file {file} is unknown: {outcome:?}")
                    });
                };
                let mut told = Vec::new();
                let done = ledger.operation(operation, outcome, (context, tick_ms), &mut told);
                changes.extend(told.into_iter().map(|(page, change)| PageChange { file: *file, page, change }));
                done.map_err(|Violation { name, detail }| Violation { name, detail: format!("file {file}: {detail}") })
            }
            _ => Ok(()),
        }
    }
}

struct Step<'a> {
    term: u64,
    settings: &'a ClusterSettings,
}

type Told = Vec<(PageIndex, Change)>;

impl FileLedger {
    fn new(name: FileName, pages: u32) -> Self {
        Self { name, pages, uses: BTreeMap::new(), keys: BTreeMap::new(), turn: 0 }
    }

    /// What a page is used for; None: it was never used.
    pub fn page(&self, page: PageIndex) -> Option<Use> {
        self.uses.get(&page).copied()
    }

    /// Whether a key has a page that is confirmed, and which.
    pub fn confirmed(&self, key: &EntryKey) -> Option<PageIndex> {
        let page = *self.keys.get(key)?;
        matches!(self.uses.get(&page), Some(Use::Confirmed { .. })).then_some(page)
    }

    /// Every confirmed key with its page.
    pub fn all_confirmed(&self) -> impl Iterator<Item = (EntryKey, PageIndex)> + '_ {
        self.uses.iter().filter_map(|(page, of)| match of {
            Use::Confirmed { key } => Some((*key, *page)),
            _ => None,
        })
    }

    fn operation(
        &mut self,
        operation: &Hf3fsOperation,
        outcome: &Hf3fsOutcome,
        (context, tick_ms): (&Step<'_>, u64),
        told: &mut Told,
    ) -> Result<(), Violation> {
        let write_rest_ms = context.settings.write_rest_ms;
        match (operation, outcome) {
            (Hf3fsOperation::Reserve { term, keys, victims }, Hf3fsOutcome::Reserved { pages }) => {
                let victims = if *term == context.term { &victims[..] } else { &[] };
                self.reserve(keys, pages, &Giving { tick_ms, victims }, told)
            }
            (
                Hf3fsOperation::Confirm { written, released },
                Hf3fsOutcome::Confirmed { ignored_confirms, ignored_releases },
            ) => {
                let ignored = (self.confirm(written, told), self.release(released, tick_ms + write_rest_ms, told));
                ensure(NAME, ignored == (*ignored_confirms, *ignored_releases), || {
                    format!("(confirms, releases) ignored are {ignored:?}, the answer is {outcome:?} to {operation:?}")
                })
            }
            (Hf3fsOperation::Delete { keys, rest_ms }, Hf3fsOutcome::Deleted { pages }) => {
                let due_ms = tick_ms + write_rest_ms.max(*rest_ms);
                let deleted = keys.iter().filter(|key| self.delete(key, due_ms, told)).count();
                ensure(NAME, deleted as u32 == *pages, || format!("{deleted} pages are deleted, the answer is {pages}"))
            }
            (Hf3fsOperation::Clear { rest_ms }, Hf3fsOutcome::Cleared) => {
                self.clear(tick_ms + write_rest_ms.max(*rest_ms), told);
                Ok(())
            }
            (Hf3fsOperation::Expire { unheard_ms, pages_max }, Hf3fsOutcome::Expired { pages, .. }) => {
                let expired =
                    self.expire(tick_ms.saturating_sub(*unheard_ms), *pages_max, tick_ms + write_rest_ms, told);
                ensure(NAME, expired == *pages, || format!("{expired} reservations are due, {pages} end"))
            }
            (Hf3fsOperation::Touch, Hf3fsOutcome::Touched) => Ok(()),
            other => ensure(NAME, false, || format!("an operation without its outcome: {other:?}")),
        }
    }

    fn reserve(
        &mut self,
        keys: &[EntryKey],
        pages: &[Reserved],
        giving: &Giving<'_>,
        told: &mut Told,
    ) -> Result<(), Violation> {
        ensure(NAME, keys.len() == pages.len(), || format!("{} keys, {} pages", keys.len(), pages.len()))?;
        let existing: Vec<PageIndex> = pages
            .iter()
            .filter_map(|page| if let Reserved::Existing(page) = page { Some(*page) } else { None })
            .collect();
        let had: Vec<bool> = keys.iter().map(|key| self.keys.contains_key(key)).collect();
        // Keys that have a page come first, then the others, as the state goes about it.
        for first in [true, false] {
            for at in (0..keys.len()).filter(|at| had[*at] == first) {
                self.reserve_one(keys[at], pages[at], giving, &existing, told)?;
            }
        }
        Ok(())
    }

    fn reserve_one(
        &mut self,
        key: EntryKey,
        page: Reserved,
        giving: &Giving<'_>,
        existing: &[PageIndex],
        told: &mut Told,
    ) -> Result<(), Violation> {
        let has = self.keys.get(&key).copied();
        match page {
            Reserved::Existing(page) => ensure(NAME, self.confirmed(&key) == Some(page), || {
                format!("{key:?} exists in page {page}, which is {:?}; the key has {has:?}", self.page(page))
            }),
            Reserved::NoPage => ensure(NAME, has.is_none(), || format!("{key:?} gets no page, and has {has:?}")),
            Reserved::Page(page) => {
                let was = self.page(page);
                let may = match was {
                    _ if page >= self.pages => false,
                    Some(Use::Reserved { key: of, .. }) => of == key,
                    _ if has.is_some() => false,
                    None => true,
                    Some(Use::Resting { due_ms }) => due_ms <= giving.tick_ms,
                    Some(Use::Confirmed { .. }) => giving.victims.contains(&page) && !existing.contains(&page),
                };
                ensure(NAME, may, || format!("page {page} goes to {key:?}, which has {has:?}, while it is {was:?}"))?;
                if let Some(Use::Confirmed { key: evicted }) = was {
                    self.keys.remove(&evicted);
                    told.push((page, Change::Taken { key: evicted, how: How::Evicted }));
                }
                told.push((page, if has.is_none() { Change::Given(key) } else { Change::Heard(key) }));
                self.turn += 1;
                self.keys.insert(key, page);
                self.uses.insert(page, Use::Reserved { key, heard_ms: giving.tick_ms, turn: self.turn });
                Ok(())
            }
        }
    }

    fn confirm(&mut self, written: &[(EntryKey, PageIndex)], told: &mut Told) -> u32 {
        let mut ignored = 0;
        for (key, page) in written {
            match self.uses.get(page) {
                Some(Use::Reserved { key: of, .. } | Use::Confirmed { key: of }) if of == key => {
                    self.uses.insert(*page, Use::Confirmed { key: *key });
                    told.push((*page, Change::Confirmed(*key)));
                }
                _ => {
                    ignored += 1;
                    told.push((*page, Change::Ignored(*key)));
                }
            }
        }
        ignored
    }

    fn release(&mut self, released: &[PageIndex], due_ms: u64, told: &mut Told) -> u32 {
        let mut ignored = 0;
        for page in released {
            match self.uses.get(page) {
                Some(Use::Reserved { key, .. }) => self.rest(*page, (*key, How::Asked), due_ms, told),
                _ => ignored += 1,
            }
        }
        ignored
    }

    fn delete(&mut self, key: &EntryKey, due_ms: u64, told: &mut Told) -> bool {
        let page = self.confirmed(key);
        if let Some(page) = page {
            self.rest(page, (*key, How::Asked), due_ms, told);
        }
        page.is_some()
    }

    fn rest(&mut self, page: PageIndex, (key, how): (EntryKey, How), due_ms: u64, told: &mut Told) {
        self.keys.remove(&key);
        self.uses.insert(page, Use::Resting { due_ms });
        told.push((page, Change::Taken { key, how }));
    }

    fn clear(&mut self, due_ms: u64, told: &mut Told) {
        for (page, of) in &mut self.uses {
            if let Use::Reserved { key, .. } | Use::Confirmed { key } = *of {
                told.push((*page, Change::Taken { key, how: How::Asked }));
            }
            *of = Use::Resting { due_ms };
        }
        self.keys.clear();
    }

    fn expire(&mut self, heard_before_ms: u64, pages_max: u32, due_ms: u64, told: &mut Told) -> u32 {
        let mut due: Vec<(u64, PageIndex, EntryKey)> = Vec::new();
        for (page, of) in &self.uses {
            if let Use::Reserved { key, heard_ms, turn } = *of
                && heard_ms < heard_before_ms
            {
                due.push((turn, *page, key));
            }
        }
        due.sort_unstable();
        due.truncate(pages_max as usize);
        due.iter().for_each(|(_, page, key)| self.rest(*page, (*key, How::Expired), due_ms, told));
        due.len() as u32
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::oracle::tests::{Log, WRITE_REST_MS, key};

    pub(crate) fn name() -> FileName {
        FileName { deployment: "d".into(), rank: 0, pool: "kv".into() }
    }

    pub(crate) fn entry_keys(numbers: &[u64]) -> Vec<EntryKey> {
        numbers.iter().map(|number| key(*number).entry()).collect()
    }

    pub(crate) fn on(operation: Hf3fsOperation) -> Command {
        Command::Hf3fs(Hf3fsCommand::On { file: 0, touched: Vec::new(), operation })
    }

    /// A log with a page file of so many pages.
    pub(crate) fn log(pages: u32) -> Log {
        let mut log = Log::new(1);
        log.entry(&[Command::Hf3fs(Hf3fsCommand::Initialize { name: name(), pages })]);
        log
    }

    pub(crate) fn reserve(log: &mut Log, numbers: &[u64], victims: &[PageIndex]) -> Vec<Reserved> {
        let keys = entry_keys(numbers);
        let outcomes = log.entry(&[on(Hf3fsOperation::Reserve { term: 1, keys, victims: victims.to_vec() })]);
        match &outcomes[..] {
            [Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages })] => pages.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn confirm(log: &mut Log, number: u64, page: PageIndex) {
        let written = vec![(key(number).entry(), page)];
        log.entry(&[on(Hf3fsOperation::Confirm { written, released: Vec::new() })]);
    }

    fn follow_all(
        log: &Log,
        settings: &ClusterSettings,
        term: u64,
    ) -> Result<(PageLedger, Vec<PageChange>), Violation> {
        let (mut ledger, mut changes) = (PageLedger::default(), Vec::new());
        for entry in log.oracle.entries_after(0) {
            changes.extend(ledger.follow(entry, term, settings)?);
        }
        Ok((ledger, changes))
    }

    /// Two pages through everything: reserved, confirmed, evicted, released, expired, deleted, cleared.
    fn busy() -> Log {
        let mut log = log(2);
        log.tick(1_000);
        assert_eq!(reserve(&mut log, &[1, 1], &[]), [Reserved::Page(1), Reserved::Page(1)]);
        confirm(&mut log, 1, 1);
        confirm(&mut log, 1, 1);
        assert_eq!(reserve(&mut log, &[1, 2, 3], &[]), [Reserved::Existing(1), Reserved::Page(0), Reserved::NoPage]);
        let released = vec![0, 1];
        log.entry(&[on(Hf3fsOperation::Confirm { written: Vec::new(), released })]);
        assert_eq!(reserve(&mut log, &[4], &[1]), [Reserved::Page(1)], "the first is evicted, the other rests");
        log.tick(1_000 + WRITE_REST_MS);
        assert_eq!(reserve(&mut log, &[5], &[]), [Reserved::Page(0)]);
        confirm(&mut log, 5, 0);
        log.entry(&[on(Hf3fsOperation::Delete { keys: entry_keys(&[5, 6]), rest_ms: 0 })]);
        log.tick(3_000);
        log.entry(&[on(Hf3fsOperation::Expire { unheard_ms: 1_500, pages_max: 10 })]);
        log.entry(&[on(Hf3fsOperation::Clear { rest_ms: 0 })]);
        log.tick(3_000 + WRITE_REST_MS);
        assert_eq!(reserve(&mut log, &[7, 8], &[]), [Reserved::Page(1), Reserved::Page(0)]);
        log
    }

    #[test]
    fn pages_go_from_one_key_to_the_next() {
        let log = busy();
        assert_eq!(log.oracle.violations(), []);
        let (ledger, changes) = follow_all(&log, log.oracle.state().settings(), 1).unwrap();
        let of = |wanted: fn(&Change) -> bool| changes.iter().filter(|change| wanted(&change.change)).count();
        assert_eq!(of(|change| matches!(change, Change::Given(_))), 6);
        assert_eq!(of(|change| matches!(change, Change::Taken { how: How::Evicted, .. })), 1);
        assert_eq!(of(|change| matches!(change, Change::Taken { how: How::Asked, .. })), 2);
        assert_eq!(of(|change| matches!(change, Change::Taken { how: How::Expired, .. })), 1);
        assert_eq!(of(|change| matches!(change, Change::Heard(_))), 1, "twice in the first batch");
        assert_eq!(ledger.id_of(&name()), Some(0));
        let file = ledger.file(0).unwrap();
        assert_eq!((file.all_confirmed().count(), file.pages), (0, 2));
    }

    #[test]
    fn a_rest_cut_short_and_another_terms_victim_are_found() {
        let log = busy();
        let settings = log.oracle.state().settings().clone();
        let longer = ClusterSettings { write_rest_ms: WRITE_REST_MS + 1, ..settings.clone() };
        assert_eq!(follow_all(&log, &longer, 1).unwrap_err().name, NAME);
        assert!(follow_all(&log, &settings, 2).unwrap_err().detail.contains("goes to"));
    }

    #[test]
    fn a_page_given_twice_is_found() {
        let mut log = log(4);
        reserve(&mut log, &[1], &[]);
        let settings = log.oracle.state().settings().clone();
        let entries: Vec<AppliedEntry> = log.oracle.entries_after(0).cloned().collect();
        let mut ledger = PageLedger::default();
        for entry in &entries {
            ledger.follow(entry, 1, &settings).unwrap();
        }
        let mut again = entries.last().unwrap().clone();
        let step = again.steps.last_mut().unwrap();
        let keys = entry_keys(&[2]);
        step.command = on(Hf3fsOperation::Reserve { term: 1, keys, victims: vec![3] });
        let found = ledger.follow(&again, 1, &settings).unwrap_err();
        assert_eq!(found.name, NAME);
    }
}
