//! An engine: asks for a prompt's pages, computes the ones it did not get, and puts them.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::PageKey;
use foreword_seams::Entropy;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::prompts::{Prompts, Source};
use super::{Client, Fresh, GetHow, PutHow, Space};
use super::{ClientParts, Load, stopped};
use crate::generated;

/// One engine of the load.
pub(super) struct Engine {
    client: Client,
    load: Arc<Load>,
    spaces: Arc<[Space]>,
    source: Source,
    /// The agent of its machine.
    home: u32,
    /// Engines of one group share the namespaces of several shards, one engine an agent.
    group: u32,
    groups: u32,
    start: Instant,
}

impl Engine {
    pub(super) fn new(number: u32, load: Arc<Load>, spaces: Arc<[Space]>, parts: ClientParts, start: Instant) -> Self {
        let agents = (parts.agents.len() as u32).max(1);
        Self { home: (number - 1) % agents, ..Self::visiting(number, load, spaces, parts, start) }
    }

    /// One whose agent is the last.
    pub(super) fn visiting(
        number: u32,
        load: Arc<Load>,
        spaces: Arc<[Space]>,
        parts: ClientParts,
        start: Instant,
    ) -> Self {
        let agents = (parts.agents.len() as u32).max(1);
        let (home, group) = (agents - 1, (number - 1) / agents);
        let groups = load.engines.div_ceil(agents);
        let source = Source::new(load.prompts);
        Self { client: Client::new(number, parts), load, spaces, source, home, group, groups, start }
    }

