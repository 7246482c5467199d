//! Who is in the group, and under which names: what operators do to a cluster, and what they do by mistake.

use std::collections::BTreeMap;

use foreword_seams::Endpoint;

use super::operator::{Change, Order, carry_out};
use super::{AgentSite, Cluster, META_PORT, NODE_PORT, ReplicaSite, endpoint};
use crate::faults::FaultKind;
use crate::faults::kind::{Agent, Replica};
use crate::workload;
use crate::world::context;

/// Under which name a lost machine's successor is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Successor {
    /// Its own; the old name leads to nothing any more.
    Own,
    /// The old one's.
    InPlace,
    /// Its own, and its address is the one that the old name leads to still.
    Inherits,
}

impl Cluster {
    /// What an operator does when this fault begins.
    pub(super) fn begin_change(&mut self, kind: &FaultKind) {
        match *kind {
            FaultKind::Replace(replica) => self.replace(replica),
            FaultKind::ReplaceInPlace(replica) => self.replace_by(replica, Successor::InPlace),
            FaultKind::InheritAddress(replica) => self.replace_by(replica, Successor::Inherits),
            FaultKind::EmptyDirectory(replica) => self.empty_directory(replica),
            FaultKind::AddNobody => {
                let id = self.new_id();
                let add = Change::Add { id, endpoint: self.nowhere() };
                // What a wrong call left is cleared away: a learner, or nothing.
                self.order(vec![Order::slip(add), Order::once(Change::Remove { id })]);
            }
            FaultKind::ReplaceByNobody(old) => {
                let endpoint = self.nowhere();
                self.slip_of_replacing(old, endpoint);
            }
            FaultKind::ReplaceByMember(old, at) => {
                let endpoint = self.machines.member(at).config.listen.clone();
                self.slip_of_replacing(old, endpoint);
            }
            FaultKind::ReplaceByLeader(old) => {
                let endpoint = self.machines.member(self.leader()).config.listen.clone();
                self.slip_of_replacing(old, endpoint);
            }
            FaultKind::AddUsedId(replica) => self.add_used_id(replica),
            FaultKind::RemoveLeader => {
                let leader = self.machines.member(self.leader());
                let (id, endpoint) = (leader.disk.identity().replica_id, leader.config.listen.clone());
                let back = Change::Add { id, endpoint };
                self.order(vec![Order::insist(Change::Remove { id }), Order::insist(back)]);
            }
            FaultKind::MoveLeader(to) => {
                let to = self.machines.member(to).disk.identity().replica_id;
                self.order(vec![Order::once(Change::Lead { to })]);
            }
            _ => {}
        }
    }

    /// The machine is lost with its disk; a new one joins in its place.
    pub(super) fn replace(&mut self, replica: Replica) {
        self.replace_by(replica, Successor::Own);
    }

    fn replace_by(&mut self, replica: Replica, successor: Successor) {
        let seat = self.machines.replicas[replica];
        self.lose(seat);
        let lost = self.machines.member(replica);
        let (old, old_name) = (lost.disk.identity().replica_id, lost.listens_at());
        let new = self.new_id();
        let known = self.replica_endpoints();
        let members: Vec<Endpoint> = known.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        let known = known.into_iter().map(|(id, endpoint)| (id, endpoint.to_string())).collect();
        let host = format!("meta-{new}");
        let listen = if successor == Successor::InPlace { old_name.clone() } else { host.clone() };
        let machine =
            self.add_replica(ReplicaSite { host, listen: listen.clone(), id: new, members: known, joins: true });
        if successor != Successor::Own {
            self.network.give_name(&old_name, self.machines.host_of(machine));
        }
        self.machines.replicas[replica] = machine;
        self.boot(machine);
        let change = Change::Replace { old, new, endpoint: endpoint(&listen, META_PORT) };
        self.order_at(members, vec![Order::insist(change)]);
    }

    /// Only whoever looks at its directory can tell this replica from the one before.
    fn empty_directory(&mut self, replica: Replica) {
        self.kill(self.machines.replicas[replica], true);
        let parts = self.machines.member(replica);
        let (members, joins) = self.second_init();
        let before = parts.disk.identity();
        let mut identity = self.init(parts.host, before.replica_id, members, joins);
        if self.plan.seams.copied_directories {
            identity.directory = before.directory;
        }
        parts.disk.wipe(identity);
        parts.snapshots.wipe();
    }

    /// What `meta init` is told for an id that was used: the first members again, or whom to join.
    fn second_init(&self) -> (BTreeMap<u64, String>, bool) {
        let joins = context::random_below(2) == 0;
        (if joins { self.known_members() } else { self.first_members() }, joins)
    }

    fn add_used_id(&mut self, replica: Replica) {
        let id = self.machines.member(replica).disk.identity().replica_id;
        // One that the group has not taken in yet could be anybody's.
        let leader = self.replicas().nth(self.leader()).and_then(|(_, running)| running);
        if !leader.is_some_and(|leader| leader.group.voters().contains(&id)) {
            return;
        }
        let host = format!("stray-{}", self.machines.all.len());
        let (members, joins) = self.second_init();
        let stray = self.add_replica(ReplicaSite { host: host.clone(), listen: host.clone(), id, members, joins });
        self.machines.strays.push(stray);
        self.boot(stray);
        self.order(vec![Order::slip(Change::Add { id, endpoint: endpoint(&host, META_PORT) })]);
    }

    fn slip_of_replacing(&mut self, old: Replica, endpoint: Endpoint) {
        let old = self.machines.member(old).disk.identity().replica_id;
        let new = self.new_id();
        self.order(vec![Order::slip(Change::Replace { old, new, endpoint })]);
    }

    /// Where nobody listens: a machine without a replica, or no machine at all.
    fn nowhere(&self) -> Endpoint {
        endpoint(if context::random_below(2) == 0 { "clients" } else { "nowhere" }, META_PORT)
    }

    fn new_id(&mut self) -> u64 {
        self.next_replica_id += 1;
        self.next_replica_id - 1
    }

    pub(super) fn first_members(&self) -> BTreeMap<u64, String> {
        (1..=self.plan.replicas as u64).map(|id| (id, endpoint(&format!("meta-{id}"), META_PORT).to_string())).collect()
    }

    fn known_members(&self) -> BTreeMap<u64, String> {
        self.replica_endpoints().into_iter().map(|(id, endpoint)| (id, endpoint.to_string())).collect()
    }

    fn order(&self, orders: Vec<Order>) {
        let members = self.replica_endpoints().into_iter().map(|(_, endpoint)| endpoint).collect();
        self.order_at(members, orders);
    }

    fn order_at(&self, members: Vec<Endpoint>, orders: Vec<Order>) {
        self.spawn_client(carry_out(self.clients_net(), members, orders, self.orders.clone()));
    }

    /// Another agent under the name of this one, on a machine of its own.
    pub(super) fn begin_twin(&mut self, agent: Agent) {
        let name = format!("node-{}", agent + 1);
        let host = format!("twin-{}", agent + 1);
        let listen = endpoint(&host, NODE_PORT);
        let seat = self.add_agent(AgentSite { host, name, listen });
        self.machines.twins.push(seat);
        self.boot(seat);
    }

    /// More calls at once than a leader's queue takes.
    pub(super) fn flood(&self) {
        let members = self.replica_endpoints().into_iter().map(|(_, endpoint)| endpoint).collect();
        self.spawn_client(workload::flood(self.clients_net(), members, context::random()));
    }
}
