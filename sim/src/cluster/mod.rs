//! A whole cluster on simulated machines: its processes, what they stand on, and the faults they meet.

pub mod agent;
mod conditions;
mod operator;
pub mod replica;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foreword_meta::config::MetaConfig;
use foreword_meta::state::command::ClusterSettings;
use foreword_meta::storage::{Identity, LogEngine};
use foreword_node::arena::RegionProvider;
use foreword_node::{L3Location, NodeConfig};
use foreword_proto::{ClusterId, DirectoryId};
use foreword_seams::{Endpoint, Entropy, Net};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::faults::kind::{Place, Replica};
use crate::faults::{Fault, FaultKind};
use crate::world::context::{self, Kind, SimTime};
use crate::world::disk::Disk;
use crate::world::entropy::HostEntropy;
use crate::world::files::{FilesWeather, SimFiles};
use crate::world::host::Host;
use crate::world::l3::SimL3;
use crate::world::net::{HostId, Network};
use agent::{AgentParts, RunningAgent};
use conditions::Conditions;
use replica::{ReplicaParts, RunningReplica};

/// How often the world moves on. Nothing crosses the network faster.
pub const QUANTUM: Duration = Duration::from_millis(1);
/// A process that ended by itself is started again after this: what a service manager does.
const RESTART: Duration = Duration::from_millis(400);
/// Resets between two hosts come this often while that fault lasts.
const RESETS_EVERY_MS: u64 = 300;
/// Entries that a lost tail has, at most.
const LOST_ITEMS_MAX: u64 = 8;
/// A sync of a fair disk takes up to so long, in microseconds.
const SYNC_US_MAX: u64 = 3_000;
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
    /// Replicas serve the clients of page files.
    pub page_files: bool,
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
        }
    }
}

enum Role {
    Replica(Box<ReplicaParts>),
    Agent(Box<AgentParts>),
    Clients,
}

struct Machine {
    host: Host,
    role: Role,
    /// Why the process ended by itself.
    ended: Arc<Mutex<Option<String>>>,
    restart_at: Option<SimTime>,
    /// It will never be started again.
    lost: bool,
}

/// The machines of a cluster, by seat.
struct Machines {
    all: Vec<Machine>,
    /// Seats of the group's members, in the order of the first ones; a replaced one's seat is its successor's.
    replicas: Vec<Seat>,
    agents: Vec<Seat>,
    clients: Seat,
}

impl Machines {
    fn seat(&self, place: Place) -> Seat {
        match place {
            Place::Replica(number) => self.replicas[number],
            Place::Agent(number) => self.agents[number],
            Place::Clients => self.clients,
        }
    }

    fn host_of(&self, seat: Seat) -> HostId {
        self.all[seat].host.id()
    }

    fn cluster_seats(&self) -> impl Iterator<Item = Seat> {
        self.replicas.iter().chain(&self.agents).copied()
    }
}

