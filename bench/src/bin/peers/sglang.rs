//! SGLang's metadata server for its hf3fs backend, from its wheel: one process that changes a dictionary, and saves it
//! once a minute.

use std::path::Path;
use std::time::Duration;

use foreword_cli::commands::bench::figure::Figure;
use foreword_cli::commands::bench::sglang::load::{KEYS, Operation, Target};
use foreword_cli::commands::bench::sglang::{Sglang, Venv};

/// The server makes a list of all free pages of a file at once.
const PAGES: u64 = 5_000_000;
/// Keys of one reserve and its confirm.
const RESERVED: u64 = 128;
const WRITERS: u64 = 16;
const IN_FLIGHT: [u64; 5] = [1, 2, 4, 8, 16];
const TRY: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_secs(1);

/// Measures `exists`, and reserves with their confirms.
pub(super) async fn measure(venv: &Path, runs: usize) -> anyhow::Result<Vec<Figure>> {
    let venv = Venv::at(venv)?;
    let server = Sglang::start(&venv.python, &venv.launcher, None).await?;
    let target = Target::prepare(server.address.clone(), "", PAGES).await?;
    let mut figures = Vec::new();
    let names = ["sglang_lookup_1_keys_per_s", "sglang_lookup_256_keys_per_s", "sglang_lookup_1024_keys_per_s"];
    for (name, keys) in names.into_iter().zip([1, 256, 1024]) {
        let mut best = (0.0, 0);
        for clients in IN_FLIGHT {
            let rate = target.run(Operation::Exists, keys, clients, TRY).await?.calls_per_s;
            if rate > best.0 {
                best = (rate, clients);
            }
        }
        let mut rates = Vec::new();
        for _ in 0..runs {
            rates.push(target.run(Operation::Exists, keys, best.1, RUN).await?.calls_per_s * keys as f64);
        }
        let path = format!("exists, {} connections, {KEYS} keys, all there", best.1);
        figures.push(Figure::new(name, "keys/s", path, rates));
    }
    let mut rates = Vec::new();
    for _ in 0..runs {
        let calls = target.run(Operation::ReserveConfirm, RESERVED, WRITERS, RUN).await?.calls_per_s;
        rates.push(calls * RESERVED as f64);
    }
    let path = format!("reserve and confirm of {RESERVED}, {WRITERS} connections, in memory");
    figures.push(Figure::new("sglang_publish_pages_per_s", "pages/s", path, rates));
    Ok(figures)
}
