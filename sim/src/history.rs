//! What clients of a simulation did and saw: the input of the checks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use foreword_proto::records::{NamespaceEvent, PageRecord};
use foreword_proto::{Fingerprint, PageKey};
use parking_lot::Mutex;

use crate::world::context::{self, Kind, SimTime};

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub client: u32,
    /// The agent asked, by its index; none: a replica was.
    pub agent: Option<u32>,
    /// The agent's process when the call began: each start of an agent has the next one. 0 without an agent.
    pub agent_incarnation: u64,
    pub invoked: SimTime,
    /// None: no answer came while the client waited.
    pub returned: Option<SimTime>,
    pub call: Call,
    pub result: Outcome,
    /// One of the reads after the world has healed.
    pub is_final: bool,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A put of whole pages, over all shards. `epoch`: the newest that the client knew of.
    Publish {
        namespace: u32,
        epoch: u32,
        keys: Vec<PageKey>,
    },
    Lookup {
        namespace: u32,
        keys: Vec<PageKey>,
        min_revision: u64,
        linearizable: bool,
        at: Target,
    },
    Get {
        namespace: u32,
        keys: Vec<PageKey>,
        min_revision: u64,
        bypass_cache: bool,
    },
    Clear {
        namespace: u32,
    },
    Delete {
        namespace: u32,
        keys: Vec<PageKey>,
    },
    OpenNamespace {
        fingerprint: Fingerprint,
    },
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// [`Record::agent`].
    Agent,
    /// The replica of this id.
    Replica(u64),
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It may have happened, or may still happen.
    Unknown,
    /// It was certainly refused; nothing happened. For reads: there was no answer.
    Failed(String),
    /// One outcome a key, in order.
    Published {
        outcomes: Vec<PagePut>,
    },
    /// `present`: one answer a key of the call, from a replica that was asked for every key.
    Found {
        pages: u32,
        revision: u64,
        present: Option<Vec<bool>>,
    },
    /// What came, in the order of the keys: fewer pages than keys after a miss, or when the stream broke.
    Got {
        pages: Vec<GotPage>,
    },
    Cleared {
        revision: u64,
        epoch: u32,
    },
    Deleted {
        revision: u64,
    },
    Opened {
        namespace: u32,
        epoch: u32,
        revision: u64,
    },
}

/// What became of one page of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagePut {
    pub outcome: Put,
    /// For published and existing pages; else 0.
    pub revision: u64,
    /// For refused pages.
    pub reason: String,
}

/// The best that any shard's call said of a page. Published and existing are acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Put {
    /// The agent dropped the page; a publish that timed out is among these, so the page may be there.
    Refused,
    Declined,
    /// The agent has the bytes: the page may come, or not.
    Taken,
    Exists,
    Published,
}

impl PagePut {
    /// The page was in the index at [`Self::revision`].
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, Put::Published | Put::Exists)
    }
}

/// One page of a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GotPage {
    pub key: PageKey,
    pub hit: bool,
    /// 1 to 3 for a hit, else 0.
    pub tier: u8,
    /// The agent's revision when it decided.
    pub revision: u64,
    /// Of a miss.
    pub reason: String,
    /// The nonce of each shard's writer, in order, for a hit. Err: the shard and the byte that is wrong.
    pub shards: Result<Vec<u64>, String>,
}

/// What one watcher of a namespace was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    pub client: u32,
    pub namespace: u32,
    pub replica: u64,
    /// Counts this watcher's streams, from 1: within one, nothing is left out.
    pub stream: u32,
    pub at: SimTime,
    /// What the watcher has seen after this.
    pub revision: u64,
    pub told: Told,
}

/// One thing told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A stream begins that goes on from this revision of an earlier one.
    Resumed { from_revision: u64 },
    /// A whole namespace at the revision: first when a stream does not go on from an earlier one.
    Snapshot { epoch: u32, entries: Vec<PageRecord> },
    /// The events of one log entry.
    Entry { events: Vec<NamespaceEvent> },
    /// Nothing changed up to the revision.
    Progress,
    /// Ask again from the beginning: the namespace was cleared, or the watcher was too slow.
    Resync { reason: String },
}

