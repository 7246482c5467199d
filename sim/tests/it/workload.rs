//! Every profile against a cluster without faults, under a clock that stands still: there are hits, all of them right,
//! and nothing fails that was not made to fail.

use std::sync::Arc;
use std::time::Duration;

use foreword_seams::Telemetry;
use foreword_sim::history::{Call, History, Outcome, Record, SharedHistory, WatchFrame};
use foreword_sim::workload::{ClientParts, Load, final_reads, probe, run};
use foreword_sim::world::context;
use tokio::runtime::RngSeed;
use tokio::sync::watch;

use crate::cluster::Cluster;

const AGENTS: u64 = 2;

fn parts(cluster: &Cluster, seed: u64, history: SharedHistory) -> ClientParts {
    ClientParts {
        net: Arc::new(cluster.net.clone()),
        seed,
        agents: cluster.agents.clone(),
        replicas: vec![(1, cluster.replica.clone())],
        page_servers: Vec::new(),
        incarnation: Arc::new(|_| 1),
        history,
    }
}

/// What a load of so many simulated seconds saw.
fn played(load: &Load, seed: u64, seconds: u64) -> History {
    played_with(load, seed, async |_| tokio::time::sleep(Duration::from_secs(seconds)).await)
}

/// What a load saw while `meanwhile` ran.
fn played_with(load: &Load, seed: u64, meanwhile: impl AsyncFnOnce(&mut Cluster)) -> History {
    // Metrics time a busy loop once a process, by a clock that a simulation would hold still.
    let _warm = Telemetry::new();
    context::begin(seed, false);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // The order in which `select!` looks at its branches is drawn too.
    builder.enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().unwrap();
    let history = History::shared();
    runtime.block_on(async {
        let mut cluster = Cluster::start(load, AGENTS).await;
        let parts = parts(&cluster, seed, history.clone());
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(run(load.clone(), parts.clone(), stopped));
        meanwhile(&mut cluster).await;
        stop.send_replace(true);
        running.await.unwrap();
        probe(load, parts.clone(), Duration::from_secs(20)).await.unwrap();
        assert_eq!(final_reads(load, parts).await, 0, "keys without an answer");
    });
    assert_eq!(runtime.metrics().num_blocking_threads(), 0, "the cluster runs in one thread");
    drop(runtime);
    let mut history = std::mem::take(&mut *history.lock());
    history.close();
    history
}

/// The profile without its own faults.
fn harmless(mut load: Load) -> Load {
    load.missing_shard_percent = 0;
    load.cut_percent = 0;
    load
}

fn check_profile(load: Load) -> History {
    let load = harmless(load);
    let history = played(&load, 7, 10);
    let totals = &history.totals;
    eprintln!("{}: {:.1}% hits, {totals:?}", load.name, totals.hit_percent());
    assert_eq!(totals.wrong, 0);
    for record in &history.records {
        let fine = !matches!(record.result, Outcome::Failed(_) | Outcome::Unknown);
        assert!(fine, "{} -> {}", record.call, record.result);
    }
    assert!(totals.hit_percent() > 5.0);
    assert!(totals.pages_published > 100);
    assert!(totals.hits[0] > 0 && totals.hits[2] > 0, "from memory and from L3: {:?}", totals.hits);
    assert!(history.records.iter().any(|record| record.is_final()));
    history
}

macro_rules! profiles {
    ($($profile:ident),*) => {$(
        #[test]
        fn $profile() {
            check_profile(Load::$profile());
        }
    )*};
}

profiles!(shared_prefixes, herd, churn, namespaces, shards);

#[test]
fn watchers_are_told_what_clients_were() {
    let history = check_profile(Load::slow_watchers());
    let told = |wanted: fn(&WatchFrame) -> bool| history.watched.iter().filter(|event| wanted(&event.frame)).count();
    assert!(told(|frame| matches!(frame, WatchFrame::ResyncEnd { .. })) > 0);
    assert!(told(|frame| matches!(frame, WatchFrame::Events { entries, .. } if !entries.is_empty())) > 100);
    assert!(told(|frame| matches!(frame, WatchFrame::Resumed { .. })) > 0, "slow watchers come back");
}

#[test]
fn clears_and_deletes_happen() {
    let history = check_profile(Load::clears());
    let calls = |wanted: fn(&Call) -> bool| history.records.iter().filter(|record| wanted(&record.call)).count();
    assert!(calls(|call| matches!(call, Call::Clear { .. })) > 0);
    assert!(calls(|call| matches!(call, Call::Delete { .. })) > 0);
}

#[test]
fn puts_that_break_off_are_unknown_and_nothing_else_suffers() {
    let history = played(&Load::shards(), 3, 20);
    let unknown = history.records.iter().filter(|record| record.result == Outcome::Unknown);
    let (puts, others): (Vec<_>, Vec<_>) = unknown.partition(|record| matches!(record.call, Call::Publish { .. }));
    assert!(!puts.is_empty());
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(history.totals.wrong, 0);
}

#[test]
fn an_agent_that_starts_again_is_opened_again() {
    let load = harmless(Load::shared_prefixes());
    let second = Duration::from_secs(1);
    let history = played_with(&load, 5, async |cluster| {
        tokio::time::sleep(2 * second).await;
        cluster.restart_first_agent(second).await;
        tokio::time::sleep(3 * second).await;
    });
    let fine = |record: &&Record| !matches!(record.result, Outcome::Failed(_) | Outcome::Unknown);
    let at = |agent| history.records.iter().filter(move |record| record.agent == Some(agent));
    let put = at(0).filter(|record| matches!(record.call, Call::Publish { .. }));
    assert!(put.clone().any(|record| matches!(record.result, Outcome::Failed(_))), "who is not reached does nothing");
    assert!(at(1).all(|record| fine(&record)), "the other agent is not touched");
    let mut returned = at(0).filter(|record| record.returned.is_some());
    assert!(returned.any(|record| !fine(&record)), "calls failed meanwhile");
    // `any` has gone past the first failure.
    let opened = |record: &Record| matches!(record.call, Call::OpenNamespace { .. });
    assert!(returned.any(|record| opened(record) && fine(&record)), "an engine opens the namespace again");
    assert!(returned.filter(|record| record.client == 1 && fine(record)).count() > 20, "and goes on");
}

#[test]
fn one_seed_gives_one_history() {
    for load in [Load::shared_prefixes(), Load::herd(), Load::clears()] {
        let trace = |seed| {
            let history = played(&load, seed, 5);
            let trace = context::trace();
            (trace.digest, trace.events, history.records.len())
        };
        let first = trace(11);
        assert_eq!(first, trace(11), "{}", load.name);
        assert_ne!(first.0, trace(12).0, "{}", load.name);
    }
}
