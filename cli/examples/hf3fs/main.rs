//! What a call to the metadata server of SGLang's hf3fs backend costs: Foreword's, three replicas with flushes, beside
//! SGLang's own.
//!
//! ```text
//! cargo build --release -p foreword --bin foreword --example hf3fs
//! target/release/examples/hf3fs calls VENV DIR [RUNS] [NAME]    throughput and latency of exists, reserve + confirm; NAME: one of them
//! target/release/examples/hf3fs large VENV DIR [PAGES]          restart, and stalls while saving, with PAGES (5,000,000) confirmed
//! ```
//!
//! VENV has SGLang (../shared/sglang/install_venv.sh); DIR is on the disk to measure. `client`: `plain` is a keep-alive
//! connection each that sends bytes made before; `sglang` is SGLang's own Hf3fsGlobalMetadataClient, a process each.
//! Calls go to the leader; a reserve and its confirm count as one. The servers take turns run by run, so that whatever
//! else the machine does meets both. Clients, servers and replicas share the machine. One JSON object a line.

mod large;
mod servers;
mod theirs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use foreword_cli::commands::bench::sglang::load::{Figures, Operation, Target};
use foreword_cli::commands::bench::sglang::{Sglang, Venv};
use theirs::TheirClient;

const EXISTS_KEYS: [u64; 4] = [1, 32, 256, 1024];
const RESERVE_KEYS: [u64; 2] = [32, 128];
const CLIENTS: [u64; 2] = [1, 16];
const SPAN: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(500);
/// Room for all that is reserved while it is measured.
const PAGES: u64 = 50_000_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, venv, dir, rest @ ..] = &args[..] else {
        bail!("expected: calls|large VENV DIR [RUNS|PAGES]");
    };
    let venv = Venv::at(Path::new(venv))?;
    let number = |default: u64| rest.first().map_or(Ok(default), |text| text.parse::<u64>());
    match what.as_str() {
        "calls" => {
            let runs = number(3).context("RUNS: expected a number")?;
            calls(&venv, Path::new(dir), runs, rest.get(1).map(String::as_str)).await
        }
        "large" => large::run(&venv, Path::new(dir), number(5_000_000).context("PAGES: expected a number")?).await,
        other => bail!("expected calls or large, got {other}"),
    }
}

/// The `foreword` beside this example.
fn binary() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().and_then(Path::parent).context("target")?.join("foreword"))
}

async fn calls(venv: &Venv, dir: &Path, runs: u64, only: Option<&str>) -> anyhow::Result<()> {
    let cluster = servers::foreword(&binary()?, dir).await?;
    let leader = cluster.leader().await?;
    let sglang = Sglang::start(&venv.python, &venv.launcher, None).await?;
    // SGLang's server makes a list of all free pages.
    let targets = [
        ("foreword", Target::prepare(servers::address_of(&cluster, leader)?, "/bench", PAGES).await?),
        ("sglang", Target::prepare(sglang.address.clone(), "", PAGES / 10).await?),
    ];
    let mut their_client = TheirClient::start(venv).await?;
    let exists = EXISTS_KEYS.map(|keys| (Operation::Exists, keys));
    let reserves = RESERVE_KEYS.map(|keys| (Operation::ReserveConfirm, keys));
    for (operation, keys) in exists.into_iter().chain(reserves) {
        if only.is_some_and(|only| only != name_of(operation, keys)) {
            continue;
        }
        for clients in CLIENTS {
            let mut results = [(); 4].map(|()| Vec::new());
            for run in 0..=runs {
                let span = if run == 0 { WARM_UP } else { SPAN };
                for (at, (_, target)) in targets.iter().enumerate() {
                    let plain = target.run(operation, keys, clients, span).await?;
                    let theirs = their_client.run(target, operation, keys, clients, span).await?;
                    if run > 0 {
                        results[2 * at].push(plain);
                        results[2 * at + 1].push(theirs);
                    }
                }
            }
            let [ours, ours_theirs, sglang, sglang_theirs] = results;
            print("plain", operation, keys, clients, ours, sglang);
            print("sglang", operation, keys, clients, ours_theirs, sglang_theirs);
        }
    }
    Ok(())
}

fn name_of(operation: Operation, keys: u64) -> String {
    format!("{}_{keys}", operation.name())
}

/// A line a server.
fn print(client: &str, operation: Operation, keys: u64, clients: u64, ours: Vec<Figures>, theirs: Vec<Figures>) {
    let medians: Vec<f64> = [("foreword", ours), ("sglang", theirs)]
        .into_iter()
        .map(|(server, mut runs)| {
            runs.sort_by(|a, b| a.calls_per_s.total_cmp(&b.calls_per_s));
            let (min, max) = (runs[0].calls_per_s, runs[runs.len() - 1].calls_per_s);
            let count = runs.len();
            let median = &mut runs[count / 2];
            println!(
                "{}",
                json!({ "name": name_of(operation, keys), "server": server, "client": client, "clients": clients,
                        "unit": "calls/s", "min": min.round(), "median": median.calls_per_s.round(), "max": max.round(),
                        "p50_ms": median.quantile_ms(0.5), "p99_ms": median.quantile_ms(0.99),
                        "max_ms": median.quantile_ms(1.0), "runs": count })
            );
            median.calls_per_s
        })
        .collect();
    eprintln!("{} {client} x{clients}: {:.1} times SGLang's", name_of(operation, keys), medians[0] / medians[1]);
}
