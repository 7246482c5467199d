use std::collections::BTreeSet;

use super::*;

fn process<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(work)
}

async fn write(files: &SimFiles, name: &str, bytes: &'static [u8]) -> io::Result<()> {
    let mut writer = files.create(name).await?;
    for piece in bytes.chunks(4) {
        writer.append(Bytes::from_static(piece)).await?;
    }
    writer.seal().await
}

async fn read(files: &SimFiles, name: &str) -> io::Result<Bytes> {
    let mut reader = files.open(name).await?;
    reader.read_at(0, reader.len() as usize).await
}

const SLOW: FilesWeather = FilesWeather { op_us_min: 10_000, op_us_max: 10_000, fault: None };

#[test]
fn only_sealed_files_are_seen_and_survive() {
    context::begin(1, false);
    let first = SimFiles::new(1);
    process(async {
        write(&first, "b", b"hello world").await.unwrap();
        write(&first, "a", b"first").await.unwrap();
        write(&first, "a", b"second").await.unwrap();
        drop(first.create("dropped").await.unwrap());
        write(&first, "before", b"moved").await.unwrap();
        first.rename("before", "a").await.unwrap();
        assert_eq!(first.rename("before", "a").await.err().unwrap().kind(), io::ErrorKind::NotFound);
        let mut open = first.open("b").await.unwrap();
        let mut unsealed = first.create("c").await.unwrap();
        unsealed.append(Bytes::from_static(b"lost")).await.unwrap();
        assert_eq!(first.list().await.unwrap(), ["a", "b"]);
        assert_eq!(first.create("../x").await.err().unwrap().kind(), io::ErrorKind::InvalidInput);
        first.crash();
        assert!(open.read_at(0, 1).await.is_err() && unsealed.append(Bytes::new()).await.is_err());
        assert!(unsealed.seal().await.is_err() && first.list().await.is_err(), "of a process that is gone");
    });
    let files = first.open_dir();
    process(async {
        assert_eq!((files.names(), files.list().await.unwrap().len()), (vec!["a".to_owned(), "b".to_owned()], 2));
        assert_eq!(read(&files, "a").await.unwrap(), "moved");
        let mut reader = files.open("b").await.unwrap();
        files.remove("b").await.unwrap();
        files.remove("b").await.unwrap();
        assert_eq!(reader.read_at(6, 100).await.unwrap(), "world", "an open reader keeps its bytes");
        assert_eq!(files.open("b").await.err().unwrap().kind(), io::ErrorKind::NotFound);
    });
    assert_eq!(files.counts().sealed, 4);
}

#[test]
fn faults_fail_heal_and_rot_shows() {
    context::begin(1, false);
    let files = SimFiles::new(1);
    process(async {
        write(&files, "a", b"some bytes").await.unwrap();
        files.set_weather(FilesWeather { fault: Some(DiskFault::NoSpace), ..SLOW });
        assert_eq!(write(&files, "b", b"x").await.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(read(&files, "a").await.unwrap(), "some bytes");
        files.set_weather(FilesWeather { fault: Some(DiskFault::Io), ..SLOW });
        assert_eq!(read(&files, "a").await.unwrap_err().raw_os_error(), Some(libc::EIO));
        files.set_weather(SLOW);
        write(&files, "b", b"x").await.unwrap();
        files.remove("b").await.unwrap();
        assert_eq!(files.rot().as_deref(), Some("a"));
        let rotten = read(&files, "a").await.unwrap();
        let flipped = rotten.iter().zip(b"some bytes").map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        assert_eq!((flipped, rotten.len()), (1, 10));
        files.wipe();
        assert_eq!((files.rot(), files.names().len()), (None, 0));
    });
}

/// A crash in the middle of a seal and of a removal. Gives the names that are there, and the digest.
fn cut(seed: u64) -> (Vec<String>, u128) {
    context::begin(seed, false);
    let files = SimFiles::new(1);
    process(async {
        write(&files, "old", b"old").await.unwrap();
        let mut writer = files.create("new").await.unwrap();
        writer.append(Bytes::from_static(b"new")).await.unwrap();
        files.set_weather(SLOW);
        let both = futures::future::join(writer.seal(), files.remove("old"));
        assert!(tokio::time::timeout(Duration::from_millis(5), both).await.is_err());
        assert_eq!(files.names(), ["old"], "before the seal and the removal end");
    });
    files.crash();
    (files.names(), context::trace().digest)
}

#[test]
fn a_crash_meets_a_seal_before_or_after_it() {
    let found = Vec::from_iter((0..40).map(cut));
    let names = BTreeSet::from_iter(found.iter().map(|(names, _)| names.join(" ")));
    assert_eq!(Vec::from_iter(names), ["", "new", "new old", "old"]);
    assert_eq!(BTreeSet::from_iter(found.iter().map(|(_, digest)| *digest)).len(), 40);
    assert_eq!(cut(7), found[7]);
}

#[test]
fn a_seal_whose_caller_left_is_done_soon() {
    context::begin(1, false);
    let files = SimFiles::new(1);
    process(async {
        let writer = files.create("new").await.unwrap();
        files.set_weather(SLOW);
        assert!(tokio::time::timeout(Duration::from_millis(5), writer.seal()).await.is_err());
        assert_eq!(files.list().await.unwrap(), ["new"]);
    });
}
