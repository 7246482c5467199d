//! A whole cluster on simulated machines: its processes, what they stand on, and the faults they meet.

pub mod agent;
mod changes;
mod conditions;
mod generated;
mod lives;
mod machines;
mod operator;
mod policy;
pub mod replica;
mod troubles;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_meta::config::MetaConfig;
use foreword_meta::state::command::{ClusterSettings, Command};
use foreword_meta::storage::{Identity, LogEngine};
use foreword_node::arena::RegionProvider;
use foreword_node::{L3Location, NodeConfig};
use foreword_proto::{ClusterId, DirectoryId};
use foreword_seams::{Endpoint, Entropy, Net};
use parking_lot::Mutex;

use crate::faults::Fault;
use crate::world::context::{self, SimTime};
use crate::world::disk::Disk;
use crate::world::entropy::HostEntropy;
use crate::world::files::SimFiles;
use crate::world::host::Host;
use crate::world::l3::SimL3;
use crate::world::net::{HostId, Network};
use agent::{AgentParts, RunningAgent};
use machines::{Machine, Machines, Role};
pub use operator::Orders;
pub use policy::PolicyPace;
use replica::{ReplicaParts, RunningReplica};
use troubles::Active;

/// How often the world moves on. Nothing crosses the network faster.
pub const QUANTUM: Duration = Duration::from_millis(1);
/// A process that ended by itself is started again after this: what a service manager does.
const RESTART: Duration = Duration::from_millis(400);
/// Ports of the simulated processes; replicas serve the clients of page files on the last one.
const META_PORT: u16 = 7400;
const NODE_PORT: u16 = 7500;
pub const PAGES_PORT: u16 = 7600;

/// Position of a machine in the world.
pub type Seat = usize;

/// What a cluster is made of.
#[derive(Clone)]
pub struct Plan {
    pub replicas: usize,
    pub agents: usize,
    pub settings: ClusterSettings,
    /// What the group has before its first process starts; None: nothing.
    pub generated: Option<foreword_meta::generated::Plan>,
    /// Replicas serve the clients of page files.
    pub page_files: bool,
    pub policy: PolicyPace,
    /// Changes of the configurations' defaults.
    pub meta: Arc<dyn Fn(&mut MetaConfig) + Send + Sync>,
    pub node: Arc<dyn Fn(&mut NodeConfig) + Send + Sync>,
    /// What a planted fault changes.
    pub seams: Seams,
}

/// The parts that a planted fault can replace.
#[derive(Clone)]
pub struct Seams {
    pub regions: Arc<dyn RegionProvider>,
    /// The network as the host of this name has it: `meta-1`, `node-1`, `clients`. Called once a host and cluster.
    pub net: NetSeam,
    /// The log's engine as a process on the host of this name has it.
    pub engine: EngineSeam,
    /// What replicas believe the cluster was initialised with; None: what it was.
    pub settings: Option<ClusterSettings>,
    /// Changes of what each replica is configured with.
    pub meta: fn(&mut MetaConfig),
    /// When syncs of logs make nothing durable.
    pub lies: Lies,
    /// An empty directory that is made for an id that was used says that it is the one before.
    pub copied_directories: bool,
}

/// Puts something between a host's process and its network, by the host's name.
pub type NetSeam = Arc<dyn Fn(&str, Arc<dyn Net>) -> Arc<dyn Net> + Send + Sync>;

/// Puts something between a replica's log and its engine, by the host's name.
pub type EngineSeam = Arc<dyn Fn(&str, Box<dyn LogEngine>) -> Box<dyn LogEngine> + Send + Sync>;

/// When syncs of a log answer and make nothing durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lies {
    #[default]
    Never,
    Always,
    /// From the first time that the disk is slow; the checks believe the disk, until its power is cut.
    AfterSlow,
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            regions: Arc::new(foreword_node::arena::HeapRegions),
            net: Arc::new(|_, net| net),
            engine: Arc::new(|_, engine| engine),
            settings: None,
            meta: |_| {},
            lies: Lies::Never,
            copied_directories: false,
        }
    }
}

