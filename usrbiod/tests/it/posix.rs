//! Posix calls through the mount, compared with the backing.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use foreword_usrbiod::{Config, start};
use rustix::fs::{FallocateFlags, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::harness::{errno, in_private_mounts, with_mount};

/// Everything under a directory that both sides must agree on, by path.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path == root.join("3fs-virt") {
                continue;
            }
            let stat = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!(entry.file_type().unwrap(), stat.file_type(), "{}", path.display());
            let content = match stat.file_type() {
                kind if kind.is_file() => format!("{:?}", sum(&std::fs::read(&path).unwrap())),
                kind if kind.is_symlink() => std::fs::read_link(&path).unwrap().display().to_string(),
                _ => {
                    pending.push(path.clone());
                    String::new()
                }
            };
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            let attributes = (stat.ino(), stat.mode(), stat.nlink(), stat.uid(), stat.gid(), stat.size(), times);
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.insert(name, format!("{attributes:?} {content}"));
        }
    }
    found
}

/// Length and a sum that depends on the order.
fn sum(bytes: &[u8]) -> (usize, u64) {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    (bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// Bytes that differ everywhere.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[test]
fn a_tree_worked_on_through_the_mount_is_the_backings() {
    with_mount(|mount, backing| {
        std::fs::create_dir_all(mount.join("a/b/c")).unwrap();
        for (index, bytes) in [0, 1, 4095, 4096, (1 << 20) + 1, 5 << 20].into_iter().enumerate() {
            std::fs::write(mount.join(format!("a/file-{index}")), pattern(bytes)).unwrap();
        }
        std::fs::rename(mount.join("a/file-0"), mount.join("a/b/moved")).unwrap();
        std::fs::rename(mount.join("a/file-1"), mount.join("a/file-2")).unwrap();
        std::fs::hard_link(mount.join("a/file-3"), mount.join("a/b/c/same")).unwrap();
        symlink("../file-4", mount.join("a/b/link")).unwrap();
        symlink("x".repeat(4000), mount.join("a/long-link")).unwrap();
        std::fs::write(mount.join("gone"), b"x").unwrap();
        std::fs::remove_file(mount.join("gone")).unwrap();
        std::fs::create_dir(mount.join("gone")).unwrap();
        assert_eq!(errno(std::fs::remove_dir(mount.join("a"))), Some(Errno::NOTEMPTY));
        std::fs::remove_dir(mount.join("gone")).unwrap();
        std::fs::set_permissions(mount.join("a/b"), std::fs::Permissions::from_mode(0o1770)).unwrap();
        std::fs::set_permissions(mount.join("a/file-3"), std::fs::Permissions::from_mode(0o4711)).unwrap();
        lchown(mount.join("a/b/link"), Some(5), Some(6)).unwrap();
        chown(mount.join("a/file-4"), Some(7), Some(8)).unwrap();
        let old = SystemTime::UNIX_EPOCH - Duration::new(86_400, 250_000_000);
        File::open(mount.join("a/file-4")).unwrap().set_modified(old).unwrap();
        OpenOptions::new().write(true).open(mount.join("a/file-5")).unwrap().set_len(3 << 20).unwrap();
        let (shown, behind) = (tree(mount), tree(backing));
        let names: Vec<&str> = shown.keys().map(String::as_str).collect();
        let expected = "a a/b a/b/c a/b/c/same a/b/link a/b/moved a/file-2 a/file-3 a/file-4 a/file-5 a/long-link";
        assert_eq!(names.join(" "), expected);
        assert_eq!(shown, behind);
        assert_eq!(mount.join("a/file-4").metadata().unwrap().modified().unwrap(), old);
        assert_eq!(std::fs::read(mount.join("a/b/link")).unwrap(), pattern((1 << 20) + 1), "through the link");
    });
}

#[test]
fn each_side_sees_at_once_what_the_other_wrote() {
    with_mount(|mount, backing| {
        let through = OpenOptions::new().create_new(true).read(true).write(true).open(mount.join("file")).unwrap();
        let behind = OpenOptions::new().read(true).write(true).open(backing.join("file")).unwrap();
        let mut bytes = [0; 8];
        for round in 0..50_u64 {
            let at = round * 7919;
            behind.write_all_at(&round.to_le_bytes(), at).unwrap();
            through.read_exact_at(&mut bytes, at).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), round);
            assert_eq!(through.metadata().unwrap().len(), at + 8, "the length too");
            through.write_all_at(&(!round).to_le_bytes(), at).unwrap();
            behind.read_exact_at(&mut bytes, at).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), !round);
        }
        std::fs::rename(backing.join("file"), backing.join("other")).unwrap();
        assert_eq!(errno(mount.join("file").metadata()), Some(Errno::NOENT), "names are not cached");
        assert!(mount.join("other").exists());
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    with_mount(|mount, backing| {
        let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(mount.join("file")).unwrap();
        file.write_all(b"first").unwrap();
        std::fs::rename(mount.join("file"), mount.join("moved")).unwrap();
        file.write_all(b" second").unwrap();
        assert_eq!(std::fs::read(backing.join("moved")).unwrap(), b"first second");
        std::fs::remove_file(mount.join("moved")).unwrap();
        std::fs::write(mount.join("moved"), b"another file").unwrap();
        file.set_len(5).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(std::fs::read(mount.join("moved")).unwrap(), b"another file");
    });
}

