//! `foreword clear` and `foreword delete`, and who may still see what they removed.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use crate::bad_input::live::{Live, spec};

/// A cluster with two agents, and a page on disk.
struct Shell {
    live: Live,
    page: tempfile::NamedTempFile,
}

impl Shell {
    async fn start() -> Self {
        let page = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(page.path(), [7; 4096]).unwrap();
        Self { live: Live::start(spec(1, 2)).await, page }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let fields = ["--model", "m", "--shard-bytes", "4096"];
        let named = if arguments.contains(&"--namespace-id") { &[][..] } else { &fields[..] };
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
        command.args(arguments).args(named).arg("--json").output().await.unwrap()
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn agent(&self, number: usize) -> String {
        self.live.cluster.agent_endpoints()[number].to_string()
    }

    fn meta(&self) -> String {
        self.live.cluster.meta_endpoints()[0].to_string()
    }

    async fn put(&self, agent: usize, name: &str) {
        let file = self.page.path().display().to_string();
        let put = self.json(&["put", "--agent", &self.agent(agent), "--opaque", name, &file]).await;
        assert_eq!(put["outcome"], "published");
    }

    /// Whether an agent that has seen `revision` gives the page.
    async fn has(&self, agent: usize, name: &str, revision: u64) -> bool {
        let out = Path::new("/dev/null").display().to_string();
        let (agent, revision) = (self.agent(agent), revision.to_string());
        let get = ["get", "--agent", &agent, "--opaque", name, "--min-revision", &revision, "--out", &out];
        let output = self.run(&get).await;
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["hit"] == true
    }
}

#[tokio::test]
async fn what_was_deleted_or_cleared_is_gone_on_every_agent_that_has_seen_it() {
    let shell = Shell::start().await;
    let meta = shell.meta();
    for name in ["a", "b"] {
        shell.put(0, name).await;
        assert!(shell.has(1, name, 0).await);
    }
    let deleted = shell.json(&["delete", "--meta", &meta, "--opaque", "a", "--opaque", "absent"]).await;
    assert_eq!(deleted["deleted"], 1);
    let revision = deleted["revision"].as_u64().unwrap();
    for agent in [0, 1] {
        assert!(!shell.has(agent, "a", revision).await && shell.has(agent, "b", revision).await, "agent {agent}");
    }

    // Again, though it is in no index: somebody may have a copy of it still.
    let again = shell.json(&["delete", "--meta", &meta, "--opaque", "a"]).await;
    assert!(again["deleted"] == 0 && again["revision"].as_u64().unwrap() > revision);

    let unsaid = shell.run(&["clear", "--meta", &meta]).await;
    assert_eq!(unsaid.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unsaid.stderr).contains("yes: expected to be given"));
    let cleared = shell.json(&["clear", "--meta", &meta, "--yes"]).await;
    let revision = cleared["revision"].as_u64().unwrap();
    for agent in [0, 1] {
        assert!(!shell.has(agent, "b", revision).await, "agent {agent}");
    }
    let id = cleared["cleared"].to_string();
    let again = shell.json(&["clear", "--meta", &meta, "--namespace-id", &id, "--yes"]).await;
    assert_eq!(again["epoch"], cleared["epoch"].as_u64().unwrap() + 1);
}

#[tokio::test]
async fn a_namespace_that_is_not_registered_is_not_made_to_be_cleared() {
    let shell = Shell::start().await;
    let meta = shell.meta();
    for (command, more) in [("clear", "--yes"), ("delete", "--opaque=a")] {
        let output = shell.run(&[command, "--meta", &meta, more]).await;
        assert_eq!(output.status.code(), Some(3), "{command}");
        let output = shell.run(&[command, "--meta", &meta, "--namespace-id", "99", more]).await;
        assert_eq!(output.status.code(), Some(3), "{command}");
    }
    let mut list = Command::new(env!("CARGO_BIN_EXE_foreword"));
    let listed = list.args(["meta", "namespaces", "--meta", &meta, "--json"]).output().await.unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(listed["namespaces"].as_array().unwrap().iter().all(|known| known["model"] != "m"), "{listed}");
}
