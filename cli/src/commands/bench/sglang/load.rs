//! What the clients do: exists of keys that are there, and reserve + confirm of keys that are not.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use foreword_proto::PageKey;
use futures::future::try_join_all;
use tokio::time::Instant;

use super::plain::{Plain, request};

/// Keys that are there before anything is measured.
pub const KEYS: u64 = 100_000;
/// Bodies made ahead for each connection.
const BODIES: u64 = 64;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Exists,
    ReserveConfirm,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::ReserveConfirm => "reserve_confirm",
        }
    }
}

/// Calls of one run (a reserve and its confirm are one) and how long each took.
#[derive(Debug, Default)]
pub struct Figures {
    pub calls_per_s: f64,
    pub latencies: Vec<Duration>,
}

impl Figures {
    /// A quantile in milliseconds; 1.0 is the slowest.
    pub fn quantile_ms(&mut self, quantile: f64) -> f64 {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * quantile).round() as usize;
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// A key as SGLang's engines write them: the digest of a page in hexadecimal, and the half of it.
pub fn key(number: u64) -> String {
    format!("{}-k", PageKey::opaque(&number.to_le_bytes()))
}

fn list(keys: impl Iterator<Item = u64>, mut item: impl FnMut(&mut String, &str)) -> String {
    let mut out = String::from("[");
    for number in keys {
        if out.len() > 1 {
            out.push(',');
        }
        item(&mut out, &key(number));
    }
    out.push(']');
    out
}

fn exists_body(first: u64, from: u64, keys: u64) -> String {
    let keys = list((from..from + keys).map(|number| first + number % KEYS), |out, key| {
        let _ = write!(out, "\"{key}\"");
    });
    format!("{{\"keys\":{keys},\"namespace\":\"kv\"}}")
}

fn reserve_body(from: u64, keys: u64) -> String {
    let keys = list(from..from + keys, |out, key| {
        let _ = write!(out, "[\"{key}\",\"\"]");
    });
    format!("{{\"keys\":{keys},\"namespace\":\"kv\"}}")
}

/// The confirm of what a reserve answered.
fn confirm_body(from: u64, answer: &[u8]) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        indices: Vec<(bool, i64)>,
    }
    let answer: Answer = serde_json::from_slice(answer)?;
    let mut at = 0;
    let keys = list(from..from + answer.indices.len() as u64, |out, key| {
        let _ = write!(out, "[\"{key}\",{}]", answer.indices[at].1);
        at += 1;
    });
    Ok(format!("{{\"written_keys_to_confirm\":{keys},\"pages_to_release\":[],\"namespace\":\"kv\"}}"))
}

/// A server's address and path, and the numbers of keys that were not used yet.
#[derive(Clone)]
pub struct Target {
    pub address: String,
    pub path: String,
    fresh: Arc<AtomicU64>,
    /// The first of the keys that `exists` asks for.
    first: u64,
}

impl Target {
    /// Makes the page file, and the keys that [`Operation::Exists`] asks for.
    pub async fn prepare(address: String, path: &str, pages: u64) -> anyhow::Result<Self> {
        let target = Self { address, path: path.into(), fresh: Arc::new(AtomicU64::new(0)), first: 0 };
        let mut client = Plain::connect(&target.address).await?;
        let body = format!("{{\"num_pages\":{pages},\"namespace\":\"kv\"}}");
        client.call(&request(&target.call("initialize"), &body)).await?;
        while target.fresh.load(Ordering::Relaxed) < KEYS {
            target.reserve_confirm(&mut client, 1000).await?;
        }
        Ok(target)
    }

    /// A target whose keys are there already. `exists` asks for the last of them: reserves evict the first.
    pub fn filled(address: String, path: &str, pages: u64) -> Self {
        Self { address, path: path.into(), fresh: Arc::new(AtomicU64::new(pages)), first: pages - KEYS }
    }

    fn call(&self, operation: &str) -> String {
        format!("{}/0/{operation}", self.path)
    }

    async fn reserve_confirm(&self, client: &mut Plain, keys: u64) -> anyhow::Result<()> {
        let from = self.fresh.fetch_add(keys, Ordering::Relaxed);
        let reserve = request(&self.call("reserve_and_allocate_page_indices"), &reserve_body(from, keys));
        let confirm = confirm_body(from, client.call(&reserve).await?)?;
        client.call(&request(&self.call("confirm_write"), &confirm)).await?;
        Ok(())
    }

    /// Loads the server with `clients` connections for `span`.
    pub async fn run(&self, operation: Operation, keys: u64, clients: u64, span: Duration) -> anyhow::Result<Figures> {
        // Made ahead: making them would keep others' answers waiting.
        let mut ready = Vec::new();
        for client in 0..clients {
            let bodies = match operation {
                Operation::Exists => self.exists_requests(client, keys),
                Operation::ReserveConfirm => Vec::new(),
            };
            ready.push((Plain::connect(&self.address).await?, bodies));
        }
        let began = Instant::now();
        let until = began + span;
        let loads = ready.into_iter().map(|(connection, bodies)| {
            let target = self.clone();
            tokio::spawn(async move { target.one_client(connection, bodies, keys, until).await })
        });
        let each = try_join_all(loads).await?.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let took = began.elapsed();
        let latencies: Vec<Duration> = each.into_iter().flatten().collect();
        Ok(Figures { calls_per_s: latencies.len() as f64 / took.as_secs_f64(), latencies })
    }

    fn exists_requests(&self, client: u64, keys: u64) -> Vec<Vec<u8>> {
        let body = |body| exists_body(self.first, (client * BODIES + body) * 7919, keys);
        (0..BODIES).map(|number| request(&self.call("exists"), &body(number))).collect()
    }

    /// Asks for bodies in turn; without any it reserves and confirms new keys.
    async fn one_client(
        &self,
        mut connection: Plain,
        bodies: Vec<Vec<u8>>,
        keys: u64,
        until: Instant,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let began = Instant::now();
            if bodies.is_empty() {
                self.reserve_confirm(&mut connection, keys).await.context("reserve")?;
            } else {
                let answer = connection.call(&bodies[latencies.len() % bodies.len()]).await?;
                // All of them are there: anything else would be another measurement.
                anyhow::ensure!(!answer.windows(5).any(|five| five == b"false"), "a key is missing");
            }
            latencies.push(began.elapsed());
        }
        Ok(latencies)
    }
}
