//! The judgement itself is tested: faults planted in a real run must be found, each under its name.

use std::os::unix::fs::FileExt;
use std::path::Path;

use foreword_proto::PageKey;

use super::support::checker::Fault;
use super::support::history::Ack;
use super::support::run::{PAGE_BYTES, Run, spec};

const PAGES: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_faults_are_found() {
    let mut run = Run::start("canary", spec()).await;
    run.acked(PAGES).await;
    run.stop_load().await;
    let never_put = PageKey::opaque(b"acknowledged, as a forger says");
    run.with_history(|history| {
        let last = *history.acks.last().unwrap();
        history.acks.push(Ack { key: never_put, ..last });
    });
    let damaged = damage_every_page(&run.cluster.dir().join("l3"));
    let (_, faults) = run.examine().await;
    assert!(faults.iter().any(|fault| matches!(fault, Fault::Lost { key, .. } if *key == never_put)), "{faults:?}");
    // Damaged pages are unreadable, or retired by then: two agents have seen that their bytes are bad.
    let unreadable = faults.iter().filter(|fault| matches!(fault, Fault::Unreadable { .. })).count();
    let retired = faults.iter().find_map(|fault| match fault {
        Fault::RetiredAsSuspect { pages } => Some(*pages as usize),
        _ => None,
    });
    let found = unreadable + retired.unwrap_or(0);
    assert!(found >= PAGES, "{damaged} pages are damaged, {found} were found: {faults:?}");
    assert!(!faults.iter().any(|fault| matches!(fault, Fault::WrongBytes { .. })), "{faults:?}");
}

/// Flips a byte of every page below this directory that is not all zeros; how many.
fn damage_every_page(dir: &Path) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            damaged += damage_every_page(&path);
        } else if path.extension().is_some_and(|end| end == "slab") {
            damaged += damage_slab(&path);
        }
    }
    damaged
}

fn damage_slab(path: &Path) -> usize {
    const AT: usize = 100;
    let slab = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let mut damaged = 0;
    for (slot, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            slab.write_all_at(&[page[AT] ^ 1], slot as u64 * PAGE_BYTES + AT as u64).unwrap();
            damaged += 1;
        }
    }
    damaged
}
