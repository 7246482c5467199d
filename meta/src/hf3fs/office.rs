//! What one leader knows of its own term: which pages readers were told of (*protections*), which pages a decision
//! under way takes away (*picks*), and which pages were read since the last command (*touches*). Pure; time comes in.
//!
//! An office ends with its term. Its successor evicts nothing until it has been in office for a whole protection: by
//! then every page that an earlier leader's reader was told of has had its time.

use std::collections::{BTreeMap, HashMap, HashSet};

use foreword_proto::EntryKey;
use foreword_seams::{Marker, sometimes};

use super::body::POOL_DEFAULT;
use super::protections::Protections;
use super::touches::{TOUCHES_SOON, Touches};
use crate::state::hf3fs::{File, FileId, PageIndex, PageUse, Presence, Reserved};

/// Pages that may not go and are passed over in the search for one batch of victims, beside those whose touches wait.
const VICTIM_SKIPS_MAX: usize = TOUCHES_SOON;

/// One leader's term.
pub struct Office {
    term: u64,
    protection_ms: u64,
    files: BTreeMap<FileId, FileOffice>,
}

/// One page file in it.
struct FileOffice {
    protections: Protections,
    /// How many decisions under way take each page away.
    picked: HashMap<PageIndex, u32>,
    /// Decisions under way that take all of them.
    picked_whole: u32,
    touches: Touches,
    /// Keys of reserves under way that have no page yet: each may take one of those that are free.
    wanted: u64,
    /// How many reserves under way want each key: its page is not taken away, whatever becomes of it meanwhile.
    writing: HashMap<EntryKey, u32>,
}

/// What a decision takes away until it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    term: u64,
    file: FileId,
    pages: Vec<PageIndex>,
    whole: bool,
    wanted: u64,
    /// Keys that its writer may write.
    writing: Vec<EntryKey>,
    /// Those that another writes already, by their places in the reserve.
    shared: Vec<usize>,
}

impl Pick {
    /// The pages, where they are not all of the file's.
    pub fn pages(&self) -> &[PageIndex] {
        &self.pages
    }
}

/// What becomes of a reserve.
#[derive(Debug, PartialEq, Eq)]
pub enum ReserveDecision {
    /// Each key has its page.
    Existing(Vec<PageIndex>),
    /// To be proposed, with the picked pages as victims.
    Propose(Pick),
}

/// When a reserve is decided.
#[derive(Debug, Clone, Copy)]
pub struct ReserveTime {
    /// Since the office began.
    pub now_ms: u64,
    /// The leader's own time, as ticks tell it.
    pub tick_ms: u64,
}

impl Office {
    /// The office of a new leader.
    pub fn new(term: u64, protection_ms: u64) -> Self {
        Self { term, protection_ms, files: BTreeMap::new() }
    }

    /// Its term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether used pages may be given to new writers by now.
    pub fn may_evict(&self, now_ms: u64) -> bool {
        now_ms > self.protection_ms
    }

    fn file(&mut self, id: FileId) -> &mut FileOffice {
        let protection_ms = self.protection_ms;
        self.files.entry(id).or_insert_with(|| FileOffice {
            protections: Protections::new(protection_ms),
            picked: HashMap::new(),
            picked_whole: 0,
            touches: Touches::default(),
            wanted: 0,
            writing: HashMap::new(),
        })
    }

    /// The pages of confirmed keys, protected from now on. None also for a page that is being taken away.
    ///
    /// In the pool `kv` one missing page makes all of them None. SGLang's client cuts its buffers, and the offsets of
    /// the pages that were found, into groups of its `entries`, each by itself: pages behind a hole land in wrong
    /// buffers and count as read, and where a group lacks an offset the USRBIO client closes itself for good. `exists`
    /// has told it before how far it may read. Other pools are read page by page, and may have holes.
    pub fn get(&mut self, id: FileId, file: &File, keys: &[EntryKey], now_ms: u64) -> Vec<Option<PageIndex>> {
        let office = self.file(id);
        office.protections.sweep(now_ms);
        let there = |presence| match presence {
            Presence::Confirmed(page) if office.is_picked(page) => {
                sometimes(Marker::PageFileReaderMetPick);
                None
            }
            Presence::Confirmed(page) => Some(page),
            _ => None,
        };
        let mut found: Vec<Option<PageIndex>> = file.presences(keys).into_iter().map(there).collect();
        if file.name().pool == POOL_DEFAULT && found.contains(&None) {
            found.fill(None);
        }
        for page in found.iter().flatten() {
            office.protections.protect(*page, now_ms);
            office.touches.push(*page);
        }
        found
    }

