//! What a page file promises, one example each.

use foreword_meta::state::command::{Command, Limit, Outcome, Refusal};
use foreword_meta::state::hf3fs::{Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageUse, Presence, Reserved};
use foreword_proto::limits::{HF3FS_FILES_MAX, HF3FS_PAGES_MAX};

use super::{Files, WRITE_REST_MS, file_name, key, keys, pages};

#[test]
fn pages_come_from_the_top_and_keys_find_them() {
    let mut files = Files::with(10);
    assert_eq!(files.file().page(9), Some(PageUse::Unused));
    assert_eq!(files.reserve(&keys([1, 2])), [Reserved::Page(9), Reserved::Page(8)]);
    assert_eq!(files.file().presence(&key(1)), Presence::Reserved(9));
    assert_eq!(files.file().page(9), Some(PageUse::Reserved { key: key(1), heard_ms: 0 }));
    assert_eq!(files.confirm(&[(key(1), 9)], &[]), (0, 0));
    assert_eq!(files.file().presence(&key(1)), Presence::Confirmed(9));
    assert_eq!(files.file().page(9), Some(PageUse::Confirmed { key: key(1) }));
    assert_eq!(files.file().presence(&key(3)), Presence::Absent);
    assert_eq!(files.file().page(10), None);
    let counts = files.counts();
    assert_eq!((counts.confirmed, counts.reserved, counts.resting, counts.unused), (1, 1, 0, 8));
    assert_eq!(files.reserve(&keys([1, 2, 3])), [Reserved::Existing(9), Reserved::Page(8), Reserved::Page(7)]);
}

#[test]
fn a_second_reserve_before_the_confirm_gets_the_same_page_also_twice_in_one_batch() {
    let mut files = Files::with(10);
    let first = files.reserve(&keys([1, 2, 1]));
    assert_eq!(first, [Reserved::Page(9), Reserved::Page(8), Reserved::Page(9)]);
    assert_eq!(files.reserve(&keys([2, 1, 2])), [Reserved::Page(8), Reserved::Page(9), Reserved::Page(8)]);
    assert_eq!(files.counts().reserved, 2);
    // Whoever confirms first; the second confirm is as good.
    assert_eq!(files.confirm(&[(key(1), 9), (key(1), 9)], &[]), (0, 0));
    assert_eq!(files.confirm(&[(key(1), 9)], &[]), (0, 0));
    assert_eq!(files.counts().confirmed, 1);
}

#[test]
fn confirms_and_releases_that_fit_no_reservation_are_ignored_and_counted() {
    let mut files = Files::with(10);
    files.write([1]);
    files.reserve(&keys([2]));
    // Another key's page, another page, beyond the end, never used; then a confirmed page, an unused one, one beyond
    // the end.
    let written = [(key(2), 9), (key(1), 8), (key(2), 10), (key(2), 0), (key(3), u32::MAX)];
    assert_eq!(files.confirm(&written, &[9, 3, 10, u32::MAX]), (5, 4));
    let counts = files.counts();
    assert_eq!((counts.ignored_confirms, counts.ignored_releases), (5, 4));
    assert_eq!(files.file().presence(&key(1)), Presence::Confirmed(9));
    assert_eq!(files.file().presence(&key(2)), Presence::Reserved(8));
    // Written and released at once: it was written.
    assert_eq!(files.confirm(&[(key(2), 8)], &[8]), (0, 1));
    assert_eq!(files.file().presence(&key(2)), Presence::Confirmed(8));
    // A reservation that has ended: its page may be another's by now.
    let mut files = Files::with(1);
    files.reserve(&keys([1]));
    assert_eq!(files.confirm(&[], &[0, 0]), (0, 1), "released twice");
    assert_eq!(files.confirm(&[(key(1), 0)], &[]), (1, 0));
    files.tick(WRITE_REST_MS);
    assert_eq!(files.reserve(&keys([2])), [Reserved::Page(0)]);
    assert_eq!(files.confirm(&[(key(1), 0)], &[]), (1, 0));
    assert_eq!(files.file().presence(&key(2)), Presence::Reserved(0));
}

