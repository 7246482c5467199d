//! Calls and their results as lines of the trace.

use std::fmt;

use foreword_proto::PageKey;

use super::{Call, Outcome, PagePut, PutResult, Record, Target, WatchFrame};

/// What a client asks, and of whom.
pub(super) fn asked(record: &Record) -> String {
    let Record { client, agent, agent_incarnation, call, .. } = record;
    match agent {
        Some(agent) => format!("client {client} at agent {agent}.{agent_incarnation} {call}"),
        None => format!("client {client} {call}"),
    }
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
            Self::Publish { namespace, epoch, keys, .. } => {
                write!(f, "put ns {namespace} epoch {epoch} {}", Keys(keys))
            }
            Self::Lookup { namespace, keys, min_revision, linearizable, at } => {
                write!(f, "lookup ns {namespace} {}", Keys(keys))?;
                if let Target::Replica(id) = at {
                    write!(f, " at replica {id}")?;
                }
                if *min_revision > 0 {
                    write!(f, " min @{min_revision}")?;
                }
                f.write_str(if *linearizable { " linearizable" } else { "" })
            }
            Self::Get { namespace, keys, .. } => write!(f, "get ns {namespace} {}", Keys(keys)),
            Self::Clear { namespace } => write!(f, "clear ns {namespace}"),
            Self::Delete { namespace, keys } => write!(f, "delete ns {namespace} {}", Keys(keys)),
            Self::OpenNamespace { fingerprint } => write!(f, "open {:.6}", fingerprint.to_string()),
            Self::Renew { at } => write!(f, "renew at {at:?}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Published { outcomes } => published(f, outcomes),
            Self::Found { pages, revision, present, .. } => {
                write!(f, "found {pages} @{revision} ")?;
                let present = present.as_deref().unwrap_or_default();
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
            Self::Renewed => f.write_str("renewed"),
        }
    }
}

/// "published @17 17 18, exist @9, refused queue_full": pages in their order, equal ones together.
fn published(f: &mut fmt::Formatter<'_>, outcomes: &[PagePut]) -> fmt::Result {
    for (at, run) in outcomes.chunk_by(|a, b| a == b).enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        let (count, revision) = (run.len(), run[0].revision);
        match &run[0].outcome {
            PutResult::Published => write!(f, "{count} published @{revision}")?,
            PutResult::Exists => write!(f, "{count} exist @{revision}")?,
            PutResult::Taken => write!(f, "{count} taken")?,
            PutResult::Refused(why) => write!(f, "{count} refused ({why})")?,
        }
    }
    Ok(())
}

impl fmt::Display for WatchFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resumed { epoch, revision } => write!(f, "on from @{revision} of epoch {epoch}"),
            Self::ResyncBegin { epoch, revision } => write!(f, "resync of epoch {epoch} @{revision}"),
            Self::Bucket { bits, bucket, pages } => {
                write!(f, "bucket {bucket}/{}: {} pages", 1u64 << bits, pages.len())
            }
            Self::ResyncEnd { revision } => write!(f, "resync ends @{revision}"),
            Self::Events { revision, entries } => {
                let events: usize = entries.iter().map(|entry| entry.events.len()).sum();
                write!(f, "{events} events @{revision}")
            }
            Self::Resync => f.write_str("resync"),
        }
    }
}
