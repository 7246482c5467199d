//! A whole cluster of real processes on this machine: for the demo and for tests.
//!
//! Everything lives in one directory; every process is started here, killed here, and dies with this one. Dropping a
//! [`Cluster`] kills what runs and removes the directory, unless it is kept.

mod announced;
mod child;
mod converge;
mod filesystem;
mod members;
mod ports;
mod standin;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use foreword_meta::generated::{Plan, directories};
use foreword_seams::Endpoint;
use futures::future::try_join_all;
use rustix::process::Signal;
use tempfile::TempDir;

use self::child::Child;
use self::filesystem::Filesystem;
use self::standin::StandIn;
use crate::clients;
use crate::human::{Size, Span};

/// Times a cluster is laid out anew because a drawn port was taken before its replica bound it.
const LAYOUTS_MAX: usize = 5;
const CONFIG: &str = "foreword.toml";
/// Longest path of a unix socket, by sockaddr_un.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a cluster's page bytes are.
#[derive(Debug, Clone)]
pub enum L3Spec {
    /// Files in the cluster's directory.
    Posix,
    /// Files on a filesystem of their own, in memory, of so many bytes. The caller is in a mount namespace of its own.
    Tmpfs { bytes: u64 },
    /// The same files, through the stand-in for a 3FS mount. The caller is in a mount namespace of its own.
    Usrbio {
        /// As `foreword usrbiod --fault` takes them.
        faults: Option<String>,
        /// The vendor's client library; None: our own client.
        lib: Option<PathBuf>,
        /// I/Os of rings go around the page cache.
        direct: bool,
    },
}

/// What cluster to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The `foreword` binary.
    pub binary: PathBuf,
    /// Where its directory is made; None: the system's place for temporary files.
    pub dir: Option<PathBuf>,
    /// Leave the directory behind.
    pub keep: bool,
    pub replicas: usize,
    pub agents: usize,
    pub l3: L3Spec,
    pub l3_bytes: u64,
    pub slab_bytes: u64,
    pub chunk_bytes: u64,
    /// Each agent's L1.
    pub arena_bytes: u64,
    pub lease: Span,
    pub read_rest: Span,
    pub write_rest: Span,
    /// A configuration file for all servers, with [meta] and [node] sections: what flags do not say. `{agent}` in it
    /// stands for an agent's number.
    pub config: String,
    /// What the group holds when it starts; None: nothing.
    pub generated: Option<Plan>,
}

struct Replica {
    id: u64,
    endpoint: Endpoint,
    child: Option<Child>,
}

struct Agent {
    socket: Endpoint,
    child: Option<Child>,
}

/// A running cluster.
pub struct Cluster {
    // Children first: they end before their directory goes.
    replicas: Vec<Replica>,
    agents: Vec<Agent>,
    standin: Option<StandIn>,
    filesystem: Option<Filesystem>,
    spec: Spec,
    dir: ClusterDir,
}

/// The cluster's directory: removed when dropped, unless it is kept.
enum ClusterDir {
    Removed(TempDir),
    Kept(PathBuf),
}

