//! One run: a cluster under load while a scenario does its worst, then the judgement.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use foreword_cli::clients::{self, Group};
use foreword_cli::cluster::{Cluster, L3Spec, Spec};
use foreword_cli::driver::recorder::Recorder;
use foreword_cli::driver::transfer::Got;
use foreword_cli::human::Span;
use foreword_proto::wire::node as n;
use foreword_proto::{Namespace, Tier};
use foreword_seams::{Endpoint, Entropy, OsEntropy};
use parking_lot::Mutex;
use tokio::sync::{SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::checker::Fault;
use super::history::{Away, History};
use super::{audit, checker, readers, until, writers};

/// Bytes of a page, which has one shard.
pub(crate) const PAGE_BYTES: u64 = 4096;
const REPLICAS: usize = 3;
pub(crate) const AGENTS: usize = 2;
const WRITERS: u64 = 8;
/// Room for more pages than any run writes: what is gone was lost.
const L3_BYTES: u64 = 128 << 20;
const SLAB_BYTES: u64 = 8 << 20;
/// Smaller than what a run writes: reads come from L1 and from L3.
const ARENA_BYTES: u64 = 4 << 20;
pub(crate) const LEASE: Span = Span(Duration::from_secs(3));
const REST: Span = Span(Duration::from_millis(100));
/// Set to a directory: clusters live there and stay, with their logs.
const KEEP_ENV: &str = "FOREWORD_KILL_TESTS_DIR";
/// A run that acknowledged less proved nothing.
const PAGES_MIN: usize = 100;
/// Faults printed before the rest is only counted.
const FAULTS_SHOWN: usize = 10;

/// What the writers and readers share.
pub(crate) struct Load {
    pub(super) sockets: Vec<Endpoint>,
    pub(super) namespace_id: u32,
    pub(super) seed: u64,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) history: Mutex<History>,
    began: Instant,
}

impl Load {
    /// Since the run began.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A cluster under load.
pub(crate) struct Run {
    // Clients first: the processes they talk to end after them.
    clients: JoinSet<()>,
    pub(crate) cluster: Cluster,
    name: &'static str,
    namespace: Namespace,
    load: Arc<Load>,
    group: Group,
    recorder: Recorder,
    stop: watch::Sender<bool>,
    /// When the load ended.
    loaded: Duration,
    _room: SemaphorePermit<'static>,
}

/// The cluster the scenarios start from.
pub(crate) fn spec() -> Spec {
    let kept = std::env::var_os(KEEP_ENV).map(PathBuf::from);
    Spec {
        binary: env!("CARGO_BIN_EXE_foreword").into(),
        keep: kept.is_some(),
        dir: kept,
        replicas: REPLICAS,
        agents: AGENTS,
        l3_bytes: L3_BYTES,
        slab_bytes: SLAB_BYTES,
        l3: L3Spec::Posix,
        chunk_bytes: PAGE_BYTES,
        arena_bytes: ARENA_BYTES,
        lease: LEASE,
        read_rest: REST,
        write_rest: REST,
        config: String::new(),
        generated: None,
    }
}

impl Run {
    /// Starts a cluster, eight writers and a reader an agent.
    pub(crate) async fn start(name: &'static str, spec: Spec) -> Self {
        let room = crate::CLUSTERS.acquire().await.expect("a semaphore that is never closed");
        let say = |what: &str| eprintln!("{name}: {what}");
        let cluster = Cluster::start(spec, say).await.expect("a cluster");
        let sockets = cluster.agent_endpoints();
        let namespace = Namespace::simple("kill-tests", 1, vec![PAGE_BYTES]);
        let mut namespace_id = 0;
        for socket in &sockets {
            namespace_id = open(socket, &namespace).await;
        }
        let group = clients::group(&cluster.meta_endpoints()).expect("a group");
        let shards = namespace.shard_bytes.len();
        let recorder = Recorder::start(group.clone(), namespace_id, shards).await.expect("a recorded watch stream");
        let (stop, stopped) = watch::channel(false);
        let seed = OsEntropy.u64();
        let history = Mutex::default();
        let load = Arc::new(Load { sockets, namespace_id, seed, stopped, history, began: Instant::now() });
        let mut clients = JoinSet::new();
        for writer in 0..WRITERS {
            clients.spawn(writers::write(Arc::clone(&load), writer, writer as usize % AGENTS));
        }
        for agent in 0..AGENTS {
            clients.spawn(readers::read(Arc::clone(&load), agent));
        }
        Self { clients, cluster, name, namespace, load, group, recorder, stop, loaded: Duration::ZERO, _room: room }
    }

    /// Waits until so many more pages are acknowledged, of puts that begin after now.
    pub(crate) async fn acked(&self, pages: usize) {
        self.acked_since(pages, self.load.now(), |_| true).await;
    }

    /// The same through one agent.
    pub(crate) async fn acked_through(&self, agent: usize, pages: usize) {
        self.acked_since(pages, self.load.now(), |through| through == agent).await;
    }

    /// From now to the first acknowledgement of a put that begins after now; run while something is dead.
    pub(crate) async fn outage(&self) -> Duration {
        let killed = self.load.now();
        self.acked_since(1, killed, |_| true).await;
        let history = self.load.history.lock();
        let after = history.acks.iter().filter(|ack| ack.submitted > killed);
        after.map(|ack| ack.acked).min().expect("one was just there") - killed
    }