#[test]
fn a_reservation_of_which_nothing_is_heard_ends_and_its_page_rests() {
    let mut files = Files::with(3);
    files.reserve(&keys([1]));
    files.tick(50);
    files.reserve(&keys([2, 3]));
    assert_eq!(files.file().oldest_reservation_ms(), Some(0));
    files.tick(50);
    // The first is heard of again: it is the youngest now.
    files.reserve(&keys([1]));
    assert_eq!(files.file().oldest_reservation_ms(), Some(50));
    let expire = |unheard_ms, pages_max| Hf3fsOperation::Expire { unheard_ms, pages_max };
    assert_eq!(files.on(0, &[], expire(50, 9)), Hf3fsOutcome::Expired { pages: 0, left: false });
    assert_eq!(files.on(0, &[], expire(49, 1)), Hf3fsOutcome::Expired { pages: 1, left: true });
    assert_eq!(files.on(0, &[], expire(49, 9)), Hf3fsOutcome::Expired { pages: 1, left: false });
    assert_eq!((files.counts().expired, files.counts().reserved, files.counts().resting), (2, 1, 2));
    assert_eq!(files.file().page(1), Some(PageUse::Resting { due_ms: 100 + WRITE_REST_MS }));
    assert_eq!(files.file().presence(&key(2)), Presence::Absent);
    files.tick(WRITE_REST_MS - 1);
    assert_eq!(files.file().room(files.state.tick_ms()), 0);
    assert_eq!(files.reserve(&keys([4])), [Reserved::NoPage]);
    files.tick(1);
    assert_eq!(files.file().room(files.state.tick_ms()), 2);
    assert_eq!(files.reserve(&keys([4, 5, 6])), [Reserved::Page(1), Reserved::Page(0), Reserved::NoPage]);
}

#[test]
fn with_everything_reserved_there_is_no_page_and_no_refusal() {
    let mut files = Files::with(2);
    files.reserve(&keys([1, 2]));
    let all = files.reserve_with(&keys([3, 1, 3]), vec![0, 1, 2, u32::MAX]);
    assert_eq!(all, [Reserved::NoPage, Reserved::Page(1), Reserved::NoPage]);
    assert_eq!((files.counts().no_page, files.counts().evicted), (2, 0));
}

#[test]
fn victims_of_another_term_are_void() {
    let mut files = Files::with(2);
    files.write([1, 2]);
    files.term = 2;
    let operation = Hf3fsOperation::Reserve { term: 1, keys: keys([3]), victims: vec![0, 1] };
    let reserved = files.on(0, &[], operation);
    assert_eq!(reserved, Hf3fsOutcome::Reserved { pages: vec![Reserved::NoPage] });
    assert_eq!(files.reserve(&keys([3])), [Reserved::Page(1)]);
    assert_eq!(files.counts().evicted, 1);
}

#[test]
fn a_victim_is_a_confirmed_page_that_this_batch_does_not_name_and_only_once() {
    let mut files = Files::with(4);
    files.write([1, 2]);
    files.reserve(&keys([3]));
    files.reserve(&keys([4]));
    // Page 3 is answered to the batch, page 1 is reserved, 2 is named twice.
    let reserved = files.reserve_with(&keys([1, 5, 6]), vec![3, 1, 9, 2, 2]);
    assert_eq!(reserved, [Reserved::Existing(3), Reserved::Page(2), Reserved::NoPage]);
    assert_eq!(files.file().presence(&key(2)), Presence::Absent);
    assert_eq!(files.file().presence(&key(5)), Presence::Reserved(2));
    // Victims are for need: while there is room, they stay.
    let mut files = Files::with(2);
    files.write([1]);
    assert_eq!(files.reserve_with(&keys([2]), vec![1]), [Reserved::Page(0)]);
    assert_eq!(files.file().presence(&key(1)), Presence::Confirmed(1));
}