/// A cluster and its world.
pub struct Cluster {
    pub network: Network,
    pub l3: SimL3,
    machines: Machines,
    plan: Plan,
    cluster_id: ClusterId,
    /// The commands that made what the group had before its first process started.
    generated: Vec<Command>,
    schedule: Vec<Fault>,
    active: Vec<Active>,
    next_fault: usize,
    next_reset: SimTime,
    next_replica_id: u64,
    /// What operators asked for.
    orders: Arc<Mutex<Orders>>,
    trial: Option<Trial>,
    /// When the last flood came that nothing else went wrong after.
    flooded_at: Option<SimTime>,
    /// How often each kind of fault took effect.
    pub faults_seen: BTreeMap<&'static str, u64>,
}

/// Two agents of one name run, or more was asked of the group than it takes; and nothing else is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Number of the agent whose name another has too.
    pub twin_of: Option<u32>,
    /// Puts that begin from then on should succeed.
    pub since: SimTime,
}

/// Where a replica runs.
struct ReplicaSite {
    /// The machine's name.
    host: String,
    /// The name under which others reach it.
    listen: String,
    id: u64,
    /// Whom it knows.
    members: BTreeMap<u64, String>,
    /// It joins a group, and forms none.
    joins: bool,
}

/// Where an agent runs.
struct AgentSite {
    host: String,
    /// Its own, in its sessions.
    name: String,
    listen: Endpoint,
}

fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp(format!("{host}:{port}"))
}

impl Cluster {
    /// Builds the machines and starts every process.
    pub fn start(plan: Plan, schedule: Vec<Fault>) -> Self {
        let cluster_id = ClusterId(*b"simulated group!");
        let network = Network::default();
        let l3 = SimL3::new();
        l3.init(cluster_id, plan.settings.chunk_bytes);
        let machines = Machines::default();
        let next_replica_id = plan.replicas as u64 + 1;
        let mut cluster = Self {
            network,
            l3,
            machines,
            plan,
            cluster_id,
            generated: Vec::new(),
            schedule,
            active: Vec::new(),
            next_fault: 0,
            next_reset: SimTime::default(),
            next_replica_id,
            orders: Arc::default(),
            trial: None,
            flooded_at: None,
            faults_seen: BTreeMap::new(),
        };
        cluster.add_machines();
        if let Some(generated) = cluster.plan.generated.clone() {
            cluster.generated = cluster.fill(&generated);
        }
        for seat in 0..cluster.machines.all.len() {
            cluster.boot(seat);
        }
        cluster.apply_conditions();
        cluster
    }

    fn add_machines(&mut self) {
        for id in 1..=self.plan.replicas as u64 {
            let host = format!("meta-{id}");
            let members = self.first_members();
            let seat = self.add_replica(ReplicaSite { listen: host.clone(), host, id, members, joins: false });
            self.machines.replicas.push(seat);
        }
        for number in 1..=self.plan.agents {
            let name = format!("node-{number}");
            let seat = self.add_agent(AgentSite { host: name.clone(), listen: endpoint(&name, NODE_PORT), name });
            self.machines.agents.push(seat);
        }
        let host = Host::new(self.network.add("clients"), "clients");
        self.machines.clients = self.add(host, Role::Clients);
    }

    fn add(&mut self, host: Host, role: Role) -> Seat {
        let ended = Arc::default();
        self.machines.all.push(Machine { host, role, ended, restart_at: None, lost: false });
        self.machines.all.len() - 1
    }

    /// What `meta init` writes on a host.
    fn init(&self, host: HostId, id: u64, members: BTreeMap<u64, String>, joins: bool) -> Identity {
        let settings = self.plan.seams.settings.clone().unwrap_or_else(|| self.plan.settings.clone());
        let directory = DirectoryId(HostEntropy::new(host).bytes16());
        let make = if joins { Identity::joining } else { Identity::new };
        make(self.cluster_id, id, directory, settings, members)
    }

