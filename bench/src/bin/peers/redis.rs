//! Redis 7 as an index: a key a page, a value of the size of our location record; appended and synced before each
//! answer.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use foreword_cli::commands::bench::figure::Figure;
use foreword_meta::generated::{Keys, Plan};
use foreword_proto::workload::SplitMix;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Bytes of a location of one shard.
const VALUE: &[u8] = b"slab-slot-generation";
/// Pages published in one command, and connections that do so: a connection has one command under way.
const BATCH: u64 = 256;
const WRITERS: u64 = 8;
const FILLED_AT_ONCE: u64 = 1024;
const IN_FLIGHT: [usize; 4] = [1, 2, 4, 8];
const RUN: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(20);

/// A server of our own, in a directory of its own; killed when dropped.
struct Server {
    port: u16,
    _child: Child,
}

impl Server {
    async fn start(dir: &Path) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .args(["--port", &port.to_string(), "--dir", &dir.display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let until = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(Instant::now() < until, "redis-server: expected it to listen within {START:?}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { port, _child: child })
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufStream::new(stream)))
    }

    async fn used_bytes(&self) -> anyhow::Result<u64> {
        let info = self.connect().await?.call(&command(&[b"INFO", b"memory"])).await?;
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("redis: used_memory")?.trim().parse()?)
    }
}

struct Connection(BufStream<TcpStream>);

impl Connection {
    /// Sends a command and reads its answer: what follows the type of a line, or a bulk of text.
    async fn call(&mut self, command: &[u8]) -> anyhow::Result<String> {
        self.0.write_all(command).await?;
        self.0.flush().await?;
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let (kind, rest) = line.trim_end().split_at_checked(1).context("redis: an answer")?;
        match kind {
            "+" | ":" => Ok(rest.to_owned()),
            "$" => {
                let mut bulk = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut bulk).await?;
                Ok(String::from_utf8_lossy(&bulk).trim_end().to_owned())
            }
            _ => bail!("redis: {line}"),
        }
    }
}

/// A command as Redis reads it.
fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn publish(keys: Keys, pages: std::ops::Range<u64>) -> Vec<u8> {
    let keys: Vec<[u8; 16]> = pages.map(|number| keys.page(number).entry().0).collect();
    let mut parts: Vec<&[u8]> = vec![b"MSET"];
    keys.iter().for_each(|key| parts.extend([&key[..], VALUE]));
    command(&parts)
}

/// Measures lookups, publishes and memory with so many keys.
pub(super) async fn measure(dir: &Path, pages: u64, runs: usize) -> anyhow::Result<Vec<Figure>> {
    let server = Server::start(dir).await?;
    let keys = Plan::pages(1, pages).keys(0);
    let empty = server.used_bytes().await?;
    let mut filling = server.connect().await?;
    for first in (0..pages).step_by(FILLED_AT_ONCE as usize) {
        filling.call(&publish(keys, first..pages.min(first + FILLED_AT_ONCE))).await?;
    }
    let per_page = (server.used_bytes().await? - empty) as f64 / pages as f64;
    let mut figures = vec![Figure::new("redis_bytes_per_page", "B", format!("{pages} keys of 16 B"), vec![per_page])];
    let names = ["redis_lookup_1_keys_per_s", "redis_lookup_256_keys_per_s", "redis_lookup_1024_keys_per_s"];
    for (name, asked) in names.into_iter().zip([1, 256, 1024]) {
        figures.push(lookups(&server, (name, asked), (keys, pages), runs).await?);
    }
    let mut rates = Vec::new();
    for run in 0..runs as u64 {
        rates.push(publishes(&server, keys, pages + (run << 32)).await?);
    }
    let path = format!("MSET of {BATCH}, {WRITERS} connections, one copy, fsync always");
    figures.push(Figure::new("redis_publish_pages_per_s", "pages/s", path, rates));
    Ok(figures)
}

/// EXISTS of so many keys, half of them absent; the best of some connections.
async fn lookups(
    server: &Server,
    (name, asked): (&'static str, usize),
    (keys, pages): (Keys, u64),
    runs: usize,
) -> anyhow::Result<Figure> {
    let mut numbers = SplitMix::new(asked as u64);
    let mut request = || {
        let absent = |at: usize| if at.is_multiple_of(2) { 0 } else { 1 << 40 };
        let asked: Vec<[u8; 16]> =
            (0..asked).map(|at| keys.page(numbers.below(pages) + absent(at)).entry().0).collect();
        let mut parts: Vec<&[u8]> = vec![b"EXISTS"];
        parts.extend(asked.iter().map(|key| &key[..]));
        command(&parts)
    };
    let requests: std::sync::Arc<Vec<Vec<u8>>> = std::sync::Arc::new((0..1024).map(|_| request()).collect());
    let mut best = (0.0, 0);
    for in_flight in IN_FLIGHT {
        let rate = rate(server, &requests, in_flight).await?;
        if rate > best.0 {
            best = (rate, in_flight);
        }
    }
    let mut rates = Vec::new();
    for _ in 0..runs {
        rates.push(rate(server, &requests, best.1).await? * asked as f64);
    }
    Ok(Figure::new(name, "keys/s", format!("EXISTS, {} connections, half of the keys absent", best.1), rates))
}

/// Calls a second over so many connections.
async fn rate(server: &Server, requests: &std::sync::Arc<Vec<Vec<u8>>>, connections: usize) -> anyhow::Result<f64> {
    let mut tasks = JoinSet::new();
    let (from, until) = (Instant::now(), Instant::now() + RUN);
    for number in 0..connections {
        let (mut connection, requests) = (server.connect().await?, requests.clone());
        tasks.spawn(async move {
            let mut calls = 0;
            while Instant::now() < until {
                connection.call(&requests[(number * 97 + calls) % requests.len()]).await?;
                calls += 1;
            }
            anyhow::Ok(calls)
        });
    }
    let mut calls = 0;
    while let Some(counted) = tasks.join_next().await {
        calls += counted??;
    }
    Ok(calls as f64 / from.elapsed().as_secs_f64())
}

/// New keys a second.
async fn publishes(server: &Server, keys: Keys, first: u64) -> anyhow::Result<f64> {
    let mut tasks = JoinSet::new();
    let (from, until) = (Instant::now(), Instant::now() + RUN);
    for writer in 0..WRITERS {
        let mut connection = server.connect().await?;
        tasks.spawn(async move {
            let mut next = first + (writer << 24);
            while Instant::now() < until {
                connection.call(&publish(keys, next..next + BATCH)).await?;
                next += BATCH;
            }
            anyhow::Ok(next - first - (writer << 24))
        });
    }
    let mut pages = 0;
    while let Some(counted) = tasks.join_next().await {
        pages += counted??;
    }
    Ok(pages as f64 / from.elapsed().as_secs_f64())
}
