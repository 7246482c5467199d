//! Starting and ending: what is refused, dead mounts, mounts in use, too many files.

use std::fs::File;
use std::io::Read;

use foreword_usrbiod::{Config, StartError, start};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::child::{Other, Role};
use crate::harness::{errno, in_private_mounts, ioctl, until};

fn flag_of(config: Config) -> &'static str {
    match start(config) {
        Err(StartError::Bad { flag, .. }) => flag,
        Err(error) => panic!("no flag in {error}"),
        Ok(_) => panic!("it started"),
    }
}

#[test]
fn what_cannot_be_served_is_refused_by_its_flag() {
    in_private_mounts(|place| {
        let (mount, backing) = (place.mount(), place.backing());
        std::fs::create_dir(mount.join("inside")).unwrap();
        std::fs::create_dir(backing.join("inside")).unwrap();
        std::fs::write(backing.join("file"), b"").unwrap();
        let cases = [
            (Config::new(mount.join("none"), &backing), "mount"),
            (Config::new(backing.join("file"), &backing), "mount"),
            (Config::new(backing.join("inside"), &backing), "mount"),
            (Config::new(&mount, mount.join("inside")), "backing"),
            (Config::new(&mount, &mount), "backing"),
            (Config::new(&mount, backing.join("file")), "backing"),
            (Config::new(&mount, backing.join("none")), "backing"),
            (Config { chunk_bytes: 3000, ..place.config() }, "chunk-bytes"),
        ];
        for (config, flag) in cases {
            let shown = format!("{config:?}");
            assert_eq!(flag_of(config), flag, "{shown}");
        }
        let standin = place.start();
        assert_eq!(flag_of(place.config()), "mount", "a second one on the same directory");
        assert!(place.mount().join("3fs-virt").is_dir(), "the first goes on");
        standin.unmount().unwrap();
        place.start().unmount().unwrap();
    });
}

#[test]
fn the_mount_of_a_killed_daemon_is_replaced() {
    in_private_mounts(|place| {
        std::fs::write(place.backing().join("file"), b"bytes").unwrap();
        for _ in 0..2 {
            let mut daemon = Other::start(Role::Serve, place, "");
            assert_eq!(std::fs::read(place.mount().join("file")).unwrap(), b"bytes");
            let mut open = File::open(place.mount().join("file")).unwrap();
            daemon.kill();
            until("the mount is dead", || errno(place.mount().metadata()) == Some(Errno::NOTCONN));
            assert!(open.read(&mut [0]).is_err());
        }
        let standin = place.start();
        assert_eq!(std::fs::read(place.mount().join("file")).unwrap(), b"bytes");
        standin.unmount().unwrap();
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!table.contains(place.mount().to_str().unwrap()), "no dead mount is left under it: {table}");
    });
}

#[test]
fn a_mount_in_use_is_cut_off() {
    in_private_mounts(|place| {
        let standin = place.start();
        std::fs::write(place.mount().join("file"), b"bytes").unwrap();
        let mut open = File::open(place.mount().join("file")).unwrap();
        standin.unmount().unwrap();
        assert_eq!(errno(open.read(&mut [0])), Some(Errno::NOTCONN));
        assert!(!place.mount().join("file").exists());
    });
}

#[test]
fn an_unmount_by_someone_else_ends_it() {
    in_private_mounts(|place| {
        let standin = place.start();
        let ended = std::thread::spawn(standin.ended());
        unmount(place.mount(), UnmountFlags::empty()).unwrap();
        until("it has ended", || ended.is_finished());
        // What lies there now is not its own and stays.
        let again = place.start();
        standin.unmount().unwrap();
        assert!(place.mount().join("3fs-virt").is_dir());
        again.unmount().unwrap();
    });
}

#[test]
fn too_many_known_files_are_an_error_and_not_the_end() {
    const LIMIT: u64 = 128;
    in_private_mounts(|place| {
        for index in 0..LIMIT * 2 {
            std::fs::write(place.backing().join(index.to_string()), b"").unwrap();
        }
        let daemon = Other::start(Role::Serve, place, &LIMIT.to_string());
        let root = File::open(place.mount()).unwrap();
        let stat = |index: u64| errno(place.mount().join(index.to_string()).metadata());
        let refused: Vec<u64> = (0..LIMIT * 2).filter(|index| stat(*index).is_some()).collect();
        assert!(!refused.is_empty(), "the daemon has a limit of {LIMIT} files");
        let last = refused[refused.len() - 1];
        assert_eq!(stat(last), Some(Errno::NFILE));
        let mut word = [0; 4];
        ioctl(&root, 0x8004_6802, &mut word).unwrap();
        assert_eq!(u32::from_ne_bytes(word), 0x8f3f_5fff, "it still answers");
        // Names that go are files less to know.
        let known: Vec<u64> = (0..LIMIT * 2).filter(|index| !refused.contains(index)).take(8).collect();
        for index in known {
            std::fs::remove_file(place.mount().join(index.to_string())).unwrap();
        }
        until("a file fits again", || stat(last).is_none());
        drop((daemon, root));
        unmount(place.mount(), UnmountFlags::DETACH).unwrap();
    });
}
