//! What must hold of page files, in one state and between two states one command apart: by the names of
//! docs/INVARIANTS.md.
//!
//! A check costs as much as there are pages in use.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{Hf3fsCommand, Hf3fsOperation};
use super::lists::{Ends, ListName, NO_PAGE};
use super::{File, FileId, FileName, Hf3fs, PageIndex, PageUse, Presence};
use crate::state::command::Command;
use crate::state::moment::Moment;
use crate::state::violation::{Violation, ensure};

#[cfg(test)]
mod canaries;

const NAME: &str = "one-page-one-key";
const BACK: &str = "nothing-goes-back";

/// `one-page-one-key`: keys and the pages that they hold are a bijection; each list holds exactly the pages of its use,
/// in the order of their stamps; every other page was never used, or is of what was cleared.
pub(in crate::state) fn check(hf3fs: &Hf3fs, tick_ms: u64) -> Result<(), Violation> {
    ensure(NAME, hf3fs.by_name.len() == hf3fs.files.len(), || format!("{:?} of {}", hf3fs.by_name, hf3fs.files.len()))?;
    let resting = hf3fs.dropped.iter().map(|dropped| dropped.due_ms);
    ensure(NAME, resting.is_sorted(), || format!("dropped page files {:?}", hf3fs.dropped))?;
    for (id, file) in hf3fs.files() {
        let found = hf3fs.file_id(file.name());
        let right = found == Some(id) && id < hf3fs.next_file;
        ensure(NAME, right, || format!("page file {id} of {} has the name of {found:?}", hf3fs.next_file))?;
        let of_file =
            |violation: Violation| Violation { detail: format!("file {id}: {}", violation.detail), ..violation };
        check_lists(file, tick_ms)
            .and_then(|()| check_keys(file))
            .and_then(|()| check_unheld(file))
            .map_err(of_file)?;
    }
    Ok(())
}

fn check_lists(file: &File, tick_ms: u64) -> Result<(), Violation> {
    let mut stamps = BTreeSet::new();
    let (mut held, mut due, mut resting) = (0, 0, 0);
    for list in ListName::ALL {
        let Ends { tail, pages, .. } = *file.table.ends(list);
        let (mut last, mut last_stamp, mut walked) = (NO_PAGE, 0, 0u32);
        // One more than there should be: a circle ends there.
        for (index, record) in file.table.list(list, None).take(pages as usize + 1) {
            let linked = record.list == Some(list) && record.prev == last && record.stamp >= last_stamp;
            ensure(NAME, linked, || format!("page {index} after {last} in {list:?}: {record:?}"))?;
            if record.is_confirmed() {
                let used_once = record.stamp < file.sequence && stamps.insert(record.stamp);
                ensure(NAME, used_once, || format!("page {index}: use {} of {}", record.stamp, file.sequence))?;
            }
            let at_rest = list == ListName::Resting;
            resting += u64::from(at_rest);
            due += u64::from(at_rest && record.stamp <= tick_ms);
            (last, last_stamp, walked) = (index, record.stamp, walked + 1);
        }
        let whole = last == tail && walked == pages;
        ensure(NAME, whole, || format!("{list:?} has {walked} pages to {last}, {pages} to {tail} are kept"))?;
        held += walked as usize;
    }
    let records = file.table.iter().count();
    ensure(NAME, records == held, || format!("{records} pages are held, {held} of them are in lists"))?;
    let counted = (file.dues.due(tick_ms), file.dues.due(u64::MAX));
    ensure(NAME, counted == (due, resting), || {
        format!("of {resting} resting pages {due} are due, {counted:?} are counted")
    })
}

fn check_keys(file: &File) -> Result<(), Violation> {
    let mut keys = 0;
    for (index, record) in file.table.iter() {
        let expected = match record.list {
            Some(ListName::Reserved) => Presence::Reserved(index),
            Some(ListName::Written | ListName::Read) => Presence::Confirmed(index),
            _ => continue,
        };
        let found = file.presence(&record.key);
        ensure(NAME, found == expected, || format!("{:?} of page {index} finds {found:?}", record.key))?;
        keys += 1;
    }
    let kept = file.places.len();
    ensure(NAME, kept == keys, || format!("{kept} keys have a page, {keys} pages have a key"))
}