/// A cluster and its world.
pub struct Cluster {
    pub network: Network,
    pub l3: SimL3,
    machines: Machines,
    plan: Plan,
    cluster_id: ClusterId,
    schedule: Vec<Fault>,
    /// Positions in the schedule of what is under way.
    active: Vec<usize>,
    next_fault: usize,
    next_reset: SimTime,
    next_replica_id: u64,
    /// How often each kind of fault took effect.
    pub faults_seen: BTreeMap<&'static str, u64>,
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
        let machines = Machines { all: Vec::new(), replicas: Vec::new(), agents: Vec::new(), clients: 0 };
        let next_replica_id = plan.replicas as u64 + 1;
        let mut cluster = Self {
            network,
            l3,
            machines,
            plan,
            cluster_id,
            schedule,
            active: Vec::new(),
            next_fault: 0,
            next_reset: SimTime::default(),
            next_replica_id,
            faults_seen: BTreeMap::new(),
        };
        cluster.add_machines();
        for seat in 0..cluster.machines.all.len() {
            cluster.boot(seat);
        }
        cluster.apply_conditions();
        cluster
    }

    fn add_machines(&mut self) {
        let members: BTreeMap<u64, String> = (1..=self.plan.replicas as u64)
            .map(|id| (id, endpoint(&format!("meta-{id}"), META_PORT).to_string()))
            .collect();
        for id in 1..=self.plan.replicas as u64 {
            let seat = self.add_replica(id, members.clone());
            self.machines.replicas.push(seat);
        }
        for number in 1..=self.plan.agents {
            let seat = self.add_agent(number);
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

    fn add_replica(&mut self, id: u64, members: BTreeMap<u64, String>) -> Seat {
        let name = format!("meta-{id}");
        let host = Host::new(self.network.add(&name), &name);
        let settings = self.plan.seams.settings.clone().unwrap_or_else(|| self.plan.settings.clone());
        let joins = id > self.plan.replicas as u64;
        let directory = HostEntropy::new(host.id()).bytes16();
        let make = if joins { Identity::joining } else { Identity::new };
        let identity = make(self.cluster_id, id, DirectoryId(directory), settings, members);
        let mut config = MetaConfig::new("/simulated", endpoint(&name, META_PORT));
        config.hf3fs = self.plan.page_files.then(|| endpoint(&name, PAGES_PORT));
        (self.plan.meta)(&mut config);
        (self.plan.seams.meta)(&mut config);
        let parts = ReplicaParts {
            host: host.id(),
            config,
            disk: Disk::new(u32::from(host.id()), identity),
            snapshots: SimFiles::new(u32::from(host.id())),
            net: self.net_of(&host),
            engine: self.plan.seams.engine.clone(),
            running: Arc::default(),
            recovered_from_full: Arc::default(),
            full_seen: Arc::default(),
        };
        self.add(host, Role::Replica(Box::new(parts)))
    }

    fn add_agent(&mut self, number: usize) -> Seat {
        let name = format!("node-{number}");
        let host = Host::new(self.network.add(&name), &name);
        let replicas = (1..=self.plan.replicas).map(|id| endpoint(&format!("meta-{id}"), META_PORT)).collect();
        let mut config = NodeConfig::new(&name, replicas, L3Location::Memory);
        config.listen = endpoint(&name, NODE_PORT);
        (self.plan.node)(&mut config);
        let parts = AgentParts {
            host: host.id(),
            config,
            store: self.l3.store_factory(u32::from(host.id()), &name),
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

    /// The entry `index` as the log of a replica that applied it has it; None when no replica has. What was applied from a log is never
    /// truncated. A replica whose snapshot covers the entry may have been sent that snapshot over another entry: it is the last asked.
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
        effects
    }

    /// The agents that serve, by number from 0.
    pub fn agents(&self) -> impl Iterator<Item = (usize, Option<RunningAgent>)> {
        self.machines.agents.iter().enumerate().map(|(number, seat)| match &self.machines.all[*seat].role {
            Role::Agent(parts) => (number, parts.running.lock().clone()),
            _ => (number, None),
        })
    }

    /// The number of an agent's process now, 0 while there is none.
    pub fn agent_incarnations(&self) -> Vec<u64> {
        let of = |seat: &Seat| {
            let host = &self.machines.all[*seat].host;
            if host.runs() { host.incarnation() } else { 0 }
        };
        self.machines.agents.iter().map(of).collect()
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

    /// Moves the world on by one quantum.
    pub fn step(&mut self) {
        context::set_now(context::now() + QUANTUM);
        self.change_faults();
        self.restart_ended();
        self.network.deliver();
        self.l3.advance();
        for machine in &mut self.machines.all {
            machine.host.step(QUANTUM);
        }
    }

    fn boot(&mut self, seat: Seat) {
        let machine = &mut self.machines.all[seat];
        if machine.lost || machine.host.runs() {
            return;
        }
        machine.restart_at = None;
        self.network.power_on(machine.host.id());
        let incarnation = machine.host.incarnation() + 1;
        let ended = machine.ended.clone();
        let life: BoxFuture<'static, String> = match &machine.role {
            Role::Replica(parts) => Box::pin((**parts).clone().run(incarnation)),
            Role::Agent(parts) => Box::pin((**parts).clone().run(incarnation)),
            Role::Clients => Box::pin(std::future::pending()),
        };
        machine.host.boot(async move {
            let reason = life.await;
            *ended.lock() = Some(reason);
        });
    }

    /// The process is gone; `power`: and the machine's power with it.
    fn kill(&mut self, seat: Seat, power: bool) {
        let machine = &mut self.machines.all[seat];
        self.network.process_gone(machine.host.id(), !power);
        match &machine.role {
            Role::Replica(parts) => {
                *parts.running.lock() = None;
                if power {
                    parts.disk.crash();
                }
                parts.snapshots.crash();
            }
            Role::Agent(parts) => {
                *parts.running.lock() = None;
                parts.files.crash();
            }
            Role::Clients => {}
        }
        machine.host.kill();
        *machine.ended.lock() = None;
        machine.restart_at = None;
    }

    fn restart_ended(&mut self) {
        let now = context::now();
        for seat in 0..self.machines.all.len() {
            let machine = &mut self.machines.all[seat];
            let reason = machine.ended.lock().take();
            if let Some(reason) = reason {
                context::event(Kind::Host, || format!("{} ended: {reason}", machine.host.name()));
                self.kill(seat, false);
                self.machines.all[seat].restart_at = Some(now + RESTART);
            } else if machine.restart_at.is_some_and(|at| at <= now) {
                self.boot(seat);
            }
        }
    }

    fn change_faults(&mut self) {
        let now_ms = context::now().millis();
        let ended: Vec<usize> =
            self.active.iter().copied().filter(|at| self.schedule[*at].ends_ms() <= now_ms).collect();
        let mut changed = !ended.is_empty();
        self.active.retain(|at| !ended.contains(at));
        for at in &ended {
            context::event(Kind::Fault, || format!("ends: {}", self.schedule[*at]));
        }
        while self.schedule.get(self.next_fault).is_some_and(|fault| fault.at_ms <= now_ms) {
            let at = self.next_fault;
            self.next_fault += 1;
            self.active.push(at);
            let fault = self.schedule[at].clone();
            context::event(Kind::Fault, || format!("begins: {fault}"));
            *self.faults_seen.entry(fault.kind.name()).or_default() += 1;
            self.begin(&fault);
            changed = true;
        }
        if changed {
            self.apply_conditions();
        }
        self.reset_connections();
    }

    /// What a fault does once, when it begins.
    fn begin(&mut self, fault: &Fault) {
        match &fault.kind {
            FaultKind::Crash(place) => self.kill(self.machines.seat(*place), false),
            FaultKind::PowerCut(place) => self.kill(self.machines.seat(*place), true),
            FaultKind::PowerCutAll => {
                let seats: Vec<Seat> = self.machines.cluster_seats().collect();
                seats.into_iter().for_each(|seat| self.kill(seat, true));
            }
            FaultKind::DiskRot(replica) => {
                self.damage(*replica, |parts| _ = parts.disk.rot_item());
            }
            FaultKind::MarkRot(replica) => {
                let both = context::random_below(2) == 0;
                self.damage(*replica, |parts| parts.disk.rot_mark(both));
            }
            FaultKind::LostTail(replica) => {
                let items = 1 + context::random_below(LOST_ITEMS_MAX) as usize;
                self.damage(*replica, |parts| parts.disk.lose_tail(items));
            }
            FaultKind::SnapshotRot(replica) => self.damage(*replica, |parts| _ = parts.snapshots.rot()),
            FaultKind::Replace(replica) => self.replace(*replica),
            _ => {}
        }
    }

    /// Rot is found at the next start only: the process dies with it.
    fn damage(&mut self, replica: Replica, damage: impl FnOnce(&ReplicaParts)) {
        let seat = self.machines.replicas[replica];
        self.kill(seat, false);
        if let Role::Replica(parts) = &self.machines.all[seat].role {
            damage(parts);
        }
    }

    /// The machine is lost with its disk; a new one joins in its place.
    fn replace(&mut self, replica: Replica) {
        let seat = self.machines.replicas[replica];
        self.kill(seat, true);
        self.machines.all[seat].lost = true;
        let old = match &self.machines.all[seat].role {
            Role::Replica(parts) => parts.disk.identity().replica_id,
            _ => return,
        };
        let new = self.next_replica_id;
        self.next_replica_id += 1;
        let known = self.replica_endpoints();
        let members = known.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        let known = known.into_iter().map(|(id, endpoint)| (id, endpoint.to_string())).collect();
        let successor = self.add_replica(new, known);
        self.machines.replicas[replica] = successor;
        self.boot(successor);
        let change = operator::Replace { old, new, endpoint: endpoint(&format!("meta-{new}"), META_PORT) };
        self.spawn_client(operator::replace(self.clients_net(), members, change));
    }

    fn reset_connections(&mut self) {
        let now = context::now();
        if now < self.next_reset {
            return;
        }
        self.next_reset = now + Duration::from_millis(RESETS_EVERY_MS);
        for at in &self.active {
            if let FaultKind::Resets(a, b) = self.schedule[*at].kind {
                let hosts = [a, b].map(|place| self.machines.host_of(self.machines.seat(place)));
                let reset = self.network.reset_between(hosts[0], hosts[1]);
                context::event(Kind::Net, || format!("{reset} connections reset between {a} and {b}"));
            }
        }
    }

    /// Makes the world as the faults under way have it.
    fn apply_conditions(&mut self) {
        let active = self.active.iter().map(|at| &self.schedule[*at]);
        let conditions = Conditions::of(active, &self.machines);
        let hosts: Vec<HostId> = self.machines.all.iter().map(|machine| machine.host.id()).collect();
        for from in &hosts {
            for to in hosts.iter().filter(|to| *to != from) {
                let link = conditions.link(*from, *to);
                if self.network.link(*from, *to) != link {
                    self.network.set_link(*from, *to, link);
                }
            }
        }
        self.l3.set_weather(None, conditions.l3);
        for (replica, seat) in self.machines.replicas.iter().enumerate() {
            if let Role::Replica(parts) = &self.machines.all[*seat].role {
                let mut weather = conditions.disks.get(&replica).cloned().unwrap_or_default();
                let slow = weather.sync_us_max > 0;
                weather.sync_us_max = weather.sync_us_max.max(SYNC_US_MAX);
                weather.lies = match self.plan.seams.lies {
                    Lies::Never => false,
                    Lies::Always => true,
                    Lies::AfterSlow => slow || parts.disk.weather().lies,
                };
                weather.believed = self.plan.seams.lies == Lies::AfterSlow;
                parts.disk.set_weather(weather);
                parts.snapshots.set_weather(FilesWeather { fault: weather.fault, ..FilesWeather::default() });
            }
        }
        for seat in 0..self.machines.all.len() {
            let machine = &mut self.machines.all[seat];
            machine.host.set_drift_ppm(conditions.drift_ppm.get(&seat).copied().unwrap_or(0));
            machine.host.set_paused(conditions.paused.contains_key(&seat));
            let down = conditions.down.contains_key(&seat);
            if down {
                machine.restart_at = None;
                if machine.host.runs() {
                    self.kill(seat, false);
                }
            } else if machine.restart_at.is_none() {
                self.boot(seat);
            }
        }
    }
}
