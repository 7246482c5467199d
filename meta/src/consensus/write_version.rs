//! The format version in which a replica writes its files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use foreword_proto::limits::FORMAT_VERSIONS;

/// Shared by all that write a replica's files: the version that goes with the feature level the group has committed, as
/// far as this replica has applied it. It only grows. IDENTITY names it first: no file is ever of a newer version than
/// IDENTITY says.
#[derive(Debug, Clone)]
pub struct WriteVersion(Arc<AtomicU32>);

/// The oldest that this binary writes, until the data directory has said which.
impl Default for WriteVersion {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(FORMAT_VERSIONS.min)))
    }
}

impl WriteVersion {
    /// The version to write in.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// From here on, in `version`; an older one than before changes nothing.
    pub fn raise(&self, version: u32) {
        assert!(FORMAT_VERSIONS.contains(version), "format version {version} is none of {FORMAT_VERSIONS}");
        self.0.fetch_max(version, Ordering::AcqRel);
    }
}
