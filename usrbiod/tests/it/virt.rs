//! `3fs-virt`: numbers, modes, names and the mount table, as literals.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use foreword_usrbiod::{Config, start};
use rustix::io::Errno;

use crate::harness::{errno, in_private_mounts, with_mount};

#[test]
fn the_mount_table_shows_a_3fs() {
    in_private_mounts(|place| {
        let standin = start(Config { cluster: "blue".into(), ..place.config() }).unwrap();
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let at = format!(" {} ", standin.mount().display());
        let line = table.lines().find(|line| line.contains(&at)).unwrap();
        assert!(line.contains(" - fuse.hf3fs hf3fs.blue "), "{line}");
        assert!(line.contains("allow_other") && line.contains("default_permissions"), "{line}");
    });
}

#[test]
fn numbers_and_modes_are_those_of_a_3fs() {
    with_mount(|mount, _| {
        for (path, number, mode) in [
            ("", 1, 0o40_755),
            ("3fs-virt", 0xffff_ffff_ffff_fffe, 0o40_555),
            ("3fs-virt/iovs", 0xffff_ffff_8000_0000, 0o40_777),
            ("3fs-virt/iovs/submit-ios.ph", 0xffff_ffff_7fff_ffff, 0o120_666),
            ("3fs-virt/iovs/submit-ios", 0xffff_ffff_7fff_fffe, 0o120_666),
            ("3fs-virt/iovs/submit-ios.pl", 0xffff_ffff_7fff_fffd, 0o120_666),
            ("3fs-virt/stand-in", 0xffff_ffff_ffff_fff0, 0o100_444),
        ] {
            let stat = std::fs::symlink_metadata(mount.join(path)).unwrap();
            assert_eq!(stat.ino(), number, "{path}");
            assert_eq!(stat.mode(), mode, "{path}: {:o}", stat.mode());
            assert_eq!((stat.uid(), stat.gid()), (0, 0), "{path}");
            assert_eq!(stat.blksize(), 1 << 20, "{path}");
        }
        let targets = ["submit-ios.ph", "submit-ios", "submit-ios.pl"]
            .map(|name| std::fs::read_link(mount.join("3fs-virt/iovs").join(name)).unwrap());
        for target in &targets {
            assert!(target.to_str().unwrap().starts_with("/dev/shm/sem."), "{}", target.display());
        }
        assert!(targets[0] != targets[1] && targets[1] != targets[2] && targets[0] != targets[2]);
    });
}

#[test]
fn it_lists_what_it_has() {
    with_mount(|mount, backing| {
        std::fs::write(backing.join("file"), b"").unwrap();
        let names = |path: &str| {
            let entries = std::fs::read_dir(mount.join(path)).unwrap().map(Result::unwrap);
            let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(""), ["3fs-virt", "file"]);
        assert_eq!(names("3fs-virt"), ["iovs", "stand-in"]);
        assert_eq!(names("3fs-virt/iovs"), ["submit-ios", "submit-ios.ph", "submit-ios.pl"]);
        // What the backing calls so is hidden, not mixed in.
        std::fs::create_dir(backing.join("3fs-virt")).unwrap();
        std::fs::write(backing.join("3fs-virt/hidden"), b"").unwrap();
        assert_eq!(names(""), ["3fs-virt", "file"]);
        assert_eq!(names("3fs-virt"), ["iovs", "stand-in"]);
    });
}

#[test]
fn the_counters_are_a_file_of_json() {
    with_mount(|mount, _| {
        let path = mount.join("3fs-virt/stand-in");
        let text = std::fs::read_to_string(&path).unwrap();
        let counters: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(counters.is_object(), "{text}");
        // Root may open it for writing, as everything; it cannot write.
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(errno(file.write(b"x")), Some(Errno::BADF));
    });
}

#[test]
fn nothing_else_can_be_made_moved_or_removed_there() {
    with_mount(|mount, _| {
        std::fs::write(mount.join("file"), b"").unwrap();
        let virt = mount.join("3fs-virt");
        for path in ["", "iovs", "stand-in", "iovs/submit-ios"] {
            let path = virt.join(path);
            assert_eq!(errno(std::fs::rename(&path, mount.join("other"))), Some(Errno::PERM), "{}", path.display());
        }
        for dir in [virt.clone(), virt.join("iovs")] {
            assert_eq!(errno(File::create(dir.join("new"))), Some(Errno::PERM));
            assert_eq!(errno(std::fs::create_dir(dir.join("new"))), Some(Errno::PERM));
            assert_eq!(errno(std::fs::rename(mount.join("file"), dir.join("new"))), Some(Errno::PERM));
            assert_eq!(errno(std::fs::hard_link(mount.join("file"), dir.join("new"))), Some(Errno::PERM));
            assert_eq!(errno(std::fs::remove_dir(&dir)), Some(Errno::PERM));
            let mode = std::fs::Permissions::from_mode(0o700);
            assert_eq!(errno(std::fs::set_permissions(&dir, mode)), Some(Errno::PERM));
        }
        assert_eq!(errno(symlink("/dev/shm/x", virt.join("new"))), Some(Errno::PERM));
        assert_eq!(errno(symlink("/dev/shm/x", virt.join("iovs/submit-ios"))), Some(Errno::EXIST));
        assert_eq!(errno(std::fs::remove_file(virt.join("iovs/submit-ios"))), Some(Errno::PERM));
        assert_eq!(errno(std::fs::remove_file(virt.join("stand-in"))), Some(Errno::PERM));
        assert_eq!(errno(std::fs::remove_file(virt.join("iovs/none"))), Some(Errno::NOENT));
        assert_eq!(errno(std::fs::read_link(virt.join("iovs/none"))), Some(Errno::NOENT));
    });
}
