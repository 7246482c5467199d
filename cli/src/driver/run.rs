//! Plays a trace: submits requests in order, runs what does not wait, counts what came of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::wire::node as n;
use foreword_proto::workload::SplitMix;
use foreword_proto::{Namespace, PageKey, Tier};
use foreword_seams::Endpoint;
use futures::future::{join_all, try_join_all};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::counts::Counts;
use super::plan::{PageIndex, Plan};
use super::schedule::{RequestIndex, Schedule, Written};
use super::transfer::{self, Got, ShardGet, ShardPut};
use crate::clients::{self, Agent};

/// How to play.
#[derive(Debug, Clone)]
pub struct Play {
    pub namespace: Namespace,
    /// Requests submitted and not over, at most.
    pub concurrency: usize,
    /// Keep the trace's pauses.
    pub paced: bool,
    /// Of the writers' nonces.
    pub seed: u64,
}

/// One agent, with a client of its own for each shard.
struct Target {
    shards: Vec<Agent>,
    namespace_id: u32,
}

/// The agents a trace is played against, with the namespace open on each.
pub struct Agents(Vec<Target>);

impl Agents {
    /// Connects every shard's client to every agent and opens the namespace there.
    pub async fn open(endpoints: &[Endpoint], namespace: &Namespace) -> anyhow::Result<Self> {
        let open = endpoints.iter().map(|endpoint| async move {
            let mut shards: Vec<Agent> = namespace.shard_bytes.iter().map(|_| clients::agent(endpoint)).collect();
            let mut namespace_id = 0;
            for agent in &mut shards {
                let request = n::OpenNamespaceRequest { namespace: Some(namespace.into()) };
                namespace_id = agent.open_namespace(request).await?.into_inner().namespace_id;
            }
            anyhow::Ok(Target { shards, namespace_id })
        });
        Ok(Self(try_join_all(open).await?))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The namespace's id in the cluster.
    pub fn namespace_id(&self) -> u32 {
        self.0.first().map_or(0, |target| target.namespace_id)
    }

    /// One shard's client of one agent.
    pub(super) fn shard(&self, agent: usize, shard: usize) -> Agent {
        self.0[agent].shards[shard].clone()
    }
}

/// Everything the requests share.
struct Shared {
    plan: Arc<Plan>,
    play: Play,
    agents: Arc<Agents>,
    schedule: Mutex<Schedule>,
    counts: Mutex<Counts>,
    /// Requests that wait for a page another one writes, with their place among the concurrent ones.
    waiting: Mutex<HashMap<RequestIndex, OwnedSemaphorePermit>>,
    ready: mpsc::UnboundedSender<(RequestIndex, OwnedSemaphorePermit)>,
}

/// Plays the whole plan. `submitted` follows the number of requests submitted; `over` is called as each one is over.
///
/// Returns the counts and how long it took from the first submission to the end of the last request.
pub async fn play(
    plan: Arc<Plan>,
    agents: Arc<Agents>,
    play: Play,
    submitted: &watch::Sender<usize>,
    over: impl Fn(&Counts) + Send + Sync + 'static,
) -> (Counts, Duration) {
    // Bounded by `concurrency`: every message carries a permit.
    let (ready, mut to_run) = mpsc::unbounded_channel();
    let counts = Mutex::new(Counts::new(plan.keys.len()));
    let permits = Arc::new(Semaphore::new(play.concurrency));
    let concurrency = play.concurrency as u32;
    let shared =
        Arc::new(Shared { plan, play, agents, schedule: Mutex::default(), counts, waiting: Mutex::default(), ready });
    let start = Instant::now();
    let runner = tokio::spawn({
        let shared = Arc::clone(&shared);
        let over = Arc::new(over);
        async move {
            while let Some((index, permit)) = to_run.recv().await {
                let (shared, over) = (Arc::clone(&shared), Arc::clone(&over));
                tokio::spawn(async move {
                    shared.request(index).await;
                    over(&shared.counts.lock());
                    drop(permit);
                });
            }
        }
    });
    for index in 0..shared.plan.requests.len() {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        if shared.play.paced {
            sleep_until(start + Duration::from_millis(shared.plan.requests[index].timestamp_ms)).await;
        }
        shared.submit(index, permit);
        submitted.send_replace(index + 1);
    }
    let _all_over = permits.acquire_many(concurrency).await;
    let wall = start.elapsed();
    runner.abort();
    let counts = std::mem::take(&mut *shared.counts.lock());
    (counts, wall)
}

/// What a request learned of its leading pages.
struct Hits {
    tiers: Vec<Tier>,
    wrong: u64,
    failed: u64,
}

impl Shared {
    fn submit(&self, index: RequestIndex, permit: OwnedSemaphorePermit) {
        // The lock spans both: whoever releases this request finds its permit.
        let mut schedule = self.schedule.lock();
        if schedule.submit(index, &self.plan.requests[index].pages) {
            let _ = self.ready.send((index, permit));
        } else {
            self.waiting.lock().insert(index, permit);
        }
    }

