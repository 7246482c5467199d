//! Between two quanta: feeds the reference state from the disks, and shows the cluster to the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foreword_meta::replica::group::Leader;
use foreword_meta::state::command::{ClusterSettings, Command};
use foreword_meta::state::hf3fs::FileCounts;

use crate::cluster::Cluster;
use crate::cluster::replica::{ReplicaParts, RunningReplica};
use crate::history::History;
use crate::invariants::{AgentView, Checks, DiskView, Found, ReplicaView, Settings, View};
use crate::oracle::Oracle;
use crate::sightings::Sightings;
use crate::workload;
use crate::workload::page_files::{PROTECTION_MS, RESERVATION_MS};
use crate::world::context::SimTime;

/// How long after the faults stop everything must work again.
pub const LIVENESS_BOUND: Duration = Duration::from_secs(9);
/// How much longer than a lease and a rest together after the last call nothing may be left that nobody owns.
const QUIET_MORE: Duration = Duration::from_secs(1);
/// How long after its lease a session may be open while there is a leader: a new leader waits one lease, and ticks take
/// a while.
const EXPIRY_BOUND: Duration = Duration::from_secs(5);

/// The reference, the invariants, and since when the cluster is left alone.
pub struct Observer {
    oracle: Oracle,
    checks: Checks,
    sightings: Sightings,
    settings: Settings,
    /// The entry of each replica that was held against the reference last.
    read: BTreeMap<u64, u64>,
    pub healed_since: Option<SimTime>,
    pub quiet_since: Option<SimTime>,
}

impl Observer {
    /// Before a cluster of these settings starts. `believed`: the settings by which its replicas apply commands.
    /// `generated`: the commands that made what the cluster begins with.
    pub fn new(settings: &ClusterSettings, believed: &ClusterSettings, agents: usize, generated: &[Command]) -> Self {
        let checked = Settings {
            members: BTreeSet::new(),
            configs: Vec::new(),
            agents: (0..agents as u32).collect(),
            cluster: settings.clone(),
            lease: Duration::from_millis(settings.lease_ms),
            expiry_bound: EXPIRY_BOUND,
            lookup_deadline: workload::CALL_DEADLINE,
            liveness_bound: LIVENESS_BOUND,
            quiet_bound: Duration::from_millis(settings.lease_ms + settings.write_rest_ms) + QUIET_MORE,
            protection: Duration::from_millis(PROTECTION_MS),
            reservation: Duration::from_millis(RESERVATION_MS),
        };
        let mut oracle = Oracle::new(believed.clone());
        oracle.begin_with(generated);
        Self {
            oracle,
            checks: Checks::new(),
            sightings: Sightings::default(),
            settings: checked,
            read: BTreeMap::new(),
            healed_since: None,
            quiet_since: None,
        }
    }

    /// Looks once. True if something was found broken that was not before.
    pub fn look(&mut self, cluster: &Cluster, history: &History, now: SimTime) -> bool {
        self.follow(cluster);
        let Self { oracle, checks, sightings, settings, healed_since, quiet_since, .. } = self;
        let view = view(oracle, settings, cluster, history, (now, *healed_since, *quiet_since));
        sightings.look(&view.replicas);
        checks.observe(&view)
    }

    /// Looks for the last time.
    pub fn finish(&mut self, cluster: &Cluster, history: &History, now: SimTime) -> bool {
        self.follow(cluster);
        self.oracle.check_now();
        let Self { oracle, checks, settings, healed_since, quiet_since, .. } = self;
        checks.finish(&view(oracle, settings, cluster, history, (now, *healed_since, *quiet_since)))
    }

    /// What was found.
    pub fn found(&self) -> &[Found] {
        self.checks.found()
    }

    /// Entries of the log that were committed.
    pub fn committed(&self) -> u64 {
        self.oracle.revision()
    }

