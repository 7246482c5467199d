//! The ioctls, by the numbers and sizes a 3FS client uses.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use foreword_usrbiod::{Config, start};
use rustix::io::Errno;

use crate::harness::{in_private_mounts, ioctl, with_mount};

const MOUNT_NAME: u32 = 0x8020_6800;
const PATH_OFFSET: u32 = 0x8004_6801;
const MAGIC: u32 = 0x8004_6802;
const VERSION: u32 = 0x8004_6803;
const FSYNC: u32 = 0x8004_680b;
const HARDLINK: u32 = 0x4108_680c;
const PUNCH_HOLE: u32 = 0x7e90_680d;

#[test]
fn every_file_and_directory_says_what_it_is() {
    in_private_mounts(|place| {
        let standin = start(Config { cluster: "a-cluster-of-thirty-one-letters".into(), ..place.config() }).unwrap();
        let mount = standin.mount();
        std::fs::write(mount.join("file"), b"").unwrap();
        for path in ["", "file", "3fs-virt", "3fs-virt/iovs", "3fs-virt/stand-in"] {
            let file = File::open(mount.join(path)).unwrap();
            let mut word = [0; 4];
            ioctl(&file, MAGIC, &mut word).unwrap();
            assert_eq!(u32::from_ne_bytes(word), 0x8f3f_5fff, "{path}");
            ioctl(&file, VERSION, &mut word).unwrap();
            assert_eq!(u32::from_ne_bytes(word), 1, "{path}");
            ioctl(&file, PATH_OFFSET, &mut word).unwrap();
            assert_eq!(u32::from_ne_bytes(word) as usize, mount.to_str().unwrap().len(), "{path}");
            let mut name = [0xff_u8; 33];
            ioctl(&file, MOUNT_NAME, &mut name).unwrap();
            assert_eq!(&name[..32], b"a-cluster-of-thirty-one-letters\0", "{path}");
            assert_eq!(name[32], 0xff, "32 bytes are written, not one more");
            assert!(foreword_usrbio::is_hf3fs(&file));
        }
    });
}

#[test]
fn unknown_ioctls_are_refused() {
    with_mount(|mount, _| {
        let root = File::open(mount).unwrap();
        for number in [0x8004_6804, 0x8004_6805, 0x4004_6802] {
            assert_eq!(ioctl(&root, number, &mut [0; 4]), Err(Errno::INVAL), "{number:#x}");
        }
    });
}

#[test]
fn fsync_is_there_for_files_and_directories() {
    with_mount(|mount, backing| {
        std::fs::write(mount.join("file"), b"bytes").unwrap();
        let mut word = [0; 4];
        ioctl(File::open(mount.join("file")).unwrap(), FSYNC, &mut word).unwrap();
        ioctl(File::open(mount).unwrap(), FSYNC, &mut word).unwrap();
        assert_eq!(std::fs::read(backing.join("file")).unwrap(), b"bytes");
    });
}

fn hard_link_argument(dir: u64, name: &str) -> [u8; 264] {
    let mut argument = [0; 264];
    argument[..8].copy_from_slice(&dir.to_ne_bytes());
    argument[8..8 + name.len()].copy_from_slice(name.as_bytes());
    argument
}

#[test]
fn a_hard_link_is_made_by_the_directorys_number() {
    with_mount(|mount, backing| {
        std::fs::write(mount.join("file"), b"bytes").unwrap();
        std::fs::create_dir(mount.join("dir")).unwrap();
        let file = File::open(mount.join("file")).unwrap();
        let dir_handle = File::open(mount.join("dir")).unwrap();
        let dir = dir_handle.metadata().unwrap().ino();
        ioctl(&file, HARDLINK, &mut hard_link_argument(dir, "same")).unwrap();
        ioctl(&file, HARDLINK, &mut hard_link_argument(1, "in-the-root")).unwrap();
        let number = file.metadata().unwrap().ino();
        for path in ["dir/same", "in-the-root"] {
            assert_eq!(std::fs::read(backing.join(path)).unwrap(), b"bytes");
            assert_eq!(mount.join(path).metadata().unwrap().ino(), number, "{path} is the same inode");
        }
        let long = "x".repeat(256);
        for (dir, name, errno) in [
            (dir, "same", Errno::EXIST),
            (dir, "", Errno::INVAL),
            (dir, "..", Errno::INVAL),
            (dir, "../x", Errno::INVAL),
            (dir, long.as_str(), Errno::NAMETOOLONG),
            (1, "3fs-virt", Errno::PERM),
            (0xffff_ffff_8000_0000, "x", Errno::PERM),
            (number, "x", Errno::NOTDIR),
            (1 << 50, "x", Errno::NOENT),
        ] {
            let answer = ioctl(&file, HARDLINK, &mut hard_link_argument(dir, name));
            assert_eq!(answer, Err(errno), "{dir:#x} {name}");
        }
        let root = File::open(mount).unwrap();
        assert_eq!(ioctl(&root, HARDLINK, &mut hard_link_argument(1, "x")), Err(Errno::PERM), "of a directory");
    });
}

fn punch_argument(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut argument = vec![0; 16_016];
    argument[..4].copy_from_slice(&(ranges.len() as i32).to_ne_bytes());
    for (index, (start, end)) in ranges.iter().enumerate() {
        argument[16 + 8 * index..][..8].copy_from_slice(&start.to_ne_bytes());
        argument[8016 + 8 * index..][..8].copy_from_slice(&end.to_ne_bytes());
    }
    argument
}

#[test]
fn holes_are_punched_in_whole_chunks() {
    const CHUNK: u64 = 1 << 20;
    with_mount(|mount, backing| {
        let path = mount.join("file");
        std::fs::write(&path, vec![7; 4 * CHUNK as usize]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for wrong in [(0, 0), (CHUNK, 0), (1, CHUNK), (0, CHUNK - 1)] {
            // The good range beside a wrong one is not punched either.
            let answer = ioctl(&file, PUNCH_HOLE, &mut punch_argument(&[(0, CHUNK), wrong]));
            assert_eq!(answer, Err(Errno::INVAL), "{wrong:?}");
        }
        let mut many = punch_argument(&[]);
        for count in [1001, -1] {
            many[..4].copy_from_slice(&i32::to_ne_bytes(count));
            assert_eq!(ioctl(&file, PUNCH_HOLE, &mut many), Err(Errno::INVAL), "{count}");
        }
        let reader = File::open(&path).unwrap();
        assert_eq!(ioctl(&reader, PUNCH_HOLE, &mut punch_argument(&[(0, CHUNK)])), Err(Errno::BADF));
        assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 7), "nothing is punched yet");

        ioctl(&file, PUNCH_HOLE, &mut punch_argument(&[(0, CHUNK), (2 * CHUNK, 3 * CHUNK)])).unwrap();
        let mut byte = [0];
        for (chunk, value) in [(0, 0), (1, 7), (2, 0), (3, 7)] {
            for at in [chunk * CHUNK, (chunk + 1) * CHUNK - 1] {
                file.read_exact_at(&mut byte, at).unwrap();
                assert_eq!(byte[0], value, "at {at}");
            }
        }
        file.sync_all().unwrap();
        let stat = std::fs::metadata(backing.join("file")).unwrap();
        assert_eq!(stat.size(), 4 * CHUNK, "the size stays");
        assert!(stat.blocks() * 512 <= 2 * CHUNK + (64 << 10), "half of it takes no room: {}", stat.blocks());
    });
}
