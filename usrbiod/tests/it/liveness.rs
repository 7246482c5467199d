//! Links live as long as the process that made them holds `3fs-virt/iovs` open.

use std::os::unix::fs::{MetadataExt, symlink};

use foreword_usrbio::{IovId, ShmFile};
use rustix::io::Errno;

use crate::child::{Other, Role};
use crate::harness::{errno, in_private_mounts, until};

/// A shared memory file of 1 MiB with a name of its own, and a link name for it.
pub(crate) fn memory() -> (ShmFile, String) {
    let id = IovId(rand::random()).to_string();
    (ShmFile::create(&format!("foreword-standin-test-{id}"), 1 << 20, 0o600, false).unwrap(), id)
}

#[test]
fn a_link_is_shown_as_it_was_made() {
    in_private_mounts(|place| {
        let standin = place.start();
        let (shm, name) = memory();
        let link = place.mount().join("3fs-virt/iovs").join(&name);
        symlink(shm.path(), &link).unwrap();
        let stat = std::fs::symlink_metadata(&link).unwrap();
        assert_eq!(stat.ino(), 0xffff_ffff_7fff_0001, "the first descriptor");
        assert_eq!(stat.mode(), 0o120_400);
        assert_eq!(std::fs::read_link(&link).unwrap(), shm.path());
        assert_eq!(stat.size() as usize, shm.path().as_os_str().len());
        assert_eq!(errno(symlink(shm.path(), &link)), Some(Errno::EXIST));
        std::fs::remove_file(&link).unwrap();
        assert_eq!(errno(std::fs::symlink_metadata(&link)), Some(Errno::NOENT));
        standin.unmount().unwrap();
    });
}

#[test]
fn links_go_with_their_process_and_not_before() {
    in_private_mounts(|place| {
        let standin = place.start();
        let (mine, my_name) = memory();
        let iovs = place.mount().join("3fs-virt/iovs");
        let alive = std::fs::File::open(&iovs).unwrap();
        symlink(mine.path(), iovs.join(&my_name)).unwrap();

        let (shm, name) = memory();
        let mut client = Other::start(Role::Client, place, &format!("{name}={}", shm.path().display()));
        assert!(iovs.join(&name).symlink_metadata().is_ok(), "its other handle was closed, the first is open");
        client.kill();
        until("the link of the killed client is gone", || iovs.join(&name).symlink_metadata().is_err());
        assert!(iovs.join(&my_name).symlink_metadata().is_ok(), "the link of a living process stays");

        drop(alive);
        until("my link goes with my last handle", || iovs.join(&my_name).symlink_metadata().is_err());
        standin.unmount().unwrap();
    });
}