    /// What a reserve needs: nothing, or a command with these victims, which stay picked until [`Self::end`].
    pub fn reserve(&mut self, id: FileId, file: &File, keys: &[EntryKey], time: ReserveTime) -> ReserveDecision {
        let (term, may_evict) = (self.term, self.may_evict(time.now_ms));
        let office = self.file(id);
        office.protections.sweep(time.now_ms);
        let mut existing = Vec::with_capacity(keys.len());
        let mut absent = HashSet::new();
        let (mut writing, mut shared) = (Vec::new(), Vec::new());
        for (place, (key, presence)) in keys.iter().zip(file.presences(keys)).enumerate() {
            match presence {
                Presence::Confirmed(page) if !office.is_picked(page) => {
                    existing.push(page);
                    continue;
                }
                Presence::Reserved(_) => shared.push(place),
                Presence::Confirmed(_) | Presence::Absent => {
                    absent.insert(*key);
                    if office.writing.contains_key(key) {
                        shared.push(place);
                    }
                }
            }
            writing.push(*key);
        }
        if writing.is_empty() {
            existing.iter().for_each(|page| office.touches.push(*page));
            return ReserveDecision::Existing(existing);
        }
        let wanted = absent.len() as u64;
        let room = file.room(time.tick_ms).saturating_sub(office.wanted);
        let lacking = wanted.saturating_sub(room) as usize;
        let victims = match lacking {
            0 => Vec::new(),
            _ if !may_evict => {
                sometimes(Marker::PageFileEvictionAwaitedProtection);
                Vec::new()
            }
            _ => office.victims(file, lacking, &existing, time.now_ms),
        };
        office.wanted += wanted;
        for key in &writing {
            *office.writing.entry(*key).or_insert(0) += 1;
        }
        let pick = office.pick(term, id, victims, false, wanted);
        ReserveDecision::Propose(Pick { writing, shared, ..pick })
    }

    /// Picks the confirmed pages of these keys, which are to be deleted.
    pub fn pick_keys(&mut self, id: FileId, file: &File, keys: &[EntryKey]) -> Pick {
        let pages = keys.iter().filter_map(|key| match file.presence(key) {
            Presence::Confirmed(page) => Some(page),
            _ => None,
        });
        let (term, pages) = (self.term, pages.collect());
        self.file(id).pick(term, id, pages, false, 0)
    }

    /// Picks all pages of a file, which is to be cleared.
    pub fn pick_whole(&mut self, id: FileId) -> Pick {
        let term = self.term;
        self.file(id).pick(term, id, Vec::new(), true, 0)
    }

