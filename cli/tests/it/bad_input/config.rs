//! Settings that are wrong, in a file, a variable or a flag: exit code 2 and the field, before anything starts.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::live::{Live, spec};
use super::run::{Server, run, run_with};

/// A configuration file that `foreword` reads.
struct ConfigFile {
    dir: TempDir,
}

impl ConfigFile {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("foreword.toml")
    }

    /// The flag for a file of this content.
    fn with(&self, text: &str) -> String {
        std::fs::write(self.path(), text).unwrap();
        format!("--config={}", self.path().display())
    }
}

/// (content of the file, field, what else is said)
type Case<'a> = (&'a str, &'a str, &'a str);

const META_CASES: [Case; 15] = [
    ("[meta\n", "meta", "foreword.toml:1"),
    ("[meta]\ndata_dir = \n", "meta.data_dir", "foreword.toml:2"),
    ("[meta]\ndata_dir = \"/x\"\ndata_dir = \"/y\"\n", "meta.data_dir", "duplicate"),
    ("[mata]\n", "mata", "unknown"),
    ("meta = 5\n", "meta", "a section"),
    ("[meta]\n", "meta.data_dir", "missing"),
    ("[meta]\ndata_dirs = \"/x\"\n", "meta.data_dirs", "foreword.toml:2"),
    ("[meta]\ndata_dir = 5\n", "meta.data_dir", "foreword.toml:2"),
    ("[meta]\ndata_dir = \"/nowhere\"\n", "meta.data_dir", "/nowhere"),
    ("[meta]\ndata_dir = \"/tmp\"\nlisten = \"nowhere\"\n", "meta.listen", "nowhere"),
    ("[meta]\ndata_dir = \"/tmp\"\nhttp = 80\n", "meta.http", "foreword.toml:3"),
    ("[meta]\ndata_dir = \"/tmp\"\nheartbeat_ms = \"soon\"\n", "meta.heartbeat_ms", "soon"),
    ("[meta]\ndata_dir = \"/tmp\"\nheartbeat_ms = 5000\n", "meta.heartbeat_ms", "5000"),
    ("[meta]\ndata_dir = \"/tmp\"\nhigh_watermark_percent = 300\n", "meta.high_watermark_percent", "300"),
    ("[meta]\ndata_dir = \"/tmp\"\nlog_bytes_per_snapshot = \"1KB\"\n", "meta.log_bytes_per_snapshot", "1000"),
];

/// Below a section that is right but for one field.
const NODE_CASES: [Case; 17] = [
    ("arena_bytes = \"12 bananas\"", "node.arena_bytes", "12 bananas"),
    ("arena_bytes = 4096", "node.arena_bytes", "4096"),
    ("arena_bytes = -1", "node.arena_bytes", "foreword.toml:5"),
    ("arena = 5", "node.arena", "foreword.toml:5"),
    ("segment_bytes = 5000", "node.segment_bytes", "5000"),
    ("listen = \"unix:/x\"", "node.listen", "unix:/x"),
    ("listen = \"host:70000\"", "node.listen", "host:70000"),
    ("socket = \"relative\"", "node.socket", "absolute"),
    ("http = true", "node.http", "foreword.toml:5"),
    ("cluster_id = \"xyz\"", "node.cluster_id", "xyz"),
    ("publish_batch_pages = 0", "node.publish_batch_pages", "got 0"),
    ("l3_write_depth = 100000", "node.l3_write_depth", "100000"),
    ("gather_deadline_ms = \"never\"", "node.gather_deadline_ms", "never"),
    ("meta_wait_ms = 0", "node.meta_wait_ms", "got 0"),
    ("calls_max = 1.5", "node.calls_max", "foreword.toml:5"),
    ("mirror_dir = \"/dev/null/x\"", "node.mirror_dir", "/dev/null/x"),
    ("state_dir = \"/dev/null/x\"", "node.state_dir", "/dev/null/x"),
];

const NODE_BASE: &str = "[node]\nnode = \"n\"\nmeta = [\"127.0.0.1:1\"]\nl3 = \"memory\"\n";

