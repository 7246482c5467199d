//! The feature level that this replica's state has reached, and the format version that goes with it.

use std::io;
use std::sync::Arc;

use crate::consensus::write_version::WriteVersion;
use crate::storage::IdentityFile;

/// Moves what a replica writes on to a newer format version, once the group has committed the level that goes with it.
pub(crate) struct Level {
    version: WriteVersion,
    identity_file: Arc<dyn IdentityFile>,
}

impl Level {
    /// `version`: that of the log; `identity_file`: of the same directory.
    pub(crate) fn new(version: WriteVersion, identity_file: Arc<dyn IdentityFile>) -> Self {
        Self { version, identity_file }
    }

    /// A committed level: from here on files are of its version. IDENTITY names the version first, durably, so that a
    /// binary that does not read it opens nothing else.
    pub(crate) fn reached(&self, level: u32) -> io::Result<()> {
        if level > self.version.get() {
            self.identity_file.format_version_is(level)?;
            self.version.raise(level);
            tracing::info!(level, "from here on, files are written in the format version of this feature level");
        }
        Ok(())
    }
}
