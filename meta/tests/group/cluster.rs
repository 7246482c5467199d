//! Replicas on loopback ports, with everything a test asks of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_meta::config::MetaConfig;
use foreword_meta::eviction::PolicyPlace;
use foreword_meta::open::open_log;
use foreword_meta::replica::snapshots::Snapshots;
use foreword_meta::serve::{Deps, Handle, ServeError, serve};
use foreword_meta::state::command::ClusterSettings;
use foreword_meta::storage::mark::MemoryMark;
use foreword_meta::storage::memory_engine::MemoryDisk;
use foreword_meta::storage::{Identity, IdentityFile, LogEngine, MarkFile};
use foreword_proto::limits::WIRE_VERSION;
use foreword_proto::records::{self, PageRecord};
use foreword_proto::status::ReplicaStatus;
use foreword_proto::versions::OtherVersion;
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::meta::{
    self as wire, GrantRequest, OpenSessionRequest, PublishRequest, RegisterNamespaceRequest,
};
use foreword_proto::{AgentId, ClusterId, DirectoryId, EntryKey, Location, Namespace, PageKey, SessionId, SlotRef};
use foreword_seams::{
    Endpoint, Entropy, LocalFiles, OsEntropy, Runner, Telemetry, TokioNet, on_a_task, on_a_thread, rpc,
};
use tonic::transport::Channel;

use crate::files::{Disk, TestFiles};
use crate::links::Links;

/// Nothing here should take this long; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct NoFile;

impl IdentityFile for NoFile {
    fn members_are(&self, _: &BTreeMap<u64, String>) -> io::Result<()> {
        Ok(())
    }

    fn bootstrapped(&self) -> io::Result<()> {
        Ok(())
    }

    fn caught_up(&self) -> io::Result<()> {
        Ok(())
    }

    fn distrust(&self) -> io::Result<()> {
        Ok(())
    }

    fn format_version_is(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn needs(&self, _: &OtherVersion) -> io::Result<()> {
        Ok(())
    }
}

/// What of a replica outlives its process.
pub(crate) struct Site {
    pub(crate) endpoint: Endpoint,
    pub(crate) directory: DirectoryId,
    pub(crate) disk: MemoryDisk,
    mark: MemoryMark,
    dir: tempfile::TempDir,
    pub(crate) snapshot_disk: Disk,
    pub(crate) bootstrapped: bool,
    rejoining: bool,
    pub(crate) members: BTreeMap<u64, Endpoint>,
}

pub(crate) struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) sites: BTreeMap<u64, Site>,
    pub(crate) running: BTreeMap<u64, Handle>,
    /// Of each replica's last start.
    pub(crate) telemetry: BTreeMap<u64, Telemetry>,
    pub(crate) log_bytes_per_snapshot: u64,
    pub(crate) watch_bytes_max: u64,
    pub(crate) watch_stuck_ms: u64,
    /// The cluster's, set once.
    pub(crate) l3_bytes: u64,
    pub(crate) hf3fs_reservation_ms: u64,
    /// The cluster's, set once.
    pub(crate) write_rest_ms: u64,
    pub(crate) hf3fs_protection_ms: u64,
    /// When a follower stands for election, at least and at most; none: as by default.
    pub(crate) election_ms: Option<(u64, u64)>,
    /// Where each replica's eviction policy runs, and how far it may be behind.
    pub(crate) policy_runner: Runner,
    pub(crate) policy_feed_bytes_max: usize,
    /// Between the replicas.
    pub(crate) links: Links,
}

pub(crate) fn settings() -> ClusterSettings {
    ClusterSettings {
        chunk_bytes: 4096,
        slab_bytes: 64 * 4096,
        l3_bytes: 4096 * 4096,
        read_rest_ms: 100,
        write_rest_ms: 100,
        first_feature_level: 1,
        hf3fs_protection_ms: 100,
        lease_ms: 5000,
    }
}