/// SGLang's server moves a key to the end of its OrderedDict at a reserve that finds it, a confirm and a get.
#[test]
fn the_least_recently_used_page_goes_first() {
    let mut files = Files::with(6);
    assert_eq!(files.write([1, 2, 3, 4, 5, 6]), [5, 4, 3, 2, 1, 0]);
    let order = |files: &Files| files.file().victims(9, 0, |_| true);
    assert_eq!(order(&files), [5, 4, 3, 2, 1, 0]);
    // A get of 2, then 1; a reserve of 3; a confirm of 4, again.
    files.touch(&[4, 5]);
    assert_eq!(files.reserve(&keys([3])), [Reserved::Existing(3)]);
    files.confirm(&[(key(4), 2)], &[]);
    assert_eq!(order(&files), [1, 0, 4, 5, 3, 2]);
    // Pages of both queues, in turn; also what is touched with another operation, which is done first.
    files.on(0, &[1], Hf3fsOperation::Confirm { written: vec![(key(2), 4)], released: vec![] });
    assert_eq!(order(&files), [0, 5, 3, 2, 1, 4]);
    assert_eq!(files.reserve(&keys([7, 8])), [Reserved::Page(0), Reserved::Page(5)]);
    assert_eq!(order(&files), [3, 2, 1, 4]);
    // What is no confirmed page is not touched.
    files.touch(&[0, 3, 5, 6, 77, u32::MAX]);
    assert_eq!(order(&files), [2, 1, 4, 3]);
}

#[test]
fn victims_are_looked_for_past_some_that_may_not_go() {
    let mut files = Files::with(8);
    files.write(1..=8);
    files.touch(&[7, 6, 5, 4]);
    // 3 2 1 0 were written, 7 6 5 4 were read.
    let victims =
        |count, skips_max, kept: &[u32]| files.file().victims(count, skips_max, |index| !kept.contains(&index));
    assert_eq!(victims(3, 0, &[]), [3, 2, 1]);
    assert_eq!(victims(3, 0, &[3]), [7, 6, 5], "the queue of written pages is given up");
    assert_eq!(victims(3, 1, &[3]), [7, 6, 5]);
    assert_eq!(victims(3, 2, &[3]), [2, 1, 0]);
    assert_eq!(victims(3, 2, &[3, 2]), [7, 6, 5]);
    assert_eq!(victims(3, 3, &[3, 2, 7, 5]), [1, 0, 6]);
    assert!(victims(0, 9, &[]).is_empty());
    assert_eq!(victims(99, 99, &[0]).len(), 7);
}

#[test]
fn deleted_pages_rest_as_long_as_readers_may_read() {
    let mut files = Files::with(3);
    files.write([1, 2]);
    files.reserve(&keys([3]));
    let delete = |numbers: &[u64], rest_ms| Hf3fsOperation::Delete { keys: keys(numbers.iter().copied()), rest_ms };
    // Twice, reserved, absent.
    assert_eq!(files.on(0, &[], delete(&[1, 1, 3, 9], 500)), Hf3fsOutcome::Deleted { pages: 1 });
    assert_eq!(files.file().page(2), Some(PageUse::Resting { due_ms: 500 }));
    assert_eq!(files.file().presence(&key(3)), Presence::Reserved(0));
    // A shorter rest is not before a longer one that began earlier.
    assert_eq!(files.on(0, &[], delete(&[2], 5)), Hf3fsOutcome::Deleted { pages: 1 });
    assert_eq!(files.file().page(1), Some(PageUse::Resting { due_ms: 500 }));
    files.tick(499);
    assert_eq!(files.reserve(&keys([4])), [Reserved::NoPage]);
    files.tick(1);
    assert_eq!(files.reserve(&keys([4, 5])), [Reserved::Page(2), Reserved::Page(1)]);
}

