//! `sim`: runs seeds.
use foreword_sim::cluster::*;
use foreword_sim::world::{context, logs};
use std::sync::Arc;
fn main() {
    let seed: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let secs: u64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let print = std::env::args().nth(3).is_some();
    logs::catch_panics();
    let _ = foreword_seams::Telemetry::new();
    let t = std::time::Instant::now();
    let d = std::thread::spawn(move || {
        context::begin(seed, print);
        let _l = logs::capture(tracing::level_filters::LevelFilter::INFO);
        let plan = Plan { replicas: 3, agents: 2, settings: foreword_meta::state::command::ClusterSettings { chunk_bytes: 4096, slab_bytes: 1<<20, l3_bytes: 8<<20, read_rest_ms: 1500, write_rest_ms: 3000, lease_ms: 2500 },
          meta: Arc::new(|_| {}), node: Arc::new(|c| c.arena_bytes = 1 << 20), seams: Default::default() };
        let mix = foreword_sim::faults::Mix::ALL;
        let schedule = foreword_sim::faults::generate(seed, &mix, foreword_sim::faults::Shape{replicas:3, agents:2, from_ms: 1500, until_ms: secs*600});
        let mut c = Cluster::start(plan, schedule);
        while context::now().millis() < secs * 1000 { c.step(); }
        for (parts, r) in c.replicas() { eprintln!("h{} {:?}", parts.host, r.map(|r| (r.incarnation, r.group.applied.revision(), r.group.leader()))); }
        eprintln!("{:?} panics {:?}", c.network.counts(), logs::panics());
        let t = context::trace();
        (format!("{:032x}", t.digest), t.events)
    }).join().unwrap();
    println!("trace digest {} events {} wall {:?}", d.0, d.1, t.elapsed());
}