impl Cluster {
    /// Reserves addresses by binding them: the sockets close before the replicas bind them again.
    pub(crate) async fn new(replicas: u64) -> Self {
        let mut cluster = Self {
            id: ClusterId([7; 16]),
            sites: BTreeMap::new(),
            running: BTreeMap::new(),
            telemetry: BTreeMap::new(),
            log_bytes_per_snapshot: 64 << 20,
            watch_bytes_max: 64 << 20,
            watch_stuck_ms: 30_000,
            l3_bytes: settings().l3_bytes,
            hf3fs_protection_ms: settings().hf3fs_protection_ms,
            hf3fs_reservation_ms: 60_000,
            write_rest_ms: settings().write_rest_ms,
            election_ms: None,
            policy_runner: on_a_task(),
            policy_feed_bytes_max: 1 << 20,
            links: Links::default(),
        };
        let members: BTreeMap<u64, Endpoint> = (1..=replicas).map(|id| (id, free_endpoint())).collect();
        for (id, endpoint) in &members {
            cluster.add_site(*id, endpoint.clone(), members.clone());
        }
        cluster
    }

    /// Like [`Self::new`], with the address under which the others know replica `id`.
    pub(crate) fn reached_by(mut self, id: u64, endpoint: &Endpoint) -> Self {
        for site in self.sites.values_mut() {
            site.members.insert(id, endpoint.clone());
        }
        self
    }

    pub(crate) async fn started(replicas: u64) -> Self {
        let mut cluster = Self::new(replicas).await;
        cluster.start_all().await;
        cluster
    }

    pub(crate) fn add_site(&mut self, id: u64, endpoint: Endpoint, members: BTreeMap<u64, Endpoint>) {
        let site = Site {
            endpoint,
            directory: DirectoryId(OsEntropy.bytes16()),
            disk: MemoryDisk::default(),
            mark: MemoryMark::default(),
            dir: tempfile::tempdir().unwrap(),
            snapshot_disk: Disk::default(),
            bootstrapped: false,
            rejoining: false,
            members,
        };
        self.sites.insert(id, site);
    }

    pub(crate) async fn start_all(&mut self) {
        for id in self.sites.keys().copied().collect::<Vec<_>>() {
            if !self.running.contains_key(&id) {
                self.start(id).await;
            }
        }
        self.leader().await;
    }

    pub(crate) async fn start(&mut self, id: u64) {
        self.try_start(id).await.unwrap();
    }

    pub(crate) async fn try_start(&mut self, id: u64) -> Result<(), ServeError> {
        let site = self.sites.get_mut(&id).unwrap();
        let settings = ClusterSettings {
            l3_bytes: self.l3_bytes,
            write_rest_ms: self.write_rest_ms,
            hf3fs_protection_ms: self.hf3fs_protection_ms,
            ..settings()
        };
        let members = site.members.iter().map(|(id, endpoint)| (*id, endpoint.to_string())).collect();
        let mut identity = Identity::new(self.id, id, site.directory, settings, members);
        identity.bootstrapped = site.bootstrapped;
        let parts = RefCell::new((site.disk.clone(), site.mark.clone()));
        let (log, _, lost) = open_log(
            || {
                let (disk, mark) = &*parts.borrow();
                Ok((Box::new(disk.open()) as Box<dyn LogEngine>, Box::new(mark.clone()) as Box<dyn MarkFile>))
            },
            &on_a_task(),
            || {
                *parts.borrow_mut() = Default::default();
                Ok(())
            },
        )
        .unwrap();
        (site.disk, site.mark) = parts.into_inner();
        site.rejoining |= lost;
        identity.rejoining = site.rejoining;
        let files = LocalFiles::new(site.dir.path()).unwrap();
        let snapshots = Arc::new(TestFiles { files, disk: site.snapshot_disk.clone() });
        let newest = Snapshots::new(snapshots.clone(), self.id).load_newest().await.unwrap();
        let deps = Deps {
            net: self.links.of(id),
            entropy: Arc::new(OsEntropy),
            telemetry: self.telemetry.entry(id).insert_entry(Telemetry::new()).get().clone(),
            identity,
            identity_file: Arc::new(NoFile),
            log,
            snapshots,
            newest,
            policy: PolicyPlace { runner: self.policy_runner.clone(), feed_bytes_max: self.policy_feed_bytes_max },
            aside: on_a_thread("test-aside"),
        };
        site.bootstrapped = true;
        let mut config = MetaConfig::new(site.dir.path(), site.endpoint.clone());
        config.log_bytes_per_snapshot = self.log_bytes_per_snapshot;
        config.watch_bytes_max = self.watch_bytes_max;
        config.watch_stuck_ms = self.watch_stuck_ms;
        if let Some((least, most)) = self.election_ms {
            (config.election_ms_min, config.election_ms_max) = (least, most);
        }
        config.hf3fs = Some("127.0.0.1:0".parse().unwrap());
        config.hf3fs_reservation_ms = self.hf3fs_reservation_ms;
        self.running.insert(id, serve(config, deps).await?);
        Ok(())
    }

