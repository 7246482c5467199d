//! One client: its calls reach agents and replicas as real ones do, end by a deadline, and are recorded whatever comes
//! of them.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_client::transfer::{Gather, ShardPut};
use foreword_client::{Agent, Replica};
use foreword_proto::PageKey;
use foreword_proto::bad_input::field_of;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta as m;
use foreword_proto::wire::node as n;
use foreword_seams::{Entropy, SeededEntropy};
use futures::future::join_all;
use tokio::time::timeout;
use tonic::{Code, Status};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::ClientParts;
use super::answers::{Broken, CALL_DEADLINE, Effects, answer, merged, with_deadline, words};
use super::asks::{Fresh, GetHow, PutHow, Space};
use super::transfer::{Nonce, Paced, got_page};
use crate::history::{Call, GotPage, Outcome, PagePut, RecordId, Target};

/// What an open namespace is to this client.
#[derive(Debug, Clone, Copy)]
struct Opened {
    id: u32,
    epoch: u32,
}

/// One client of the cluster.
pub struct Client {
    number: u32,
    parts: ClientParts,
    random: SeededEntropy,
    agents: BTreeMap<u32, Agent>,
    replicas: BTreeMap<u64, Replica>,
    /// Namespaces that this client opened at an agent, by agent and place in the load.
    opened: BTreeMap<(u32, u16), Opened>,
    /// Of the newest publish acknowledged to this client, by place in the load.
    acknowledged: BTreeMap<u16, u64>,
    puts: u32,
}

impl Client {
    /// A client whose random numbers follow from the seed and its own number.
    pub fn new(number: u32, parts: ClientParts) -> Self {
        let random = SeededEntropy::new(xxh3_64_with_seed(&number.to_le_bytes(), parts.seed));
        Self {
            number,
            parts,
            random,
            agents: BTreeMap::new(),
            replicas: BTreeMap::new(),
            opened: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            puts: 0,
        }
    }

