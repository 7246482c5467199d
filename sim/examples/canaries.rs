//! Hunts for canaries from seed 0 and prints the table of docs/SIMULATION.md: `canaries [NAME|all] [SEEDS] [SECONDS]`.

use foreword_sim::canaries::{CANARIES, Canary, hunt, without};
use foreword_sim::run::SECONDS_MIN;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().filter(|name| name != "all");
    let mut number = |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seeds, seconds) = (number(200), number(SECONDS_MIN));
    println!("| canary | invariant | what is planted | profile | seeds needed | without it |");
    println!("|---|---|---|---|---|---|");
    for canary in CANARIES.iter().filter(|canary| name.as_deref().is_none_or(|name| name == canary.name)) {
        row(canary, seeds, seconds);
    }
}

fn row(canary: &Canary, seeds: u64, seconds: u64) {
    let Canary { name, invariant, what, .. } = canary;
    let profile = canary.profile.unwrap_or("any");
    let Some((seed, report)) = hunt(canary, 0..seeds, seconds) else {
        println!("| `{name}` | `{invariant}` | {what} | {profile} | not caught by {seeds} | |");
        return;
    };
    let clean = without(canary, seed, seconds).violations;
    let clean = if clean.is_empty() { "passes".to_owned() } else { format!("{clean:?}") };
    println!("| `{name}` | `{invariant}` | {what} | {profile} | {} (seed {seed}) | {clean} |", seed + 1);
    for broken in &report.violations {
        let detail: String = broken.detail.chars().take(300).collect();
        eprintln!("  {name} seed {seed}, {} at {} ms: {detail}", broken.invariant, broken.at_ms);
    }
}