    /// Stops a replica and drops what it had not synced.
    pub(crate) async fn crash(&mut self, id: u64) {
        self.running.remove(&id).unwrap().shutdown().await;
        self.sites[&id].disk.crash(|_| 0);
    }

    /// Nothing that this replica sends to another arrives.
    pub(crate) fn mute(&self, id: u64) {
        self.others(id).for_each(|(_, other)| self.links.cut(id, &other.endpoint));
    }

    /// This replica and the others do not reach each other; clients reach all.
    pub(crate) fn cut_off(&self, id: u64) {
        self.mute(id);
        self.others(id).for_each(|(other, _)| self.links.cut(*other, &self.sites[&id].endpoint));
    }

    fn others(&self, id: u64) -> impl Iterator<Item = (&u64, &Site)> {
        self.sites.iter().filter(move |(other, _)| **other != id)
    }

    /// A counter of a replica, as its /metrics would show it.
    pub(crate) fn counter(&self, id: u64, name: &str) -> u64 {
        let rendered = self.telemetry[&id].render();
        let value = rendered.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    pub(crate) fn channel(&self, id: u64) -> Channel {
        rpc::channel(Arc::new(TokioNet), &self.sites[&id].endpoint)
    }

    pub(crate) fn meta(&self, id: u64) -> MetaClient<Channel> {
        MetaClient::new(self.channel(id))
    }

    pub(crate) fn admin(&self, id: u64) -> AdminClient<Channel> {
        AdminClient::new(self.channel(id))
    }

    pub(crate) async fn status(&self, id: u64) -> ReplicaStatus {
        let json = self.admin(id).status(wire::StatusRequest {}).await.unwrap().into_inner().json;
        serde_json::from_str(&json).unwrap()
    }

    /// Waits for a leader all running replicas agree on.
    pub(crate) async fn leader(&self) -> u64 {
        self.eventually("one leader", async || {
            let mut leaders = Vec::new();
            for id in self.running.keys() {
                leaders.push(self.status(*id).await.leader_id);
            }
            leaders.dedup();
            match leaders.as_slice() {
                [Some(leader)] if self.running.contains_key(leader) => Some(*leader),
                _ => None,
            }
        })
        .await
    }

    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.running.keys().find(|id| **id != leader).unwrap()
    }

    /// Waits until all running replicas report one revision and one digest.
    pub(crate) async fn converged(&self) -> ReplicaStatus {
        self.eventually("one revision and one digest", async || {
            let mut seen = Vec::new();
            for id in self.running.keys() {
                seen.push(self.status(*id).await);
            }
            let same = seen
                .windows(2)
                .all(|pair| pair[0].revision == pair[1].revision && pair[0].state_digest == pair[1].state_digest);
            same.then(|| seen.remove(0))
        })
        .await
    }

    pub(crate) async fn eventually<T>(&self, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never came: {what}"))
    }
}

/// An address to listen on again and again: below the kernel's range for outgoing connections (where that begins at its
/// default), so that no connection of another process is given the port while its replica is down.
pub(crate) fn free_endpoint() -> Endpoint {
    const PORTS: std::ops::Range<u64> = 10_240..32_768;
    loop {
        let port = (PORTS.start + OsEntropy.below(PORTS.end - PORTS.start)) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Endpoint::Tcp(format!("127.0.0.1:{port}"));
        }
    }
}

/// A session that grants and publishes through one replica.
pub(crate) struct Agent {
    pub(crate) client: MetaClient<Channel>,
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
    pub(crate) namespace: u32,
    pub(crate) epoch: u32,
    pub(crate) slots: Vec<SlotRef>,
}

pub(crate) fn namespace() -> Namespace {
    Namespace::simple("test", 64, vec![4096])
}