    async fn acked_since(&self, pages: usize, since: Duration, through: impl Fn(usize) -> bool) {
        until("acknowledgements", || async {
            let history = self.load.history.lock();
            let new = history.acks.iter().filter(|ack| ack.submitted > since && through(ack.agent)).count();
            (new >= pages).then_some(())
        })
        .await;
    }

    /// Waits until the reader of this agent has begun and ended so many more reads.
    pub(crate) async fn read_through(&self, agent: usize, reads: usize) {
        let since = self.load.now();
        until("reads", || async {
            let history = self.load.history.lock();
            let new = history.reads.iter().filter(|read| read.agent == agent && read.from > since).count();
            (new >= reads).then_some(())
        })
        .await;
    }

    /// SIGKILL for an agent; its calls may fail until [`Run::agent_is_back`].
    pub(crate) fn kill_agent(&mut self, agent: usize) {
        let away = Away { agent, from: self.load.now(), until: Duration::MAX };
        self.load.history.lock().away.push(away);
        self.cluster.kill_agent(agent).expect("an agent that runs");
    }

    /// Starts a killed agent again and opens the namespace on it, as its engine would.
    pub(crate) async fn agent_is_back(&mut self, agent: usize) {
        self.cluster.restart_agent(agent).await.expect("an agent that starts again");
        open(&self.load.sockets[agent], &self.namespace).await;
        let now = self.load.now();
        let mut history = self.load.history.lock();
        let away = history.away.iter_mut().filter(|away| away.agent == agent);
        away.filter(|away| away.until == Duration::MAX).for_each(|away| away.until = now);
    }

    /// Hits of this agent's reader since a moment.
    pub(crate) fn hits_since(&self, agent: usize, since: Duration) -> usize {
        let history = self.load.history.lock();
        let reads = history.reads.iter().filter(|read| read.agent == agent && read.from > since);
        reads.filter(|read| matches!(read.seen, Ok(Got::Right(_)))).count()
    }

    /// Since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.load.now()
    }

    /// Stops the load and judges the run; panics at any fault, and if any page is gone: there was room for all.
    pub(crate) async fn judge(mut self) {
        self.stop_load().await;
        let (gone, faults) = self.examine().await;
        self.panic_at(&faults);
        assert_eq!(gone, 0, "{}: pages were retired though there was room", self.name);
    }

    /// The same where pages are evicted; how many acknowledged ones are gone, each explained by a retire in the record.
    pub(crate) async fn judge_under_eviction(mut self) -> usize {
        self.stop_load().await;
        let (gone, faults) = self.examine().await;
        self.panic_at(&faults);
        gone
    }

    fn panic_at(&self, faults: &[Fault]) {
        for fault in faults.iter().take(FAULTS_SHOWN) {
            eprintln!("{}: {fault:?}", self.name);
        }
        assert!(faults.is_empty(), "{}: {} faults (first above), seed {}", self.name, faults.len(), self.load.seed);
    }

    /// Stops writers and readers; returns when their last calls are over.
    pub(crate) async fn stop_load(&mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client that ends in good order");
        }
        self.loaded = self.load.now();
    }

    /// Waits for one digest, empties L1, looks for every acknowledged page and reads it; how many are gone, and every
    /// fault.
    pub(crate) async fn examine(&mut self) -> (usize, Vec<Fault>) {
        self.cluster.check().expect("every process that was not killed still runs");
        let (revision, digest) = self.cluster.converged().await.expect("one digest");
        for agent in 0..AGENTS {
            self.kill_agent(agent);
            self.agent_is_back(agent).await;
        }
        let history = std::mem::take(&mut *self.load.history.lock());
        assert!(history.acks.len() > PAGES_MIN, "{}: only {} pages", self.name, history.acks.len());
        let load = &self.load;
        let end = audit::audit(&self.group, &load.sockets, load.namespace_id, &self.recorder, &history.acks).await;
        let gone = self.report(&history, &end, revision, &digest);
        (gone, checker::check(&history, &end))
    }

    /// The history, to plant a fault in.
    pub(crate) fn with_history(&self, change: impl FnOnce(&mut History)) {
        change(&mut self.load.history.lock());
    }

    /// Prints what the run showed; how many acknowledged pages are gone.
    fn report(&self, history: &History, end: &checker::End, revision: u64, digest: &str) -> usize {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for read in &history.reads {
            let what = match &read.seen {
                Ok(Got::Right(Tier::L1)) => "l1".to_owned(),
                Ok(Got::Right(_)) => "l3".to_owned(),
                Ok(other) => format!("{other:?}").to_lowercase(),
                Err(_) => "failed".to_owned(),
            };
            *seen.entry(what).or_default() += 1;
        }
        let gone = end.pages.values().filter(|found| **found == checker::AtEnd::Absent).count();
        eprintln!(
            "{}: {:.1} s under load, acked {}, gone {gone}, refused {}, puts failed {}, reads {seen:?} ({:.0}/s an \
             agent), digest {digest} at {revision}",
            self.name,
            self.loaded.as_secs_f64(),
            history.acks.len(),
            history.refused,
            history.puts_failed.len(),
            history.reads.len() as f64 / AGENTS as f64 / self.loaded.as_secs_f64(),
        );
        gone
    }
}

/// Opens the namespace on an agent; its id.
async fn open(socket: &Endpoint, namespace: &Namespace) -> u32 {
    let request = n::OpenNamespaceRequest { namespace: Some(namespace.into()) };
    let answer = clients::agent(socket).open_namespace(request).await.expect("a namespace that opens");
    answer.into_inner().namespace_id
}
