//! The machines of a cluster, and what runs on each.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Seat;
use super::agent::AgentParts;
use super::replica::ReplicaParts;
use crate::faults::kind::{Place, Replica};
use crate::world::context::SimTime;
use crate::world::host::Host;
use crate::world::net::HostId;

pub(super) enum Role {
    Replica(Box<ReplicaParts>),
    Agent(Box<AgentParts>),
    Clients,
}

pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) role: Role,
    /// Why the process ended by itself.
    pub(super) ended: Arc<Mutex<Option<String>>>,
    pub(super) restart_at: Option<SimTime>,
    /// It will never be started again.
    pub(super) lost: bool,
}

impl Machine {
    /// A replica's, if it is one.
    pub(super) fn replica(&self) -> Option<&ReplicaParts> {
        match &self.role {
            Role::Replica(parts) => Some(parts),
            _ => None,
        }
    }
}

/// The machines of a cluster, by seat.
#[derive(Default)]
pub(super) struct Machines {
    pub(super) all: Vec<Machine>,
    /// Seats of the group's members, in the order of the first ones; a replaced one's seat is its successor's.
    pub(super) replicas: Vec<Seat>,
    /// Seats of replicas that run beside the group: under the id of a member, with an empty directory.
    pub(super) strays: Vec<Seat>,
    pub(super) agents: Vec<Seat>,
    /// Seats of agents that run under the name of another.
    pub(super) twins: Vec<Seat>,
    pub(super) clients: Seat,
}

impl Machines {
    pub(super) fn seat(&self, place: Place) -> Seat {
        match place {
            Place::Replica(number) => self.replicas[number],
            Place::Agent(number) => self.agents[number],
            Place::Clients => self.clients,
        }
    }

    pub(super) fn host_of(&self, seat: Seat) -> HostId {
        self.all[seat].host.id()
    }

    /// What a member's machine has.
    pub(super) fn member(&self, replica: Replica) -> &ReplicaParts {
        self.all[self.replicas[replica]].replica().expect("the seats of members are replicas'")
    }

    pub(super) fn cluster_seats(&self) -> impl Iterator<Item = Seat> {
        self.replicas.iter().chain(&self.strays).chain(&self.agents).chain(&self.twins).copied()
    }
}
