//! etcd, three nodes on loopback, as an index: a key a page, linearizable reads, synced and replicated writes.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_cli::commands::bench::figure::Figure;
use foreword_meta::generated::{Keys, Plan};
use foreword_proto::workload::SplitMix;
use foreword_seams::{Endpoint, TokioNet, rpc};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const NODES: usize = 3;
/// Operations of one transaction, by etcd's own limit.
const OPERATIONS_MAX: usize = 128;
const VALUE: &[u8] = b"slab-slot-generation";
const WRITERS: u64 = 16;
const READERS: usize = 8;
const PAGES: u64 = 100_000;
const RUN: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_millis(5);
const KILLS: usize = 5;
const WATCHED: Duration = Duration::from_secs(6);

// Of etcd's rpc.proto, what is used here.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}
#[derive(Clone, PartialEq, Message)]
struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2")]
    request: Option<Operation>,
}
#[derive(Clone, PartialEq, prost::Oneof)]
enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
}
#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}
#[derive(Clone, PartialEq, Message)]
struct Nothing {}
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone)]
struct Client(Grpc<Channel>);

impl Client {
    fn new(port: u16) -> Self {
        Self(Grpc::new(rpc::channel(Arc::new(TokioNet), &Endpoint::Tcp(format!("127.0.0.1:{port}")))))
    }

