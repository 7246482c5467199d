//! What a page costs, and how long one operation takes in a file of many.

use std::time::Duration;

use foreword_meta::state::State;
use foreword_meta::state::command::{Command, Outcome};
use foreword_meta::state::hf3fs::{Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex};
use foreword_proto::EntryKey;

use super::{Files, key, keys, pages};
use crate::random::restored;

const BATCH: u64 = 128;

fn on(files: &mut Files, touched: Vec<PageIndex>, operation: Hf3fsOperation) -> Hf3fsOutcome {
    let command = Hf3fsCommand::On { file: 0, touched, operation };
    match files.apply_unchecked(&Command::Hf3fs(command)) {
        Outcome::Hf3fs(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

/// Reserves and confirms keys that are new, without a check of the whole state.
fn write(files: &mut Files, keys: Vec<EntryKey>) {
    let victims = files.file().victims(keys.len(), 0, |_| true);
    let reserve = Hf3fsOperation::Reserve { term: 1, keys: keys.clone(), victims };
    let Hf3fsOutcome::Reserved { pages: reserved } = on(files, vec![], reserve) else { unreachable!() };
    let written = keys.into_iter().zip(pages(&reserved)).collect();
    let confirmed = on(files, vec![], Hf3fsOperation::Confirm { written, released: vec![] });
    assert_eq!(confirmed, Hf3fsOutcome::Confirmed { ignored_confirms: 0, ignored_releases: 0 });
}

fn fill(files: &mut Files, numbers: std::ops::Range<u64>) {
    for start in numbers.clone().step_by(1024) {
        write(files, keys(start..numbers.end.min(start + 1024)));
    }
}

fn bytes_per_page(files: &Files) -> f64 {
    let counts = files.counts();
    files.state.heap_bytes() as f64 / (counts.confirmed + counts.reserved) as f64
}

/// Filled, and with every page evicted and written again once: removed keys leave nothing behind.
#[test]
fn a_page_takes_at_most_64_bytes() {
    for pages in [150_000, 200_000, 230_000] {
        let mut files = Files::with(pages);
        fill(&mut files, 0..pages.into());
        let filled = bytes_per_page(&files);
        fill(&mut files, pages.into()..2 * u64::from(pages));
        let churned = bytes_per_page(&files);
        assert_eq!(files.counts().evicted, u64::from(pages));
        println!("{pages} pages: {filled:.1} B a page, {churned:.1} after churn");
        assert!((44.0..=64.0).contains(&filled) && (44.0..=64.0).contains(&churned), "{filled:.1}, {churned:.1}");
    }
}

/// How long something took.
#[allow(clippy::disallowed_methods)]
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let begun = std::time::Instant::now();
    let result = what();
    (result, begun.elapsed())
}

/// The longest and the median of many.
fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{what}: median {:?}, longest {:?} of {}", times[times.len() / 2], times[times.len() - 1], times.len());
}

/// `cargo test --release -p foreword-meta --test state -- --ignored --nocapture five_million`
#[test]
#[ignore = "a measurement, in release mode"]
fn five_million_pages() {
    const PAGES: u32 = 5_000_000;
    let mut files = Files::with(PAGES);
    let (_, took) = timed(|| fill(&mut files, 0..PAGES.into()));
    println!("filled in {took:?}, {:.1} B a page", bytes_per_page(&files));
    let mut next = u64::from(PAGES);
    let mut batch = || {
        next += BATCH;
        keys(next - BATCH..next)
    };

    let times = (0..20_000).map(|_| batch()).map(|keys| timed(|| write(&mut files, keys)).1).collect();
    show("reserve + confirm of 128 keys, evicting in order", times);
    // Readers and writers shuffle the lists: neighbours of a list are far apart in memory from here on.
    let mut noise = 1u64;
    let mut any_page = || {
        noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (noise >> 33) as u32 % PAGES
    };
    let touches: Vec<Vec<PageIndex>> = (0..20_000).map(|_| (0..256).map(|_| any_page()).collect()).collect();
    let touch = |pages| timed(|| on(&mut files, pages, Hf3fsOperation::Touch)).1;
    show("touch of 256 pages", touches.into_iter().map(touch).collect());
    let times = (0..30_000).map(|_| batch()).map(|keys| timed(|| write(&mut files, keys)).1).collect();
    show("reserve + confirm of 128 keys, evicting out of order", times);
    println!("{:.1} B a page after that", bytes_per_page(&files));

    let mut times = Vec::new();
    for _ in 0..20 {
        let (frozen, freeze) = timed(|| files.state.freeze());
        assert!(freeze < Duration::from_secs(15));
        let keys = batch();
        times.push(timed(|| write(&mut files, keys)).1);
        drop(frozen);
    }
    show("reserve + confirm of 128 keys right after a freeze", times);
    measure_snapshot(&files.state);

    let (_, took) = timed(|| on(&mut files, vec![], Hf3fsOperation::Clear { rest_ms: 0 }));
    println!("clear: {took:?}");
    files.apply_unchecked(&Command::Tick { now_ms: 1_000_000 });
    let times = (0..1000).map(|_| batch()).map(|keys| timed(|| write(&mut files, keys)).1).collect();
    show("reserve + confirm of 128 keys after the clear", times);
    measure_import(PAGES);
}

fn measure_snapshot(state: &State) {
    let (mut bytes, mut times) = (0, Vec::new());
    let mut chunks = state.freeze().chunks();
    loop {
        let (piece, took) = timed(|| chunks.next());
        times.push(took);
        let Some(piece) = piece else { break };
        bytes += piece.len();
    }
    println!("snapshot: {bytes} bytes in {:?}", times.iter().sum::<Duration>());
    show("a piece of it", times);
    let (again, took) = timed(|| restored(state));
    println!("written and restored: {took:?}");
    assert_eq!(again.digest(), state.digest());
    let (_, took) = timed(|| drop(again));
    println!("dropped: {took:?}");
}

/// The whole file but its first page taken over; then one reserve has to look for that page.
fn measure_import(pages: u32) {
    let mut files = Files::with(pages);
    let all: Vec<(EntryKey, PageIndex)> = (1..pages).map(|index| (key(index.into()), index)).collect();
    let import = |entries: &[(EntryKey, PageIndex)]| {
        let operation = Hf3fsOperation::Import { entries: entries.to_vec(), rest_ms: 0 };
        timed(|| on(&mut files, vec![], operation)).1
    };
    show("import of 65,536 pages", all.chunks(65_536).map(import).collect());
    files.apply_unchecked(&Command::Tick { now_ms: 1_000_000 });
    let (_, took) = timed(|| write(&mut files, keys([u64::MAX])));
    println!("reserve of the one page that the import left: {took:?}");
    assert_eq!(files.counts().evicted, 0);
}