#[test]
fn opens_ask_for_what_they_say() {
    with_mount(|mount, backing| {
        let path = mount.join("file");
        std::fs::write(&path, b"abc").unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"def").unwrap();
        // An append goes to the end that is, not to the one the kernel remembers.
        let mut appender = OpenOptions::new().append(true).open(&path).unwrap();
        OpenOptions::new().append(true).open(backing.join("file")).unwrap().write_all(b"ghi").unwrap();
        appender.write_all(b"jkl").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdefghijkl");
        assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(&path)), Some(Errno::EXIST));
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let mut bytes = [0; 5];
        direct.read_exact_at(&mut bytes, 1).unwrap();
        assert_eq!(&bytes, b"bcdef", "O_DIRECT through the mount needs no alignment");
        drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
        assert_eq!(std::fs::metadata(backing.join("file")).unwrap().len(), 0);
        assert_eq!(errno(File::open(mount.join("none"))), Some(Errno::NOENT));
        assert_eq!(errno(File::open(mount.join("x".repeat(256)))), Some(Errno::NAMETOOLONG));
        assert_eq!(errno(std::fs::create_dir(&path)), Some(Errno::EXIST));
        assert_eq!(errno(std::fs::read_dir(&path)), Some(Errno::NOTDIR));
    });
}

#[test]
fn long_directories_are_listed_whole() {
    with_mount(|mount, backing| {
        let expected: Vec<String> = (0..3000).map(|index| format!("{index:04}-{}", "n".repeat(100))).collect();
        std::fs::create_dir(backing.join("dir")).unwrap();
        for name in &expected {
            File::create(backing.join("dir").join(name)).unwrap();
        }
        for _ in 0..2 {
            let entries = std::fs::read_dir(mount.join("dir")).unwrap().map(Result::unwrap);
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, expected);
        }
        // In the root, where the listing begins with a name of our own.
        for name in &expected {
            File::create(backing.join(name)).unwrap();
        }
        assert_eq!(std::fs::read_dir(mount).unwrap().count(), expected.len() + 2);
        for entry in std::fs::read_dir(mount.join("dir")).unwrap().map(Result::unwrap).take(20) {
            assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
        }
    });
}

#[test]
fn room_can_be_reserved_and_is_counted() {
    with_mount(|mount, backing| {
        let file = File::create(mount.join("file")).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 8 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8 << 20);
        assert!(std::fs::metadata(backing.join("file")).unwrap().blocks() * 512 >= 8 << 20);
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 8 << 20, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8 << 20);
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        File::open(mount).unwrap().sync_all().unwrap();
        let (shown, behind) = (rustix::fs::statvfs(mount).unwrap(), rustix::fs::statvfs(backing).unwrap());
        assert_eq!((shown.f_blocks, shown.f_frsize), (behind.f_blocks, behind.f_frsize));
        assert_eq!(shown.f_namemax, 255);
    });
}

#[test]
fn the_chunk_size_is_every_files_block_size() {
    in_private_mounts(|place| {
        for chunk_bytes in [4 << 10, 256 << 10, 1 << 20, 64 << 20] {
            let standin = start(Config { chunk_bytes, ..place.config() }).unwrap();
            std::fs::write(place.mount().join("file"), b"x").unwrap();
            std::fs::create_dir_all(place.mount().join("dir")).unwrap();
            for path in ["", "file", "dir", "3fs-virt/iovs"] {
                assert_eq!(place.mount().join(path).metadata().unwrap().blksize(), chunk_bytes, "{path}");
            }
            standin.unmount().unwrap();
        }
    });
}

#[test]
fn what_is_no_file_of_the_backing_does_no_harm() {
    with_mount(|mount, backing| {
        let make_fifo = |dir: &Path| mknodat(File::open(dir).unwrap(), "fifo", FileType::Fifo, Mode::RUSR, 0);
        assert_eq!(make_fifo(mount), Err(Errno::NOSYS), "a 3FS has none");
        make_fifo(backing).unwrap();
        let stat = std::fs::symlink_metadata(mount.join("fifo")).unwrap();
        assert_eq!(stat.mode() & libc::S_IFMT, libc::S_IFIFO);
        // Another filesystem has numbers of its own, which would be taken for the backing's.
        std::fs::create_dir(backing.join("other")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", backing.join("other"), "tmpfs", flags, None).unwrap();
        assert_eq!(errno(mount.join("other").metadata()), Some(Errno::XDEV));
        assert!(mount.join("fifo").symlink_metadata().is_ok(), "everything else goes on");
        rustix::mount::unmount(backing.join("other"), rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(mount.join("other").is_dir());
    });
}

#[test]
fn many_threads_work_side_by_side() {
    with_mount(|mount, _| {
        std::thread::scope(|scope| {
            for worker in 0..8_u8 {
                scope.spawn(move || {
                    let dir = mount.join(worker.to_string());
                    for round in 0..40_u8 {
                        std::fs::create_dir(&dir).unwrap();
                        let (path, moved) = (dir.join("file"), mount.join(format!("moved-{worker}")));
                        std::fs::write(&path, vec![worker ^ round; 70_000]).unwrap();
                        std::fs::rename(&path, &moved).unwrap();
                        let read = std::fs::read(&moved).unwrap();
                        assert!(read.len() == 70_000 && read.iter().all(|byte| *byte == worker ^ round));
                        std::fs::remove_file(&moved).unwrap();
                        std::fs::remove_dir(&dir).unwrap();
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(mount).unwrap().count(), 1, "only 3fs-virt is left");
    });
}
