//! After the world has healed: what was acknowledged is read again, and every agent must serve.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_proto::PageKey;
use tokio::time::{Instant, sleep};

use super::{Client, Fresh, GetHow, PutHow, Space};
use super::{ClientParts, FINAL_READER, Load, PROBER};
use crate::history::{Call, History, Outcome};

/// Keys of one lookup, and of one get.
const LOOKUP_KEYS: usize = 256;
const GET_KEYS: usize = 32;
/// Tries of one call, and the pause between two.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Keys that were ever acknowledged, by their namespace in the load, with its id.
fn acknowledged(history: &History, spaces: &[Space]) -> BTreeMap<u16, (u32, BTreeSet<PageKey>)> {
    let mut numbers: BTreeMap<u32, u16> = BTreeMap::new();
    let mut keys: BTreeMap<u32, BTreeSet<PageKey>> = BTreeMap::new();
    for record in &history.records {
        match (&record.call, &record.result) {
            (Call::OpenNamespace { fingerprint }, Outcome::Opened { namespace, .. }) => {
                let space = spaces.iter().find(|space| space.namespace.fingerprint() == *fingerprint);
                numbers.extend(space.map(|space| (*namespace, space.number)));
            }
            (Call::Publish { namespace, keys: put, .. }, Outcome::Published { outcomes }) => {
                let there = put.iter().zip(outcomes).filter(|(_, page)| page.is_acknowledged());
                keys.entry(*namespace).or_default().extend(there.map(|(key, _)| *key));
            }
            _ => {}
        }
    }
    keys.into_iter().filter_map(|(id, keys)| Some((*numbers.get(&id)?, (id, keys)))).collect()
}

/// Looks up, linearizably and at replicas, every key that was ever acknowledged; then gets those that are present from
/// L3.
///
/// Answers with the number of keys of which nothing could be learned: 0 in a world that has healed.
pub async fn final_reads(load: &Load, parts: ClientParts) -> usize {
    let spaces = load.spaces();
    let acknowledged = acknowledged(&parts.history.lock(), &spaces);
    let mut client = Client::new(FINAL_READER, parts);
    let mut unanswered = 0;
    let mut turn = 0;
    for (number, (id, keys)) in acknowledged {
        let space = &spaces[usize::from(number)];
        let keys: Vec<PageKey> = keys.into_iter().collect();
        for keys in keys.chunks(LOOKUP_KEYS) {
            let Some(present) = look(&mut client, id, keys).await else {
                unanswered += keys.len();
                continue;
            };
            let present: Vec<PageKey> =
                keys.iter().zip(present).filter(|(_, present)| *present).map(|(key, _)| *key).collect();
            for keys in present.chunks(GET_KEYS) {
                turn += 1;
                unanswered += fetch(&mut client, turn, space, keys).await;
            }
        }
    }
    unanswered
}

async fn look(client: &mut Client, namespace: u32, keys: &[PageKey]) -> Option<Vec<bool>> {
    for _ in 0..TRIES {
        let replica = client.any_replica();
        let fresh = Fresh { min_revision: 0, linearizable: true };
        let present = client.lookup_at_replica(replica, namespace, keys, fresh).await;
        if present.is_some() {
            return present;
        }
        sleep(PAUSE).await;
    }
    None
}

/// Gets pages from agents in turn until one has answered for each; how many it has not.
async fn fetch(client: &mut Client, turn: u32, space: &Space, keys: &[PageKey]) -> usize {
    let mut answered = 0;
    for attempt in 0..TRIES {
        let agent = (turn + attempt) % client.agents();
        let how = GetHow { min_revision: 0, bypass_cache: true, every_key: true };
        answered += client.get(agent, space, &keys[answered..], how).await.len();
        if answered >= keys.len() {
            return 0;
        }
        sleep(PAUSE).await;
    }
    keys.len() - answered
}

/// Puts a fresh page through every agent, and finds and gets it at every agent, trying again for as long as `within`.
///
/// Errors: what did not work in that time.
pub async fn probe(load: &Load, parts: ClientParts, within: Duration) -> Result<(), String> {
    let spaces = load.spaces();
    let mut client = Client::new(PROBER, parts);
    let deadline = Instant::now() + within;
    for agent in 0..client.agents() {
        let mut attempt = 0;
        while let Err(what) = probe_agent(&mut client, &spaces[0], agent, attempt).await {
            if Instant::now() >= deadline {
                return Err(format!("agent {agent}, after {} tries: {what}", attempt + 1));
            }
            attempt += 1;
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

async fn probe_agent(client: &mut Client, space: &Space, agent: u32, attempt: u32) -> Result<(), String> {
    let key = [PageKey::opaque(format!("probe {agent} {attempt}").as_bytes())];
    let how = PutHow { wait_published: true, missing_shard: None, cut_after: None, interleaved: false };
    let put = client.put(agent, space, &key, None, how).await.ok_or("a put without an answer")?;
    let revision = match put.first() {
        Some(page) if page.is_acknowledged() => page.revision,
        other => return Err(format!("a put that was not published: {other:?}")),
    };
    for reader in 0..client.agents() {
        let fresh = Fresh { min_revision: revision, linearizable: false };
        let found = client.lookup(reader, space, &key, fresh).await;
        if found != Some(1) {
            return Err(format!("agent {reader} did not find the page: {found:?}"));
        }
        let how = GetHow { min_revision: revision, bypass_cache: false, every_key: true };
        let got = client.get(reader, space, &key, how).await;
        if !got.first().is_some_and(|page| page.hit && page.shards.is_ok()) {
            return Err(format!("agent {reader} did not give the page: {got:?}"));
        }
    }
    Ok(())
}
