//! Another version of any file of a data directory: told from damage, named, and nothing is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use foreword_meta::config::MetaConfig;
use foreword_meta::consensus::entry_codec::{encode_entry, encode_vote};
use foreword_meta::consensus::types::{SnapshotMeta, Vote};
use foreword_meta::open::{OpenDirError, open_data_dir, open_log};
use foreword_meta::serve::Deps;
use foreword_meta::state::State;
use foreword_meta::storage::mark::{MARK_BYTES, MARK_HALF_BYTES};
use foreword_meta::storage::{DataDir, LogEngine, MetaKey, OpenError, SledEngine, SnapshotHeader, SnapshotWriter};
use foreword_proto::limits::{FORMAT_VERSION, FORMAT_VERSIONS};
use foreword_proto::versions::Foreign;
use foreword_seams::{LocalFiles, OsEntropy, Telemetry, TokioNet, on_a_task};
use openraft::storage::RaftLogStorage;

use crate::data_dir::identity;
use crate::support::{MemoryReplica, append, close, entry, log_id};

const NEWER: u32 = FORMAT_VERSION + 1;
const NAME: &str = "snapshot-00000000000000000002-1";

/// A replica's directory with a vote, five entries and a snapshot, and everything closed.
struct Replica {
    root: tempfile::TempDir,
}

impl Replica {
    async fn new() -> Self {
        let it = Self { root: tempfile::tempdir().unwrap() };
        drop(DataDir::init(&it.path(), &identity()).unwrap());
        let mut log = it.open().await.unwrap().log;
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        for index in 0..5 {
            append(&mut log, [entry(1, index, 500)]).await.unwrap();
        }
        close(log).await;
        it.write_snapshot(State::new(identity().settings).freeze().chunks().collect()).await;
        it
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("replica")
    }

    async fn open(&self) -> Result<Deps, OpenDirError> {
        let config = MetaConfig::new(self.path(), "127.0.0.1:0".parse().unwrap());
        open_data_dir(&config, Arc::new(TokioNet), Arc::new(OsEntropy), Telemetry::new()).await
    }

    async fn write_snapshot(&self, pieces: Vec<Bytes>) {
        let files = Arc::new(LocalFiles::new(self.path().join("snapshots")).unwrap());
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, 2)), ..SnapshotMeta::default() };
        let header = SnapshotHeader { cluster_id: identity().cluster_id, meta };
        let mut writer = SnapshotWriter::create(&*files, NAME, FORMAT_VERSION, &header).await.unwrap();
        for piece in pieces {
            writer.append(piece).await.unwrap();
        }
        writer.seal().await.unwrap();
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    fn edit_engine(&self, change: impl FnOnce(&mut SledEngine)) {
        let mut engine = SledEngine::open(&self.path().join("log")).unwrap();
        change(&mut engine);
        futures::executor::block_on(engine.sync()).unwrap();
    }

    /// The directory is refused, `found` and the version that is read are named, and no byte of it changes; not by
    /// another try, either.
    async fn is_refused_untouched(&self, file: &str, found: &str) {
        let before = tree(&self.path());
        for _ in 0..2 {
            let error = self.open().await.err().unwrap_or_else(|| panic!("{file}: opened"));
            let said = error.to_string();
            assert!(error.is_refusal(), "{file}: {said}");
            for part in ["data_dir.", &FORMAT_VERSIONS.to_string(), file, found] {
                assert!(said.contains(part), "{file}: expected {part:?} in: {said}");
            }
            let after = tree(&self.path());
            let changed: Vec<_> =
                before.keys().chain(after.keys()).filter(|f| before.get(*f) != after.get(*f)).collect();
            assert!(changed.is_empty(), "{file}: {changed:?} changed");
        }
    }
}

/// Every file below a directory, with its bytes.
fn tree(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| match path.is_dir() {
        true => tree(&path),
        false => BTreeMap::from([(path.clone(), std::fs::read(&path).unwrap())]),
    });
    below.collect()
}