    /// Its own random numbers.
    pub fn random(&self) -> &SeededEntropy {
        &self.random
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Agents there are.
    pub fn agents(&self) -> u32 {
        self.parts.agents.len() as u32
    }

    /// Of the newest publish that was acknowledged to this client in this namespace; 0 for none.
    pub fn acknowledged(&self, space: &Space) -> u64 {
        self.acknowledged.get(&space.number).copied().unwrap_or(0)
    }

    /// The id of a namespace that this client has opened anywhere.
    pub fn id_of(&self, space: &Space) -> Option<u32> {
        self.opened.iter().find(|((_, number), _)| *number == space.number).map(|(_, opened)| opened.id)
    }

    /// A replica, drawn.
    pub fn any_replica(&self) -> u64 {
        self.parts.replicas[self.random.below(self.parts.replicas.len() as u64) as usize].0
    }

    fn agent(&mut self, agent: u32) -> Agent {
        let parts = &self.parts;
        let connect = || foreword_client::agent(parts.net.clone(), &parts.agents[agent as usize]);
        self.agents.entry(agent).or_insert_with(connect).clone()
    }

    /// A replica's client; the first one's for an id that is not there.
    pub(super) fn replica(&mut self, replica: u64) -> Replica {
        let parts = &self.parts;
        let connect = || {
            let known = parts.replicas.iter().find(|(id, _)| *id == replica).unwrap_or(&parts.replicas[0]);
            foreword_client::replica(parts.net.clone(), &known.1)
        };
        self.replicas.entry(replica).or_insert_with(connect).clone()
    }

    pub(super) fn begin(&self, agent: Option<u32>, call: Call, how: &str) -> RecordId {
        let agent = agent.map(|agent| (agent, (self.parts.incarnation)(agent)));
        self.parts.history.lock().begin(self.number, agent, call, how)
    }

    /// Of the keys of a prompt, so many were got: what the share of hits is counted from.
    pub fn prompt_served(&self, keys: usize, hits: usize) {
        let totals = &mut self.parts.history.lock().totals;
        totals.keys_asked += keys as u64;
        totals.keys_hit += hits as u64;
    }

    fn end(&self, id: RecordId, result: Outcome) {
        self.parts.history.lock().end(id, result);
    }

    /// A refused call of a namespace that its agent does not know (any more): it is opened again before the next one.
    fn refused(&mut self, agent: u32, space: &Space, status: &Status) {
        if status.code() == Code::NotFound && field_of(status) == Some("namespace_id") {
            self.opened.remove(&(agent, space.number));
        }
    }

    fn failed(&mut self, agent: u32, space: &Space, id: RecordId, broken: Broken) {
        let result = match broken {
            Broken::Unknown => Outcome::Unknown,
            Broken::Refused(status) => {
                self.refused(agent, space, &status);
                Outcome::Failed(words(&status))
            }
        };
        self.end(id, result);
    }

    /// Opens a namespace at an agent unless this client has; its id and newest known epoch.
    async fn open_once(&mut self, agent: u32, space: &Space) -> Option<Opened> {
        match self.opened.get(&(agent, space.number)) {
            Some(opened) => Some(*opened),
            None => self.open(agent, space).await,
        }
    }

    /// Opens a namespace at an agent.
    async fn open(&mut self, agent: u32, space: &Space) -> Option<Opened> {
        let call = Call::OpenNamespace { fingerprint: space.namespace.fingerprint() };
        let id = self.begin(Some(agent), call, "");
        let mut client = self.agent(agent);
        let request = n::OpenNamespaceRequest { namespace: Some((&space.namespace).into()) };
        match answer(client.open_namespace(with_deadline(request)), Effects::Some).await {
            Ok(answer) => {
                let opened = Opened { id: answer.namespace_id, epoch: answer.epoch };
                let (namespace, epoch, revision) = (answer.namespace_id, answer.epoch, answer.revision);
                self.end(id, Outcome::Opened { namespace, epoch, revision });
                self.opened.insert((agent, space.number), opened);
                Some(opened)
            }
            Err(broken) => {
                self.failed(agent, space, id, broken);
                None
            }
        }
    }

    /// Opens a namespace at an agent. False: it could not be opened now.
    pub async fn open_namespace(&mut self, agent: u32, space: &Space) -> bool {
        self.open(agent, space).await.is_some()
    }

    /// Leading pages that an agent promises; none: no answer.
    pub async fn lookup(&mut self, agent: u32, space: &Space, keys: &[PageKey], fresh: Fresh) -> Option<usize> {
        let namespace = self.open_once(agent, space).await?.id;
        let Fresh { min_revision, linearizable } = fresh;
        let call = Call::Lookup { namespace, keys: keys.to_vec(), min_revision, linearizable, at: Target::Agent };
        let id = self.begin(Some(agent), call, "");
        let mut client = self.agent(agent);
        let request = n::LookupRequest {
            namespace_id: namespace,
            keys: page_keys_to_wire(keys),
            tokens: None,
            freshness: Some(Freshness { min_revision, linearizable }),
        };
        match answer(client.lookup(with_deadline(request)), Effects::None).await {
            Ok(found) => {
                let (pages, revision) = (found.pages, found.revision);
                self.end(id, Outcome::Found { pages, revision, present: None, locations: None });
                Some((found.pages as usize).min(keys.len()))
            }
            Err(broken) => {
                self.failed(agent, space, id, broken);
                None
            }
        }
    }

    /// Gets pages through an agent and verifies every byte; what came before a fault counts.
    pub async fn get(&mut self, agent: u32, space: &Space, keys: &[PageKey], how: GetHow) -> Vec<GotPage> {
        let Some(opened) = self.open_once(agent, space).await else { return Vec::new() };
        let GetHow { min_revision, bypass_cache, every_key } = how;
        let call = Call::Get { namespace: opened.id, keys: keys.to_vec(), bypass_cache };
        let id = self.begin(Some(agent), call, &format!("{how}"));
        let mut client = self.agent(agent);
        let request = n::GetRequest {
            namespace_id: opened.id,
            keys: page_keys_to_wire(keys),
            shards: Vec::new(),
            bypass_cache,
            every_key,
            min_revision,
        };
        let mut gather = Gather::new(keys, (0..).zip(space.namespace.shard_bytes.iter().copied()));
        let streaming = async {
            let mut stream = client.get(with_deadline(request)).await?.into_inner();
            while let Some(message) = stream.message().await? {
                gather.add(message).map_err(Status::data_loss)?;
            }
            Ok(())
        };
        let ended = timeout(CALL_DEADLINE, streaming).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("get")));
        let pages = keys.iter().zip(gather.pages());
        let pages: Vec<GotPage> = pages.map(|(key, page)| got_page(*key, page, space.number)).collect();
        match ended {
            Err(status) if pages.is_empty() => self.failed(agent, space, id, Broken::Refused(status)),
            _ => self.end(id, Outcome::Got { pages: pages.clone() }),
        }
        pages
    }

    /// Puts whole pages through an agent, each shard by its own call. The best answer for each page, if there was any.
    pub async fn put(
        &mut self,
        agent: u32,
        space: &Space,
        keys: &[PageKey],
        parent: Option<PageKey>,
        how: PutHow,
    ) -> Option<Vec<PagePut>> {
        let opened = self.open_once(agent, space).await?;
        let whole = how.missing_shard.is_none() && how.cut_after.is_none();
        let call = Call::Publish { namespace: opened.id, epoch: opened.epoch, keys: keys.to_vec(), whole };
        let id = self.begin(Some(agent), call, &format!("{how}"));
        let client = self.agent(agent);
        let nonce = self.nonce(space);
        let puts: Vec<Paced> = (0..space.namespace.shards() as u32)
            .filter(|shard| how.missing_shard != Some(*shard))
            .map(|shard| self.shard_put(opened.id, space, (shard, keys), parent, nonce, how))
            .collect();
        let calls = puts.into_iter().map(|put| {
            let mut client = client.clone();
            async move { answer(client.put(with_deadline(put.messages())), Effects::Some).await }
        });
        let answers = join_all(calls);
        let answers = match how.cut_after {
            Some(cut) => timeout(cut, answers).await.unwrap_or_default(),
            None => answers.await,
        };
        let result = merged(answers, keys.len());
        if let Err(Broken::Refused(status)) = &result {
            self.refused(agent, space, status);
        }
        let newest = self.acknowledged.entry(space.number).or_default();
        match result {
            Ok(outcomes) => {
                *newest = outcomes.iter().filter(|page| page.is_acknowledged()).fold(*newest, |r, p| r.max(p.revision));
                self.end(id, Outcome::Published { outcomes: outcomes.clone() });
                Some(outcomes)
            }
            Err(broken) => {
                self.failed(agent, space, id, broken);
                None
            }
        }
    }

    /// All shards of a put have one nonce. Where a page has several, the client has one for all its puts: its ranks may
    /// fill in what an earlier try of theirs left out, and the agent keeps the shards that it has.
    fn nonce(&mut self, space: &Space) -> Nonce {
        self.puts += 1;
        let put = if space.namespace.shards() > 1 { 0 } else { self.puts };
        Nonce { space: space.number, client: self.number as u16, put }
    }

    fn shard_put(
        &self,
        namespace_id: u32,
        space: &Space,
        (shard, keys): (u32, &[PageKey]),
        parent: Option<PageKey>,
        nonce: Nonce,
        how: PutHow,
    ) -> Paced {
        let shard_bytes = space.namespace.shard_bytes[shard as usize] as usize;
        let millis = |below: u64| Duration::from_millis(self.random.below(below));
        let (piece_bytes, starts_after, pause) = match how.interleaved {
            true => (1 + self.random.below(shard_bytes as u64) as usize, millis(20), millis(4)),
            false => (shard_bytes, Duration::ZERO, Duration::ZERO),
        };
        let put = ShardPut {
            namespace_id,
            shard,
            shard_bytes,
            parent,
            nonce: nonce.word(),
            wait_published: how.wait_published,
            // A page in thousands of messages would be slow to simulate and show nothing more.
            piece_bytes: piece_bytes.max(shard_bytes / 4),
            apart: true,
        };
        Paced { put, keys: keys.to_vec(), starts_after, pause }
    }

    /// Asks an agent to read pages ahead.
    pub async fn prefetch(&mut self, agent: u32, space: &Space, keys: &[PageKey]) {
        let Some(opened) = self.open_once(agent, space).await else { return };
        self.parts.history.lock().hint(self.number, || format!("prefetches {} of ns {}", keys.len(), opened.id));
        let mut client = self.agent(agent);
        let request = n::PrefetchRequest { namespace_id: opened.id, keys: page_keys_to_wire(keys) };
        let _a_hint = answer(client.prefetch(with_deadline(request)), Effects::None).await;
    }

    /// Tells an agent that it will not ask for these pages.
    pub async fn release(&mut self, agent: u32, space: &Space, keys: &[PageKey]) {
        let Some(opened) = self.open_once(agent, space).await else { return };
        self.parts.history.lock().hint(self.number, || format!("releases {} of ns {}", keys.len(), opened.id));
        let mut client = self.agent(agent);
        let request = n::ReleaseRequest { namespace_id: opened.id, keys: page_keys_to_wire(keys) };
        let _a_hint = answer(client.release(with_deadline(request)), Effects::None).await;
    }

    /// Asks a replica for every key. Which are present; none: no answer.
    pub async fn lookup_at_replica(
        &mut self,
        replica: u64,
        namespace: u32,
        keys: &[PageKey],
        fresh: Fresh,
    ) -> Option<Vec<bool>> {
        let Fresh { min_revision, linearizable } = fresh;
        let at = Target::Replica(replica);
        let call = Call::Lookup { namespace, keys: keys.to_vec(), min_revision, linearizable, at };
        let id = self.begin(None, call, "");
        let mut client = self.replica(replica);
        let request = m::LookupRequest {
            namespace_id: namespace,
            keys: page_keys_to_wire(keys),
            freshness: Some(Freshness { min_revision, linearizable }),
            every_key: true,
            with_locations: true,
            ..Default::default()
        };
        let found = answer(client.lookup(with_deadline(request)), Effects::None).await;
        self.at_replica(id, found, |found| {
            let present: Vec<bool> = found.present.iter().map(|byte| *byte == 1).collect();
            let (pages, revision, locations) = (found.prefix, found.revision, Some(found.locations));
            (Outcome::Found { pages, revision, present: Some(present.clone()), locations }, present)
        })
    }

    /// Clears a namespace.
    pub async fn clear(&mut self, replica: u64, namespace: u32) {
        let id = self.begin(None, Call::Clear { namespace }, "");
        let mut client = self.replica(replica);
        let cleared = answer(client.clear(with_deadline(m::ClearRequest { namespace_id: namespace })), Effects::Some);
        let cleared = cleared.await;
        let epoch = self.at_replica(id, cleared, |cleared| {
            (Outcome::Cleared { revision: cleared.revision, epoch: cleared.epoch }, cleared.epoch)
        });
        if let Some(epoch) = epoch {
            let of_it = self.opened.values_mut().filter(|opened| opened.id == namespace);
            of_it.for_each(|opened| opened.epoch = opened.epoch.max(epoch));
        }
    }

    /// Deletes pages.
    pub async fn delete(&mut self, replica: u64, namespace: u32, keys: &[PageKey]) {
        let id = self.begin(None, Call::Delete { namespace, keys: keys.to_vec() }, "");
        let mut client = self.replica(replica);
        let request = m::DeleteRequest { namespace_id: namespace, keys: page_keys_to_wire(keys) };
        let deleted = answer(client.delete(with_deadline(request)), Effects::Some).await;
        self.at_replica(id, deleted, |deleted| (Outcome::Deleted { revision: deleted.revision }, ()));
    }

    pub(super) fn at_replica<A, T>(
        &self,
        id: RecordId,
        answered: Result<A, Broken>,
        read: impl FnOnce(A) -> (Outcome, T),
    ) -> Option<T> {
        let (result, value) = match answered {
            Ok(answer) => {
                let (result, value) = read(answer);
                (result, Some(value))
            }
            Err(Broken::Unknown) => (Outcome::Unknown, None),
            Err(Broken::Refused(status)) => (Outcome::Failed(words(&status)), None),
        };
        self.end(id, result);
        value
    }
}
