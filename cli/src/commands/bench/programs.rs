//! Programs beside this binary, for what no server should carry: another allocator, clients of other systems.

use std::process::Stdio;

use anyhow::{Context, ensure};

use super::Bench;
use super::figure::Figure;

/// Runs a program that stands beside this binary, with pages and runs as its arguments; what it prints. None, aloud,
/// where there is none.
pub(super) async fn run(bench: &Bench, name: &str) -> anyhow::Result<Option<String>> {
    let this = std::env::current_exe().context("this binary's own path")?;
    let program = this.with_file_name(name);
    if !program.is_file() {
        bench.say(&format!("skipped: there is no {} (`make bench` builds it)", program.display()));
        return Ok(None);
    }
    let mut command = tokio::process::Command::new(&program);
    command.args([bench.pages.to_string(), bench.runs.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let output = command.kill_on_drop(true).spawn()?.wait_with_output().await?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    Ok(Some(String::from_utf8(output.stdout)?))
}

/// What users would pick instead, measured in this run.
pub(super) async fn peers(bench: &Bench) -> anyhow::Result<()> {
    bench.say("peers");
    for line in run(bench, "bench-peers").await?.unwrap_or_default().lines() {
        let figure: Figure =
            serde_json::from_str(line).with_context(|| format!("bench-peers: a figure, got {line:?}"))?;
        bench.print(&figure)?;
    }
    Ok(())
}
