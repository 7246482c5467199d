//! What an owner keeps for each open namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::NamespaceId;
use parking_lot::RwLock;

use super::OpenNamespace;
use crate::api::ApiError;

/// An owner that keeps something of its own for each open namespace.
pub(crate) trait PerNamespace: Send + Sync {
    /// A namespace is about to be open: calls for it may come from now on.
    fn opened(&self, open: &Arc<OpenNamespace>);
    /// The namespace is closed: what is under way in it ends by itself.
    fn closed(&self, namespace: NamespaceId);
}

/// A value for each open namespace.
pub(crate) struct ByNamespace<T>(RwLock<BTreeMap<NamespaceId, Arc<T>>>);

impl<T> Default for ByNamespace<T> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<T> ByNamespace<T> {
    /// The namespace's value.
    ///
    /// Errors: it is not open here.
    pub(crate) fn get(&self, namespace: NamespaceId) -> Result<Arc<T>, ApiError> {
        self.0.read().get(&namespace).cloned().ok_or(ApiError::UnknownNamespace(namespace))
    }

    /// All values, by namespace.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.0.read().values().cloned().collect()
    }

    pub(crate) fn insert(&self, namespace: NamespaceId, value: Arc<T>) {
        self.0.write().insert(namespace, value);
    }

    pub(crate) fn remove(&self, namespace: NamespaceId) -> Option<Arc<T>> {
        self.0.write().remove(&namespace)
    }
}