    /// What happened to pages of page files, by name: the simulator's own markers.
    pub fn page_effects(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.oracle.state().hf3fs().files().map(|(_, file)| file.counts());
        let mut effects = BTreeMap::new();
        let mut add = |name, count| *effects.entry(name).or_default() += count;
        for counts in counts.chain([FileCounts::default()]) {
            add("pages-evicted", counts.evicted);
            add("pages-expired", counts.expired);
            add("pages-confirm-ignored", counts.ignored_confirms);
            add("pages-release-ignored", counts.ignored_releases);
        }
        effects
    }

    /// What became of leaders that were cut off, by name.
    pub fn sightings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.sightings.effects().into_iter()
    }

    /// Gives the reference every entry that some replica has applied since.
    fn follow(&mut self, cluster: &Cluster) {
        self.read_again(cluster);
        let running = cluster.replicas().filter_map(|(_, running)| running);
        let newest = running.max_by_key(|running| running.group.applied.revision());
        let Some(newest) = newest else { return };
        let applied = newest.group.applied.revision();
        // The group is what its newest state says it is.
        self.settings.configs = newest
            .group
            .applied
            .read_with_position(|_, position| position.membership.membership().get_joint_config().clone());
        self.settings.members = self.settings.configs.iter().flatten().copied().collect();
        while self.oracle.next_index() <= applied {
            let index = self.oracle.next_index();
            let Some(item) = cluster.committed_item(index) else { return };
            self.oracle.advance(index, &item);
            if self.oracle.next_index() == index {
                return;
            }
        }
    }

    /// What a leader applied last is what the reference read there. A leader has every committed entry in its log, or
    /// in a snapshot.
    fn read_again(&mut self, cluster: &Cluster) {
        for (parts, running) in cluster.replicas() {
            let Some(running) = running.filter(|running| matches!(running.group.leader(), Leader::Here)) else {
                continue;
            };
            let applied = running.group.applied.revision();
            if applied < self.oracle.next_index()
                && self.read.insert(parts.disk.identity().replica_id, applied) != Some(applied)
                && let Some(item) = parts.disk.item(applied)
            {
                self.oracle.advance(applied, &item);
            }
        }
    }
}

fn replica_view((parts, running): (&ReplicaParts, Option<RunningReplica>)) -> Option<ReplicaView> {
    let running = running?;
    Some(ReplicaView {
        id: parts.disk.identity().replica_id,
        group: running.group,
        incarnation: running.incarnation,
        ready: running.standing.ready(),
        may_vote: running.standing.may_vote(),
        directory: parts.disk.directory(),
    })
}

fn view<'a>(
    oracle: &'a Oracle,
    settings: &'a Settings,
    cluster: &Cluster,
    history: &'a History,
    (now, healed_since, quiet_since): (SimTime, Option<SimTime>, Option<SimTime>),
) -> View<'a> {
    let replicas = cluster.replicas().filter_map(replica_view);
    let strays = cluster.strays().filter_map(replica_view);
    let agents = cluster.agents().filter_map(|(number, running)| {
        let running = running?;
        let (number, name) = (number as u32, format!("node-{}", number + 1));
        Some(AgentView { number, name, incarnation: running.incarnation, api: running.agent })
    });
    let disks = cluster.replicas().map(|(parts, _)| DiskView {
        replica: parts.disk.identity().replica_id,
        directory: parts.disk.directory(),
        durable_last: parts.durable_last(),
        covered: parts.covered(),
        log: Some(parts.disk.clone()),
    });
    View {
        now,
        oracle,
        replicas: replicas.collect(),
        agents: agents.collect(),
        strays: strays.collect(),
        disks: disks.collect(),
        earshot: cluster.within_earshot(),
        orders: cluster.orders(),
        trial: cluster.trial(),
        l3: cluster.l3.counts(),
        disturbed: cluster.disturbed(),
        agents_stand_still: cluster.agents_stand_still(),
        history,
        healed_since,
        quiet_since,
        settings,
    }
}
