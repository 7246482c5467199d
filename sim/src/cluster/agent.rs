//! An agent as the simulation starts it: the binary's `node`, on a simulated machine.

use std::sync::Arc;

use foreword_node::agent::Agent;
use foreword_node::arena::RegionProvider;
use foreword_node::kept_id::KeptId;
use foreword_node::{Deps, NodeConfig, StoreFactory, serve};
use foreword_proto::AgentId;
use foreword_seams::{Files, Net, Telemetry, on_a_task};
use parking_lot::Mutex;

use crate::world::entropy::HostEntropy;
use crate::world::files::SimFiles;
use crate::world::net::HostId;

/// An agent's process, as a checker sees it from outside.
#[derive(Clone)]
pub struct RunningAgent {
    /// Processes of this machine so far.
    pub incarnation: u64,
    pub agent: Agent,
}

/// What an agent's process is made of.
#[derive(Clone)]
pub struct AgentParts {
    pub host: HostId,
    pub config: NodeConfig,
    pub store: StoreFactory,
    pub regions: Arc<dyn RegionProvider>,
    pub files: SimFiles,
    pub net: Arc<dyn Net>,
    /// Filled while it serves.
    pub running: Arc<Mutex<Option<RunningAgent>>>,
}

impl AgentParts {
    /// The process's whole life; answers why it ended.
    pub async fn run(self, incarnation: u64) -> String {
        let deps = Deps {
            net: self.net.clone(),
            entropy: Arc::new(HostEntropy::new(self.host)),
            store: self.store.clone(),
            files: Some(Arc::new(self.files.open_dir()) as Arc<dyn Files>),
            kept: Some(Arc::new(KeptId::of(agent_id(self.host), incarnation as u32))),
            regions: self.regions.clone(),
            segment_maker: on_a_task(),
            telemetry: Telemetry::new(),
        };
        match serve(self.config.clone(), deps).await {
            Ok(handle) => {
                *self.running.lock() = Some(RunningAgent { incarnation, agent: handle.api().clone() });
                // An agent ends by being killed only.
                let _handle = handle;
                std::future::pending::<String>().await
            }
            Err(error) => format!("did not serve: {error}"),
        }
    }
}

/// What stands in the state directory of this machine: it survives its processes, and another machine of the same name
/// has another.
fn agent_id(host: HostId) -> AgentId {
    AgentId(u128::from(host).to_le_bytes())
}
