//! One replica and some agents in this process, without any I/O: connections are pipes, files and disks are memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_meta::config::MetaConfig;
use foreword_meta::eviction::PolicyPlace;
use foreword_meta::open::open_log;
use foreword_meta::replica::snapshots::Newest;
use foreword_meta::state::command::ClusterSettings;
use foreword_meta::storage::IdentityFile;
use foreword_meta::storage::mark::MemoryMark;
use foreword_meta::storage::memory_engine::MemoryDisk;
use foreword_meta::storage::{Identity, LogEngine, MarkFile};
use foreword_node::arena::HeapRegions;
use foreword_node::store::{ClusterMark, MemoryL3, MemoryStore};
use foreword_node::{L3Location, NodeConfig};
use foreword_proto::versions::OtherVersion;
use foreword_proto::{ClusterId, DirectoryId};
use foreword_seams::files::{FileReader, FileWriter};
use foreword_seams::{Endpoint, Files, Incoming, Net, SeededEntropy, Stream, Telemetry, on_a_task};
use foreword_sim::workload::Load;
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

const ID: ClusterId = ClusterId([5; 16]);
const CHUNK_BYTES: u32 = 4096;
const PIPE_BYTES: usize = 256 << 10;

type Listeners = Arc<Mutex<BTreeMap<Endpoint, mpsc::UnboundedSender<Stream>>>>;

/// Connections are pipes between tasks of one runtime.
#[derive(Clone, Default)]
pub(crate) struct PipeNet(Listeners);

impl Net for PipeNet {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        let listener = self.0.lock().get(endpoint).cloned();
        Box::pin(async move {
            let (here, there) = tokio::io::duplex(PIPE_BYTES);
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            listener.ok_or_else(refused)?.send(Stream::new(there)).map_err(|_| refused())?;
            Ok(Stream::new(here))
        })
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().insert(endpoint.clone(), sender);
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver).map(Ok).boxed();
        let endpoint = endpoint.clone();
        Box::pin(async move { Ok((incoming, endpoint)) })
    }
}

/// Files in memory.
#[derive(Clone, Default)]
struct MemoryFiles(Arc<Mutex<BTreeMap<String, Bytes>>>);

struct Writing {
    files: MemoryFiles,
    name: String,
    bytes: BytesMut,
}

struct Reading(Bytes);

