//! Snapshot files: written, read, streamed; each kind of damage is named.

use std::sync::Arc;

use bytes::Bytes;
use foreword_meta::consensus::types::SnapshotMeta;
use foreword_meta::storage::snapshot_file::SnapshotFault;
use foreword_meta::storage::{SnapshotError, SnapshotHeader, SnapshotReader, SnapshotReceiver, SnapshotWriter};
use foreword_proto::ClusterId;
use foreword_proto::limits::{FORMAT_VERSION, SNAPSHOT_FRAME_BYTES_MAX};
use foreword_seams::{Files, LocalFiles};

use crate::support::log_id;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn meta() -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(log_id(3, 1000)), snapshot_id: "3-1000".to_owned(), ..SnapshotMeta::default() }
}

fn frames() -> Vec<Bytes> {
    [0, 1, 70_000, 3 << 20, 5].iter().map(|bytes| Bytes::from_iter((0..*bytes).map(|i| (i % 251) as u8))).collect()
}

struct Place {
    _dir: tempfile::TempDir,
    files: Arc<dyn Files>,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(LocalFiles::new(dir.path()).unwrap());
    Place { _dir: dir, files }
}

async fn write(files: &Arc<dyn Files>) -> Bytes {
    let header = SnapshotHeader { cluster_id: CLUSTER, meta: meta() };
    let mut writer = SnapshotWriter::create(&**files, "a", FORMAT_VERSION, &header).await.unwrap();
    for frame in frames() {
        writer.append(frame).await.unwrap();
    }
    assert!(files.list().await.unwrap().is_empty());
    let bytes = writer.seal().await.unwrap();
    let mut file = files.open("a").await.unwrap();
    assert_eq!(bytes, file.len());
    file.read_at(0, bytes as usize).await.unwrap()
}

async fn read_whole(files: &dyn Files, name: &str, cluster_id: ClusterId) -> Result<SnapshotMeta, SnapshotError> {
    let mut reader = SnapshotReader::open(files, name, cluster_id).await?;
    while reader.next_frame().await?.is_some() {}
    Ok(reader.meta().clone())
}

async fn receive(files: &Arc<dyn Files>, bytes: &[u8], chunk: usize) -> Result<SnapshotMeta, SnapshotError> {
    let mut receiver = SnapshotReceiver::create(&**files, "b", CLUSTER).await?;
    let mut came = Vec::new();
    for chunk in bytes.chunks(chunk) {
        came.extend(receiver.chunk(Bytes::copy_from_slice(chunk)).await?);
    }
    let meta = receiver.finish().await?;
    assert!(came == frames());
    Ok(meta)
}

#[tokio::test]
async fn what_is_written_is_read_and_streamed() {
    let place = place();
    let bytes = write(&place.files).await;
    for chunk in [1 << 20, 4097, bytes.len()] {
        assert_eq!(receive(&place.files, &bytes, chunk).await.unwrap(), meta());
    }
    for name in ["a", "b"] {
        let mut reader = SnapshotReader::open(&*place.files, name, CLUSTER).await.unwrap();
        assert_eq!(*reader.meta(), meta());
        for frame in frames() {
            assert!(reader.next_frame().await.unwrap().unwrap() == frame);
        }
        assert_eq!(reader.next_frame().await.unwrap(), None);
        assert_eq!(reader.next_frame().await.unwrap(), None);
    }
}

/// Both the file and the stream must refuse these bytes, and agree on why.
async fn refused(bytes: &[u8]) -> SnapshotFault {
    let place = place();
    let mut file = place.files.create("damaged").await.unwrap();
    file.append(Bytes::copy_from_slice(bytes)).await.unwrap();
    file.seal().await.unwrap();
    let read = read_whole(&*place.files, "damaged", CLUSTER).await.unwrap_err();
    let streamed = receive(&place.files, bytes, 50_000).await.unwrap_err();
    assert_eq!(read.what.to_string(), streamed.what.to_string());
    assert_eq!(place.files.list().await.unwrap(), ["damaged"], "a refused stream left a file");
    assert!(read.to_string().starts_with("snapshot damaged: "), "{read}");
    read.what
}

#[tokio::test]
async fn damage_is_named() {
    let bytes = write(&place().files).await;
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        bytes
    };
    assert!(matches!(refused(&changed(0, b'x')).await, SnapshotFault::NoSnapshot));
    // Another version has its checksum right; else it is a damaged version.
    assert!(matches!(refused(&changed(8, 9)).await, SnapshotFault::BadHeader(_)));
    let mut newer = changed(8, 9);
    let json_end = 16 + u32::from_le_bytes(newer[12..16].try_into().unwrap()) as usize;
    let crc = crc32fast::hash(&newer[..json_end]);
    newer[json_end..json_end + 4].copy_from_slice(&crc.to_le_bytes());
    let other = refused(&newer).await;
    assert_eq!(other.to_string(), "format_version: expected 1, which this binary reads, found 9");
    assert!(matches!(refused(&changed(20, 0)).await, SnapshotFault::BadHeader(_)));
    let end = bytes.len();
    let in_large_frame = changed(end - 100_000, !bytes[end - 100_000]);
    assert!(matches!(refused(&in_large_frame).await, SnapshotFault::BadFrame { frame: 3, .. }));
    assert!(matches!(refused(&changed(end - 5, 77)).await, SnapshotFault::BadFooter(_)));
    assert!(matches!(refused(&bytes[..end - 1]).await, SnapshotFault::Truncated { frames: 5 }));
    assert!(matches!(refused(&bytes[..end - 100_000]).await, SnapshotFault::Truncated { frames: 3 }));
    assert!(matches!(refused(&bytes[..10]).await, SnapshotFault::Truncated { frames: 0 }));
    assert!(matches!(refused(&[&bytes[..], b"x"].concat()).await, SnapshotFault::Trailing));
}

#[tokio::test]
async fn another_clusters_snapshot_is_refused_with_both_named() {
    let place = place();
    write(&place.files).await;
    let other = ClusterId([9; 16]);
    let error = read_whole(&*place.files, "a", other).await.unwrap_err().to_string();
    assert!(error.contains(&other.to_string()) && error.contains(&CLUSTER.to_string()), "{error}");
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_refused_and_an_unsealed_file_leaves_nothing() {
    let place = place();
    let header = SnapshotHeader { cluster_id: CLUSTER, meta: meta() };
    let mut writer = SnapshotWriter::create(&*place.files, "a", FORMAT_VERSION, &header).await.unwrap();
    let frame = Bytes::from(vec![0; SNAPSHOT_FRAME_BYTES_MAX + 1]);
    assert!(matches!(writer.append(frame).await.unwrap_err().what, SnapshotFault::BadFrame { frame: 0, .. }));
    drop(writer);
    assert!(place.files.list().await.unwrap().is_empty());
}