#[test]
fn a_cleared_file_gives_its_pages_out_again_after_a_rest() {
    let mut files = Files::with(6);
    files.write([1, 2]);
    files.reserve(&keys([3]));
    let clear = |rest_ms| Hf3fsOperation::Clear { rest_ms };
    assert_eq!(files.on(0, &[], clear(700)), Hf3fsOutcome::Cleared);
    assert_eq!(files.file().presence(&key(1)), Presence::Absent);
    assert_eq!(files.confirm(&[(key(3), 3)], &[3]), (1, 1), "reservations are gone too");
    let counts = files.counts();
    assert_eq!((counts.confirmed, counts.reserved, counts.resting, counts.unused), (0, 0, 3, 3));
    assert_eq!(files.file().page(4), Some(PageUse::Resting { due_ms: 700 }));
    assert_eq!(files.file().page(2), Some(PageUse::Unused));
    // What was never used does not rest.
    files.tick(699);
    assert_eq!(files.file().room(files.state.tick_ms()), 3);
    assert_eq!(files.reserve(&keys([1])), [Reserved::Page(2)]);
    files.tick(1);
    assert_eq!(files.file().room(files.state.tick_ms()), 5);
    assert_eq!(pages(&files.reserve(&keys([2, 3, 4, 5, 6]))), [5, 4, 3, 1, 0]);
    // Again, with a rest that is shorter than one still to come.
    files.confirm(&[(key(1), 2)], &[]);
    files.on(0, &[], Hf3fsOperation::Delete { keys: keys([1]), rest_ms: 900 });
    files.on(0, &[], clear(0));
    assert_eq!(files.counts().resting, 6);
    assert_eq!(files.file().page(0), Some(PageUse::Resting { due_ms: 1600 }));
    files.tick(900);
    assert_eq!(files.reserve(&keys([1, 2])), [Reserved::Page(5), Reserved::Page(4)]);
}

#[test]
fn a_dropped_file_is_gone_at_once_and_its_pages_rest_in_the_one_made_anew() {
    let mut files = Files::with(6);
    files.write([1, 2]);
    let drop = |file| Command::Hf3fs(Hf3fsCommand::Drop { file, rest_ms: 700 });
    assert_eq!(files.apply(drop(0)), Outcome::Hf3fs(Hf3fsOutcome::Dropped));
    assert_eq!(files.apply(drop(0)), Outcome::Hf3fs(Hf3fsOutcome::NoFile));
    assert_eq!(files.on(0, &[], Hf3fsOperation::Touch), Hf3fsOutcome::NoFile);
    assert!(files.state.hf3fs().file(0).is_none() && files.state.hf3fs().file_id(&file_name("", 0, "kv")).is_none());
    // Readers and writers of the old one may be at any page of the file on 3FS, whatever size it has now.
    assert_eq!(files.initialize(file_name("", 0, "kv"), 9), Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: 1 }));
    let made = files.state.hf3fs().file(1).unwrap();
    assert_eq!((made.counts().resting, made.room(699), made.room(700)), (9, 0, 9));
    let import = Hf3fsOperation::Import { entries: vec![(key(1), 5)], rest_ms: 0 };
    assert_eq!(files.on(1, &[], import), Hf3fsOutcome::Imported { conflicts: 1 });
    // Others rest for nothing.
    assert_eq!(files.initialize(file_name("", 1, "kv"), 9), Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: 2 }));
    assert_eq!(files.state.hf3fs().file(2).unwrap().room(0), 9);
    // Once the rest is over the name is forgotten.
    assert_eq!(files.apply(drop(1)), Outcome::Hf3fs(Hf3fsOutcome::Dropped));
    files.tick(700);
    assert_eq!(files.initialize(file_name("", 0, "kv"), 6), Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: 3 }));
    assert_eq!(files.state.hf3fs().file(3).unwrap().counts().unused, 6);
}

