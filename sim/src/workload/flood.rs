//! More calls at once than a leader's queue takes, most of whose callers leave before they are answered.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::PageKey;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::meta as m;
use foreword_seams::{Endpoint, Entropy, Net, SeededEntropy};
use futures::future::join_all;
use tokio::time::timeout;

use crate::world::context::{self, Kind};

/// Connections to each replica, and calls on each: fewer than a replica takes of one.
const CONNECTIONS: usize = 3;
const CALLS: usize = 500;
/// Keys of a call: pages that nobody ever put.
const KEYS: usize = 256;
/// A caller waits for a part of this.
const PATIENCE_MS: u64 = 1_500;

/// Deletes what is not there, from all sides at once. The namespace is the first that was opened.
pub async fn flood(net: Arc<dyn Net>, members: Vec<Endpoint>, seed: u64) {
    let random = SeededEntropy::new(seed);
    let mut calls = Vec::new();
    for member in members.iter().flat_map(|member| [member; CONNECTIONS]) {
        let meta = foreword_client::replica(net.clone(), member);
        for _ in 0..CALLS {
            let mut meta = meta.clone();
            let keys: Vec<PageKey> = (0..KEYS).map(|_| PageKey::opaque(&random.u64().to_le_bytes())).collect();
            let request = m::DeleteRequest { namespace_id: 1, keys: page_keys_to_wire(&keys) };
            let patience = Duration::from_millis(1 + random.below(PATIENCE_MS));
            calls.push(async move { timeout(patience, meta.delete(request)).await.map(|answer| answer.is_ok()) });
        }
    }
    let asked = calls.len();
    let answers = join_all(calls).await;
    let done = answers.iter().filter(|answer| **answer == Ok(true)).count();
    let left = answers.iter().filter(|answer| answer.is_err()).count();
    context::event(Kind::Client, || format!("a flood of {asked} calls: {done} done, {left} callers left"));
}
