//! What clients of a simulation did and saw: the input of the checks.
//!
//! Append-only. A finished call is appended at the moment it returns, so that records are in the order of their
//! returns; calls whose outcome was never known are appended at the end. Each check keeps its own cursor into the
//! lists.

mod lines;
mod page_files;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foreword_proto::records::{EntryEvents, PageRecord};
use foreword_proto::{Epoch, Fingerprint, NamespaceId, PageKey, Revision};
use parking_lot::Mutex;

pub use lines::Keys;
pub use page_files::{PageAnswer, PageAsk, PageCall, PageHistory, PageName, Shown, WrongPage};

use crate::workload::FINAL_READER;
use crate::world::context::{self, Kind, SimTime};

/// The history that clients write and checks read.
pub type SharedHistory = Arc<Mutex<History>>;

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The caller; a client that starts over keeps its number.
    pub client: u32,
    /// The agent it went through; none for a call to a replica.
    pub agent: Option<u32>,
    /// Which life of that agent's process.
    pub agent_incarnation: u64,
    pub invoked: SimTime,
    /// None: no answer came; the call may have taken effect at any time after `invoked`, or never.
    pub returned: Option<SimTime>,
    pub call: Call,
    pub result: Outcome,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Pages put with the wish to hear of their publish; `epoch` is the one the client knew.
    Publish {
        namespace: NamespaceId,
        epoch: Epoch,
        keys: Vec<PageKey>,
        /// Every shard was to be sent, and nobody left before the answers.
        whole: bool,
    },
    Lookup {
        namespace: NamespaceId,
        keys: Vec<PageKey>,
        min_revision: Revision,
        linearizable: bool,
        at: Target,
    },
    Get {
        namespace: NamespaceId,
        keys: Vec<PageKey>,
        /// Not from L1.
        bypass_cache: bool,
    },
    Clear {
        namespace: NamespaceId,
    },
    Delete {
        namespace: NamespaceId,
        keys: Vec<PageKey>,
    },
    OpenNamespace {
        fingerprint: Fingerprint,
    },
    /// A lease is renewed at a replica.
    Renew {
        at: Target,
    },
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The agent of the record.
    Agent,
    /// A replica, by id.
    Replica(u64),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No answer came.
    Unknown,
    /// An error that says that nothing was done, or that nothing could be said.
    Failed(String),
    /// One outcome a key.
    Published {
        outcomes: Vec<PagePut>,
    },
    /// `pages` leading keys were found; a replica that was asked for every key also says which are present, and where
    /// those are: their records as they came, in order.
    Found {
        pages: u32,
        revision: Revision,
        present: Option<Vec<bool>>,
        locations: Option<Bytes>,
    },
    /// One answer a key, up to the last that came.
    Got {
        pages: Vec<GotPage>,
    },
    Cleared {
        revision: Revision,
        epoch: Epoch,
    },
    Deleted {
        revision: Revision,
    },
    Opened {
        namespace: NamespaceId,
        epoch: Epoch,
        revision: Revision,
    },
    /// The lease goes on.
    Renewed,
}

/// What became of one page of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagePut {
    /// Of `Published` and `Exists`; 0 for the others.
    pub revision: Revision,
    pub outcome: PutResult,
}

/// How a page's publish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutResult {
    /// The page is in the index since this revision.
    Published,
    /// The page was there already, and present at this revision.
    Exists,
    /// The agent goes on by itself; nothing is promised.
    Taken,
    /// Not published as far as is known, and why.
    Refused(String),
}

/// One page of a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GotPage {
    pub key: PageKey,
    pub hit: bool,
    /// 1 for L1, 3 for L3; 0 for a miss.
    pub tier: u8,
    pub revision: Revision,
    /// Why it was a miss.
    pub reason: String,
    /// The nonce of each shard's writer, in rank order; Err: the shard and byte that is wrong.
    pub shards: Result<Vec<u64>, String>,
}

/// A frame of a watch stream, as a client read it from a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// One number a stream: a client that reconnects goes on under a new one.
    pub stream: u64,
    pub namespace: NamespaceId,
    pub at: SimTime,
    pub frame: WatchFrame,
}

/// What a frame said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchFrame {
    /// The stream goes on after this revision, as was asked.
    Resumed {
        epoch: Epoch,
        revision: Revision,
    },
    /// All pages follow, bucket by bucket, and the events of all entries meanwhile.
    ResyncBegin {
        epoch: Epoch,
        revision: Revision,
    },
    /// The pages of one bucket, where there are 2^`bits` of them.
    Bucket {
        bits: u32,
        bucket: u32,
        pages: Vec<PageRecord>,
    },
    ResyncEnd {
        revision: Revision,
    },
    /// Everything up to `revision` that concerns the namespace and was not told before.
    Events {
        revision: Revision,
        entries: Vec<EntryEvents>,
    },
    /// The stream ends and a new one must begin.
    Resync,
}

/// Sums over a history.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Calls begun, hints (prefetch, release) among them.
    pub attempted: u64,
    /// Calls answered with what was asked.
    pub acknowledged: u64,
    pub failed: u64,
    pub unknown: u64,
    /// Pages of puts, and of those the published (or present) and the refused ones.
    pub pages_put: u64,
    pub pages_published: u64,
    pub pages_refused: u64,
    /// Keys that engines looked up for their prompts at agents, and those of them that they then got, every byte right.
    pub keys_asked: u64,
    pub keys_hit: u64,
    /// All pages got with every byte right, from L1, L2, L3.
    pub hits: [u64; 3],
    /// Pages said to be hits whose bytes were not their key's.
    pub wrong: u64,
    /// Pages not given, by reason.
    pub misses: BTreeMap<String, u64>,
    /// Frames of watch streams.
    pub frames: u64,
}