#[test]
fn page_files_that_come_and_go_run_out_of_nothing() {
    let mut files = Files::with(6);
    for file in 1..=HF3FS_FILES_MAX as u32 + 100 {
        let name = file_name(&format!("model-{file}"), 0, "kv");
        let made = files.apply_unchecked(&Command::Hf3fs(Hf3fsCommand::Initialize { name, pages: 6 }));
        assert_eq!(made, Outcome::Hf3fs(Hf3fsOutcome::Initialized { file }));
        files.apply_unchecked(&Command::Hf3fs(Hf3fsCommand::Drop { file, rest_ms: 0 }));
        let now_ms = files.state.tick_ms() + WRITE_REST_MS;
        files.apply_unchecked(&Command::Tick { now_ms });
    }
    // Those whose pages still rest count: who drops and makes files all the time is told so, and nothing else.
    let mut made = 0;
    let refused = loop {
        let name = file_name(&format!("late-{made}"), 0, "kv");
        match files.apply_unchecked(&Command::Hf3fs(Hf3fsCommand::Initialize { name, pages: 6 })) {
            Outcome::Hf3fs(Hf3fsOutcome::Initialized { file }) => {
                files.apply_unchecked(&Command::Hf3fs(Hf3fsCommand::Drop { file, rest_ms: 0 }));
                made += 1;
            }
            refused => break refused,
        }
    };
    assert_eq!((made, refused), (HF3FS_FILES_MAX - 1, Outcome::Refused(Refusal::TooMany(Limit::PageFiles))));
    files.tick(WRITE_REST_MS);
    let name = file_name("after", 0, "kv");
    assert!(matches!(files.initialize(name, 6), Outcome::Hf3fs(Hf3fsOutcome::Initialized { .. })));
}

#[test]
fn an_import_takes_pages_over_and_lets_the_rest_of_the_file_rest() {
    let mut files = Files::with(6);
    let import = |entries: &[(u64, u32)]| Hf3fsOperation::Import {
        entries: entries.iter().map(|(number, index)| (key(*number), *index)).collect(),
        rest_ms: 1000,
    };
    let imported = |conflicts| Hf3fsOutcome::Imported { conflicts };
    assert_eq!(files.on(0, &[], import(&[(1, 5), (2, 0), (3, 2)])), imported(0));
    assert_eq!(files.file().victims(9, 0, |_| true), [5, 0, 2]);
    assert_eq!(files.file().presence(&key(2)), Presence::Confirmed(0));
    // The same again, and more: in pieces. A page or a key that is taken, a page beyond the end.
    assert_eq!(files.on(0, &[], import(&[(1, 5), (4, 3), (5, 3), (4, 1), (5, 6)])), imported(3));
    assert_eq!(files.file().victims(9, 0, |_| true), [5, 0, 2, 3]);
    let counts = files.counts();
    assert_eq!((counts.confirmed, counts.resting, counts.unused), (4, 2, 0));
    assert_eq!(files.file().page(1), Some(PageUse::Resting { due_ms: 1000 }));
    files.tick(999);
    assert_eq!(files.file().room(files.state.tick_ms()), 0);
    assert_eq!(files.reserve_with(&keys([6]), vec![]), [Reserved::NoPage]);
    files.tick(1);
    assert_eq!(files.file().room(files.state.tick_ms()), 2);
    assert_eq!(pages(&files.reserve(&keys([6, 7, 8]))), [4, 1, 5]);
}

/// What this group's writers wrote is not what the other server had there.
#[test]
fn an_import_leaves_alone_what_was_in_use_here() {
    let mut files = Files::with(4);
    files.write([1]);
    files.reserve(&keys([2]));
    files.on(0, &[], Hf3fsOperation::Clear { rest_ms: 0 });
    let entries = vec![(key(1), 3), (key(2), 2), (key(3), 1)];
    let import = Hf3fsOperation::Import { entries, rest_ms: 0 };
    assert_eq!(files.on(0, &[], import), Hf3fsOutcome::Imported { conflicts: 2 });
    files.tick(WRITE_REST_MS);
    assert_eq!(files.reserve_with(&keys([1, 2, 4, 5]), vec![]).len(), 4);
    let counts = files.counts();
    assert_eq!((counts.confirmed, counts.reserved, counts.no_page), (1, 3, 1));
}

