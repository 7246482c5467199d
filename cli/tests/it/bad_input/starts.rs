//! Starts that must fail: a port in use, a data directory of someone else, of another version, or in use. Then one that
//! works.

use std::path::{Path, PathBuf};

use foreword_proto::limits::FORMAT_VERSION;
use foreword_proto::status::ReplicaRole;
use serde_json::{Value, json};

use super::live::{Live, spec};
use super::run::{Server, http_status, run};

/// A cluster of one replica beside the running one: only its directories.
struct Other {
    data_dir: PathBuf,
    cluster_id: String,
}

impl Other {
    /// `foreword meta init` for replica `id` of these peers.
    async fn init(dir: &Path, id: u64, peers: &str) -> Self {
        let (data_dir, l3) = (dir.join("other"), dir.join("other-l3"));
        std::fs::create_dir(&l3).unwrap();
        let made = run(&[
            "meta",
            "init",
            "--json",
            &format!("--data-dir={}", data_dir.display()),
            &format!("--replica-id={id}"),
            &format!("--peers={peers}"),
            &format!("--l3=posix:{}", l3.display()),
            "--l3-bytes=64MiB",
        ])
        .await;
        let said: Value = serde_json::from_str(&made.succeeded().stdout).unwrap();
        Self { data_dir, cluster_id: said["cluster_id"].as_str().unwrap().to_owned() }
    }

    fn flag(&self) -> String {
        format!("--data-dir={}", self.data_dir.display())
    }

