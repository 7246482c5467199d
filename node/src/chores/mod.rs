//! What an agent does beside its calls: it tells the group what it saw, and keeps its memory and its mirrors in order.

mod heat;
mod l3;
mod suspects;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use foreword_client::Group;

use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::memory::Memory;
use crate::namespaces::Namespaces;
use crate::reading::{Reading, Suspects};
use crate::session::Sessions;
use crate::tasks::Tasks;
use crate::writing::Writing;

/// Whom the chores are done for.
pub(crate) struct Chores {
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) reading: Arc<Reading>,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) writing: Arc<Writing>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) meta: Group,
    pub(crate) counters: Arc<Counters>,
}

impl Chores {
    /// Begins them all; they end with the agent.
    pub(crate) fn start(self, config: &NodeConfig, tasks: &Tasks) {
        let Self { namespaces, reading, suspects, writing, memory, sessions, meta, counters } = self;
        let ms = Duration::from_millis;
        tasks.spawn(suspects::report(suspects, sessions.clone(), meta.clone(), counters));
        tasks.spawn(l3::probe(reading.clone()));
        tasks.spawn(l3::try_unreadable(reading.clone()));
        tasks.spawn(heat::report(reading, sessions.clone(), meta, ms(config.heat_report_ms)));
        let gather_deadline = ms(config.gather_deadline_ms);
        tasks.spawn(upkeep::keep_up(memory, writing, namespaces.clone(), sessions, gather_deadline));
        tasks.spawn(upkeep::keep_forgetting(namespaces.clone()));
        tasks.spawn(upkeep::keep_saving(namespaces.clone(), ms(config.mirror_save_ms)));
        tasks.spawn(namespaces.follow(config.node.clone(), tasks.stop()));
    }
}