    /// Steps until it is told to stop.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let think = self.think();
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = sleep(think) => {}
            }
            self.step().await;
        }
    }

    /// Time until the next step: a herd's engines step together, at the next round.
    fn think(&self) -> Duration {
        let (least, most) = self.load.think_ms;
        let think = Duration::from_millis(least + self.below(most.saturating_sub(least) + 1));
        let Prompts::Herd { round_ms } = self.load.prompts else { return think };
        let round = Duration::from_millis(round_ms);
        let into_round = self.start.elapsed().as_nanos() % round.as_nanos();
        round - Duration::from_nanos(into_round as u64) + think
    }

    fn below(&self, below: u64) -> u64 {
        self.client.random().below(below)
    }

    fn percent(&self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// One prompt. The draws come first: what the cluster answers does not change what is asked next.
    async fn step(&mut self) {
        let space = self.space();
        let now_ms = self.start.elapsed().as_millis() as u64;
        let keys = self.source.next(self.client.random(), space.number, now_ms);
        let agent = if self.percent(self.load.away_percent) { self.other(self.home) } else { self.home };
        let demands = self.percent(self.load.min_revision_percent);
        let fresh = Fresh {
            min_revision: if demands { self.client.acknowledged(&space) } else { 0 },
            linearizable: self.percent(self.load.linearizable_percent),
        };
        let bypass_cache = self.percent(self.load.bypass_percent);
        let (prefetch, release) = (self.percent(self.load.hint_percent), self.percent(self.load.hint_percent));
        let put = self.put_how(&space);
        let compute = Duration::from_millis(2 + self.below(9));

        // An engine without an answer computes everything: it never stops because of its cache.
        let found = self.client.lookup(agent, &space, &keys, fresh).await.unwrap_or(0);
        if prefetch && found > 0 {
            self.client.prefetch(agent, &space, &keys[..found]).await;
        }
        let mut hits = 0;
        if found > 0 {
            let how = GetHow { min_revision: 0, bypass_cache, every_key: false };
            let got = self.client.get(agent, &space, &keys[..found], how).await;
            hits = got.iter().take_while(|page| page.hit && page.shards.is_ok()).count();
        }
        self.client.prompt_served(keys.len(), hits);
        if release {
            self.client.release(agent, &space, &keys[hits..]).await;
        }
        sleep(compute).await;
        if hits < keys.len() && self.may_put(agent, &space) {
            let parent = hits.checked_sub(1).map(|last| keys[last]);
            self.client.put(agent, &space, &keys[hits..], parent, put).await;
        }
        self.more(agent, &space, &keys).await;
    }

    /// What engines do not do for every prompt, and routers and operators do.
    async fn more(&mut self, agent: u32, space: &Space, keys: &[PageKey]) {
        if self.percent(self.load.away_percent) {
            let other = self.other(agent);
            let bypass_cache = self.percent(self.load.bypass_percent);
            let how = GetHow { min_revision: self.client.acknowledged(space), bypass_cache, every_key: true };
            self.client.get(other, space, keys, how).await;
        }
        let Some(namespace) = self.client.id_of(space) else { return };
        if self.percent(2 * self.load.linearizable_percent) {
            let replica = self.client.any_replica();
            let demanded = if self.percent(50) { self.client.acknowledged(space) } else { 0 };
            let fresh = Fresh { min_revision: demanded, linearizable: !self.percent(40) };
            self.client.lookup_at_replica(replica, namespace, keys, fresh).await;
        }
        if let Some(pages) = self.load.generated.get(usize::from(space.number)) {
            self.among_generated(space, namespace, *pages).await;
        }
        if self.percent(self.load.delete_percent) {
            let replica = self.client.any_replica();
            let first = self.below(keys.len() as u64) as usize;
            let last = (first + 1 + self.below(3) as usize).min(keys.len());
            self.client.delete(replica, namespace, &keys[first..last]).await;
        }
        if self.below(1_000) < u64::from(self.load.clear_per_mille) {
            let replica = self.client.any_replica();
            self.client.clear(replica, namespace).await;
        }
    }

    /// Lookups, and deletes, anywhere in a namespace that had so many pages before the run.
    async fn among_generated(&mut self, space: &Space, namespace: u32, pages: u64) {
        let keys = generated::some_keys(self.client.random(), space.number, pages);
        let fresh = Fresh { min_revision: 0, linearizable: self.percent(50) };
        let replica = self.client.any_replica();
        self.client.lookup_at_replica(replica, namespace, &keys, fresh).await;
        if self.percent(self.load.sweep_percent) {
            let listed = generated::listed_keys(self.client.random(), space.number, pages);
            let replica = self.client.any_replica();
            self.client.delete(replica, namespace, &listed).await;
        }
    }

    /// A namespace that is in use by now, among those of this engine.
    fn space(&self) -> Space {
        let count = self.spaces.len() as u64;
        let elapsed_ms = self.start.elapsed().as_millis() as u64;
        let more = (count * elapsed_ms).checked_div(self.load.opened_over_ms);
        let in_use = more.map_or(count, |more| (1 + more).min(count));
        let mine: Vec<&Space> = self.spaces[..in_use as usize].iter().filter(|space| self.is_mine(space)).collect();
        match mine.len() as u64 {
            // It only reads.
            0 => self.spaces[self.below(in_use) as usize].clone(),
            count => mine[self.below(count) as usize].clone(),
        }
    }

    /// Ranks of two engines behind one agent would fill in one page together, so only one engine an agent puts pages of
    /// several shards into a namespace.
    fn is_mine(&self, space: &Space) -> bool {
        space.namespace.shards() == 1 || u32::from(space.number) % self.groups == self.group
    }

    fn may_put(&self, agent: u32, space: &Space) -> bool {
        space.namespace.shards() == 1 || (self.is_mine(space) && agent == self.home)
    }

    fn put_how(&self, space: &Space) -> PutHow {
        let shards = space.namespace.shards() as u64;
        let missing = self.percent(self.load.missing_shard_percent);
        let cut = self.percent(self.load.cut_percent);
        let (shard, cut_ms) = (self.below(shards) as u32, 1 + self.below(40));
        PutHow {
            wait_published: !self.percent(self.load.no_wait_percent),
            missing_shard: (missing && shards > 1).then_some(shard),
            cut_after: cut.then(|| Duration::from_millis(cut_ms)),
            interleaved: self.load.interleaved,
        }
    }

    /// Another agent than this one, if there is one.
    fn other(&self, agent: u32) -> u32 {
        let agents = u64::from(self.client.agents());
        if agents < 2 {
            return agent;
        }
        ((u64::from(agent) + 1 + self.below(agents - 1)) % agents) as u32
    }
}
