//! Mirrors to local disk and back.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::{Epoch, Namespace, NamespaceId, Revision};
use foreword_seams::{Files, Marker, sometimes};

use super::Core;
use super::open::OpenNamespace;
use crate::mirror::saved::{SavedId, encode, load, save};
use crate::mirror::table::Table;

impl Core {
    /// The mirror saved by an earlier run, if it is of this namespace in this epoch.
    pub(super) async fn saved_mirror(
        &self,
        namespace: &Namespace,
        id: NamespaceId,
        epoch: Epoch,
    ) -> Option<(Revision, Table)> {
        let files = self.files.as_ref()?;
        let id = SavedId {
            cluster: self.cluster.cluster_id,
            fingerprint: namespace.fingerprint(),
            namespace: id,
            epoch,
            shards: namespace.shards(),
        };
        match load(files, &id).await {
            Ok(saved) => saved,
            Err(error) => {
                sometimes(Marker::SavedMirrorRefused);
                tracing::warn!(namespace = id.namespace, %error, "the saved mirror is not used");
                None
            }
        }
    }

    /// Saves every mirror that moved on since it was saved.
    pub(super) async fn save_mirrors(&self, files: &Arc<dyn Files>) {
        let namespaces: Vec<Arc<OpenNamespace>> = self.namespaces.read().values().cloned().collect();
        for open in namespaces {
            let (id, revision, encoded) = {
                let saved = *open.saved_revision.lock();
                let taken = open.mirror.read(|view| {
                    let revision = view.resume_from();
                    (revision > saved).then(|| {
                        let id = SavedId {
                            cluster: self.cluster.cluster_id,
                            fingerprint: open.namespace.fingerprint(),
                            namespace: open.id,
                            epoch: view.epoch(),
                            shards: open.geometry.shards(),
                        };
                        (id, revision, encode(&id, revision, view.table()))
                    })
                });
                let Some(taken) = taken else { continue };
                taken
            };
            match save(files, &id, encoded).await {
                Ok(()) => {
                    sometimes(Marker::MirrorSaved);
                    *open.saved_revision.lock() = revision;
                }
                Err(error) => tracing::warn!(namespace = open.id, %error, "the mirror could not be saved"),
            }
        }
    }
}

/// Saves mirrors now and then until the agent stops.
pub(super) async fn keep_saving(core: Arc<Core>) {
    let Some(files) = core.files.clone() else { return };
    loop {
        tokio::time::sleep(Duration::from_millis(core.config.mirror_save_ms)).await;
        core.save_mirrors(&files).await;
    }
}
