//! A replica that meets what another version wrote stops for good, and changes nothing any more.

use std::sync::Arc;

use foreword_proto::versions::OtherVersion;
use tokio::sync::watch;

use crate::storage::IdentityFile;

/// Where a replica says that it has met another version.
pub struct Halt {
    why: watch::Sender<Option<OtherVersion>>,
    identity_file: Arc<dyn IdentityFile>,
}

impl Halt {
    /// Nothing has been met yet.
    pub fn new(identity_file: Arc<dyn IdentityFile>) -> Self {
        Self { why: watch::Sender::new(None), identity_file }
    }

    /// Notes what was met, durably, and stops the replica. What is met first is the reason.
    pub fn stop(&self, other: OtherVersion) {
        tracing::error!(%other, "this binary does not know what the group has written: it stops here");
        if let Err(error) = self.identity_file.needs(&other) {
            tracing::error!(%error, "could not note that this directory needs another binary");
        }
        self.why.send_if_modified(|why| {
            let first = why.is_none();
            why.get_or_insert(other);
            first
        });
    }

    /// What was met, if anything was.
    pub fn why(&self) -> Option<OtherVersion> {
        self.why.borrow().clone()
    }

    /// Resolves when something was met.
    pub async fn stopped(&self) -> OtherVersion {
        let mut why = self.why.subscribe();
        loop {
            if let Some(other) = why.borrow_and_update().clone() {
                return other;
            }
            // The sender lives as long as `self`.
            let _ = why.changed().await;
        }
    }
}
