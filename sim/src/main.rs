//! `sim`: runs seeds.
use foreword_sim::profiles::Profile;
use foreword_sim::run::{Options, simulate};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seconds: u64 = args[2].parse().unwrap();
    let (a, b) = args[1].split_once("..").map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap_or_else(|| { let s: u64 = args[1].parse().unwrap(); (s, s + 1) });
    for seed in a..b {
        let profile = args.get(3).filter(|p| *p != "-").and_then(|p| Profile::named(p)).unwrap_or(Profile::of(seed));
        let mut o = Options::new(seed, profile, seconds);
        o.print = args.get(4).is_some();
        let r = simulate(o);
        println!("seed {seed} {} {} wall {} ms events {} committed {} hit% {:.0} keys {} pub {} unknown {} failed {}", r.profile, r.trace_digest, r.wall_ms, r.events, r.committed, r.totals.hit_percent(), r.totals.keys_asked, r.totals.pages_published, r.totals.unknown, r.totals.failed);
        for v in &r.violations { println!("   {} at {}: {}", v.invariant, v.at_ms, v.detail.chars().take(700).collect::<String>()); }
        if b == a + 1 && !r.violations.is_empty() && args.get(4).is_none() { for l in &r.lines { println!("{l}"); } }
    }
}