/// Sums over a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls begun, hints (prefetch, release) among them.
    pub attempted: u64,
    /// Calls answered with what was asked.
    pub answered: u64,
    pub failed: u64,
    pub unknown: u64,
    /// Pages of puts, and of those the acknowledged and the refused ones.
    pub pages_put: u64,
    pub pages_acknowledged: u64,
    pub pages_refused: u64,
    pub lookups: u64,
    /// Keys asked in lookups at agents, and pages promised.
    pub lookup_keys: u64,
    pub lookup_pages: u64,
    /// Pages got with every byte right, from L1, L2, L3.
    pub hits: [u64; 3],
    /// Pages said to be hits whose bytes were not their key's.
    pub wrong: u64,
    /// Pages not given, by reason.
    pub misses: BTreeMap<String, u64>,
    pub events_watched: u64,
}

impl Totals {
    /// Pages got and verified.
    pub fn pages_hit(&self) -> u64 {
        self.hits.iter().sum()
    }

    /// Pages got of a hundred keys looked up at agents.
    pub fn hit_percent(&self) -> f64 {
        100.0 * self.pages_hit() as f64 / self.lookup_keys.max(1) as f64
    }

    fn call(&mut self, call: &Call) {
        self.attempted += 1;
        match call {
            Call::Publish { keys, .. } => self.pages_put += keys.len() as u64,
            Call::Lookup { keys, at, .. } => {
                self.lookups += 1;
                self.lookup_keys += if *at == Target::Agent { keys.len() as u64 } else { 0 };
            }
            _ => {}
        }
    }