impl ClusterDir {
    fn new(spec: &Spec) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("foreword-");
        let dir = match &spec.dir {
            Some(parent) => {
                std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
                builder.tempdir_in(std::path::absolute(parent)?)?
            }
            None => builder.tempdir()?,
        };
        Ok(if spec.keep { Self::Kept(dir.keep()) } else { Self::Removed(dir) })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Removed(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Cluster {
    /// Lays out the directories, starts replicas and agents, and waits until all are ready. `say` hears what happens.
    pub async fn start(spec: Spec, say: impl Fn(&str)) -> anyhow::Result<Self> {
        ensure!(spec.replicas > 0, "cluster: expected at least one replica");
        let mut layout = 1;
        loop {
            let dir = ClusterDir::new(&spec)?;
            let (replicas, agents, spec_kept) = (Vec::new(), Vec::new(), spec.clone());
            let mut cluster = Self { replicas, agents, standin: None, filesystem: None, spec: spec_kept, dir };
            cluster.lay_out().await?;
            if let Some(plan) = &spec.generated {
                let dirs: Vec<PathBuf> = cluster.replica_ids().into_iter().map(|id| cluster.data_dir(id)).collect();
                directories::fill(plan, &dirs).await?;
            }
            say(&format!("starting {} meta replicas in {}", spec.replicas, cluster.dir.path().display()));
            match cluster.start_replicas().await {
                Ok(()) => {}
                Err(error) if layout < LAYOUTS_MAX && format!("{error:#}").contains("in use") => {
                    tracing::warn!(%error, "a port was taken meanwhile: other ports");
                    layout += 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            say(&format!("starting {} agents", spec.agents));
            for number in 0..spec.agents {
                cluster.start_agent(number).await?;
            }
            for agent in &mut cluster.agents {
                agent.child.as_mut().context("an agent that runs")?.ready().await?;
            }
            return Ok(cluster);
        }
    }

    /// Makes data directories and the L3 directory with `foreword meta init`, and plans where agents listen.
    async fn lay_out(&mut self) -> anyhow::Result<()> {
        let dir = self.dir.path().to_owned();
        for made in [&self.backing(), &dir.join("logs")] {
            std::fs::create_dir(made)?;
        }
        if let L3Spec::Tmpfs { bytes } = self.spec.l3 {
            self.filesystem = Some(Filesystem::mount(&self.backing(), bytes)?);
        }
        if matches!(self.spec.l3, L3Spec::Usrbio { .. }) {
            self.standin = Some(StandIn::below(&dir)?);
            self.start_standin().await?;
        }
        let spec = &self.spec;
        std::fs::write(dir.join(CONFIG), &spec.config)?;
        let ports = ports::draw(spec.replicas)?;
        for (at, port) in ports.iter().enumerate() {
            let endpoint = Endpoint::Tcp(format!("127.0.0.1:{port}"));
            self.replicas.push(Replica { id: at as u64 + 1, endpoint, child: None });
        }
        for number in 0..spec.agents {
            let socket = dir.join(format!("agent-{number}.sock"));
            let bytes = socket.as_os_str().len();
            ensure!(
                bytes <= SOCKET_PATH_BYTES_MAX,
                "dir: expected a shorter path, a socket's has at most {SOCKET_PATH_BYTES_MAX} bytes, got {bytes}"
            );
            self.agents.push(Agent { socket: Endpoint::Unix(socket), child: None });
        }
        let peers: Vec<String> = self.replicas.iter().map(|one| format!("{}={}", one.id, one.endpoint)).collect();
        let mut init = tokio::process::Command::new(&spec.binary);
        init.args(["meta", "init", "--json", "--peers", &peers.join(",")]);
        for replica in &self.replicas {
            init.arg("--data-dir").arg(self.data_dir(replica.id));
        }
        init.arg(format!("--l3={}", self.l3()))
            .arg(format!("--l3-bytes={}", Size(spec.l3_bytes)))
            .arg(format!("--slab-bytes={}", Size(spec.slab_bytes)))
            .arg(format!("--chunk-bytes={}", Size(spec.chunk_bytes)))
            .arg(format!("--lease={}", spec.lease))
            .arg(format!("--read-rest={}", spec.read_rest))
            .arg(format!("--write-rest={}", spec.write_rest));
        let output = init.stdin(Stdio::null()).kill_on_drop(true).output().await.context("foreword meta init")?;
        if !output.status.success() {
            bail!("foreword meta init: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    async fn start_replicas(&mut self) -> anyhow::Result<()> {
        for at in 0..self.replicas.len() {
            self.start_replica(self.replicas[at].id).await?;
        }
        // Ready means: the group has a leader and this replica has applied what was committed. It takes all of them.
        let ready = self.replicas.iter_mut().filter_map(|one| one.child.as_mut()).map(Child::ready);
        try_join_all(ready).await?;
        Ok(())
    }

    async fn start_replica(&mut self, id: u64) -> anyhow::Result<()> {
        let args = [
            "meta".to_owned(),
            "run".to_owned(),
            self.config_flag(),
            format!("--data-dir={}", self.data_dir(id).display()),
            // A replica that joined later has no address in its directory.
            format!("--listen={}", self.replica(id)?.endpoint),
            "--http=127.0.0.1:0".to_owned(),
        ];
        let log = self.log(&format!("meta-{id}"));
        let child = Child::start(&self.spec.binary, &format!("meta {id}"), &args, &log).await?;
        self.replica(id)?.child = Some(child);
        Ok(())
    }

    async fn start_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let Endpoint::Unix(socket) = &self.agents[number].socket else { bail!("an agent without a socket") };
        let meta: Vec<String> = self.replicas.iter().map(|one| one.endpoint.to_string()).collect();
        let config = self.dir.path().join(format!("agent-{number}.toml"));
        std::fs::write(&config, self.spec.config.replace("{agent}", &number.to_string()))?;
        let args = [
            "node".to_owned(),
            format!("--config={}", config.display()),
            format!("--name=agent-{number}"),
            format!("--meta={}", meta.join(",")),
            "--listen=127.0.0.1:0".to_owned(),
            "--http=127.0.0.1:0".to_owned(),
            format!("--socket={}", socket.display()),
            format!("--arena-bytes={}", Size(self.spec.arena_bytes)),
            format!("--l3={}", self.l3()),
            format!("--state-dir={}", self.dir.path().join(format!("agent-{number}-state")).display()),
        ];
        let log = self.log(&format!("agent-{number}"));
        let child = Child::start(&self.spec.binary, &format!("agent {number}"), &args, &log).await?;
        self.agents[number].child = Some(child);
        Ok(())
    }

    fn replica(&mut self, id: u64) -> anyhow::Result<&mut Replica> {
        self.replicas.iter_mut().find(|one| one.id == id).with_context(|| format!("a replica {id}"))
    }

    fn config_flag(&self) -> String {
        format!("--config={}", self.dir.path().join(CONFIG).display())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join("logs").join(format!("{name}.log"))
    }

    /// The directory everything is in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A replica's data directory.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("meta-{id}"))
    }

    /// gRPC endpoints of all replicas, running or not.
    pub fn meta_endpoints(&self) -> Vec<Endpoint> {
        self.replicas.iter().map(|one| one.endpoint.clone()).collect()
    }

    /// The unix sockets of all agents.
    pub fn agent_endpoints(&self) -> Vec<Endpoint> {
        self.agents.iter().map(|one| one.socket.clone()).collect()
    }

    /// The ids of all replicas.
    pub fn replica_ids(&self) -> Vec<u64> {
        self.replicas.iter().map(|one| one.id).collect()
    }

    /// The leader by the word of a running replica that is it.
    pub async fn leader(&self) -> anyhow::Result<u64> {
        converge::leader(&self.running()).await
    }

    fn running(&self) -> Vec<Endpoint> {
        self.replicas.iter().filter(|one| one.child.is_some()).map(|one| one.endpoint.clone()).collect()
    }

    /// From here on processes are started from this binary; those that run go on.
    pub fn use_binary(&mut self, binary: &Path) {
        self.spec.binary = binary.to_owned();
    }

    /// SIGKILL for a replica; returns when it is dead.
    pub fn kill_replica(&mut self, id: u64) -> anyhow::Result<()> {
        let child = self.replica(id)?.child.take();
        drop(child.with_context(|| format!("replica {id}: expected it to run"))?);
        Ok(())
    }

    /// SIGSTOP for a replica: it stands still, and its connections stay.
    pub fn stop_replica(&mut self, id: u64) -> anyhow::Result<()> {
        self.signal_replica(id, Signal::STOP)
    }

    /// SIGCONT for a replica that was stopped.
    pub fn continue_replica(&mut self, id: u64) -> anyhow::Result<()> {
        self.signal_replica(id, Signal::CONT)
    }

    fn signal_replica(&mut self, id: u64, signal: Signal) -> anyhow::Result<()> {
        let child = self.replica(id)?.child.as_ref();
        child.with_context(|| format!("replica {id}: expected it to run"))?.signal(signal);
        Ok(())
    }

    /// Starts a killed replica again, at its address, with its data directory. Returns when it listens.
    pub async fn restart_replica(&mut self, id: u64) -> anyhow::Result<()> {
        ensure!(self.replica(id)?.child.is_none(), "replica {id}: expected it to be down");
        self.start_replica(id).await
    }

    /// Waits until a replica that was restarted is ready.
    pub async fn replica_ready(&mut self, id: u64) -> anyhow::Result<()> {
        self.replica(id)?.child.as_mut().with_context(|| format!("replica {id}: expected it to run"))?.ready().await
    }

    /// SIGKILL for all replicas at once, then all of them again; returns when all are ready.
    pub async fn restart_all_replicas(&mut self) -> anyhow::Result<()> {
        for replica in &mut self.replicas {
            drop(replica.child.take());
        }
        self.start_replicas().await
    }

    /// SIGKILL for an agent.
    pub fn kill_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let child = self.agents.get_mut(number).and_then(|agent| agent.child.take());
        drop(child.with_context(|| format!("agent {number}: expected it to run"))?);
        Ok(())
    }

    /// Starts a killed agent again, at its socket. Returns when it is ready.
    pub async fn restart_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let down = self.agents.get(number).is_some_and(|agent| agent.child.is_none());
        ensure!(down, "agent {number}: expected it to be down");
        self.start_agent(number).await?;
        self.agents[number].child.as_mut().context("an agent that runs")?.ready().await
    }

    /// Waits until all replicas report one state digest at one revision.
    pub async fn converged(&self) -> anyhow::Result<(u64, String)> {
        converge::converged(&self.meta_endpoints()).await
    }

    /// An error if a process that should run has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let replicas = self.replicas.iter_mut().filter_map(|one| one.child.as_mut());
        let agents = self.agents.iter_mut().filter_map(|one| one.child.as_mut());
        match replicas.chain(agents).find_map(Child::ended).or_else(|| self.standin_ended()) {
            Some(ended) => bail!("{ended}"),
            None => Ok(()),
        }
    }

    /// Status documents of the replicas that answer.
    pub async fn statuses(&self) -> Vec<foreword_proto::status::ReplicaStatus> {
        let endpoints = self.running();
        let asked = endpoints.iter().map(clients::replica_status);
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }
}
