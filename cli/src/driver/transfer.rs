//! One shard's pages through an agent's public API: what a rank of an engine does.

use std::sync::Arc;

use foreword_client::Agent;
use foreword_client::transfer::{Gather, GotPage, messages};
use foreword_proto::wire::node as n;
use foreword_proto::{PageKey, Tier};
use futures::stream;
use tonic::Status;

pub use foreword_client::transfer::ShardPut;

/// What came of one page's shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// Every byte arrived and is right.
    Right(Tier),
    /// Said to be a hit, but its bytes are not the page's.
    Wrong,
    /// A miss, or nothing was said.
    Miss,
}

/// What one client asks of its agent.
#[derive(Debug, Clone)]
pub struct ShardGet {
    pub namespace_id: u32,
    pub shard: u32,
    pub shard_bytes: usize,
    pub min_revision: u64,
    pub bypass_cache: bool,
    pub every_key: bool,
}

/// Gets one shard of these pages and verifies every byte. One answer a key, in order.
///
/// Errors: the call itself failed, or named a page out of turn; what came before it is lost with it.
pub async fn get(agent: &mut Agent, ask: &ShardGet, keys: &[PageKey]) -> Result<Vec<Got>, Status> {
    let request = n::GetRequest {
        namespace_id: ask.namespace_id,
        keys: foreword_proto::key::page_keys_to_wire(keys),
        shards: vec![ask.shard],
        bypass_cache: ask.bypass_cache,
        every_key: ask.every_key,
        min_revision: ask.min_revision,
    };
    let mut answers = agent.get(request).await?.into_inner();
    let mut gather = Gather::new(keys, [(ask.shard, ask.shard_bytes as u64)]);
    while let Some(message) = answers.message().await? {
        gather.add(message).map_err(Status::data_loss)?;
    }
    let mut got: Vec<Got> = gather.pages().iter().map(Got::of).collect();
    got.resize(keys.len(), Got::Miss);
    Ok(got)
}

impl Got {
    fn of(page: &GotPage) -> Self {
        if !page.hit {
            return Self::Miss;
        }
        match page.tier {
            _ if page.shards.is_err() => Self::Wrong,
            n::Tier::L1 => Self::Right(Tier::L1),
            n::Tier::L2 => Self::Right(Tier::L2),
            n::Tier::L3 => Self::Right(Tier::L3),
            // A hit from nowhere: the contract's sum of tiers would not hold.
            n::Tier::Unspecified => Self::Wrong,
        }
    }
}

/// Puts one shard of new pages. One outcome a key, in order.
pub async fn put(agent: &mut Agent, ask: ShardPut, keys: Arc<[PageKey]>) -> Result<Vec<n::PagePut>, Status> {
    let asked = keys.len();
    let answer = agent.put(stream::iter(messages(ask, keys))).await?.into_inner();
    if answer.pages.len() != asked {
        let count = answer.pages.len();
        return Err(Status::internal(format!("pages: expected {asked} outcomes, got {count}")));
    }
    Ok(answer.pages)
}
