//! What users would pick instead, measured on the same machine: Redis 7 and etcd, as Debian ships them, and SGLang's
//! metadata server from its wheel. `foreword bench --peers` runs it. `FOREWORD_SGLANG_VENV`: an environment with
//! SGLang; `FOREWORD_SHARED`: where the scripts are that run it without a GPU.
//!
//! ```text
//! apt-get install redis-server etcd-server
//! cargo build --release -p foreword-bench && target/release/bench-peers PAGES RUNS
//! ```
//!
//! One JSON object a figure, as `foreword bench --json` prints them. A peer that is not installed is skipped, aloud.

#![forbid(unsafe_code)]

mod etcd;
mod redis;
mod sglang;

use anyhow::Context;
use foreword_cli::commands::bench::figure::Figure;

const SGLANG: &str = "FOREWORD_SGLANG_VENV";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number =
        |what: &str| args.next().and_then(|text| text.parse::<u64>().ok()).context(format!("{what}: a number"));
    let (pages, runs) = (number("pages")?, number("runs")? as usize);
    let dir = tempfile::tempdir()?;
    if installed("redis-server") {
        print(redis::measure(dir.path(), pages, runs).await?)?;
    }
    if installed("etcd") {
        print(etcd::measure(dir.path(), runs).await?)?;
    }
    match std::env::var_os(SGLANG) {
        Some(venv) => print(sglang::measure(venv.as_ref(), runs).await?)?,
        None => eprintln!("SGLang: skipped, {SGLANG} names no environment with it"),
    }
    Ok(())
}

/// Whether a program can be started; says so when it cannot.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        eprintln!("{program}: skipped, it is not installed");
    }
    found
}

fn print(figures: Vec<Figure>) -> anyhow::Result<()> {
    for figure in figures {
        println!("{}", serde_json::to_string(&figure)?);
    }
    Ok(())
}