/// Base fields that are wrong themselves.
const NODE_BASE_CASES: [Case; 7] = [
    ("[node]\nmeta = [\"h:1\"]\nl3 = \"memory\"\n", "node.node", "missing"),
    ("[node]\nnode = \"\"\nmeta = [\"h:1\"]\nl3 = \"memory\"\n", "node.node", "foreword.toml:2"),
    ("[node]\nnode = \"n\"\nmeta = []\nl3 = \"memory\"\n", "node.meta", "at least one"),
    ("[node]\nnode = \"n\"\nmeta = [5]\nl3 = \"memory\"\n", "node.meta", "foreword.toml:3"),
    ("[node]\nnode = \"n\"\nmeta = [\"nowhere\"]\nl3 = \"memory\"\n", "node.meta", "nowhere"),
    ("[node]\nnode = \"n\"\nmeta = [\"h:1\"]\n", "node.l3", "missing"),
    ("[node]\nnode = \"n\"\nmeta = [\"h:1\"]\nl3 = \"hf3fs:/x\"\n", "node.l3", "hf3fs:/x"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_file_is_refused_by_field_and_line() {
    let file = ConfigFile::new();
    for (text, field, says) in META_CASES {
        run(&["meta", "run", &file.with(text)]).await.refused(2, field, &[says]);
    }
    for (line, field, says) in NODE_CASES {
        let text = format!("{NODE_BASE}{line}\n");
        run(&["node", &file.with(&text)]).await.refused(2, field, &[says]);
    }
    for (text, field, says) in NODE_BASE_CASES {
        run(&["node", &file.with(text)]).await.refused(2, field, &[says]);
    }
    for command in [&["meta", "run"][..], &["node"]] {
        let missing = [command, &["--config=/nowhere/f.toml"]].concat();
        run(&missing).await.refused(2, "config", &["/nowhere/f.toml"]);
        std::fs::write(file.path(), b"[node]\nname = \"\xff\"\n").unwrap();
        let flag = format!("--config={}", file.path().display());
        run(&[command, &[&flag]].concat()).await.refused(2, "config", &["UTF-8"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_variable_or_flag_is_refused_by_field() {
    let node = ["node", "--name=n", "--meta=127.0.0.1:1", "--l3=memory"];
    let meta = ["meta", "run", "--data-dir=/tmp"];
    type Env<'a> = (&'a [&'a str], (&'a str, &'a str), &'a str);
    let variables: [Env; 9] = [
        (&meta, ("FOREWORD_META_LISTEN", "nowhere"), "listen"),
        (&meta, ("FOREWORD_META_HTTP", "host:70000"), "http"),
        (&meta[..2], ("FOREWORD_META_DATA_DIR", "/nowhere"), "meta.data_dir"),
        (&meta, ("FOREWORD_CONFIG", "/nowhere/f.toml"), "config"),
        (&meta, ("FOREWORD_LOG", "info,=,="), "FOREWORD_LOG"),
        (&node, ("FOREWORD_NODE_LISTEN", "nowhere"), "listen"),
        (&node, ("FOREWORD_NODE_ARENA_BYTES", "1KiB"), "node.arena_bytes"),
        (&node, ("FOREWORD_NODE_ARENA_BYTES", "bananas"), "arena_bytes"),
        (&["node", "--name=n", "--meta=127.0.0.1:1"], ("FOREWORD_NODE_L3", "usrbio:/x"), "node.l3"),
    ];
    for (args, variable, field) in variables {
        run_with(args, &[variable]).await.refused(2, field, &[]);
    }
    for (flag, field) in [
        ("--arena-bytes=bananas", "arena_bytes"),
        ("--arena-bytes=1KiB", "node.arena_bytes"),
        ("--arena-bytes=99999999TiB", "arena_bytes"),
        ("--listen=unix:/x", "node.listen"),
        ("--http=nowhere", "http"),
        ("--socket=relative", "node.socket"),
    ] {
        run(&[&node[..], &[flag]].concat()).await.refused(2, field, &[]);
    }
    run(&["node", "--name=", "--meta=127.0.0.1:1", "--l3=memory"]).await.refused(2, "node.node", &[]);
    run(&["node", "--name=n", "--meta=nowhere", "--l3=memory"]).await.refused(2, "meta", &["nowhere"]);
    run(&["meta", "run", "--data-dir=/tmp", "--listen=nowhere"]).await.refused(2, "listen", &["nowhere"]);
    run(&["meta", "run"]).await.refused(2, "meta.data_dir", &["missing"]);
    // A flag goes before its variable, and a variable before the file.
    let file = ConfigFile::new();
    let config = file.with(&format!("{NODE_BASE}arena_bytes = 1\n"));
    let env = [("FOREWORD_NODE_ARENA_BYTES", "2KiB")];
    run_with(&["node", &config], &env).await.refused(2, "node.arena_bytes", &["got 2048"]);
    run_with(&["node", &config, "--arena-bytes=3KiB"], &env).await.refused(2, "node.arena_bytes", &["got 3072"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_file_starts_both_servers_after_a_malformed_one() {
    let mut live = Live::start(spec(1, 1)).await;
    live.cluster.kill_agent(0).unwrap();
    live.cluster.kill_replica(1).unwrap();
    let dir = live.cluster.dir().to_owned();
    let text = |data_dir: &Path| {
        let replica = format!(
            "[meta]\ndata_dir = \"{}\"\nhttp = \"127.0.0.1:0\"\nheartbeat_ms = \"100ms\"\nlog_bytes_per_snapshot = \"1MiB\"\n",
            data_dir.display()
        );
        let (endpoint, l3) = (live.meta_endpoint(1), dir.join("l3"));
        let agent = format!(
            "[node]\nnode = \"filed\"\nmeta = [\"{endpoint}\"]\nl3 = \"posix:{}\"\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\narena_bytes = \"16MiB\"\n",
            l3.display()
        );
        format!("{replica}{agent}")
    };
    let file = ConfigFile::new();
    let config = file.with(&text(&dir.join("absent")));
    run(&["meta", "run", &config]).await.refused(2, "meta.data_dir", &["foreword.toml:2"]);
    let config = file.with(&text(&live.cluster.data_dir(1)));
    let mut replica = Server::start(&["meta", "run", &config], &dir.join("logs/filed-meta.log")).await;
    replica.ready().await;
    let mut agent = Server::start(&["node", &config], &dir.join("logs/filed-node.log")).await;
    agent.ready().await;
    live.agent = foreword_cli::clients::agent(&agent.announced.grpc.parse().unwrap());
    live.namespace_id = super::live::open(&mut live.agent, &live.namespace).await.unwrap();
    live.works("malformed files").await;
}
