//! What a page takes of a replica's heap, and of an agent's; and how an agent's mirror of that size answers.

use anyhow::Context;

use super::Bench;
use super::figure::Figure;
use super::programs::run;

pub(super) const NAME: &str = "bytes_per_page";
const PROGRAM: &str = "bench-heap";
pub(super) const MIRROR: [&str; 7] = [
    "mirror_bytes_per_page",
    "mirror_insert_max_us",
    "mirror_prefix_2048_us",
    "mirror_save_s",
    "mirror_save_wait_max_ms",
    "mirror_save_heap_mib",
    "mirror_load_s",
];

/// Runs the program that counts.
pub(super) async fn measure(bench: &Bench) -> anyhow::Result<()> {
    bench.say("memory of the index");
    let Some(printed) = run(bench, PROGRAM).await? else {
        return bench.print(&Figure::new(NAME, "B", "not measured", Vec::new()));
    };
    let runs = printed.lines().map(|line| Ok(line.parse()?)).collect::<anyhow::Result<Vec<f64>>>()?;
    let path = format!("heap of a state with {} pages of one shard, slots included", bench.pages);
    bench.print(&Figure::new(NAME, "B", path, runs))
}

/// Runs the program that has a mirror.
pub(super) async fn mirror(bench: &Bench) -> anyhow::Result<()> {
    bench.say("an agent's mirror, in process");
    for line in run(bench, "bench-mirror").await?.unwrap_or_default().lines() {
        let figure: Figure =
            serde_json::from_str(line).with_context(|| format!("bench-mirror: a figure, got {line:?}"))?;
        bench.print(&figure)?;
    }
    Ok(())
}
