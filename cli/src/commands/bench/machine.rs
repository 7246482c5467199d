//! What this machine itself can do: what no figure can be better than.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};
use tokio::time::Instant;

use super::Bench;
use super::figure::{Figure, quantile};

pub(super) const NAMES: [&str; 3] = ["fdatasync_p50_us", "memcpy_gib_per_s", "disk_read_gib_per_s"];

const SYNCS: usize = 200;
const COPIED_BYTES: usize = 256 << 20;
const READ_BYTES: usize = 512 << 20;
const PIECE_BYTES: usize = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;

/// Measures in the directory that the group's data directories go to.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<()> {
    bench.say("the machine's own limits");
    let mut builder = tempfile::Builder::new();
    builder.prefix("foreword-bench-");
    let dir = match &bench.dir {
        Some(dir) => builder.tempdir_in(dir)?,
        None => builder.tempdir()?,
    };
    let (runs, path) = (bench.runs, dir.path().to_owned());
    let measured = tokio::task::spawn_blocking(move || {
        let syncs = (0..runs).map(|_| fdatasync_us(&path)).collect::<anyhow::Result<Vec<_>>>()?;
        let copies = (0..runs).map(|_| memcpy_gib_per_s()).collect();
        let reads = reads_gib_per_s(&path, runs)?;
        anyhow::Ok((syncs, copies, reads))
    });
    let (syncs, copies, reads) = measured.await??;
    bench.print(&Figure::new(NAMES[0], "us", "4 KiB overwritten in one file", syncs))?;
    bench.print(&Figure::new(NAMES[1], "GiB/s", "one thread, 256 MiB", copies))?;
    bench.print(&Figure::new(NAMES[2], "GiB/s", "one thread, 512 MiB that the page cache was told to drop", reads))
}

fn fdatasync_us(dir: &Path) -> anyhow::Result<f64> {
    let file = File::create(dir.join("sync"))?;
    file.write_all_at(&[0; 4096], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    for number in 0..SYNCS {
        let from = Instant::now();
        file.write_all_at(&[number as u8; 4096], 0)?;
        file.sync_data()?;
        times.push(from.elapsed().as_secs_f64() * 1e6);
    }
    Ok(quantile(&mut times, 0.5).unwrap_or_default())
}

fn memcpy_gib_per_s() -> f64 {
    let (from, mut to) = (vec![1u8; COPIED_BYTES], vec![0u8; COPIED_BYTES]);
    to.copy_from_slice(&from);
    let started = Instant::now();
    to.copy_from_slice(std::hint::black_box(&from));
    std::hint::black_box(&to);
    per_s(COPIED_BYTES, started.elapsed())
}

fn reads_gib_per_s(dir: &Path, runs: usize) -> anyhow::Result<Vec<f64>> {
    let path = dir.join("read");
    let mut file = File::create(&path)?;
    let mut piece = vec![7; PIECE_BYTES];
    for _ in 0..READ_BYTES / PIECE_BYTES {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let mut rates = Vec::new();
    for _ in 0..runs {
        let mut file = File::open(&path)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let from = Instant::now();
        while file.read(&mut piece)? > 0 {}
        rates.push(per_s(READ_BYTES, from.elapsed()));
    }
    Ok(rates)
}

fn per_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / GIB / took.as_secs_f64()
}