    fn release(&self, ready: Vec<RequestIndex>) {
        let mut waiting = self.waiting.lock();
        for index in ready {
            if let Some(permit) = waiting.remove(&index) {
                let _ = self.ready.send((index, permit));
            }
        }
    }

    async fn request(&self, index: RequestIndex) {
        let pages = &self.plan.requests[index].pages;
        let agent = index % self.agents.len();
        self.counts.lock().pages_asked += pages.len() as u64;
        tracing::debug!(index, agent, "starts");
        let min_revision = self.schedule.lock().min_revision(index);
        let (promised, revision) = self.lookup(agent, pages, min_revision).await;
        tracing::debug!(index, agent, asked = pages.len(), promised, revision, min_revision, "looked up");
        let hits = self.get(agent, &pages[..promised], min_revision).await;
        tracing::debug!(index, got = hits.tiers.len(), "got");
        let (found, new) = pages.split_at(hits.tiers.len());
        {
            let mut counts = self.counts.lock();
            for (page, tier) in found.iter().zip(&hits.tiers) {
                counts.hit(*page, agent as u32, *tier);
            }
            counts.wrong_bytes += hits.wrong;
            counts.calls_failed += hits.failed;
        }
        let ready = {
            let mut schedule = self.schedule.lock();
            schedule.missed(index, new);
            schedule.found(index, found, revision)
        };
        self.release(ready);
        let written = self.put(index, agent, found.last().copied(), new).await;
        tracing::debug!(index, put = written.len(), "over");
        let ready = self.schedule.lock().finish(index, &written);
        self.release(ready);
    }

    /// Pages the agent promises, and the revision it saw.
    async fn lookup(&self, agent: usize, pages: &[PageIndex], min_revision: u64) -> (usize, u64) {
        let request = n::LookupRequest {
            namespace_id: self.agents.namespace_id(),
            keys: self.plan.wire_keys(pages),
            tokens: None,
            freshness: Some(foreword_proto::wire::common::Freshness { min_revision, linearizable: false }),
        };
        let start = Instant::now();
        let answer = self.agents.shard(agent, 0).lookup(request).await;
        let took = start.elapsed();
        match answer.map(tonic::Response::into_inner) {
            Ok(answer) => {
                self.counts.lock().lookup(took.as_micros());
                ((answer.pages as usize).min(pages.len()), answer.revision)
            }
            Err(status) => {
                self.failed("lookup", &status);
                (0, 0)
            }
        }
    }

    fn failed(&self, call: &str, status: &tonic::Status) {
        tracing::warn!(call, %status, "a call failed");
        self.counts.lock().calls_failed += 1;
    }

    /// Gets the promised pages, every shard through its own client: a page counts when every shard's bytes are right.
    async fn get(&self, agent: usize, pages: &[PageIndex], min_revision: u64) -> Hits {
        let mut hits = Hits { tiers: Vec::new(), wrong: 0, failed: 0 };
        if pages.is_empty() {
            return hits;
        }
        let keys: Vec<PageKey> = pages.iter().map(|page| *self.plan.key(*page)).collect();
        let gets = self.play.namespace.shard_bytes.iter().enumerate().map(|(shard, bytes)| {
            let ask = ShardGet {
                namespace_id: self.agents.namespace_id(),
                shard: shard as u32,
                shard_bytes: *bytes as usize,
                min_revision,
                bypass_cache: false,
                every_key: false,
            };
            let (mut client, keys) = (self.agents.shard(agent, shard), &keys);
            async move { transfer::get(&mut client, &ask, keys).await }
        });
        let mut shards = Vec::new();
        for got in join_all(gets).await {
            match got {
                Ok(got) => shards.push(got),
                Err(status) => {
                    tracing::warn!(call = "get", %status, "a call failed");
                    hits.failed += 1;
                    shards.push(vec![Got::Miss; keys.len()]);
                }
            }
        }
        hits.wrong = shards.iter().flatten().filter(|got| **got == Got::Wrong).count() as u64;
        hits.tiers = leading_tiers(&shards, keys.len());
        hits
    }

