//! Writers: each puts pages through one agent's socket and remembers what was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use foreword_cli::clients;
use foreword_cli::driver::transfer::{self, ShardPut};
use foreword_proto::PageKey;
use foreword_proto::wire::node::{PagePut, PutOutcome};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::history::{Ack, History, PutFailed};
use super::run::{Load, PAGE_BYTES};

/// Pages of one put.
const BATCH_PAGES: u64 = 4;
/// Between two batches of one writer: bounds the pages of a run, not its concurrency.
const BATCH_PERIOD: Duration = Duration::from_millis(60);
/// Before pages that were not published are put again.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// A put without an answer for so long has failed.
const PUT_TIMEOUT: Duration = Duration::from_secs(30);

/// Puts batch after batch until the run stops. A page that is refused, or whose call failed, is put again with other
/// bytes: the first attempt may have been published all the same, and the two must not mix.
pub(super) async fn write(load: Arc<Load>, writer: u64, agent: usize) {
    let mut ticks = interval(BATCH_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = clients::agent(&load.sockets[agent]);
    let mut nonce = writer << 32;
    for batch in 0u64.. {
        ticks.tick().await;
        let name = |at: u64| format!("{}/{writer}/{}", load.seed, batch * BATCH_PAGES + at);
        let mut open: Vec<PageKey> = (0..BATCH_PAGES).map(|at| PageKey::opaque(name(at).as_bytes())).collect();
        while !open.is_empty() {
            if *load.stopped.borrow() {
                return;
            }
            nonce += 1;
            open = put(&load, &mut client, agent, nonce, open).await;
            if !open.is_empty() {
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Puts these pages once; those that are still open.
async fn put(load: &Load, client: &mut clients::Agent, agent: usize, nonce: u64, keys: Vec<PageKey>) -> Vec<PageKey> {
    let ask = ShardPut::whole(load.namespace_id, (0, PAGE_BYTES as usize), None, nonce);
    let submitted = load.now();
    let answer = timeout(PUT_TIMEOUT, transfer::put(client, ask, keys.as_slice().into())).await;
    let acked = load.now();
    let mut history = load.history.lock();
    let failed = match answer {
        Ok(Ok(pages)) => return settle(&mut history, keys, &pages, (agent, submitted, acked)),
        Ok(Err(status)) => status.to_string(),
        Err(_) => format!("no answer within {PUT_TIMEOUT:?}"),
    };
    history.puts_failed.push(PutFailed { agent, from: submitted, until: acked, status: failed });
    keys
}

/// Remembers what was acknowledged; those that were not.
fn settle(
    history: &mut History,
    keys: Vec<PageKey>,
    pages: &[PagePut],
    (agent, submitted, acked): (usize, Duration, Duration),
) -> Vec<PageKey> {
    let mut open = Vec::new();
    for (key, page) in keys.into_iter().zip(pages) {
        match page.outcome() {
            // It exists: an earlier attempt was published, and this answer promises it as much as that one's would
            // have.
            PutOutcome::Published | PutOutcome::Exists => {
                history.acks.push(Ack { key, revision: page.revision, agent, submitted, acked });
            }
            _ => {
                history.refused += 1;
                open.push(key);
            }
        }
    }
    open
}
