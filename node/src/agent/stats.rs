//! The agent about itself.

use foreword_proto::status::{AgentNamespaceStatus, AgentStatus};

use super::Core;

impl Core {
    pub(super) fn stats(&self) -> AgentStatus {
        let open_namespaces = self.namespaces.read();
        let namespaces = open_namespaces.values().map(|open| {
            open.mirror.read(|view| AgentNamespaceStatus {
                id: open.id,
                epoch: view.epoch(),
                revision: view.revision(),
                synced: view.synced(),
                mirror_age_ms: self.feed.age().as_millis() as u64,
                pages: view.pages() as u64,
                overlay_pages: view.overlay_pages() as u64,
            })
        });
        AgentStatus {
            cluster_id: self.cluster.cluster_id,
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: self.is_ready(),
            session: self.sessions.current().map(|session| session.id.to_string()),
            fenced: self.sessions.fenced(),
            l3_breaker: self.l3.breaker().word().to_owned(),
            namespaces: namespaces.collect(),
            arena: self.l1.read(|pages| pages.status()),
            counters: self.counters.snapshot(),
        }
    }
}