    /// Puts the new pages, every shard through its own client, and waits until each is published or refused.
    async fn put(
        &self,
        index: RequestIndex,
        agent: usize,
        parent: Option<PageIndex>,
        new: &[PageIndex],
    ) -> Vec<Written> {
        if new.is_empty() {
            return Vec::new();
        }
        let keys: Arc<[PageKey]> = new.iter().map(|page| *self.plan.key(*page)).collect();
        let nonce = SplitMix::new(self.play.seed ^ (index as u64).rotate_left(32)).next();
        let puts = self.play.namespace.shard_bytes.iter().enumerate().map(|(shard, bytes)| {
            let parent = parent.map(|page| *self.plan.key(page));
            let ask = ShardPut::whole(self.agents.namespace_id(), (shard as u32, *bytes as usize), parent, nonce);
            let (mut client, keys) = (self.agents.shard(agent, shard), Arc::clone(&keys));
            async move { transfer::put(&mut client, ask, keys).await }
        });
        let mut shards = Vec::new();
        for outcome in join_all(puts).await {
            match outcome {
                Ok(pages) => shards.push(pages),
                Err(status) => self.failed("put", &status),
            }
        }
        let mut counts = self.counts.lock();
        counts.pages_put += new.len() as u64;
        let outcome = |(at, page): (usize, &PageIndex)| {
            let revision = settle(&mut counts, *page, agent as u32, shards.iter().map(|pages| &pages[at]));
            Written { page: *page, revision }
        };
        new.iter().enumerate().map(outcome).collect()
    }
}

/// The leading pages whose every shard is right, each with the farthest tier of its shards.
fn leading_tiers(shards: &[Vec<Got>], pages: usize) -> Vec<Tier> {
    let tier_of = |page: usize| {
        shards.iter().try_fold(Tier::L1, |farthest, got| match got[page] {
            Got::Right(tier) => Some(farthest.max(tier)),
            Got::Wrong | Got::Miss => None,
        })
    };
    (0..pages).map_while(tier_of).collect()
}

/// Counts what became of one page, given what each shard's put was told; the revision at which it is present, if it is.
fn settle<'a>(
    counts: &mut Counts,
    page: PageIndex,
    agent: u32,
    shards: impl Iterator<Item = &'a n::PagePut>,
) -> Option<u64> {
    let (mut present, mut declined, mut reason) = (None, false, "call_failed");
    for put in shards {
        match put.outcome() {
            n::PutOutcome::Published => {
                counts.published(page, agent, put.revision);
                present = present.max(Some(put.revision));
            }
            n::PutOutcome::Exists => present = present.max(Some(put.revision)),
            n::PutOutcome::Declined => declined = true,
            n::PutOutcome::Taken | n::PutOutcome::Refused | n::PutOutcome::Unspecified => reason = &put.reason,
        }
    }
    match (present, declined) {
        (Some(_), _) => {}
        (None, true) => counts.publishes_declined += 1,
        (None, false) => counts.refused(reason),
    }
    present
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_hit_when_every_shard_is_right() {
        let (near, far) = (Got::Right(Tier::L1), Got::Right(Tier::L3));
        let shards = [vec![near, far, near, near], vec![far, near, Got::Wrong, near]];
        assert_eq!(leading_tiers(&shards, 4), [Tier::L3, Tier::L3]);
        assert_eq!(leading_tiers(&[vec![Got::Miss, near]], 2), []);
    }

    #[test]
    fn one_word_of_published_is_an_acknowledgement() {
        let put =
            |outcome: n::PutOutcome, revision| n::PagePut { outcome: outcome as i32, revision, reason: String::new() };
        let mut counts = Counts::new(3);
        let told = [put(n::PutOutcome::Exists, 4), put(n::PutOutcome::Published, 3)];
        assert_eq!(settle(&mut counts, 0, 0, told.iter()), Some(4));
        assert_eq!(settle(&mut counts, 1, 0, [put(n::PutOutcome::Declined, 0)].iter()), None);
        assert_eq!(settle(&mut counts, 2, 0, std::iter::empty()), None);
        assert_eq!((counts.publishes_acked(), counts.publishes_declined, counts.publishes_refused), (1, 1, 1));
    }
}