#[test]
fn files_are_told_apart_and_keep_their_size() {
    let mut files = Files::with(4);
    let initialized = |file| Outcome::Hf3fs(Hf3fsOutcome::Initialized { file });
    assert_eq!(files.initialize(file_name("", 0, "kv"), 4), initialized(0));
    assert_eq!(files.initialize(file_name("", 0, "kv"), 5), Outcome::Hf3fs(Hf3fsOutcome::OtherSize { pages: 4 }));
    for (file, (deployment, rank, pool)) in (1..).zip([("", 1, "kv"), ("", 0, "mamba"), ("m", 0, "kv"), ("", -1, "kv")])
    {
        assert_eq!(files.initialize(file_name(deployment, rank, pool), 9), initialized(file));
        assert_eq!(files.state.hf3fs().file_id(&file_name(deployment, rank, pool)), Some(file));
    }
    let operation = Hf3fsOperation::Reserve { term: 1, keys: keys([1]), victims: vec![] };
    let reserved = Hf3fsOutcome::Reserved { pages: vec![Reserved::Page(8)] };
    assert_eq!(files.on(3, &[], operation.clone()), reserved);
    assert_eq!(files.file().presence(&key(1)), Presence::Absent);
    assert_eq!(files.on(5, &[1], operation), Hf3fsOutcome::NoFile);
    let names: Vec<_> = files.state.hf3fs().files().map(|(id, file)| (id, file.name().rank, file.pages())).collect();
    assert_eq!(names, [(0, 0, 4), (1, 1, 9), (2, 0, 9), (3, 0, 9), (4, -1, 9)]);
}

#[test]
fn what_cannot_be_a_file_is_refused_by_its_field() {
    let mut files = Files::with(4);
    let mut refused =
        |deployment: &str, pool: &str, pages| match files.initialize(file_name(deployment, 0, pool), pages) {
            Outcome::Refused(Refusal::Invalid(invalid)) => invalid.field(),
            other => panic!("{other:?}"),
        };
    let long = "x".repeat(65);
    for deployment in [".", "..", "a/b", "a b", "ä", &long] {
        assert_eq!(refused(deployment, "kv", 4), "deployment", "{deployment}");
    }
    for pool in ["", &long] {
        assert_eq!(refused("", pool, 4), "namespace");
    }
    for pages in [0, HF3FS_PAGES_MAX + 1, u32::MAX] {
        assert_eq!(refused("", "kv", pages), "num_pages");
        assert_eq!(refused("", "other", pages), "num_pages");
    }
    assert_eq!(files.state.hf3fs().files().count(), 1);
    let fits = files.initialize(file_name(&long[1..], i64::MIN, &long[1..]), HF3FS_PAGES_MAX);
    assert_eq!(fits, Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: 1 }));
    assert!(files.state.heap_bytes() < 1 << 20, "an unused file takes no memory: {}", files.state.heap_bytes());
}

#[test]
fn files_are_limited() {
    let mut files = Files::with(4);
    for rank in 1..HF3FS_FILES_MAX as i64 {
        let name = file_name("", rank, "kv");
        let command = foreword_meta::state::hf3fs::Hf3fsCommand::Initialize { name, pages: 1 };
        let outcome = files.apply_unchecked(&foreword_meta::state::command::Command::Hf3fs(command));
        assert_eq!(outcome, Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: rank as u32 }));
    }
    let one_more = files.initialize(file_name("", -1, "kv"), 1);
    assert_eq!(one_more, Outcome::Refused(Refusal::TooMany(Limit::PageFiles)));
    let known = files.initialize(file_name("", 7, "kv"), 1);
    assert_eq!(known, Outcome::Hf3fs(Hf3fsOutcome::Initialized { file: 7 }));
}
