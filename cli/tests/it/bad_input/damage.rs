//! A log or a snapshot that was damaged while its replica was down: the replica sets aside what it cannot trust and
//! catches up from the others; nothing that was acknowledged is lost.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use foreword_cli::cluster::Spec;
use foreword_proto::PageKey;
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta as m;

use super::live::{Live, meta_lookup, spec};
use super::run::eventually;

/// Publishes a case makes while the replica runs, and while it is down.
const PAGES: usize = 40;
/// A snapshot leaves an eighth of this in the log before it.
const LOG_PER_SNAPSHOT: &str = "[meta]\nlog_bytes_per_snapshot = \"64KiB\"\n";
/// More than a snapshot leaves: after it, the log begins with what the snapshot covers.
const PAGES_BEFORE_SNAPSHOT: usize = 200;

/// The file, or every file below the directory.
fn files(path: PathBuf) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path];
    }
    fs::read_dir(path).unwrap().flat_map(|entry| files(entry.unwrap().path())).collect()
}

/// Cuts each file to half its length.
fn truncate(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Flips a bit of every 256th byte.
fn corrupt(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    for at in (100..file.metadata().unwrap().len()).step_by(256) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
}

/// What is done to one file.
type Damage = fn(&Path);

struct Damaged {
    live: Live,
    acknowledged: Vec<(PageKey, u64)>,
}

impl Damaged {
    async fn publish(&mut self, pages: usize) {
        for _ in 0..pages {
            let key = self.live.fresh_key();
            let revision = self.live.publish(&key).await.unwrap();
            self.acknowledged.push((key, revision));
        }
    }

    /// Damages files of a replica while it is down, and publishes meanwhile; afterwards it agrees with the others and
    /// has everything that was acknowledged.
    async fn survives(&mut self, what: &str, id: u64, part: &str, damage: Damage) {
        self.publish(PAGES).await;
        self.live.cluster.kill_replica(id).unwrap();
        let damaged = files(self.live.cluster.data_dir(id).join(part));
        assert!(!damaged.is_empty(), "{what}: nothing to damage");
        damaged.iter().for_each(|path| damage(path));
        self.publish(PAGES).await;
        self.live.cluster.restart_replica(id).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        self.live.cluster.replica_ready(id).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let agreed = self.live.cluster.converged().await;
        agreed.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        self.nothing_is_lost(what, id).await;
    }

    async fn nothing_is_lost(&mut self, what: &str, id: u64) {
        let keys: Vec<PageKey> = self.acknowledged.iter().map(|(key, _)| *key).collect();
        let freshness = Some(Freshness { min_revision: 0, linearizable: true });
        let request = m::LookupRequest {
            freshness,
            every_key: true,
            ..meta_lookup(self.live.namespace_id, page_keys_to_wire(&keys))
        };
        let found = self.live.meta(id).lookup(request).await.unwrap().into_inner();
        for ((key, revision), present) in self.acknowledged.iter().zip(&found.present) {
            assert_eq!(*present, 1, "{what}: {key}, acknowledged at {revision}, is not on replica {id}");
        }
        for key in keys.iter().rev().take(2 * PAGES) {
            self.live.readable(key, true).await;
        }
    }

    /// How often the log of a replica was set aside, by its directory; its own log says so as often.
    fn times_set_aside(&self, id: u64) -> usize {
        let aside = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("log.lost-");
        let found =
            fs::read_dir(self.live.cluster.data_dir(id)).unwrap().filter(|entry| aside(entry.as_ref().unwrap()));
        let said = fs::read_to_string(self.live.cluster.dir().join(format!("logs/meta-{id}.log"))).unwrap();
        let found = found.count();
        assert_eq!(said.matches("setting the log aside").count(), found, "{said}");
        found
    }

    /// [`Damaged::survives`], by beginning again with nothing.
    async fn rejoins(&mut self, what: &str, id: u64, part: &str, damage: Damage) {
        let before = self.times_set_aside(id);
        self.survives(what, id, part, damage).await;
        assert_eq!(self.times_set_aside(id), before + 1, "{what}");
    }

    fn follower(leader: u64) -> u64 {
        leader % 3 + 1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_set_aside_and_nothing_is_lost() {
    let mut it = Damaged { live: Live::start(spec(3, 1)).await, acknowledged: Vec::new() };
    let id = Damaged::follower(it.live.cluster.leader().await.unwrap());
    it.rejoins("a truncated log", id, "log", truncate).await;
    let id = it.live.cluster.leader().await.unwrap();
    it.rejoins("a corrupted log of the leader", id, "log", corrupt).await;
    let id = Damaged::follower(it.live.cluster.leader().await.unwrap());
    it.rejoins("an emptied log", id, "log", |path| fs::remove_file(path).unwrap()).await;
    let id = Damaged::follower(it.live.cluster.leader().await.unwrap());
    it.rejoins("a damaged mark", id, "MARK", |path| fs::write(path, [0x5a; 4096]).unwrap()).await;
    it.rejoins("a truncated mark", id, "MARK", truncate).await;
    it.live.cluster.check().unwrap();
}

/// Makes a replica write a snapshot.
async fn snapshot(it: &Damaged, id: u64) {
    let mut admin = foreword_cli::clients::admin(&it.live.meta_endpoint(id));
    admin.trigger_snapshot(m::TriggerSnapshotRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_not_used_and_nothing_is_lost() {
    let spec = Spec { config: LOG_PER_SNAPSHOT.into(), ..spec(3, 1) };
    let mut it = Damaged { live: Live::start(spec).await, acknowledged: Vec::new() };
    // The whole log is still there: the snapshot is passed over.
    let id = Damaged::follower(it.live.cluster.leader().await.unwrap());
    it.publish(1).await;
    snapshot(&it, id).await;
    it.survives("a corrupted snapshot before a whole log", id, "snapshots", corrupt).await;
    assert_eq!(it.times_set_aside(id), 0, "nothing was lost");

    it.publish(PAGES_BEFORE_SNAPSHOT).await;
    let damages: [(&str, Damage); 3] = [
        ("a corrupted snapshot", corrupt),
        ("a truncated snapshot", truncate),
        ("an emptied snapshot", |path| File::create(path).map(drop).unwrap()),
    ];
    for (at, (what, damage)) in damages.into_iter().enumerate() {
        // Each on another replica: the one that has just rejoined has nothing to purge.
        let id = at as u64 + 1;
        snapshot(&it, id).await;
        let endpoint = it.live.meta_endpoint(id);
        eventually("the log before the snapshot is purged", async || {
            foreword_cli::clients::replica_status(&endpoint).await.unwrap().purged_index > 0
        })
        .await;
        it.rejoins(what, id, "snapshots", damage).await;
    }
    it.live.cluster.check().unwrap();
}