    fn add_replica(&mut self, site: ReplicaSite) -> Seat {
        let host = Host::new(self.network.add(&site.host), &site.host);
        let identity = self.init(host.id(), site.id, site.members, site.joins);
        let mut config = MetaConfig::new("/simulated", endpoint(&site.listen, META_PORT));
        config.hf3fs = self.plan.page_files.then(|| endpoint(&site.listen, PAGES_PORT));
        (self.plan.meta)(&mut config);
        (self.plan.seams.meta)(&mut config);
        let parts = ReplicaParts {
            host: host.id(),
            config,
            disk: Disk::new(u32::from(host.id()), identity),
            snapshots: SimFiles::new(u32::from(host.id())),
            net: self.net_of(&host),
            engine: self.plan.seams.engine.clone(),
            policy: self.plan.policy,
            running: Arc::default(),
            recovered_from_full: Arc::default(),
            full_seen: Arc::default(),
        };
        self.add(host, Role::Replica(Box::new(parts)))
    }

    fn add_agent(&mut self, site: AgentSite) -> Seat {
        let host = Host::new(self.network.add(&site.host), &site.host);
        let replicas = (1..=self.plan.replicas).map(|id| endpoint(&format!("meta-{id}"), META_PORT)).collect();
        let mut config = NodeConfig::new(&site.name, replicas, L3Location::Memory);
        config.listen = site.listen;
        (self.plan.node)(&mut config);
        let parts = AgentParts {
            host: host.id(),
            config,
            store: self.l3.store_factory(u32::from(host.id()), &site.host),
            regions: self.plan.seams.regions.clone(),
            files: SimFiles::new(u32::from(host.id())),
            net: self.net_of(&host),
            running: Arc::default(),
        };
        self.add(host, Role::Agent(Box::new(parts)))
    }

    fn net_of(&self, host: &Host) -> Arc<dyn Net> {
        (self.plan.seams.net)(host.name(), self.network.of(host.id()))
    }

    /// The network as the clients have it.
    pub fn clients_net(&self) -> Arc<dyn Net> {
        self.net_of(&self.machines.all[self.machines.clients].host)
    }

    /// Where agents listen.
    pub fn agent_endpoints(&self) -> Vec<Endpoint> {
        (1..=self.plan.agents).map(|number| endpoint(&format!("node-{number}"), NODE_PORT)).collect()
    }

    /// Where the members listen now, by replica id.
    pub fn replica_endpoints(&self) -> Vec<(u64, Endpoint)> {
        self.replicas().map(|(parts, _)| (parts.disk.identity().replica_id, parts.config.listen.clone())).collect()
    }

    /// Where the members serve the clients of page files.
    pub fn page_servers(&self) -> Vec<Endpoint> {
        self.replicas().filter_map(|(parts, _)| parts.config.hf3fs.clone()).collect()
    }

    /// Adds a task to the clients' host.
    pub fn spawn_client(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.machines.all[self.machines.clients].host.spawn(task);
    }

    /// The members' machines, with what runs on them.
    pub fn replicas(&self) -> impl Iterator<Item = (&ReplicaParts, Option<RunningReplica>)> {
        self.machines.replicas.iter().filter_map(|seat| match &self.machines.all[*seat].role {
            Role::Replica(parts) => Some((&**parts, parts.running.lock().clone())),
            _ => None,
        })
    }

    /// The entry `index` as the log of a replica that applied it has it; None when no replica has. What was applied
    /// from a log is never truncated. A replica whose snapshot covers the entry may have been sent that snapshot over
    /// another entry: it is the last asked.
    pub fn committed_item(&self, index: u64) -> Option<Bytes> {
        let mut covered = None;
        for (parts, running) in self.replicas() {
            let Some(running) = running.filter(|running| running.group.applied.revision() >= index) else { continue };
            let Some(item) = parts.disk.taken_item(index) else { continue };
            let snapshot = running.group.raft.metrics().borrow().snapshot;
            if snapshot.is_none_or(|id| id.index < index) {
                return Some(item);
            }
            covered.get_or_insert(item);
        }
        covered
    }

    /// The commands of which the state was made that the group had before its first process started: entry by entry,
    /// from revision 1.
    pub fn generated(&self) -> &[Command] {
        &self.generated
    }

