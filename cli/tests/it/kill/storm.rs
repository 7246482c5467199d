//! Kills one after another, some of them together, some before the last one's victim is back: the seed decides.
//!
//! `FOREWORD_STORM_SEED=N` plays another storm, `FOREWORD_STORM_KILLS=N` a longer one.

use foreword_cli::cluster::Spec;
use foreword_proto::workload::SplitMix;

use super::support::run::{AGENTS, Run, spec};

const SEED: u64 = 1;
const KILLS: u64 = 8;
/// Small enough that snapshots are taken and sent in between.
const CONFIG: &str = "[meta]\nlog_bytes_per_snapshot = 65536\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_kills_takes_nothing_with_it() {
    let (seed, kills) = (number("FOREWORD_STORM_SEED", SEED), number("FOREWORD_STORM_KILLS", KILLS));
    eprintln!("storm: to replay, FOREWORD_STORM_SEED={seed} FOREWORD_STORM_KILLS={kills}");
    let mut random = SplitMix::new(seed);
    let mut run = Run::start("storm", Spec { config: CONFIG.into(), ..spec() }).await;
    for _ in 0..kills {
        run.acked(random.below(200) as usize).await;
        match random.below(5) {
            0 => one_replica(&mut run, &mut random).await,
            1 => all_replicas(&mut run, &mut random).await,
            2 => one_agent(&mut run, &mut random).await,
            3 => leader_and_agent(&mut run, &mut random).await,
            _ => all_replicas_and_agent(&mut run, &mut random).await,
        }
    }
    run.acked(200).await;
    run.judge().await;
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, got {text:?}")))
}

/// The leader or a follower; it may be killed again before it has caught up.
async fn one_replica(run: &mut Run, random: &mut SplitMix) {
    let ids = run.cluster.replica_ids();
    let leader = run.cluster.leader().await.unwrap();
    let follower = ids.into_iter().find(|id| *id != leader).unwrap();
    let victim = if random.percent(50) { leader } else { follower };
    run.cluster.kill_replica(victim).unwrap();
    if random.percent(60) {
        run.acked(random.below(300) as usize).await;
    }
    run.cluster.restart_replica(victim).await.unwrap();
    if random.percent(50) {
        run.cluster.replica_ready(victim).await.unwrap();
    }
}

async fn all_replicas(run: &mut Run, random: &mut SplitMix) {
    run.cluster.kill_all_replicas();
    if random.percent(50) {
        run.read_through(agent(random), 100).await;
    }
    run.cluster.restart_all_replicas().await.unwrap();
}

async fn one_agent(run: &mut Run, random: &mut SplitMix) {
    let victim = agent(random);
    run.kill_agent(victim);
    run.acked_through((victim + 1) % AGENTS, random.below(100) as usize).await;
    run.agent_is_back(victim).await;
}

/// The agent opens its namespace again while there is no leader.
async fn leader_and_agent(run: &mut Run, random: &mut SplitMix) {
    let (leader, victim) = (run.cluster.leader().await.unwrap(), agent(random));
    run.cluster.kill_replica(leader).unwrap();
    run.kill_agent(victim);
    run.agent_is_back(victim).await;
    run.cluster.restart_replica(leader).await.unwrap();
}

async fn all_replicas_and_agent(run: &mut Run, random: &mut SplitMix) {
    let victim = agent(random);
    run.cluster.kill_all_replicas();
    run.kill_agent(victim);
    run.cluster.restart_all_replicas().await.unwrap();
    run.agent_is_back(victim).await;
}

fn agent(random: &mut SplitMix) -> usize {
    random.below(AGENTS as u64) as usize
}
