//! Mirrors to local disk and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::{ClusterId, Epoch, Namespace, NamespaceId, Revision};
use foreword_seams::{Files, Marker, sometimes};
use parking_lot::Mutex;

use super::OpenNamespace;
use crate::mirror::SavedTable;
use crate::mirror::saved::{SavedId, file_name, load, save};
use crate::tasks::Tasks;

/// The mirrors of one cluster on local disk, if they are saved at all.
pub(crate) struct SavedMirrors {
    files: Option<Arc<dyn Files>>,
    cluster: ClusterId,
    /// The revision of each open namespace's file.
    revisions: Mutex<BTreeMap<NamespaceId, Revision>>,
    tasks: Tasks,
}

impl SavedMirrors {
    /// Mirrors in these files; none: nothing is saved.
    pub(crate) fn new(files: Option<Arc<dyn Files>>, cluster: ClusterId, tasks: Tasks) -> Self {
        Self { files, cluster, revisions: Mutex::default(), tasks }
    }

    /// The mirror saved by an earlier run, if it is of this namespace in this epoch.
    pub(super) async fn load(&self, namespace: &Namespace, id: NamespaceId, epoch: Epoch) -> Option<SavedTable> {
        let files = self.files.as_ref()?;
        let id = self.saved_id(namespace, id, epoch);
        match load(files, &id).await {
            Ok(saved) => saved,
            Err(error) => {
                sometimes(Marker::SavedMirrorRefused);
                tracing::warn!(namespace = id.namespace, %error, "the saved mirror is not used");
                None
            }
        }
    }

    /// The namespace's mirror begins as its file has it.
    pub(super) fn restored(&self, namespace: NamespaceId, revision: Revision) {
        self.revisions.lock().insert(namespace, revision);
    }

    /// Saves the mirror if it moved on since it was saved.
    pub(super) async fn save(&self, open: &OpenNamespace) {
        let Some(files) = &self.files else { return };
        let saved = self.revisions.lock().get(&open.id).copied().unwrap_or(0);
        let (epoch, revision) = open.mirror.read(|view| (view.epoch(), view.resume_from()));
        if revision <= saved {
            return;
        }
        match save(files, &self.saved_id(&open.namespace, open.id, epoch), &open.mirror).await {
            Ok(Some(revision)) => {
                sometimes(Marker::MirrorSaved);
                self.revisions.lock().insert(open.id, revision);
            }
            Ok(None) => tracing::debug!(namespace = open.id, "the mirror is resynced, and saved another time"),
            Err(error) => tracing::warn!(namespace = open.id, %error, "the mirror could not be saved"),
        }
    }

    /// Removes the file of a namespace that is gone, in the background.
    pub(super) fn remove(&self, open: &OpenNamespace) {
        self.revisions.lock().remove(&open.id);
        let Some(files) = self.files.clone() else { return };
        let (namespace, name) = (open.id, file_name(self.cluster, open.namespace.fingerprint()));
        self.tasks.spawn(async move {
            if let Err(error) = files.remove(&name).await {
                tracing::warn!(namespace, %error, "its saved mirror could not be removed");
            }
        });
    }

    fn saved_id(&self, namespace: &Namespace, id: NamespaceId, epoch: Epoch) -> SavedId {
        let (cluster, fingerprint) = (self.cluster, namespace.fingerprint());
        SavedId { cluster, fingerprint, namespace: id, epoch, shards: namespace.shards() }
    }
}