    /// A decision has ended: it is applied, or never will be; a reserve was answered with these pages. One of an
    /// earlier office changes nothing.
    ///
    /// A page that two write is confirmed when the first of them has, and could be evicted then under the other's
    /// hands. So it is protected for as long as a reader's: a writer has one protection from its reserve to write.
    pub fn end(&mut self, pick: &Pick, pages: &[Reserved], now_ms: u64) {
        if pick.term != self.term {
            return;
        }
        let office = self.file(pick.file);
        for place in &pick.shared {
            if let Some(Reserved::Page(page)) = pages.get(*place) {
                office.protections.protect(*page, now_ms);
            }
        }
        for key in &pick.writing {
            if let Some(count) = office.writing.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    office.writing.remove(key);
                }
            }
        }
        for page in &pick.pages {
            if let Some(count) = office.picked.get_mut(page) {
                *count -= 1;
                if *count == 0 {
                    office.picked.remove(page);
                }
            }
        }
        office.picked_whole = office.picked_whole.saturating_sub(u32::from(pick.whole));
        office.wanted = office.wanted.saturating_sub(pick.wanted);
    }

    /// Takes what was read since the last command on a file, oldest read first, each page once.
    pub fn drain_touched(&mut self, id: FileId, now_ms: u64) -> Vec<PageIndex> {
        self.file(id).touches.take(now_ms)
    }

    /// Files whose touches wait for a command and are due.
    pub fn due_touches(&self, now_ms: u64) -> Vec<FileId> {
        self.files.iter().filter(|(_, office)| office.touches.are_due(now_ms)).map(|(id, _)| *id).collect()
    }

    /// Forgets protections that ended.
    pub fn sweep(&mut self, now_ms: u64) {
        self.files.values_mut().for_each(|office| office.protections.sweep(now_ms));
    }

    /// Forgets files that are gone.
    pub fn keep_files(&mut self, is_there: impl Fn(FileId) -> bool) {
        self.files.retain(|id, _| is_there(*id));
    }

    /// Pages that are protected, over all files.
    pub fn protected_pages(&self) -> u64 {
        self.files.values().map(|office| office.protections.pages()).sum()
    }
}

impl FileOffice {
    fn is_picked(&self, page: PageIndex) -> bool {
        self.picked_whole > 0 || !self.picked.is_empty() && self.picked.contains_key(&page)
    }

    /// Up to `count` confirmed pages that may go, the least recently used first. `own` may not: the same batch is told
    /// of them.
    fn victims(&mut self, file: &File, count: usize, own: &[PageIndex], now_ms: u64) -> Vec<PageIndex> {
        let waiting = self.touches.waiting().to_vec();
        let (own, used): (HashSet<_>, HashSet<_>) = (own.iter().collect(), waiting.iter().collect());
        let may_go = |page: &PageIndex| {
            if self.protections.covers(*page, now_ms) {
                sometimes(Marker::PageFileVictimProtected);
                return false;
            }
            !self.is_picked(*page) && !own.contains(page) && !self.is_written(file, *page)
        };
        // Pages whose use the state has not heard of stand in its order where they stood before, and belong behind all
        // others.
        let skips_max = VICTIM_SKIPS_MAX + waiting.len();
        let mut victims = file.victims(count, skips_max, |page| !used.contains(&page) && may_go(&page));
        let lacking = count - victims.len();
        let confirmed = |page: &&PageIndex| matches!(file.page(**page), Some(PageUse::Confirmed { .. }));
        victims.extend(waiting.iter().filter(confirmed).filter(|page| may_go(page)).take(lacking));
        victims
    }

    fn pick(&mut self, term: u64, file: FileId, pages: Vec<PageIndex>, whole: bool, wanted: u64) -> Pick {
        for page in &pages {
            *self.picked.entry(*page).or_insert(0) += 1;
        }
        self.picked_whole += u32::from(whole);
        Pick { term, file, pages, whole, wanted, writing: Vec::new(), shared: Vec::new() }
    }