impl Files for MemoryFiles {
    fn create(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileWriter>>> {
        let writing = Writing { files: self.clone(), name: name.to_owned(), bytes: BytesMut::new() };
        Box::pin(async { Ok(Box::new(writing) as Box<dyn FileWriter>) })
    }

    fn open(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileReader>>> {
        let bytes = self.0.lock().get(name).cloned();
        Box::pin(async {
            let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            Ok(Box::new(Reading(bytes)) as Box<dyn FileReader>)
        })
    }

    fn list(&self) -> BoxFuture<'static, io::Result<Vec<String>>> {
        let names = self.0.lock().keys().cloned().collect();
        Box::pin(async { Ok(names) })
    }

    fn remove(&self, name: &str) -> BoxFuture<'static, io::Result<()>> {
        self.0.lock().remove(name);
        Box::pin(async { Ok(()) })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, io::Result<()>> {
        let mut files = self.0.lock();
        let file = files.remove(from);
        let renamed = file.map(|file| _ = files.insert(to.to_owned(), file));
        Box::pin(async move { renamed.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

impl FileWriter for Writing {
    fn append(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.bytes.extend_from_slice(&bytes);
        Box::pin(async { Ok(()) })
    }

    fn seal(self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        self.files.0.lock().insert(self.name, self.bytes.freeze());
        Box::pin(async { Ok(()) })
    }
}

impl FileReader for Reading {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&mut self, offset: u64, bytes: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let start = (offset as usize).min(self.0.len());
        let part = self.0.slice(start..(start + bytes).min(self.0.len()));
        Box::pin(async { Ok(part) })
    }
}

struct NoFile;

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

/// A cluster that runs as long as this lives.
pub(crate) struct Cluster {
    load: Load,
    l3: MemoryL3,
    pub(crate) net: PipeNet,
    pub(crate) replica: Endpoint,
    pub(crate) agents: Vec<Endpoint>,
    _meta: foreword_meta::serve::Handle,
    nodes: Vec<foreword_node::Handle>,
}

impl Cluster {
    pub(crate) async fn start(load: &Load, agents: u64) -> Self {
        let net = PipeNet::default();
        let replica: Endpoint = "meta:1".parse().unwrap();
        let meta = meta(load, &net, &replica).await;
        let l3 = MemoryL3::default();
        l3.init(&ClusterMark::new(ID, CHUNK_BYTES, "memory"));
        let mut nodes = Vec::new();
        for number in 0..agents {
            nodes.push(node(load, &net, &replica, &l3, number).await);
        }
        let agents = nodes.iter().map(|node| node.endpoint().clone()).collect();
        Self { load: load.clone(), l3, net, replica, agents, _meta: meta, nodes }
    }

    /// Ends the first agent in order, and after `pause` starts it again.
    pub(crate) async fn restart_first_agent(&mut self, pause: Duration) {
        self.nodes.remove(0).shutdown().await;
        self.net.0.lock().remove(&self.agents[0]);
        tokio::time::sleep(pause).await;
        let again = node(&self.load, &self.net, &self.replica, &self.l3, 0).await;
        self.nodes.insert(0, again);
    }
}

async fn meta(load: &Load, net: &PipeNet, endpoint: &Endpoint) -> foreword_meta::serve::Handle {
    let settings = ClusterSettings {
        chunk_bytes: CHUNK_BYTES,
        slab_bytes: load.slab_bytes,
        l3_bytes: load.l3_bytes,
        read_rest_ms: 200,
        write_rest_ms: 400,
        first_feature_level: 1,
        hf3fs_protection_ms: 30_000,
        lease_ms: 2_000,
    };
    let identity = Identity::new(ID, 1, DirectoryId([1; 16]), settings, BTreeMap::from([(1, endpoint.to_string())]));
    let (disk, mark) = (MemoryDisk::default(), MemoryMark::default());
    let parts = || Ok((Box::new(disk.open()) as Box<dyn LogEngine>, Box::new(mark.clone()) as Box<dyn MarkFile>));
    let (log, _, _) = open_log(parts, &on_a_task(), || Ok(())).unwrap();
    let deps = foreword_meta::serve::Deps {
        net: Arc::new(net.clone()),
        entropy: Arc::new(SeededEntropy::new(1)),
        telemetry: Telemetry::new(),
        identity,
        identity_file: Arc::new(NoFile),
        log,
        snapshots: Arc::new(MemoryFiles::default()),
        newest: Newest::default(),
        policy: PolicyPlace { runner: on_a_task(), feed_bytes_max: 1 << 20 },
        aside: on_a_task(),
    };
    let mut config = MetaConfig::new(Path::new("/nowhere"), endpoint.clone());
    config.high_watermark_percent = load.high_watermark_percent;
    config.low_watermark_percent = load.low_watermark_percent;
    foreword_meta::serve::serve(config, deps).await.unwrap()
}

async fn node(load: &Load, net: &PipeNet, replica: &Endpoint, l3: &MemoryL3, number: u64) -> foreword_node::Handle {
    let mut config = NodeConfig::new(format!("node-{number}"), vec![replica.clone()], L3Location::Memory);
    config.listen = format!("node-{number}:1").parse().unwrap();
    config.arena_bytes = load.arena_bytes;
    let l3 = l3.clone();
    let deps = foreword_node::Deps {
        net: Arc::new(net.clone()),
        entropy: Arc::new(SeededEntropy::new(100 + number)),
        store: Arc::new(move |_, id, chunk_bytes| Ok(Arc::new(MemoryStore::new(l3.clone(), id, chunk_bytes)))),
        files: None,
        kept: None,
        regions: Arc::new(HeapRegions),
        segment_maker: on_a_task(),
        telemetry: Telemetry::new(),
    };
    foreword_node::serve(config, deps).await.unwrap()
}
