//! What plain reads and writes of the page cache do: no agent can be faster.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::pages::{IN_FLIGHT, PAGE_BYTES, SET_PAGES, page};
use super::{GIB, NAMES};
use crate::commands::bench::Bench;
use crate::commands::bench::figure::Figure;

/// Where the pages are meanwhile.
const FILE: &str = "bench-raw";

/// Measures as many threads as there are calls in flight elsewhere, on a file in the directory of L3.
pub(super) async fn measure(bench: &Bench, store: &str, dir: &Path) -> anyhow::Result<()> {
    let (path, runs) = (dir.join(FILE), bench.runs);
    let measured = tokio::task::spawn_blocking(move || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        let file = Arc::new(file);
        let values = [true, false].map(|write| {
            let run = || run(&file, write);
            run()?;
            (0..runs).map(|_| run()).collect::<anyhow::Result<Vec<f64>>>()
        });
        std::fs::remove_file(&path)?;
        anyhow::Ok(values)
    });
    let [writes, reads] = measured.await??;
    let path = format!("beside {store}: {IN_FLIGHT} threads, a file of 1 GiB");
    bench.print(&Figure::new(NAMES[0], "GiB/s", path.clone(), reads?))?;
    bench.print(&Figure::new(NAMES[1], "GiB/s", path, writes?))
}

/// Moves every page of the set once; GiB a second.
fn run(file: &File, write: bool) -> anyhow::Result<f64> {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(|| thread(file, &next, write))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread that does not panic"))
    })?;
    Ok((SET_PAGES * PAGE_BYTES) as f64 / GIB / began.elapsed().as_secs_f64())
}

fn thread(file: &File, next: &AtomicUsize, write: bool) -> std::io::Result<()> {
    let mut bytes = page();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= SET_PAGES {
            return Ok(());
        }
        let at = (index * PAGE_BYTES) as u64;
        match write {
            true => file.write_all_at(&bytes, at)?,
            false => file.read_exact_at(&mut bytes, at)?,
        }
    }
}