    /// Whether a reserve under way wants the key that has this page.
    fn is_written(&self, file: &File, page: PageIndex) -> bool {
        match file.page(page) {
            Some(PageUse::Confirmed { key }) => self.writing.contains_key(&key),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {

    use super::super::touches::TOUCH_EVERY_MS;
    use super::*;
    use crate::state::State;
    use crate::state::command::{ClusterSettings, Command, Outcome};
    use crate::state::hf3fs::{FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome};

    const PROTECTION_MS: u64 = 1000;
    const TERM: u64 = 3;
    const FILE: FileId = 0;
    const NONE: [u32; 0] = [];

    /// A state with one page file, and the office of its leader.
    struct Scene {
        state: State,
        office: Office,
    }

    fn key(name: &str) -> EntryKey {
        EntryKey::named(name.as_bytes())
    }

    fn keys(names: &[&str]) -> Vec<EntryKey> {
        names.iter().map(|name| key(name)).collect()
    }

    impl Scene {
        fn new(pages: u32) -> Self {
            Self::of("swa", pages)
        }

        fn of(pool: &str, pages: u32) -> Self {
            let settings = ClusterSettings {
                chunk_bytes: 4096,
                slab_bytes: 4096,
                l3_bytes: 4096,
                read_rest_ms: 100,
                write_rest_ms: 100,
                first_feature_level: 1,
                hf3fs_protection_ms: 30_000,
                lease_ms: 5000,
            };
            let mut scene = Self { state: State::new(settings), office: Office::new(TERM, PROTECTION_MS) };
            let name = FileName { deployment: String::new(), rank: 0, pool: pool.into() };
            scene.apply(Hf3fsCommand::Initialize { name, pages });
            scene
        }

        fn apply(&mut self, command: Hf3fsCommand) -> Hf3fsOutcome {
            let revision = self.state.revision() + 1;
            self.state.begin_entry(TERM, revision);
            let outcome = self.state.apply(revision, &Command::Hf3fs(command), &mut Vec::new());
            self.state.finish_entry(revision);
            match outcome {
                Outcome::Hf3fs(outcome) => outcome,
                other => panic!("{other:?}"),
            }
        }

        fn on(&mut self, touched: Vec<PageIndex>, operation: Hf3fsOperation) -> Hf3fsOutcome {
            self.apply(Hf3fsCommand::On { file: FILE, touched, operation })
        }

        fn get(&mut self, names: &[&str], now_ms: u64) -> Vec<Option<PageIndex>> {
            self.office.get(FILE, self.state.hf3fs().file(FILE).unwrap(), &keys(names), now_ms)
        }

        fn decide(&mut self, names: &[&str], now_ms: u64) -> ReserveDecision {
            let time = ReserveTime { now_ms, tick_ms: 0 };
            self.office.reserve(FILE, self.state.hf3fs().file(FILE).unwrap(), &keys(names), time)
        }

        fn pick(&mut self, names: &[&str], now_ms: u64) -> Pick {
            match self.decide(names, now_ms) {
                ReserveDecision::Propose(pick) => pick,
                other => panic!("{other:?}"),
            }
        }

        /// Applies a reserve that was decided, and ends its pick.
        fn reserve(&mut self, names: &[&str], pick: &Pick) -> Vec<Reserved> {
            let reserve = Hf3fsOperation::Reserve { term: TERM, keys: keys(names), victims: pick.pages().to_vec() };
            match self.on(Vec::new(), reserve) {
                Hf3fsOutcome::Reserved { pages } => {
                    self.office.end(pick, &pages, 0);
                    pages
                }
                other => panic!("{other:?}"),
            }
        }

        fn write(&mut self, names: &[&str]) -> Vec<PageIndex> {
            let pick = self.pick(names, 0);
            let reserved = self.reserve(names, &pick);
            let pages = reserved.iter().map(|page| match page {
                Reserved::Page(page) => *page,
                other => panic!("{other:?}"),
            });
            let pages: Vec<_> = pages.collect();
            let written = keys(names).into_iter().zip(pages.iter().copied()).collect();
            self.on(Vec::new(), Hf3fsOperation::Confirm { written, released: Vec::new() });
            pages
        }
    }

    const LATER_MS: u64 = PROTECTION_MS + 1;

    #[test]
    fn a_victim_under_decision_is_not_told_to_a_reader() {
        let mut scene = Scene::new(2);
        let pages = scene.write(&["a", "b"]);
        let pick = scene.pick(&["c"], LATER_MS);
        assert_eq!(pick.pages(), [pages[0]]);
        assert_eq!(scene.get(&["a", "b"], LATER_MS), [None, Some(pages[1])]);
        // Nor is it given twice.
        let second = scene.pick(&["d"], LATER_MS);
        assert_eq!(second.pages(), NONE);
        scene.office.end(&second, &[], LATER_MS);
        assert_eq!(scene.reserve(&["c"], &pick), [Reserved::Page(pages[0])]);
        assert_eq!(scene.get(&["a", "b"], LATER_MS), [None, Some(pages[1])]);
        assert!(scene.office.files[&FILE].picked.is_empty());
    }

    #[test]
    fn a_read_of_kv_that_misses_a_page_is_a_miss() {
        for (pool, found) in [("kv", [None; 3]), ("mamba", [Some(2), None, Some(1)])] {
            let mut scene = Scene::of(pool, 3);
            assert_eq!(scene.write(&["a", "c"]), [2, 1]);
            assert_eq!(scene.get(&["a", "b", "c"], 0), found);
            // Who was told of nothing reads nothing.
            let told: Vec<PageIndex> = found.into_iter().flatten().collect();
            assert_eq!(scene.office.protected_pages(), told.len() as u64, "{pool}");
            assert_eq!(scene.office.drain_touched(FILE, 0), told, "{pool}");
            assert_eq!(scene.get(&["a", "c"], 0), [Some(2), Some(1)]);
        }
    }

    #[test]
    fn a_decision_that_came_to_nothing_gives_its_victims_back() {
        let mut scene = Scene::new(1);
        let pages = scene.write(&["a"]);
        let pick = scene.pick(&["c"], LATER_MS);
        assert_eq!(scene.get(&["a"], LATER_MS), [None]);
        scene.office.end(&pick, &[], LATER_MS);
        assert_eq!(scene.get(&["a"], LATER_MS), [Some(pages[0])]);
        // That of an earlier office changes nothing in this one.
        let mut earlier = Office::new(TERM - 1, PROTECTION_MS);
        let stale = earlier.pick_whole(FILE);
        scene.office.end(&stale, &[], LATER_MS);
        assert_eq!(scene.get(&["a"], LATER_MS), [Some(pages[0])]);
    }

    #[test]
    fn what_a_reader_was_told_of_is_no_victim_until_its_time_is_over() {
        let mut scene = Scene::new(2);
        let pages = scene.write(&["a", "b"]);
        scene.get(&["a"], LATER_MS);
        let pick = scene.pick(&["c", "d"], LATER_MS + PROTECTION_MS);
        assert_eq!(pick.pages(), [pages[1]], "the least recently written is protected");
        scene.office.end(&pick, &[], LATER_MS);
        let pick = scene.pick(&["c", "d"], LATER_MS + PROTECTION_MS + 1);
        assert_eq!(pick.pages(), [pages[1], pages[0]], "the one that was read is the last to go");
    }

    #[test]
    fn a_page_that_two_write_is_no_victim_while_the_second_may_write() {
        for decided_before in [true, false] {
            let mut scene = Scene::new(1);
            let first = scene.pick(&["a"], 0);
            // The second reserve is decided before or after the first is applied.
            let early = decided_before.then(|| scene.pick(&["a"], 0));
            let page = scene.reserve(&["a"], &first)[0];
            let second = early.unwrap_or_else(|| scene.pick(&["a"], 0));
            let reserve = Hf3fsOperation::Reserve { term: TERM, keys: keys(&["a"]), victims: Vec::new() };
            assert_eq!(scene.on(Vec::new(), reserve), Hf3fsOutcome::Reserved { pages: vec![page] });
            let written = vec![(key("a"), 0)];
            scene.on(Vec::new(), Hf3fsOperation::Confirm { written, released: Vec::new() });
            let while_it_ends = scene.pick(&["c"], LATER_MS);
            assert_eq!(while_it_ends.pages(), NONE, "the second writer is about to be answered");
            scene.office.end(&while_it_ends, &[], LATER_MS);
            scene.office.end(&second, &[page], LATER_MS);
            for (now_ms, victims) in [(LATER_MS + PROTECTION_MS, 0), (LATER_MS + PROTECTION_MS + 1, 1)] {
                let pick = scene.pick(&["c"], now_ms);
                assert_eq!(pick.pages().len(), victims, "at {now_ms} ms");
                scene.office.end(&pick, &[], now_ms);
            }
            assert!(scene.office.files[&FILE].writing.is_empty());
        }
    }

    #[test]
    fn a_new_office_evicts_nothing_for_a_protection() {
        let mut scene = Scene::new(1);
        scene.write(&["a"]);
        for (now_ms, victims) in [(0, 0), (PROTECTION_MS, 0), (PROTECTION_MS + 1, 1)] {
            let pick = scene.pick(&["c"], now_ms);
            assert_eq!(pick.pages().len(), victims, "after {now_ms} ms");
            scene.office.end(&pick, &[], LATER_MS);
        }
    }

    #[test]
    fn a_use_counts_before_the_state_has_heard_of_it() {
        let mut scene = Scene::new(3);
        let pages = scene.write(&["a", "b", "c"]);
        assert_eq!(scene.decide(&["a"], LATER_MS), ReserveDecision::Existing(vec![pages[0]]));
        for (names, victims) in [(&["d"][..], &[1][..]), (&["d", "e"], &[1, 2]), (&["d", "e", "f"], &[1, 2, 0])] {
            let pick = scene.pick(names, LATER_MS);
            let victims: Vec<_> = victims.iter().map(|at| pages[*at]).collect();
            assert_eq!(pick.pages(), victims);
            scene.office.end(&pick, &[], LATER_MS);
        }
    }

    #[test]
    fn reserves_under_way_do_not_count_on_the_same_room() {
        let mut scene = Scene::new(4);
        let pages = scene.write(&["a", "b"]);
        let first = scene.pick(&["c", "d", "c"], LATER_MS);
        assert_eq!(first.pages(), NONE, "two pages were never used");
        let second = scene.pick(&["e"], LATER_MS);
        assert_eq!(second.pages(), [pages[0]]);
        assert_eq!(scene.reserve(&["c", "d", "c"], &first).len(), 3);
        scene.office.end(&second, &[], LATER_MS);
        assert_eq!(scene.office.files[&FILE].wanted, 0);
        let third = scene.pick(&["c", "e"], LATER_MS);
        assert_eq!(third.pages().len(), 1, "a key that is reserved needs no page");
    }

    #[test]
    fn keys_that_are_all_there_need_no_command() {
        let mut scene = Scene::new(2);
        let pages = scene.write(&["a", "b"]);
        assert_eq!(scene.decide(&["b", "a"], 0), ReserveDecision::Existing(vec![pages[1], pages[0]]));
        assert_eq!(scene.office.drain_touched(FILE, 0), [pages[1], pages[0]]);
        // One that is being deleted is not there.
        let pick = scene.office.pick_keys(FILE, scene.state.hf3fs().file(FILE).unwrap(), &keys(&["a", "x"]));
        assert_eq!(scene.get(&["a", "b"], 0), [None, Some(pages[1])]);
        assert!(matches!(scene.decide(&["a"], 0), ReserveDecision::Propose(_)));
        scene.office.end(&pick, &[], LATER_MS);
        let pick = scene.office.pick_whole(FILE);
        assert_eq!(scene.get(&["a", "b"], 0), [None, None]);
        scene.office.end(&pick, &[], LATER_MS);
        assert_eq!(scene.get(&["a"], 0), [Some(pages[0])]);
    }

    #[test]
    fn reads_are_told_once_and_protections_forgotten() {
        let mut scene = Scene::new(2);
        let pages = scene.write(&["a", "b"]);
        assert_eq!(scene.office.due_touches(TOUCH_EVERY_MS), NONE);
        scene.get(&["a", "b", "a"], 5);
        assert_eq!(scene.office.due_touches(TOUCH_EVERY_MS), [FILE]);
        assert_eq!(scene.office.drain_touched(FILE, TOUCH_EVERY_MS), [pages[1], pages[0]], "where each was read last");
        assert_eq!(scene.office.due_touches(3 * TOUCH_EVERY_MS), NONE);
        assert_eq!(scene.office.protected_pages(), 2);
        scene.office.sweep(10 * PROTECTION_MS);
        assert_eq!(scene.office.protected_pages(), 0);
    }
}
