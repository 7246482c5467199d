//! What a page takes of the heap in a replica's state, by a counting allocator; `foreword bench` runs it, when it is
//! built.
//!
//! ```text
//! cargo build --release -p foreword-bench && target/release/bench-heap PAGES RUNS
//! ```
//!
//! A program of its own: the allocator that counts is no server's. Prints one number a line, of one run each: bytes a
//! page, of one shard, the slot's included.

#![forbid(unsafe_code)]

use anyhow::Context;
use foreword_meta::generated::Plan;
use foreword_meta::generated::state::generate;
use foreword_meta::state::command::ClusterSettings;
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SLOT_BYTES: u64 = 4096;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number =
        |what: &str| args.next().and_then(|text| text.parse::<u64>().ok()).context(format!("{what}: a number"));
    let (pages, runs) = (number("pages")?, number("runs")?);
    for seed in 0..runs {
        let empty = held(&Plan::pages(seed, 0), pages)?;
        println!("{}", held(&Plan::pages(seed, pages), pages)?.saturating_sub(empty) as f64 / pages as f64);
    }
    Ok(())
}

/// Bytes that a plan's state holds, with room for so many pages.
fn held(plan: &Plan, pages: u64) -> anyhow::Result<usize> {
    let settings = ClusterSettings {
        chunk_bytes: SLOT_BYTES as u32,
        slab_bytes: pages.div_ceil(16) * SLOT_BYTES,
        // Room to spare: a grant is a 64th of it at most.
        l3_bytes: (pages + pages / 16) * SLOT_BYTES,
        read_rest_ms: 1000,
        write_rest_ms: 1000,
        hf3fs_protection_ms: 1000,
        lease_ms: 10_000,
        first_feature_level: 1,
    };
    let before = HEAP.current_usage();
    let state = generate(plan, &settings, &Default::default())?;
    let held = HEAP.current_usage() - before;
    drop(state);
    Ok(held)
}