    fn result(&mut self, call: &Call, result: &Outcome) {
        match result {
            Outcome::Unknown => self.unknown += 1,
            Outcome::Failed(_) => self.failed += 1,
            _ => self.answered += 1,
        }
        match result {
            Outcome::Published { outcomes } => {
                self.pages_acknowledged += outcomes.iter().filter(|page| page.is_acknowledged()).count() as u64;
                self.pages_refused += outcomes.iter().filter(|page| page.outcome == Put::Refused).count() as u64;
            }
            Outcome::Found { pages, .. } if matches!(call, Call::Lookup { at: Target::Agent, .. }) => {
                self.lookup_pages += u64::from(*pages);
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

/// Names a record of its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordId(usize);

/// Everything, in the order in which it began.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub records: Vec<Record>,
    pub watched: Vec<WatchEvent>,
    pub totals: Totals,
}

/// The history that the clients of one simulation share.
pub type SharedHistory = Arc<Mutex<History>>;

impl History {
    /// A call begins: until [`Self::end`] its result is unknown.
    pub fn begin(&mut self, client: u32, agent: Option<(u32, u64)>, call: Call, is_final: bool) -> RecordId {
        context::event(Kind::Client, || format!("client {client} {}{call}", at_agent(agent)));
        self.totals.call(&call);
        self.records.push(Record {
            client,
            agent: agent.map(|(agent, _)| agent),
            agent_incarnation: agent.map_or(0, |(_, incarnation)| incarnation),
            invoked: context::now(),
            returned: None,
            call,
            result: Outcome::Unknown,
            is_final,
        });
        RecordId(self.records.len() - 1)
    }

    /// A call is over. An unknown result has no time: the call may still happen.
    pub fn end(&mut self, id: RecordId, result: Outcome) {
        let record = &mut self.records[id.0];
        let agent = record.agent.map(|agent| (agent, record.agent_incarnation));
        context::event(Kind::Client, || {
            format!("client {} {}{} -> {result}", record.client, at_agent(agent), record.call)
        });
        record.returned = (result != Outcome::Unknown).then(context::now);
        record.result = result;
        self.totals.result(&record.call, &record.result);
    }

    /// A watcher was told something.
    pub fn watch(&mut self, event: WatchEvent) {
        context::event(Kind::Client, || {
            let WatchEvent { client, namespace, replica, revision, told, .. } = &event;
            format!("client {client} watches ns {namespace} at replica {replica}: {told} @{revision}")
        });
        self.totals.events_watched += match &event.told {
            Told::Entry { events } => events.len() as u64,
            _ => 0,
        };
        self.watched.push(event);
    }

    /// A call whose result matters to no check.
    pub fn hint(&mut self, client: u32, line: impl FnOnce() -> String) {
        self.totals.attempted += 1;
        context::event(Kind::Client, || format!("client {client} {}", line()));
    }
}

fn at_agent(agent: Option<(u32, u64)>) -> String {
    agent.map_or_else(String::new, |(agent, incarnation)| format!("at agent {agent}.{incarnation} "))
}

/// Some keys as a line shows them: the first bytes of the first and the last, and their number.
pub struct Keys<'a>(pub &'a [PageKey]);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |key: &PageKey| format!("{:02x}{:02x}{:02x}", key.0[0], key.0[1], key.0[2]);
        match self.0 {
            [] => f.write_str("no keys"),
            [key] => write!(f, "key {}", short(key)),
            [first, .., last] => write!(f, "{} keys {}..{}", self.0.len(), short(first), short(last)),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish { namespace, epoch, keys } => write!(f, "put ns {namespace} epoch {epoch} {}", Keys(keys)),
            Self::Lookup { namespace, keys, min_revision, linearizable, at } => {
                write!(f, "lookup ns {namespace} {}", Keys(keys))?;
                match at {
                    Target::Agent => {}
                    Target::Replica(id) => write!(f, " at replica {id}")?,
                }
                if *min_revision > 0 {
                    write!(f, " min @{min_revision}")?;
                }
                f.write_str(if *linearizable { " linearizable" } else { "" })
            }
            Self::Get { namespace, keys, min_revision, bypass_cache } => {
                write!(f, "get ns {namespace} {}", Keys(keys))?;
                if *min_revision > 0 {
                    write!(f, " min @{min_revision}")?;
                }
                f.write_str(if *bypass_cache { " past caches" } else { "" })
            }
            Self::Clear { namespace } => write!(f, "clear ns {namespace}"),
            Self::Delete { namespace, keys } => write!(f, "delete ns {namespace} {}", Keys(keys)),
            Self::OpenNamespace { fingerprint } => write!(f, "open {:.6}", fingerprint.to_string()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Published { outcomes } => {
                let revision = outcomes.iter().map(|page| page.revision).max().unwrap_or(0);
                for (outcome, word) in PUTS {
                    match outcomes.iter().filter(|page| page.outcome == outcome).count() {
                        0 => {}
                        count => write!(f, "{count} {word} ")?,
                    }
                }
                if let Some(page) = outcomes.iter().find(|page| !page.reason.is_empty()) {
                    write!(f, "({}) ", page.reason)?;
                }
                write!(f, "@{revision}")
            }
            Self::Found { pages, revision, present } => {
                write!(f, "found {pages} @{revision}")?;
                let Some(present) = present else { return Ok(()) };
                f.write_str(" ")?;
                present.iter().try_for_each(|present| f.write_str(if *present { "+" } else { "-" }))
            }
            Self::Got { pages } => {
                f.write_str("got ")?;
                pages.iter().try_for_each(|page| match (page.hit, &page.shards) {
                    (true, Ok(_)) => write!(f, "{}", page.tier),
                    (true, Err(wrong)) => write!(f, "[WRONG {wrong}]"),
                    (false, _) => write!(f, "[{}]", page.reason),
                })?;
                write!(f, " @{}", pages.iter().map(|page| page.revision).max().unwrap_or(0))
            }
            Self::Cleared { revision, epoch } => write!(f, "cleared, epoch {epoch} @{revision}"),
            Self::Deleted { revision } => write!(f, "deleted @{revision}"),
            Self::Opened { namespace, epoch, revision } => write!(f, "ns {namespace} epoch {epoch} @{revision}"),
        }
    }
}

const PUTS: [(Put, &str); 5] = [
    (Put::Published, "published"),
    (Put::Exists, "exist"),
    (Put::Taken, "taken"),
    (Put::Declined, "declined"),
    (Put::Refused, "refused"),
];

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resumed { from_revision } => write!(f, "on from @{from_revision}"),
            Self::Snapshot { epoch, entries } => write!(f, "{} entries of epoch {epoch}", entries.len()),
            Self::Entry { events } => write!(f, "{} events", events.len()),
            Self::Progress => f.write_str("nothing"),
            Self::Resync { reason } => write!(f, "resync, {reason}"),
        }
    }
}
