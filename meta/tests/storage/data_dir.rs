//! The data directory refuses what is not its own, and says which field.

use std::path::Path;
use std::sync::Arc;

use foreword_meta::config::MetaConfig;
use foreword_meta::open::open_data_dir;
use foreword_meta::state::command::ClusterSettings;
use foreword_meta::storage::{DataDir, Identity};
use foreword_proto::{ClusterId, DirectoryId};
use foreword_seams::{OsEntropy, Telemetry, TokioNet};

pub(crate) fn identity() -> Identity {
    let settings = ClusterSettings {
        chunk_bytes: 4096,
        slab_bytes: 1 << 30,
        l3_bytes: 1 << 40,
        read_rest_ms: 120_000,
        write_rest_ms: 300_000,
        first_feature_level: 1,
        hf3fs_protection_ms: 30_000,
        lease_ms: 10_000,
    };
    let directory = DirectoryId([3; 16]);
    Identity::new(ClusterId([1; 16]), 2, directory, settings, [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into())
}

fn edit(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("IDENTITY");
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

#[test]
fn an_identity_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("replica");
    drop(DataDir::init(&path, &identity()).unwrap());
    let mut dir = DataDir::open(&path).unwrap();
    assert_eq!(*dir.identity(), identity());
    dir.expect(Some(ClusterId([1; 16])), Some(2)).unwrap();
    dir.set_bootstrapped().unwrap();
    drop(dir);
    let dir = DataDir::open(&path).unwrap();
    assert_eq!(*dir.identity(), Identity { bootstrapped: true, ..identity() });
    assert!(dir.snapshots().is_dir());
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("replica");
    assert_eq!(DataDir::open(&path).unwrap_err().field(), "data_dir");
    let dir = DataDir::init(&path, &identity()).unwrap();
    assert_eq!(dir.expect(Some(ClusterId([9; 16])), None).unwrap_err().field, "data_dir.cluster_id");
    assert_eq!(dir.expect(None, Some(3)).unwrap_err().field, "data_dir.replica_id");
    let locked = DataDir::open(&path).unwrap_err();
    assert!(locked.field() == "data_dir" && locked.to_string().contains("is locked"), "{locked}");
    drop(dir);
    let again = DataDir::init(&path, &identity()).unwrap_err();
    assert!(again.to_string().contains("already holds one"), "{again}");

    // A newer format need not look like ours in anything but its version.
    edit(&path, |json| *json = serde_json::json!({"format_version": 7, "cluster": "renamed"}));
    let newer = DataDir::open(&path).unwrap_err();
    assert_eq!(newer.field(), "data_dir.format_version");
    assert!(newer.to_string().contains("expected 1") && newer.to_string().contains("has 7"), "{newer}");
    std::fs::write(path.join("IDENTITY"), "not json").unwrap();
    assert_eq!(DataDir::open(&path).unwrap_err().field(), "data_dir.identity");
}

#[test]
fn a_lost_log_is_set_aside_and_never_touched() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("replica");
    let mut dir = DataDir::init(&path, &identity()).unwrap();
    for n in 1..=2 {
        std::fs::create_dir_all(dir.log()).unwrap();
        std::fs::write(dir.log().join("db"), format!("log {n}")).unwrap();
        std::fs::write(dir.mark(), b"mark").unwrap();
        std::fs::write(dir.snapshots().join("s"), b"snapshot").unwrap();
        assert_eq!(dir.set_log_aside().unwrap().len(), 3);
        assert!(!dir.log().exists() && !dir.mark().exists());
        assert!(std::fs::read_dir(dir.snapshots()).unwrap().next().is_none());
        let kept = std::fs::read_to_string(path.join(format!("log.lost-{n}/db"))).unwrap();
        assert_eq!(kept, format!("log {n}"));
    }
    // One that loses its log all the time does not fill the disk: the newest replaces the one before it, the oldest
    // stay.
    for n in 3..=9 {
        std::fs::create_dir_all(dir.log()).unwrap();
        std::fs::write(dir.log().join("db"), format!("log {n}")).unwrap();
        dir.set_log_aside().unwrap();
    }
    let kept = (1..=9).filter_map(|n| std::fs::read_to_string(path.join(format!("log.lost-{n}/db"))).ok());
    assert_eq!(kept.collect::<Vec<_>>(), ["log 1", "log 2", "log 3", "log 9"]);
    drop(dir);
    let mut dir = DataDir::open(&path).unwrap();
    assert!(dir.identity().rejoining);
    dir.set_rejoining(false).unwrap();
    assert!(!dir.identity().rejoining);
}

#[tokio::test]
async fn a_log_that_is_not_to_be_used_again_is_set_aside_by_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("replica");
    let open = async || {
        let config = MetaConfig::new(&path, "127.0.0.1:1".parse().unwrap());
        open_data_dir(&config, Arc::new(TokioNet), Arc::new(OsEntropy), Telemetry::new()).await.unwrap()
    };
    drop(DataDir::init(&path, &identity()).unwrap());
    let deps = open().await;
    deps.identity_file.distrust().unwrap();
    let end = deps.log.end();
    drop(deps);
    end.wait().await;
    let deps = open().await;
    assert!(deps.identity.rejoining && !deps.identity.distrusted && path.join("log.lost-1").exists());
    let end = deps.log.end();
    drop(deps);
    end.wait().await;
    drop(open().await);
    assert!(!path.join("log.lost-2").exists(), "once");
}

#[tokio::test]
async fn a_member_whose_log_was_removed_with_its_mark_rejoins() {
    let root = tempfile::tempdir().unwrap();
    let open = async || {
        let config = MetaConfig::new(root.path().join("replica"), "127.0.0.1:1".parse().unwrap());
        open_data_dir(&config, Arc::new(TokioNet), Arc::new(OsEntropy), Telemetry::new()).await.unwrap()
    };
    drop(DataDir::init(&root.path().join("replica"), &identity()).unwrap());
    let deps = open().await;
    assert!(!deps.identity.rejoining, "a new one lost nothing");
    deps.identity_file.bootstrapped().unwrap();
    let end = deps.log.end();
    drop(deps);
    end.wait().await;
    assert!(open().await.identity.rejoining);
}