/// Everything clients did and saw.
#[derive(Debug, Default)]
pub struct History {
    /// Calls, in the order of their returns; those without an answer at the end.
    pub records: Vec<Record>,
    /// Frames of watch streams, in the order in which they were read.
    pub watched: Vec<Watched>,
    /// What was asked of page files, and found in their pages.
    pub page_files: PageHistory,
    pub totals: Totals,
    /// Resyncs of namespaces so large that they are cut into buckets.
    pub resyncs_of_many_buckets: u64,
    /// Calls begun and not answered, by their ids.
    under_way: BTreeMap<RecordId, Record>,
    begun: u64,
}

/// Names a call under way.
pub type RecordId = u64;

impl History {
    /// An empty history to share.
    pub fn shared() -> SharedHistory {
        Arc::new(Mutex::new(Self::default()))
    }

    /// A call begins; `agent`: its index and its process. `how` is for the trace only.
    pub fn begin(&mut self, client: u32, agent: Option<(u32, u64)>, call: Call, how: &str) -> RecordId {
        let record = Record {
            client,
            agent: agent.map(|(agent, _)| agent),
            agent_incarnation: agent.map_or(0, |(_, incarnation)| incarnation),
            invoked: context::now(),
            returned: None,
            call,
            result: Outcome::Unknown,
        };
        self.begun += 1;
        context::event(Kind::Client, || format!("#{} {}{how}", self.begun, lines::asked(&record)));
        self.totals.call(&record.call);
        self.under_way.insert(self.begun, record);
        self.begun
    }

    /// A call is over. One with an unknown result is appended by [`Self::close`]: it may still happen.
    pub fn end(&mut self, id: RecordId, result: Outcome) {
        context::event(Kind::Client, || format!("#{id} -> {result}"));
        self.totals.result(&result);
        if result == Outcome::Unknown {
            return;
        }
        if let Some(mut record) = self.under_way.remove(&id) {
            record.returned = Some(context::now());
            record.result = result;
            self.records.push(record);
        }
    }

    /// Calls that have no known result, in the order in which they began.
    pub fn unanswered(&self) -> impl Iterator<Item = &Record> {
        self.under_way.values()
    }

    /// The clients have ended: calls without a known result are appended, in the order in which they began.
    pub fn close(&mut self) {
        self.records.extend(std::mem::take(&mut self.under_way).into_values());
    }

    /// A watcher read a frame.
    pub fn watch(&mut self, client: u32, watched: Watched) {
        context::event(Kind::Client, || {
            let Watched { stream, namespace, frame, .. } = &watched;
            format!("client {client} watches ns {namespace} stream {stream:x}: {frame}")
        });
        self.totals.frames += 1;
        let first_of_many = matches!(watched.frame, WatchFrame::Bucket { bits: 1.., bucket: 0, .. });
        self.resyncs_of_many_buckets += u64::from(first_of_many);
        self.watched.push(watched);
    }

    /// The median time of a put whose pages were all published, in milliseconds; 0: there was none.
    pub fn put_ms_p50(&self) -> u64 {
        let published = |record: &&Record| match &record.result {
            Outcome::Published { outcomes } => outcomes.iter().all(|page| page.outcome == PutResult::Published),
            _ => false,
        };
        let puts = self.records.iter().filter(published);
        let took = |record: &Record| Some(record.returned?.millis() - record.invoked.millis());
        let mut took: Vec<u64> = puts.filter_map(took).collect();
        took.sort_unstable();
        took.get(took.len() / 2).copied().unwrap_or(0)
    }

    /// A call whose result matters to no check.
    pub fn hint(&mut self, client: u32, line: impl FnOnce() -> String) {
        self.totals.attempted += 1;
        context::event(Kind::Client, || format!("client {client} {}", line()));
    }
}

impl Totals {
    /// Of a hundred keys that engines looked up for their prompts, those that they got.
    pub fn hit_percent(&self) -> f64 {
        100.0 * self.keys_hit as f64 / self.keys_asked.max(1) as f64
    }

    fn call(&mut self, call: &Call) {
        self.attempted += 1;
        if let Call::Publish { keys, .. } = call {
            self.pages_put += keys.len() as u64;
        }
    }

    fn result(&mut self, result: &Outcome) {
        match result {
            Outcome::Unknown => self.unknown += 1,
            Outcome::Failed(_) => self.failed += 1,
            _ => self.acknowledged += 1,
        }
        match result {
            Outcome::Published { outcomes } => {
                let refused = |page: &&PagePut| matches!(page.outcome, PutResult::Refused(_));
                self.pages_published += outcomes.iter().filter(|page| page.is_acknowledged()).count() as u64;
                self.pages_refused += outcomes.iter().filter(refused).count() as u64;
            }
            Outcome::Got { pages } => pages.iter().for_each(|page| self.page(page)),
            _ => {}
        }
    }

    fn page(&mut self, page: &GotPage) {
        match (page.hit, &page.shards) {
            (true, Err(_)) => self.wrong += 1,
            (true, Ok(_)) => self.hits[usize::from(page.tier.clamp(1, 3)) - 1] += 1,
            (false, _) => *self.misses.entry(page.reason.clone()).or_default() += 1,
        }
    }
}

impl PagePut {
    /// The page was in the index at [`Self::revision`].
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, PutResult::Published | PutResult::Exists)
    }
}

impl Record {
    /// One of the reads after the world has healed.
    pub fn is_final(&self) -> bool {
        self.client == FINAL_READER
    }
}
