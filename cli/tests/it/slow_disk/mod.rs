//! Replicas whose syncs take long: real processes under a preloaded library.

mod publisher;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use foreword_cli::cluster::Spec;
use foreword_proto::PageKey;
use tempfile::TempDir;
use tokio::time::Instant;

use self::publisher::{PAGES, Publisher};
use crate::bad_input::live::{Live, spec};

/// Room for all that is published.
const L3_BYTES: u64 = 1 << 30;
/// A publish takes less than so many syncs.
const SYNCS_A_PUBLISH: u32 = 8;

/// Three replicas and an agent; each replica's syncs can be made slow.
struct SlowCluster {
    live: Live,
    dir: TempDir,
    published: Vec<PageKey>,
}

/// The library, and a `foreword` that loads it; None where there is no C compiler.
fn wrapper() -> Option<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("slow.c"), dir.path().join("slow.so"));
    std::fs::write(&source, include_str!("slow.c")).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    match compiled {
        Err(error) => {
            eprintln!("skipped: cc: {error}");
            return None;
        }
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    // The replica's id is the end of its data directory's name.
    let script = format!(
        "#!/bin/sh\nfor arg; do case $arg in --data-dir=*) id=${{arg##*-}};; esac; done\n\
         export SLOW_FILE={0}/ms-$id LD_PRELOAD={0}/slow.so\nexec {1} \"$@\"\n",
        dir.path().display(),
        env!("CARGO_BIN_EXE_foreword"),
    );
    let wrapper = dir.path().join("foreword");
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some((dir, wrapper))
}

impl SlowCluster {
    async fn start() -> Option<Self> {
        let (dir, binary) = wrapper()?;
        let live = Live::start(Spec { binary, l3_bytes: L3_BYTES, ..spec(3, 1) }).await;
        Some(Self { live, dir, published: Vec::new() })
    }

    /// From now on each sync of the replica waits for so long first.
    fn sync_takes(&self, replica: u64, ms: u64) {
        let file = self.dir.path().join(format!("ms-{replica}"));
        // Renamed into place: no reader finds half of it.
        let new = file.with_extension("new");
        std::fs::write(&new, ms.to_string()).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// Publishes one page after the other until `over` or for so long; answers with how long each took, in order of
    /// length.
    async fn publish(&mut self, longest: Duration, mut over: impl AsyncFnMut(&Live) -> bool) -> Vec<Duration> {
        let (started, mut took) = (Instant::now(), Vec::new());
        while started.elapsed() < longest && !over(&self.live).await {
            let key = self.live.fresh_key();
            let sent = Instant::now();
            self.live.publish(&key).await.unwrap();
            took.push(sent.elapsed());
            self.published.push(key);
        }
        took.sort_unstable();
        took
    }

    async fn nothing_is_lost(&mut self) {
        for key in std::mem::take(&mut self.published) {
            self.live.readable(&key, true).await;
        }
    }
}

async fn term(live: &Live) -> u64 {
    live.cluster.statuses().await.iter().map(|status| status.term).max().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_60_ms_everywhere_cause_no_election() {
    let Some(mut cluster) = SlowCluster::start().await else { return };
    let before = term(&cluster.live).await;
    (1..=3).for_each(|replica| cluster.sync_takes(replica, 60));
    let took = cluster.publish(Duration::from_secs(20), async |_| false).await;
    println!("{} publishes, median {:?}, longest {:?}", took.len(), took[took.len() / 2], took[took.len() - 1]);
    assert_eq!(term(&cluster.live).await, before, "an election");
    cluster.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_syncs_of_300_ms_alone_is_replaced() {
    let Some(mut cluster) = SlowCluster::start().await else { return };
    let slow = cluster.live.cluster.leader().await.unwrap();
    cluster.sync_takes(slow, 300);
    let replaced = async |live: &Live| live.cluster.leader().await.is_ok_and(|leader| leader != slow);
    let began = Instant::now();
    let took = cluster.publish(Duration::from_secs(90), replaced).await;
    println!("another leads after {:?} and {} publishes", began.elapsed(), took.len());
    assert_ne!(cluster.live.cluster.leader().await.unwrap(), slow, "still the leader");
    // Where the disk is fast, it stays.
    let after = term(&cluster.live).await;
    cluster.publish(Duration::from_secs(10), async |_| false).await;
    assert_eq!(term(&cluster.live).await, after, "another election");
    cluster.sync_takes(slow, 0);
    cluster.nothing_is_lost().await;
}

/// A measurement: on a machine that does other things, too, it says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for a minute: make test-slow-disk"]
async fn a_minute_of_60_ms_syncs_has_no_election_and_publishes_of_few_syncs() {
    const SYNC: Duration = Duration::from_millis(60);
    let Some(cluster) = SlowCluster::start().await else { panic!("expected a C compiler, cc") };
    let leader = cluster.live.cluster.leader().await.unwrap();
    for (at, what) in [(leader, "at the leader"), (leader % 3 + 1, "at a follower")] {
        let mut publisher = Publisher::open(&cluster.live.cluster.meta_endpoints()[at as usize - 1]).await;
        let before = term(&cluster.live).await;
        (1..=3).for_each(|replica| cluster.sync_takes(replica, SYNC.as_millis() as u64));
        let (started, mut took) = (Instant::now(), Vec::new());
        while started.elapsed() < Duration::from_secs(60) {
            took.push(publisher.publish().await);
        }
        let elections = term(&cluster.live).await - before;
        took.sort_unstable();
        let (median, p99, longest) = (took[took.len() / 2], took[took.len() * 99 / 100], took[took.len() - 1]);
        let syncs = median.as_secs_f64() / SYNC.as_secs_f64();
        println!(
            "{what}: {} publishes of {PAGES} pages, syncs of {SYNC:?}: p50 {median:?} ({syncs:.1} syncs), p99 {p99:?}, \
             longest {longest:?}; elections {elections}",
            took.len()
        );
        assert_eq!(elections, 0);
        assert!(median < SYNC * SYNCS_A_PUBLISH, "{median:?}");
        (1..=3).for_each(|replica| cluster.sync_takes(replica, 0));
        publisher.nothing_is_lost().await;
    }
}
