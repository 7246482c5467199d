//! Readers: one an agent, 200 reads a second of pages that were acknowledged, every byte checked.

use std::sync::Arc;
use std::time::Duration;

use foreword_cli::clients;
use foreword_cli::driver::transfer::{self, Got, ShardGet};
use foreword_proto::workload::SplitMix;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::history::{Ack, Read};
use super::run::{Load, PAGE_BYTES};

/// 200 reads a second.
const READ_PERIOD: Duration = Duration::from_millis(5);
/// Reads of one reader under way at once.
const READS_UNDER_WAY: usize = 128;
/// A read without an answer for so long has failed.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads until the run stops.
pub(super) async fn read(load: Arc<Load>, agent: usize) {
    let client = clients::agent(&load.sockets[agent]);
    let mut random = SplitMix::new(load.seed ^ agent as u64);
    let mut ticks = interval(READ_PERIOD);
    // What a busy machine leaves out is made up for: the rate is that of the whole run.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let under_way = Arc::new(Semaphore::new(READS_UNDER_WAY));
    let mut reads = JoinSet::new();
    while !*load.stopped.borrow() {
        ticks.tick().await;
        let Some(ack) = pick(&load, &mut random) else { continue };
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { break };
        let (load, client) = (Arc::clone(&load), client.clone());
        reads.spawn(async move {
            read_one(&load, client, agent, ack).await;
            drop(permit);
        });
        while reads.try_join_next().is_some() {}
    }
    while reads.join_next().await.is_some() {}
}

/// Any acknowledged page; half of the time one of the first hundred, so that pages are read again and again.
fn pick(load: &Load, random: &mut SplitMix) -> Option<Ack> {
    let history = load.history.lock();
    let among = if random.percent(50) { history.acks.len().min(100) } else { history.acks.len() };
    history.acks.get(random.below(among as u64) as usize).copied()
}

async fn read_one(load: &Load, mut client: clients::Agent, agent: usize, ack: Ack) {
    let ask = ShardGet {
        namespace_id: load.namespace_id,
        shard: 0,
        shard_bytes: PAGE_BYTES as usize,
        min_revision: 0,
        bypass_cache: false,
        every_key: true,
    };
    let from = load.now();
    let answer = timeout(READ_TIMEOUT, transfer::get(&mut client, &ask, &[ack.key])).await;
    let seen = match answer {
        Ok(Ok(got)) => Ok(got.first().copied().unwrap_or(Got::Miss)),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err(format!("no answer within {READ_TIMEOUT:?}")),
    };
    let read = Read { agent, key: ack.key, acked: ack.revision, from, until: load.now(), seen };
    load.history.lock().reads.push(read);
}
