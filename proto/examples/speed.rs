//! Figures of the pure parts, one a line, for docs/PERFORMANCE.md: `cargo run --release -p foreword-proto --example
//! speed`.

#![allow(clippy::disallowed_methods)] // a stopwatch is what this is

use std::time::Instant;

use foreword_proto::PageKey;
use foreword_proto::chain::{Algorithm, Chain, TokenIds, Unit};
use foreword_proto::workload::page::{fill, verify};

const RUNS: usize = 5;

/// Seconds of one piece of work: minimum, median and maximum of five runs after a warm-up.
fn seconds(mut work: impl FnMut()) -> [f64; 3] {
    work();
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    [runs[0], runs[RUNS / 2], runs[RUNS - 1]]
}

fn main() {
    let key = PageKey::opaque(b"speed");
    let mut page = vec![0; 4 << 20];
    let rate = |[fast, median, slow]: [f64; 3]| {
        format!("{:.1} / {:.1} / {:.1} GiB/s (min / median / max)", 0.25 / slow, 0.25 / median, 0.25 / fast)
    };
    println!("fill, pages of 4 MiB: {}", rate(seconds(|| (0..64).for_each(|_| fill(&mut page, &key, 0, 7)))));
    println!("verify: {}", rate(seconds(|| (0..64).for_each(|_| assert_eq!(verify(&page, &key, 0), Ok(7))))));
    let tokens = TokenIds::Narrow((0..1 << 17).collect());
    for (name, algorithm) in [("sha256", Algorithm::Sha256), ("blake3", Algorithm::Blake3)] {
        let chain = Chain { algorithm, unit: Unit::Token, seed: None };
        let pages = tokens.len() / 64;
        let [fast, median, slow] = seconds(|| {
            let keys = chain.page_keys(&tokens, 64);
            assert_eq!(keys.map(|keys| keys.len()), Ok(pages));
        })
        .map(|seconds| seconds * 1e9 / pages as f64);
        println!("{name} chain, 64 tokens a page: {fast:.0} / {median:.0} / {slow:.0} ns a page (min / median / max)");
    }
}
