//! `foreword usrbiod`: the line it prints, how it ends, and what it says of bad input.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use foreword_cli::commands::usrbiod::Mounted;
use foreword_usrbiod::enter_private_mounts;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn mount(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
        command.arg("usrbiod").arg("--mount").arg(self.mount()).arg("--backing").arg(self.dir.path().join("backing"));
        command.args(args).env("FOREWORD_LOG", "warn");
        command
    }

    fn start(&self) -> (Server, Mounted) {
        let args = [format!("--die-with-parent={}", std::process::id())];
        let mut child = self.command(&[&args[0]]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let server = Server(child);
        let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        (server, said)
    }
}

/// Killed and reaped on drop.
struct Server(Child);

impl Server {
    fn end(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `test` in a mount namespace of its own; not at all, and says so, without root or /dev/fuse.
fn in_private_mounts(test: impl FnOnce(&Place) + Send) {
    let (root, fuse) = (rustix::process::geteuid().is_root(), Path::new("/dev/fuse").exists());
    if !root || !fuse {
        assert!(!root || std::env::var("CI").as_deref() != Ok("true"), "CI runs as root but has no /dev/fuse");
        println!("skipped: it needs root and /dev/fuse");
        return;
    }
    std::thread::scope(|scope| {
        let body = move || {
            enter_private_mounts().unwrap();
            let place = Place { dir: tempfile::tempdir().unwrap() };
            std::fs::create_dir(place.mount()).unwrap();
            std::fs::create_dir(place.dir.path().join("backing")).unwrap();
            test(&place);
        };
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn it_says_where_it_is_and_leaves_nothing() {
    in_private_mounts(|place| {
        let mount = place.mount();
        for signal in [Signal::TERM, Signal::INT] {
            let (mut server, said) = place.start();
            assert_eq!((said.role.as_str(), said.name.as_str()), ("usrbiod", "standin"));
            assert_eq!((said.mount.as_str(), said.pid), (mount.to_str().unwrap(), server.0.id()));
            assert!(foreword_usrbio::is_hf3fs(File::open(&mount).unwrap()));
            let semaphore = std::fs::read_link(mount.join("3fs-virt/iovs/submit-ios")).unwrap();
            assert!(semaphore.exists());
            // A file in use does not keep it.
            let open = File::open(mount.join("3fs-virt/stand-in")).unwrap();
            assert_eq!(server.end(signal).code(), Some(0));
            drop(open);
            assert!(!mount.join("3fs-virt").exists(), "it is unmounted");
            assert!(!semaphore.exists(), "its semaphores are gone");
        }
    });
}

#[test]
fn a_killed_one_is_replaced_and_an_unmounted_one_ends() {
    in_private_mounts(|place| {
        let (mut first, _) = place.start();
        std::fs::write(place.mount().join("file"), b"bytes").unwrap();
        let semaphore = std::fs::read_link(place.mount().join("3fs-virt/iovs/submit-ios")).unwrap();
        assert_eq!(first.end(Signal::KILL).code(), None);
        let (mut second, _) = place.start();
        assert_eq!(std::fs::read(place.mount().join("file")).unwrap(), b"bytes");
        assert!(!semaphore.exists(), "the semaphores of the dead one are gone too");
        unmount(place.mount(), UnmountFlags::empty()).unwrap();
        assert_eq!(second.0.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn bad_input_is_named_by_its_flag() {
    let place = Place { dir: tempfile::tempdir().unwrap() };
    std::fs::create_dir(place.mount()).unwrap();
    std::fs::create_dir(place.dir.path().join("backing")).unwrap();
    let (inside, none) = (place.mount().join("x"), place.dir.path().join("none"));
    std::fs::create_dir(&inside).unwrap();
    let plain = |args: &[&str]| place.command(args);
    let other = |flag: &str, path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreword"));
        command.arg("usrbiod");
        for (name, default) in [("mount", place.mount()), ("backing", place.dir.path().join("backing"))] {
            command.arg(format!("--{name}")).arg(if name == flag { path } else { &default });
        }
        command
    };
    for (mut command, flag) in [
        (other("mount", &none), "mount"),
        (other("backing", &none), "backing"),
        (other("backing", &inside), "backing"),
        (plain(&["--cluster", "a name with blanks"]), "cluster"),
        (plain(&["--chunk-bytes", "3MiB"]), "chunk-bytes"),
        (plain(&["--threads", "0"]), "threads"),
        (plain(&["--fault", "eio=200%"]), "fault"),
        (plain(&["--fault", "latency=5ms", "--fault", "latency=6ms"]), "fault"),
    ] {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
        assert!(said.starts_with(&format!("foreword: {flag}: expected ")), "{flag}: {said}");
    }
}