    /// Changes the IDENTITY file.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let file = self.data_dir.join("IDENTITY");
        let mut identity: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut identity);
        std::fs::write(&file, identity.to_string()).unwrap();
    }

    async fn starts(&self, log: &Path) {
        let mut server =
            Server::start(&["meta", "run", &self.flag(), "--listen=127.0.0.1:0", "--http=127.0.0.1:0"], log).await;
        server.ready().await;
        server.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_and_sockets_in_use_are_named() {
    let mut live = Live::start(spec(1, 1)).await;
    let dir = live.cluster.dir().to_owned();
    let replica = live.cluster.replica_announced(1).unwrap().clone();
    let agent = live.cluster.agent_announced(0).unwrap().clone();
    let other = Other::init(&dir, 1, "1=127.0.0.1:1").await;
    let taken = [replica.grpc.clone(), replica.http.unwrap(), agent.grpc, agent.http.unwrap()];
    for address in &taken {
        let listen = format!("--listen={address}");
        run(&["meta", "run", &other.flag(), &listen]).await.refused(1, "listen", &[address, "in use"]);
        let http = format!("--http={address}");
        let meta = ["meta", "run", &other.flag(), "--listen=127.0.0.1:0", &http];
        run(&meta).await.refused(1, "http", &[address, "in use"]);
    }
    other.starts(&dir.join("logs/other.log")).await;

    let meta = format!("--meta={}", live.meta_endpoint(1));
    let l3 = format!("--l3=posix:{}", dir.join("l3").display());
    let node = ["node", "--name=second", &meta, &l3, "--arena-bytes=16MiB"];
    for address in &taken {
        let listen = format!("--listen={address}");
        run(&[&node[..], &[&listen]].concat()).await.refused(1, "listen", &[address, "in use"]);
        let http = format!("--http={address}");
        run(&[&node[..], &["--listen=127.0.0.1:0", &http]].concat()).await.refused(1, "http", &[address, "in use"]);
    }
    let socket = agent.socket.unwrap();
    let flag = format!("--socket={socket}");
    run(&[&node[..], &["--listen=127.0.0.1:0", &flag]].concat()).await.refused(1, "socket", &[&socket, "in use"]);
    // A socket that no one listens on any more is taken over.
    let left = dir.join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let flag = format!("--socket={}", left.display());
    let args = [&node[..], &["--listen=127.0.0.1:0", "--http=127.0.0.1:0", &flag]].concat();
    Server::start(&args, &dir.join("logs/second.log")).await.ready().await;
    live.works("ports in use").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_of_someone_else_is_refused() {
    let mut live = Live::start(spec(1, 1)).await;
    let dir = live.cluster.dir().to_owned();
    let ours = live.stats().await.cluster_id.to_string();
    let other = Other::init(&dir, 1, "1=127.0.0.1:1").await;
    let theirs = other.cluster_id.clone();
    let start = ["meta", "run", &other.flag(), "--listen=127.0.0.1:0"];

    let expected = format!("--cluster-id={ours}");
    run(&[&start[..], &[&expected]].concat()).await.refused(2, "data_dir.cluster_id", &[&ours, &theirs]);
    run(&[&start[..], &["--replica-id=2"]].concat()).await.refused(2, "data_dir.replica_id", &["expected 2", "has 1"]);
    let in_use = format!("--data-dir={}", live.cluster.data_dir(1).display());
    run(&["meta", "run", &in_use]).await.refused(2, "data_dir", &["locked"]);
    let again = ["meta", "init", &other.flag(), "--peers=1=h:1", "--l3=posix:/tmp", "--l3-bytes=1MiB"];
    run(&again).await.refused(2, "data_dir", &["already"]);
    let mine = format!("--cluster-id={theirs}");
    let expected = [&start[..], &["--http=127.0.0.1:0", &mine, "--replica-id=1"]].concat();
    Server::start(&expected, &dir.join("logs/expected.log")).await.ready().await;

    // Another version, or no identity that anyone can read.
    let newer = FORMAT_VERSION + 1;
    other.edit(|identity| identity["format_version"] = json!(newer));
    let named = [format!("expected {FORMAT_VERSION}"), format!("has {newer}")];
    run(&start).await.refused(2, "data_dir.format_version", &[&named[0], &named[1]]);
    other.edit(|identity| identity["format_version"] = json!(FORMAT_VERSION));
    other.starts(&dir.join("logs/other.log")).await;
    let identity = other.data_dir.join("IDENTITY");
    let kept = std::fs::read(&identity).unwrap();
    std::fs::write(&identity, &kept[..kept.len() / 2]).unwrap();
    run(&start).await.refused(2, "data_dir.identity", &[]);
    std::fs::remove_file(&identity).unwrap();
    run(&start).await.refused(2, "data_dir", &["meta init"]);
    std::fs::write(&identity, &kept).unwrap();
    other.starts(&dir.join("logs/other.log")).await;
    live.works("data directories of others").await;
}

/// A replica of another cluster whose directory names our replica as its peer: ours refuses it, and is not disturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_cluster_is_refused() {
    let mut live = Live::start(spec(1, 1)).await;
    let dir = live.cluster.dir().to_owned();
    let before = live.cluster.statuses().await.remove(0);
    let other = Other::init(&dir, 2, &format!("1={},2=127.0.0.1:1", live.meta_endpoint(1))).await;
    let args = ["meta", "run", &other.flag(), "--listen=127.0.0.1:0", "--http=127.0.0.1:0"];
    let mut stranger = Server::start(&args, &dir.join("logs/stranger.log")).await;
    let ours = before.cluster_id.to_string();
    stranger.says(&format!("cluster_id: expected {ours}, the peer has {}", other.cluster_id)).await;
    let http = stranger.announced.http.clone().unwrap().parse().unwrap();
    assert_eq!(http_status(&http, b"GET /readyz HTTP/1.1").await, Some(503));
    live.works("a stranger's votes").await;
    let after = live.cluster.statuses().await.remove(0);
    assert_eq!((after.term, after.voters, after.role), (before.term, before.voters, ReplicaRole::Leader));
    // An agent of the other cluster.
    let text = format!(
        "[node]\nnode = \"n\"\nmeta = [\"{}\"]\nl3 = \"memory\"\nlisten = \"127.0.0.1:0\"\ncluster_id = \"{}\"\n",
        live.meta_endpoint(1),
        other.cluster_id
    );
    let file = dir.join("foreword.toml");
    std::fs::write(&file, text).unwrap();
    let config = format!("--config={}", file.display());
    run(&["node", &config]).await.refused(1, "cluster_id", &[&ours, &other.cluster_id]);
}