/// Pages add up: confirmed, reserved, resting, never used, and what was cleared and nobody holds.
fn check_unheld(file: &File) -> Result<(), Violation> {
    let (pages, cleared) = (file.pages(), &file.cleared);
    let used = pages.checked_sub(file.never_used);
    let unheld = used.and_then(|used| used.checked_sub(file.table.held()));
    let Some(unheld) = unheld else {
        return ensure(NAME, false, || {
            format!("{} pages, {} never used, {} held", pages, file.never_used, file.table.held())
        });
    };
    let bounds = cleared.end <= pages && (cleared.is_empty() || cleared.start >= file.never_used);
    ensure(NAME, bounds, || format!("{cleared:?} cleared of {pages} pages, {} never used", file.never_used))?;
    let mut held_there = 0;
    for (index, record) in file.table.iter() {
        let fits = (file.never_used..pages).contains(&index);
        ensure(NAME, fits, || format!("page {index} of {pages}, {} never used: {record:?}", file.never_used))?;
        held_there += u32::from(cleared.contains(&index));
    }
    let there = cleared.end.saturating_sub(cleared.start).saturating_sub(held_there);
    ensure(NAME, there == unheld, || format!("{unheld} pages wait for their turn, {there} are in {cleared:?}"))
}

/// What a later file is held against.
#[derive(Debug, Clone)]
struct FileSummary {
    name: FileName,
    pages: u32,
    /// What only rises: counters, the next use, when cleared pages may be given out.
    rising: [u64; 7],
    never_used: PageIndex,
    never_held: PageIndex,
    evicted: u64,
    cleared_from_ms: u64,
    /// Of pages that somebody holds, or that rest one by one.
    held: BTreeMap<PageIndex, PageUse>,
}

/// Page files before a command.
#[derive(Debug, Clone, Default)]
pub(in crate::state) struct Summary {
    next_file: FileId,
    files: BTreeMap<FileId, FileSummary>,
}

impl Summary {
    pub(in crate::state) fn of(hf3fs: &Hf3fs) -> Self {
        let files = hf3fs.files().map(|(id, file)| (id, FileSummary::of(file))).collect();
        Self { next_file: hf3fs.next_file, files }
    }
}

impl FileSummary {
    fn of(file: &File) -> Self {
        let [evicted, expired, no_page, confirms, releases] = file.counters.all();
        Self {
            name: file.name().clone(),
            pages: file.pages(),
            rising: [evicted, expired, no_page, confirms, releases, file.sequence, file.cleared_from_ms],
            never_used: file.never_used,
            never_held: file.never_held,
            evicted,
            cleared_from_ms: file.cleared_from_ms,
            held: file.table.iter().filter_map(|(index, _)| Some((index, file.page(index)?))).collect(),
        }
    }