/// A checksum as the formats have it: crc32 of `bytes[covered]`, little-endian, at `at`.
fn reseal(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    let crc = crc32fast::hash(&bytes[covered]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Changes the version of one half of a mark, and makes its checksum right again.
fn of_version(half: &mut [u8], version: u32) {
    half[8..12].copy_from_slice(&version.to_le_bytes());
    reseal(half, 0..53, 53);
}

/// A stored entry or value with another version and a right checksum.
fn resealed(stored: Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = stored.to_vec();
    change(&mut bytes);
    let length = bytes.len();
    reseal(&mut bytes, 4..length, 0);
    bytes.into()
}

#[tokio::test]
async fn a_mark_of_another_version_is_refused_untouched() {
    for halves in [&[0, 1][..], &[0], &[1]] {
        let replica = Replica::new().await;
        replica.edit("MARK", |bytes| {
            assert_eq!(bytes.len(), MARK_BYTES);
            halves.iter().for_each(|half| of_version(&mut bytes[half * MARK_HALF_BYTES..][..MARK_HALF_BYTES], NEWER));
        });
        replica.is_refused_untouched("MARK", &format!("has {NEWER}")).await;
    }
}

#[tokio::test]
async fn an_identity_of_another_version_is_refused_untouched() {
    let replica = Replica::new().await;
    replica.edit("IDENTITY", |bytes| *bytes = format!("{{\"format_version\": {NEWER}}}").into_bytes());
    std::fs::remove_file(replica.path().join("LOCK")).unwrap();
    replica.is_refused_untouched("IDENTITY", &format!("has {NEWER}")).await;
}

#[tokio::test]
async fn a_snapshot_of_another_version_is_refused_untouched() {
    let header = Replica::new().await;
    header.edit(&format!("snapshots/{NAME}"), |bytes| {
        bytes[8..12].copy_from_slice(&NEWER.to_le_bytes());
        let end = 16 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        reseal(bytes, 0..end, end);
    });
    header.is_refused_untouched(NAME, &format!("has {NEWER}")).await;
    // A kind of piece, a piece's version, a level in the head: each in frames whose checksums are right.
    let pieces: Vec<Bytes> = State::new(identity().settings).freeze().chunks().collect();
    let edited = |piece: usize, at: usize, byte: u8| {
        let mut pieces = pieces.clone();
        let mut bytes = pieces[piece].to_vec();
        bytes[at] = byte;
        pieces[piece] = bytes.into();
        pieces
    };
    let last = pieces.len() - 1;
    for (pieces, found) in
        [(edited(last, 1, 99), "has kind 99"), (edited(last, 0, NEWER as u8), &format!("has {NEWER}"))]
    {
        let replica = Replica::new().await;
        replica.write_snapshot(pieces).await;
        replica.is_refused_untouched(NAME, found).await;
    }
}

#[tokio::test]
async fn a_log_engine_of_another_version_is_refused_untouched() {
    let replica = Replica::new().await;
    replica.edit("log/conf", |bytes| {
        let text = String::from_utf8(bytes[..bytes.len() - 4].to_vec()).unwrap().replace("0.34", "0.99");
        *bytes = text.into_bytes();
        let end = bytes.len();
        bytes.extend_from_slice(&[0; 4]);
        reseal(bytes, 0..end, end);
    });
    let before = tree(&replica.path());
    let error = replica.open().await.err().unwrap();
    assert!(error.is_refusal() && error.to_string().contains("0.99") && error.to_string().contains("0.34"), "{error}");
    assert_eq!(tree(&replica.path()), before);
}

#[tokio::test]
async fn an_entry_or_a_value_of_another_version_is_refused_and_kept() {
    let newer = |stored| resealed(stored, |bytes| bytes[4] = NEWER as u8);
    let kind = |stored| resealed(stored, |bytes| bytes[5] = 99);
    for (item, found) in [
        (newer(encode_entry(FORMAT_VERSION, &entry(1, 4, 50))), NEWER.to_string()),
        (kind(encode_entry(FORMAT_VERSION, &entry(1, 4, 50))), "kind 99".into()),
    ] {
        let replica = Replica::new().await;
        replica.edit_engine(|engine| {
            engine.truncate_from(4).unwrap();
            engine.append(&[(4, item.clone())]).unwrap();
        });
        let error = replica.open().await.err().unwrap();
        assert!(
            error.is_refusal() && error.to_string().contains("log entry 4") && error.to_string().contains(&found),
            "{error}"
        );
        replica.edit_engine(|engine| assert_eq!(engine.read(4..5).unwrap(), [(4, item.clone())]));
    }
    let replica = Replica::new().await;
    let vote = newer(encode_vote(FORMAT_VERSION, &Vote::new(1, 1)));
    replica.edit_engine(|engine| engine.put_meta(MetaKey::Vote, vote.clone()).unwrap());
    let error = replica.open().await.err().unwrap();
    assert!(error.is_refusal() && error.to_string().contains("Vote"), "{error}");
    assert!(!replica.path().join("log.lost-1").exists());
}

/// The seam's own path, as the simulator's replicas take it.
#[tokio::test]
async fn nothing_is_set_aside_for_another_version_and_something_for_damage() {
    let replica = MemoryReplica::default();
    let (mut store, _) = replica.open().unwrap();
    append(&mut store, [entry(1, 0, 10)]).await.unwrap();
    append(&mut store, [entry(1, 1, 10)]).await.unwrap();
    close(store).await;
    let open = || {
        let parts = || Ok((Box::new(replica.disk.open()) as Box<dyn LogEngine>, Box::new(replica.mark.clone()) as _));
        open_log(parts, &on_a_task(), || panic!("set aside")).map(|_| ())
    };
    replica.mark.damage(|bytes| of_version(&mut bytes[..MARK_HALF_BYTES], NEWER));
    let found = open().unwrap_err();
    let Err(expected) = Foreign::check_version(NEWER, FORMAT_VERSIONS) else { unreachable!() };
    assert!(matches!(&found, OpenError::OtherVersion(other) if other.what == expected), "{found}");
    // The same version under a wrong checksum is damage; one half of it is what a torn write leaves.
    replica.mark.damage(|bytes| bytes[53] ^= 1);
    open().unwrap();
}

#[tokio::test]
async fn a_directory_in_which_this_binary_stopped_is_refused_untouched() {
    let replica = Replica::new().await;
    let dir = DataDir::open(&replica.path()).map(|mut dir| {
        dir.set_needs(Some(&Foreign::Level { found: 7, knows: FORMAT_VERSION }.of("log entry 9"))).unwrap();
    });
    dir.unwrap();
    let before = tree(&replica.path());
    let error = replica.open().await.err().unwrap();
    assert!(error.is_refusal() && error.to_string().contains("data_dir.feature_level"), "{error}");
    assert!(error.to_string().contains("at most 1") && error.to_string().contains("has 7"), "{error}");
    assert_eq!(tree(&replica.path()), before);
    // A binary that knows level 7 goes on: to it, the note says nothing.
    replica.edit("IDENTITY", |bytes| {
        *bytes =
            String::from_utf8(bytes.clone()).unwrap().replace("\"feature_level\": 7", "\"feature_level\": 1").into();
    });
    let deps = replica.open().await.unwrap();
    assert_eq!(deps.identity.needs, None);
}