pub(crate) fn key(number: u64) -> PageKey {
    PageKey::opaque(&number.to_le_bytes())
}

impl Agent {
    pub(crate) async fn open(cluster: &Cluster, replica: u64, node: &str) -> Self {
        Self::open_as(cluster, replica, node, AgentId([1; 16])).await.unwrap()
    }

    /// The session of an agent under a node's name.
    pub(crate) async fn open_as(
        cluster: &Cluster,
        replica: u64,
        node: &str,
        agent: AgentId,
    ) -> Result<Self, tonic::Status> {
        let mut client = cluster.meta(replica);
        client
            .hello(wire::HelloRequest {
                wire_version: WIRE_VERSION,
                cluster_id: cluster.id.0.to_vec().into(),
                ..Default::default()
            })
            .await
            .unwrap();
        let registered = client
            .register_namespace(RegisterNamespaceRequest { namespace: Some((&namespace()).into()) })
            .await
            .unwrap()
            .into_inner();
        let opened = client
            .open_session(OpenSessionRequest {
                node: node.into(),
                incarnation: 1,
                endpoint: format!("agent-{}:1", agent.0[0]),
                agent_id: agent.0.to_vec().into(),
            })
            .await?
            .into_inner();
        Ok(Self {
            client,
            session: SessionId::from_wire(&opened.session)?,
            sequence: 0,
            namespace: registered.namespace_id,
            epoch: registered.epoch,
            slots: Vec::new(),
        })
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) async fn grant(&mut self, slots: u32) {
        let request = GrantRequest { session: self.session.to_wire(), sequence: self.next(), slot_bytes: 4096, slots };
        let granted = self.client.grant(request).await.unwrap().into_inner();
        self.slots.extend(records::decode::<SlotRef>("slots", &granted.slots, 0, 4096).unwrap());
    }

    pub(crate) fn page(&mut self, number: u64) -> PageRecord {
        let slot = self.slots.pop().expect("granted slots are left");
        let checksums = foreword_proto::location::Checksums::new(&[number]);
        PageRecord { key: key(number).entry(), parent: 0, location: Location { slot, checksums } }
    }

    pub(crate) fn publish_request(&mut self, pages: &[PageRecord]) -> PublishRequest {
        PublishRequest {
            session: self.session.to_wire(),
            sequence: self.next(),
            namespace_id: self.namespace,
            epoch: self.epoch,
            pages: records::encode(pages, 1),
        }
    }

    /// Publishes these pages in one batch, granting what it needs; answers with the revision.
    pub(crate) async fn publish(&mut self, numbers: std::ops::Range<u64>) -> u64 {
        let needed = (numbers.end - numbers.start) as usize;
        if self.sequence.is_multiple_of(64) {
            // On a busy machine many publishes take longer than a lease. A leader that cannot renew now does so later.
            let _ = self.client.renew_session(wire::RenewSessionRequest { session: self.session.to_wire() }).await;
        }
        while self.slots.len() < needed {
            self.grant(needed as u32).await;
        }
        let pages: Vec<_> = numbers.map(|number| self.page(number)).collect();
        let request = self.publish_request(&pages);
        let response = self.client.publish(request).await.unwrap().into_inner();
        assert!(response.outcomes.iter().all(|outcome| *outcome == 1), "{:?}", response.outcomes);
        response.revision
    }
}

/// Which of these keys a linearizable lookup at a replica finds.
pub(crate) async fn present(
    cluster: &Cluster,
    replica: u64,
    namespace: u32,
    numbers: std::ops::Range<u64>,
) -> Vec<bool> {
    let keys: Vec<_> = numbers.map(key).collect();
    let request = wire::LookupRequest {
        namespace_id: namespace,
        keys: foreword_proto::key::page_keys_to_wire(&keys),
        freshness: Some(foreword_proto::wire::common::Freshness { min_revision: 0, linearizable: true }),
        every_key: true,
        ..wire::LookupRequest::default()
    };
    let response = cluster.meta(replica).lookup(request).await.unwrap().into_inner();
    response.present.iter().map(|byte| *byte == 1).collect()
}

/// The entry key of a page.
pub(crate) fn entry(number: u64) -> EntryKey {
    key(number).entry()
}