    /// Pages that were confirmed for a key and are reserved for another now.
    fn evicted<'a>(&'a self, file: &'a File) -> impl Iterator<Item = PageIndex> + 'a {
        let was_confirmed = self.held.iter().filter(|(_, used)| matches!(used, PageUse::Confirmed { .. }));
        let now_reserved = |index: &PageIndex| matches!(file.page(*index), Some(PageUse::Reserved { .. }));
        was_confirmed.map(|(index, _)| *index).filter(now_reserved)
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, hf3fs: &Hf3fs, at: Moment<'_>) -> Result<(), Violation> {
    ensure(BACK, before.next_file <= hf3fs.next_file, || {
        format!("page file numbers up to {} were given out, then up to {}", before.next_file, hf3fs.next_file)
    })?;
    for (id, was) in &before.files {
        let there = hf3fs.file(*id).is_some() || hf3fs.dropped.rest_of(&was.name).is_some();
        ensure(BACK, there, || format!("page file {id} is gone, and was not dropped"))?;
    }
    for (id, file) in hf3fs.files() {
        let Some(was) = before.files.get(&id) else {
            // One that was dropped does not come back, and who made it waits for what may still be in use of its name.
            made_anew(before, id, file, hf3fs, at)?;
            continue;
        };
        let now = FileSummary::of(file);
        let forward = was.name == now.name
            && was.pages == now.pages
            && was.rising.iter().zip(&now.rising).all(|(was, now)| was <= now)
            && was.never_used >= now.never_used
            && was.never_held >= now.never_held;
        ensure(BACK, forward, || format!("page file {id}: {now:?} after {was:?}"))?;
        let all: BTreeSet<&PageIndex> = was.held.keys().chain(now.held.keys()).collect();
        for index in all {
            let allowed = page_may_go(at, was, &now, *index);
            ensure(NAME, allowed, || {
                format!("page {index} of file {id} is {:?}, was {:?}", now.held.get(index), was.held.get(index))
            })?;
        }
        let (evicted, counted) = (was.evicted(file).count() as u64, now.evicted - was.evicted);
        ensure(NAME, evicted == counted, || format!("page file {id}: {evicted} pages evicted, {counted} counted"))?;
    }
    Ok(())
}

/// A new page file has a new number, and gives out no page while a dropped file of its name rests.
fn made_anew(before: &Summary, id: FileId, file: &File, hf3fs: &Hf3fs, at: Moment<'_>) -> Result<(), Violation> {
    ensure(BACK, id >= before.next_file, || format!("page file {id} of {} came back", before.next_file))?;
    let rests_ms = hf3fs.dropped.rest_of(file.name()).filter(|due_ms| *due_ms > at.tick_ms);
    ensure(NAME, rests_ms.is_none() || file.room(at.tick_ms) == 0, || {
        format!("page file {id} has room, pages of its name rest until {rests_ms:?}")
    })
}

/// A page goes from reserved to another key only over confirmed or rest, and from rest only when it is due.
fn page_may_go(at: Moment<'_>, was: &FileSummary, now: &FileSummary, index: PageIndex) -> bool {
    let rested = |due_ms: u64| due_ms >= at.tick_ms.saturating_add(at.settings.write_rest_ms);
    let due = |due_ms: u64| due_ms <= at.tick_ms;
    let unused = |used: Option<&PageUse>, of: &FileSummary| {
        used.copied().unwrap_or(match index < of.never_used {
            true => PageUse::Unused,
            false => PageUse::Resting { due_ms: of.cleared_from_ms },
        })
    };
    let (before, after) = (was.held.get(&index), now.held.get(&index));
    match (unused(before, was), unused(after, now)) {
        (PageUse::Reserved { key, heard_ms }, PageUse::Reserved { key: again, heard_ms: heard }) => {
            key == again && heard_ms <= heard
        }
        (PageUse::Reserved { key, .. } | PageUse::Confirmed { key }, PageUse::Confirmed { key: again }) => key == again,
        (PageUse::Confirmed { key }, PageUse::Reserved { key: other, .. }) => key != other,
        (PageUse::Reserved { .. } | PageUse::Confirmed { .. }, PageUse::Resting { due_ms }) => rested(due_ms),
        // Cleared again, or imported: it is due no earlier than before.
        (PageUse::Resting { due_ms }, PageUse::Resting { due_ms: again }) => due_ms <= again,
        (PageUse::Resting { due_ms }, PageUse::Reserved { .. }) => due(due_ms),
        (PageUse::Resting { .. }, PageUse::Confirmed { .. }) => before.is_none() && index < was.never_held,
        (PageUse::Unused, PageUse::Reserved { .. } | PageUse::Confirmed { .. } | PageUse::Unused) => true,
        (PageUse::Unused, PageUse::Resting { .. }) => after.is_none(),
        (_, PageUse::Unused) => false,
    }
}

/// Checks what only the command tells: a page was evicted only by a reserve that names it as a victim, of the entry's
/// term.
pub(in crate::state) fn check_command(
    before: &Summary,
    command: &Command,
    hf3fs: &Hf3fs,
    at: Moment<'_>,
) -> Result<(), Violation> {
    for (id, was) in &before.files {
        let Some(file) = hf3fs.file(*id) else { continue };
        for index in was.evicted(file) {
            let named = match command {
                Command::Hf3fs(Hf3fsCommand::On {
                    file,
                    operation: Hf3fsOperation::Reserve { term, victims, .. },
                    ..
                }) => file == id && *term == at.term.number && victims.contains(&index),
                _ => false,
            };
            ensure(NAME, named, || format!("page {index} of file {id} was evicted by {command:?}"))?;
        }
    }
    Ok(())
}
