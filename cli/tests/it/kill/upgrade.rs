//! Two binaries, of neighbouring versions: a group goes to the next one and back under load, replica by replica and
//! agent by agent. Once the feature level is raised there is no way back, and the older binary says so and touches
//! nothing.
//!
//! `make test-upgrade` builds both binaries; the next version's differs by the feature `next-version`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use foreword_cli::clients;
use foreword_cli::cluster::Spec;
use foreword_proto::limits::FORMAT_VERSION;
use foreword_proto::wire::meta::TriggerSnapshotRequest;
use serde_json::Value;
use tokio::time::timeout;

use super::support::run::{AGENTS, Run, spec};

/// Where the next version's binary is.
const NEXT_ENV: &str = "FOREWORD_NEXT_BINARY";
/// Room for all that is written meanwhile.
const L3_BYTES: u64 = 1 << 30;
/// Pages that each agent publishes between two restarts.
const PAGES: usize = 40;
/// How long the older binary may take until it meets what it does not know.
const PATIENCE: Duration = Duration::from_secs(60);
const NEXT_VERSION: u64 = FORMAT_VERSION as u64 + 1;
/// Where the version stands in each half of a mark.
const MARK_HALF_BYTES: usize = 2048;
const MARK_VERSION_AT: usize = 8;

struct Upgrade {
    run: Run,
    this: PathBuf,
    next: PathBuf,
}

impl Upgrade {
    async fn start() -> Self {
        let next = std::env::var_os(NEXT_ENV).unwrap_or_else(|| panic!("{NEXT_ENV}: run `make test-upgrade`"));
        let run = Run::start("upgrade", Spec { l3_bytes: L3_BYTES, ..spec() }).await;
        let it = Self { run, this: env!("CARGO_BIN_EXE_foreword").into(), next: next.into() };
        it.everybody_publishes().await;
        it
    }

    async fn everybody_publishes(&self) {
        for agent in 0..AGENTS {
            self.run.acked_through(agent, PAGES).await;
        }
    }

    async fn restart_replica(&mut self, id: u64, binary: &Path) {
        let cluster = &mut self.run.cluster;
        cluster.use_binary(binary);
        cluster.kill_replica(id).unwrap();
        cluster.restart_replica(id).await.unwrap();
        cluster.replica_ready(id).await.unwrap();
        self.everybody_publishes().await;
    }

    /// Each replica in its turn, the leader last.
    async fn roll_replicas(&mut self, binary: &Path) {
        let leader = self.run.cluster.leader().await.unwrap();
        let mut ids = self.run.cluster.replica_ids();
        ids.sort_by_key(|id| *id == leader);
        for id in ids {
            self.restart_replica(id, binary).await;
        }
        self.nobody_was_cut_off().await;
    }

    /// Each agent in its turn.
    async fn roll_agents(&mut self, binary: &Path) {
        self.run.cluster.use_binary(binary);
        for agent in 0..AGENTS {
            self.run.kill_agent(agent);
            self.run.agent_is_back(agent).await;
            self.everybody_publishes().await;
        }
        self.nobody_was_cut_off().await;
    }

    /// No agent lost its session, and no replica its log.
    async fn nobody_was_cut_off(&self) {
        for socket in self.run.cluster.agent_endpoints() {
            let status = clients::agent_status(&socket).await.unwrap();
            assert_eq!((status.counters.sessions_opened, status.fenced), (1, false), "{socket}: {status:?}");
        }
        for id in self.run.cluster.replica_ids() {
            let log = fs::read_to_string(self.run.cluster.dir().join(format!("logs/meta-{id}.log"))).unwrap();
            for lost in ["setting the log aside", "asking every other voter"] {
                assert!(!log.contains(lost), "replica {id}: {lost}\n{log}");
            }
        }
    }

    /// Which versions the IDENTITY and the mark of every replica have.
    fn files_are_of(&self, version: u64) {
        for id in self.run.cluster.replica_ids() {
            let dir = self.run.cluster.data_dir(id);
            let identity: Value = serde_json::from_slice(&fs::read(dir.join("IDENTITY")).unwrap()).unwrap();
            let mark = fs::read(dir.join("MARK")).unwrap();
            let of_half = |half: &[u8]| u32::from_le_bytes(*half[MARK_VERSION_AT..].first_chunk().unwrap());
            let of_mark = mark.chunks(MARK_HALF_BYTES).map(of_half).max().unwrap();
            assert_eq!(
                (identity["format_version"].as_u64(), u64::from(of_mark)),
                (Some(version), version),
                "replica {id}"
            );
        }
    }

    fn feature_level(&self, binary: &Path, more: &[&str]) -> Output {
        let meta: Vec<String> = self.run.cluster.meta_endpoints().iter().map(ToString::to_string).collect();
        let meta = format!("--meta={}", meta.join(","));
        foreword(binary, &[&["meta", "feature-level", "--json", &meta], more].concat())
    }

    /// Raising is refused while a replica does not know the level; the answer names it.
    fn raise_is_refused_for(&self, id: u64) {
        let refused = self.feature_level(&self.next, &[&format!("--raise={NEXT_VERSION}")]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(&format!("replica {id} at ")), "{said}");
        assert!(said.contains(&format!("knows {FORMAT_VERSION}")), "{said}");
    }