    async fn call<R, T>(&mut self, path: &'static str, message: R) -> anyhow::Result<T>
    where
        R: Message + 'static,
        T: Message + Default + 'static,
    {
        self.0.ready().await?;
        let codec: ProstCodec<R, T> = ProstCodec::default();
        Ok(self.0.unary(Request::new(message), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    async fn transact(&mut self, operations: Vec<Operation>) -> anyhow::Result<()> {
        let success = operations.into_iter().map(|operation| RequestOp { request: Some(operation) }).collect();
        let Nothing {} = self.call("/etcdserverpb.KV/Txn", TxnRequest { success }).await?;
        Ok(())
    }

    async fn put(&mut self, put: PutRequest) -> anyhow::Result<()> {
        let Nothing {} = self.call("/etcdserverpb.KV/Put", put).await?;
        Ok(())
    }
}

fn put_of(keys: Keys, number: u64) -> PutRequest {
    PutRequest { key: keys.page(number).entry().0.to_vec(), value: VALUE.to_vec() }
}

fn range_of(keys: Keys, number: u64) -> RangeRequest {
    RangeRequest { key: keys.page(number).entry().0.to_vec(), ..Default::default() }
}

/// Three nodes of our own; killed when dropped.
struct Nodes {
    dir: std::path::PathBuf,
    ports: Vec<(u16, u16)>,
    children: Vec<Option<Child>>,
}

impl Nodes {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let free = || anyhow::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let ports = (0..NODES).map(|_| anyhow::Ok((free()?, free()?))).collect::<anyhow::Result<Vec<_>>>()?;
        let mut nodes = Self { dir: dir.to_owned(), ports, children: Vec::new() };
        for at in 0..NODES {
            let child = nodes.spawn(at)?;
            nodes.children.push(Some(child));
        }
        nodes.leader().await?;
        Ok(nodes)
    }

    fn spawn(&self, at: usize) -> anyhow::Result<Child> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peers: Vec<String> =
            self.ports.iter().enumerate().map(|(at, (_, peer))| format!("n{at}={}", url(*peer))).collect();
        let (client, peer) = self.ports[at];
        let mut command = Command::new("etcd");
        command
            .args([
                "--name",
                &format!("n{at}"),
                "--data-dir",
                &self.dir.join(format!("etcd-{at}")).display().to_string(),
            ])
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
            .args(["--quota-backend-bytes", "4294967296"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        Ok(command.spawn()?)
    }

    /// Which node leads, by its own word.
    async fn leader(&self) -> anyhow::Result<usize> {
        let until = Instant::now() + START;
        loop {
            for at in (0..NODES).filter(|at| self.children[*at].is_some()) {
                let mut client = self.client(at);
                let asked = client.call::<_, StatusResponse>("/etcdserverpb.Maintenance/Status", Nothing {});
                if let Ok(Ok(status)) = timeout(Duration::from_secs(1), asked).await
                    && status.header.is_some_and(|header| header.member_id == status.leader)
                {
                    return Ok(at);
                }
            }
            ensure!(Instant::now() < until, "etcd: expected a leader within {START:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn client(&self, at: usize) -> Client {
        Client::new(self.ports[at].0)
    }
}

/// Measures lookups, publishes and what a killed leader does.
pub(super) async fn measure(dir: &Path, runs: usize) -> anyhow::Result<Vec<Figure>> {
    let mut nodes = Nodes::start(dir).await?;
    let keys = Plan::pages(1, PAGES).keys(0);
    let leader = nodes.client(nodes.leader().await?);
    publishes(&leader, keys, 0, Until::Pages(PAGES / WRITERS)).await?;
    let mut figures = Vec::new();
    for (name, asked) in [("etcd_lookup_1_keys_per_s", 1), ("etcd_lookup_256_keys_per_s", 256)] {
        let mut rates = Vec::new();
        for _ in 0..runs {
            rates.push(lookups(&leader, keys, asked).await?);
        }
        let path = format!("3 nodes, linearizable, {READERS} in flight, ranges in transactions of {OPERATIONS_MAX}");
        figures.push(Figure::new(name, "keys/s", path, rates));
    }
    let mut rates = Vec::new();
    for run in 1..=runs as u64 {
        rates.push(publishes(&leader, keys, run << 32, Until::Time(RUN)).await?);
    }
    let path = format!("3 nodes, {WRITERS} transactions of {OPERATIONS_MAX} puts in flight, synced and replicated");
    figures.push(Figure::new("etcd_publish_pages_per_s", "pages/s", path, rates));
    let mut outages = Vec::new();
    for _ in 0..KILLS.min(runs) {
        outages.push(outage(&mut nodes, keys).await?);
    }
    figures.push(Figure::new("etcd_outage_ms", "ms", "SIGKILL of the leader, a put every 5 ms at a survivor", outages));
    Ok(figures)
}

async fn lookups(client: &Client, keys: Keys, asked: usize) -> anyhow::Result<f64> {
    let mut tasks = JoinSet::new();
    let (from, until) = (Instant::now(), Instant::now() + RUN);
    for reader in 0..READERS {
        let mut client = client.clone();
        tasks.spawn(async move {
            let (mut numbers, mut looked) = (SplitMix::new(reader as u64), 0);
            while Instant::now() < until {
                for of in (0..asked).step_by(OPERATIONS_MAX) {
                    let count = OPERATIONS_MAX.min(asked - of);
                    let ranges = (0..count).map(|_| Operation::Range(range_of(keys, numbers.below(2 * PAGES))));
                    client.transact(ranges.collect()).await?;
                    looked += count;
                }
            }
            anyhow::Ok(looked)
        });
    }
    let mut looked = 0;
    while let Some(counted) = tasks.join_next().await {
        looked += counted??;
    }
    Ok(looked as f64 / from.elapsed().as_secs_f64())
}

#[derive(Clone, Copy)]
enum Until {
    /// So many pages of each writer.
    Pages(u64),
    Time(Duration),
}

async fn publishes(client: &Client, keys: Keys, first: u64, until: Until) -> anyhow::Result<f64> {
    let mut tasks = JoinSet::new();
    let from = Instant::now();
    for writer in 0..WRITERS {
        let mut client = client.clone();
        tasks.spawn(async move {
            let begin = first + writer * (PAGES / WRITERS);
            let mut next = begin;
            let goes_on = |written: u64| match until {
                Until::Pages(pages) => written < pages,
                Until::Time(span) => from.elapsed() < span,
            };
            while goes_on(next - begin) {
                let puts = (next..next + OPERATIONS_MAX as u64).map(|number| Operation::Put(put_of(keys, number)));
                client.transact(puts.collect()).await?;
                next += OPERATIONS_MAX as u64;
            }
            anyhow::Ok(next - begin)
        });
    }
    let mut pages = 0;
    while let Some(counted) = tasks.join_next().await {
        pages += counted??;
    }
    Ok(pages as f64 / from.elapsed().as_secs_f64())
}

/// Milliseconds from the kill of the leader to the first acknowledgement of a put submitted after it.
async fn outage(nodes: &mut Nodes, keys: Keys) -> anyhow::Result<f64> {
    let leader = nodes.leader().await?;
    let client = nodes.client((leader + 1) % NODES);
    let acks: Arc<Mutex<Vec<(Instant, Instant)>>> = Arc::default();
    let mut probes = JoinSet::new();
    let mut ticks = interval(PROBE_EVERY);
    let started = Instant::now();
    let mut killed = None;
    for number in (1 << 48).. {
        ticks.tick().await;
        if killed.is_none() && started.elapsed() > RUN {
            killed = Some(Instant::now());
            drop(nodes.children[leader].take());
        }
        if killed.is_some_and(|killed| killed.elapsed() > WATCHED) {
            break;
        }
        let (mut client, acks) = (client.clone(), acks.clone());
        probes.spawn(async move {
            let submitted = Instant::now();
            if client.put(put_of(keys, number)).await.is_ok() {
                acks.lock().push((submitted, Instant::now()));
            }
        });
    }
    probes.abort_all();
    let child = nodes.spawn(leader)?;
    nodes.children[leader] = Some(child);
    sleep(RUN).await;
    let killed = killed.context("a kill")?;
    let acks = acks.lock();
    let first = acks.iter().filter(|(submitted, _)| *submitted > killed).map(|(_, acked)| *acked).min();
    Ok((first.context("etcd: expected an acknowledgement after the kill")? - killed).as_secs_f64() * 1e3)
}