    /// What happened below the seams, by name: the simulator's own markers.
    pub fn effects(&self) -> BTreeMap<&'static str, u64> {
        let mut effects = BTreeMap::new();
        let mut add = |name, count| *effects.entry(name).or_default() += count;
        for machine in &self.machines.all {
            if let Role::Replica(parts) = &machine.role {
                let disk = parts.disk.counts();
                add("disk-writes-lost", disk.writes_lost);
                add("disk-torn-item", disk.torn_items);
                add("disk-torn-mark", disk.torn_marks);
                add("disk-io-error", disk.io_errors);
                add("disk-full-met", disk.no_space);
                add("disk-full-recovered", parts.recovered_from_full());
                add("large-snapshot-received", parts.snapshots.counts().large_adopted);
            }
        }
        let l3 = self.l3.counts();
        add("l3-torn-write", l3.torn);
        add("l3-late-write", l3.late_landed);
        add("l3-late-write-on-reused-slot", l3.late_on_reused);
        add("l3-write-after-its-process", l3.landed_without_store);
        add("l3-bit-flipped", l3.flipped_writes + l3.flipped_reads);
        add("l3-short-read", l3.short_reads);
        add("l3-lost-completion", l3.dropped);
        let net = self.network.counts();
        add("net-held", net.held);
        add("net-reset", net.resets);
        add("net-misled", net.misled);
        let orders = self.orders.lock();
        add("operator-change-made", orders.made);
        add("operator-slip-refused", orders.slips_refused);
        effects
    }

    /// The agents that serve, by number from 0.
    pub fn agents(&self) -> impl Iterator<Item = (usize, Option<RunningAgent>)> {
        self.machines.agents.iter().enumerate().map(|(number, seat)| match &self.machines.all[*seat].role {
            Role::Agent(parts) => (number, parts.running.lock().clone()),
            _ => (number, None),
        })
    }

    /// The number of an agent's process now, 0 while there is none; those of twins come after the others.
    pub fn agent_incarnations(&self) -> Vec<u64> {
        let of = |seat: &Seat| {
            let host = &self.machines.all[*seat].host;
            if host.runs() { host.incarnation() } else { 0 }
        };
        self.machines.agents.iter().chain(&self.machines.twins).map(of).collect()
    }

    /// Where agents listen that run under the name of another.
    pub fn twin_endpoints(&self) -> Vec<Endpoint> {
        let listen = |seat: &Seat| match &self.machines.all[*seat].role {
            Role::Agent(parts) => Some(parts.config.listen.clone()),
            _ => None,
        };
        self.machines.twins.iter().filter_map(listen).collect()
    }

    /// What agents must bear now.
    pub fn trial(&self) -> Option<Trial> {
        self.trial
    }

    /// What operators asked for so far.
    pub fn orders(&self) -> Orders {
        self.orders.lock().clone()
    }

    /// The replicas that run under the id of a member beside it.
    pub fn strays(&self) -> impl Iterator<Item = (&ReplicaParts, Option<RunningReplica>)> {
        let strays = self.machines.strays.iter().filter_map(|seat| self.machines.all[*seat].replica());
        strays.map(|parts| (parts, parts.running.lock().clone()))
    }

    /// Of each member, those from which it could hear now: both run, and what either sends arrives.
    pub fn within_earshot(&self) -> BTreeMap<u64, BTreeSet<u64>> {
        let awake = |seat: &&Seat| {
            let host = &self.machines.all[**seat].host;
            host.runs() && !host.paused()
        };
        let members: Vec<(u64, u16)> = self
            .machines
            .replicas
            .iter()
            .filter(awake)
            .filter_map(|seat| {
                let machine = &self.machines.all[*seat];
                Some((machine.replica()?.disk.identity().replica_id, machine.host.id()))
            })
            .collect();
        let open = |a: u16, b: u16| !self.network.link(a, b).cut && !self.network.link(b, a).cut;
        let hears = |(id, host): &(u64, u16)| {
            (*id, members.iter().filter(|(_, other)| open(*host, *other)).map(|(id, _)| *id).collect())
        };
        members.iter().map(hears).collect()
    }

    /// True while any fault of the schedule is under way or to come.
    pub fn faulty(&self) -> bool {
        !self.active.is_empty() || self.next_fault < self.schedule.len()
    }

    /// True when a fault begins in the next quantum.
    pub fn fault_is_next(&self) -> bool {
        let next_ms = (context::now() + QUANTUM).millis();
        self.schedule.get(self.next_fault).is_some_and(|fault| fault.at_ms <= next_ms)
    }
}