    fn committed(&self) -> u64 {
        let told = self.feature_level(&self.this, &[]);
        assert!(told.status.success(), "{told:?}");
        serde_json::from_slice::<Value>(&told.stdout).unwrap()["committed"].as_u64().unwrap()
    }

    /// The older binary on a directory that the level has left behind: exit 2, both versions named, no byte changed.
    async fn the_older_binary_refuses(&mut self, id: u64) {
        self.run.cluster.kill_replica(id).unwrap();
        let dir = self.run.cluster.data_dir(id);
        let before = tree(&dir);
        for _ in 0..2 {
            let ended = foreword(&self.this, &["meta", "run", &format!("--data-dir={}", dir.display())]);
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.code(), Some(2), "{said}");
            for named in [format!("expected {FORMAT_VERSION}"), format!("has {NEXT_VERSION}"), "IDENTITY".into()] {
                assert!(said.contains(&named), "expected {named:?} in: {said}");
            }
        }
        let after = tree(&dir);
        let changed: Vec<_> = before.keys().chain(after.keys()).filter(|f| before.get(*f) != after.get(*f)).collect();
        assert!(changed.is_empty(), "{changed:?} changed");
        self.run.cluster.restart_replica(id).await.unwrap();
        self.run.cluster.replica_ready(id).await.unwrap();
    }

    /// A replica's directory as it is now, beside it; the replica goes on.
    async fn copy_of(&mut self, id: u64) -> PathBuf {
        let cluster = &mut self.run.cluster;
        cluster.kill_replica(id).unwrap();
        let copy = cluster.dir().join(format!("copy-of-meta-{id}"));
        copy_dir(&cluster.data_dir(id), &copy);
        cluster.restart_replica(id).await.unwrap();
        cluster.replica_ready(id).await.unwrap();
        copy
    }

    /// The older binary with a directory from before the raise, as of a member that was rolled back between its hello
    /// and the commit: it follows until it meets what it does not know, ends with exit 2, and from then on touches
    /// nothing.
    async fn the_older_binary_stops_in(&mut self, copy: &Path, id: u64) {
        self.run.cluster.kill_replica(id).unwrap();
        let endpoint = self.run.cluster.meta_endpoints()[id as usize - 1].clone();
        let args =
            ["meta".into(), "run".into(), format!("--data-dir={}", copy.display()), format!("--listen={endpoint}")];
        let mut noted = None;
        for _ in 0..2 {
            let mut older = tokio::process::Command::new(&self.this);
            let ended = older.args(&args).stdin(Stdio::null()).kill_on_drop(true).output();
            let ended = timeout(PATIENCE, ended).await.expect("the older binary ends").unwrap();
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(ended.status.code(), Some(2), "{said}");
            let last = said.lines().last().unwrap_or_default();
            assert!(last.contains("expected") && last.contains(&format!("has {NEXT_VERSION}")), "{said}");
            let now = tree(copy);
            let before = noted.replace(now);
            assert!(before.is_none_or(|before| Some(before) == noted), "the second start changed something");
        }
        self.run.cluster.restart_replica(id).await.unwrap();
        self.run.cluster.replica_ready(id).await.unwrap();
    }

    async fn snapshot(&self, id: u64) {
        let endpoint = &self.run.cluster.meta_endpoints()[id as usize - 1];
        clients::admin(endpoint).trigger_snapshot(TriggerSnapshotRequest {}).await.unwrap();
    }
}

/// Runs a binary to its end.
fn foreword(binary: &Path, args: &[&str]) -> Output {
    Command::new(binary).args(args).stdin(Stdio::null()).output().unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Every file below a directory, with its bytes.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| match path.is_dir() {
        true => tree(&path),
        false => BTreeMap::from([(path.clone(), fs::read(&path).unwrap())]),
    });
    below.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a second binary: make test-upgrade"]
async fn a_group_goes_to_the_next_version_and_back_until_its_level_is_raised() {
    let mut it = Upgrade::start().await;
    let (this, next) = (it.this.clone(), it.next.clone());
    // Older agents with newer replicas, then agents of both, then newer agents with older replicas.
    it.roll_replicas(&next).await;
    it.roll_agents(&next).await;
    it.files_are_of(FORMAT_VERSION.into());
    it.snapshot(2).await;
    it.restart_replica(1, &this).await;
    it.raise_is_refused_for(1);
    it.roll_replicas(&this).await;
    it.roll_agents(&this).await;
    assert_eq!(it.committed(), u64::from(FORMAT_VERSION));

    it.roll_replicas(&next).await;
    it.roll_agents(&next).await;
    let copy = it.copy_of(2).await;
    let raised = it.feature_level(&next, &[&format!("--raise={NEXT_VERSION}")]);
    assert!(raised.status.success(), "{raised:?}");
    assert_eq!(it.committed(), NEXT_VERSION);
    it.everybody_publishes().await;
    it.files_are_of(NEXT_VERSION);
    // A snapshot of the new version, entries of both, and the binary that reads them.
    it.snapshot(3).await;
    it.restart_replica(3, &next).await;
    it.the_older_binary_refuses(2).await;
    it.the_older_binary_stops_in(&copy, 2).await;
    it.nobody_was_cut_off().await;
    it.run.judge().await;
}
