//! Other users: what is theirs, what is not.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{OTHER, in_private_mounts, with_mount};
use crate::liveness::memory;

/// A shell command as the other user.
fn as_other(command: &str, dir: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(dir).env("LC_ALL", "C").uid(OTHER).gid(OTHER);
    shell.output().unwrap()
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{output:?}");
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn permissions_are_those_of_the_files() {
    with_mount(|mount, backing| {
        std::fs::write(mount.join("secret"), b"x").unwrap();
        set_mode(&mount.join("secret"), 0o600);
        std::fs::write(mount.join("public"), b"seen").unwrap();
        std::fs::create_dir(mount.join("open")).unwrap();
        set_mode(&mount.join("open"), 0o777);
        refused(&as_other("cat secret", mount), "Permission denied");
        refused(&as_other("echo x >> public", mount), "Permission denied");
        refused(&as_other("rm -f public", mount), "Permission denied");
        refused(&as_other("touch new", mount), "Permission denied");
        refused(&as_other("chmod 777 public", mount), "Operation not permitted");
        assert_eq!(done(&as_other("cat public", mount)), "seen");

        done(&as_other("umask 027; cd open; echo mine > file; mkdir dir; ln -s file link; mkfifo f || true", mount));
        for (path, mode) in [("file", 0o100_640), ("dir", 0o40_750), ("link", 0o120_777)] {
            let stat = std::fs::symlink_metadata(backing.join("open").join(path)).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (OTHER, OTHER), "{path} belongs to who made it");
            assert_eq!(stat.mode(), mode, "{path}: {:o}", stat.mode());
        }
        assert!(!backing.join("open/f").exists(), "a 3FS has no fifos");
    });
}

#[test]
fn a_directory_with_a_group_gives_it_on() {
    with_mount(|mount, backing| {
        std::fs::create_dir(mount.join("team")).unwrap();
        std::os::unix::fs::chown(mount.join("team"), None, Some(777)).unwrap();
        set_mode(&mount.join("team"), 0o2777);
        done(&as_other("cd team; touch file; mkdir dir", mount));
        for path in ["file", "dir"] {
            let stat = std::fs::metadata(backing.join("team").join(path)).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (OTHER, 777), "{path}");
        }
        assert_eq!(std::fs::metadata(backing.join("team/dir")).unwrap().mode() & 0o2000, 0o2000);
    });
}

#[test]
fn links_are_their_makers_alone() {
    in_private_mounts(|place| {
        let standin = place.start();
        let (mine, my_name) = memory();
        let iovs = place.mount().join("3fs-virt/iovs");
        let alive = std::fs::File::open(&iovs).unwrap();
        symlink(mine.path(), iovs.join(&my_name)).unwrap();
        for command in ["readlink -v", "stat", "rm"] {
            refused(&as_other(&format!("{command} {my_name}"), &iovs), "Operation not permitted");
        }
        assert!(iovs.join(&my_name).symlink_metadata().is_ok(), "it is still there");
        let seen = done(&as_other("ls", &iovs));
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["submit-ios", "submit-ios.ph", "submit-ios.pl"]);
        refused(&as_other("readlink -v none", &iovs), "No such file or directory");
        refused(&as_other("rm -f submit-ios", &iovs), "Operation not permitted");
        assert!(done(&as_other("readlink submit-ios", &iovs)).starts_with("/dev/shm/sem."));
        assert!(std::fs::read_dir(&iovs).unwrap().any(|entry| entry.unwrap().file_name() == my_name.as_str()));
        drop(alive);
        standin.unmount().unwrap();
    });
}
