//! What a client can ask for, and how.

use std::fmt;
use std::time::Duration;

use foreword_proto::Namespace;

/// A namespace of the load.
#[derive(Debug, Clone)]
pub struct Space {
    /// Its place in the load.
    pub number: u16,
    pub namespace: Namespace,
}

/// A lookup at an agent, or of a client's own at a replica.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fresh {
    pub min_revision: u64,
    pub linearizable: bool,
}

/// How pages are got.
#[derive(Debug, Clone, Copy, Default)]
pub struct GetHow {
    pub min_revision: u64,
    pub bypass_cache: bool,
    pub every_key: bool,
}

/// How pages are put.
#[derive(Debug, Clone, Copy)]
pub struct PutHow {
    pub wait_published: bool,
    /// A shard that is never sent.
    pub missing_shard: Option<u32>,
    /// The client vanishes after this time.
    pub cut_after: Option<Duration>,
    /// Shards begin at different times and come in small pieces.
    pub interleaved: bool,
}

impl fmt::Display for GetHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min_revision > 0 {
            write!(f, " min @{}", self.min_revision)?;
        }
        f.write_str(if self.bypass_cache { " past caches" } else { "" })
    }
}

impl fmt::Display for PutHow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.wait_published { "" } else { " without waiting" })?;
        if let Some(shard) = self.missing_shard {
            write!(f, " without shard {shard}")?;
        }
        self.cut_after.map_or(Ok(()), |cut| write!(f, " cut after {cut:?}"))
    }
}
