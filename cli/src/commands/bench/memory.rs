//! What a page takes of a replica's heap.

use super::Bench;
use super::figure::Figure;
use super::programs::run;

pub(super) const NAME: &str = "bytes_per_page";
const PROGRAM: &str = "bench-heap";

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
