//! A process of its own: this test binary, started again to do one thing and to wait until it is told to end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use foreword_usrbiod::{Config, start};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::harness::Place;

const ROLE: &str = "FOREWORD_STANDIN_CHILD";
const MOUNT: &str = "FOREWORD_STANDIN_MOUNT";
const BACKING: &str = "FOREWORD_STANDIN_BACKING";
const ARGUMENT: &str = "FOREWORD_STANDIN_ARGUMENT";
const READY: &str = "the child is ready";

/// What a child does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Serves the mount; with an argument: with so many open files at most.
    Serve,
    /// Holds `iovs` open and makes the link `name=target` from a thread that is not its first.
    Client,
}

/// A running child. Killed and reaped on drop.
pub(crate) struct Other {
    child: Child,
}

impl Other {
    /// Starts a child and waits until it has done what it is for.
    pub(crate) fn start(role: Role, place: &Place, argument: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::does_its_part", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{role:?}"))
            .env(MOUNT, place.mount())
            .env(BACKING, place.backing())
            .env(ARGUMENT, argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let other = Self { child };
        assert!(lines.any(|line| line.unwrap().contains(READY)), "the child {role:?} has failed");
        other
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test of its own: what a child runs.
#[test]
fn does_its_part() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [mount, backing, argument] = [MOUNT, BACKING, ARGUMENT].map(|name| std::env::var(name).unwrap());
    if role == format!("{:?}", Role::Serve) { serve(&mount, &backing, &argument) } else { hold_link(&mount, &argument) }
}

fn serve(mount: &str, backing: &str, files_max: &str) {
    if let Ok(files) = files_max.parse() {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) }).unwrap();
    }
    let standin = start(Config { threads: 2, ..Config::new(mount, backing) }).unwrap();
    wait_to_be_ended();
    drop(standin);
}

fn hold_link(mount: &str, link: &str) {
    let iovs = Path::new(mount).join("3fs-virt/iovs");
    let alive = std::fs::File::open(&iovs).unwrap();
    let (name, target) = link.split_once('=').unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            symlink(target, iovs.join(name)).unwrap();
            // Opened and closed once more, by another thread: that is not the end of the process.
            assert!(std::fs::read_dir(&iovs).unwrap().any(|entry| entry.unwrap().file_name() == name));
        });
    });
    wait_to_be_ended();
    drop(alive);
}

/// Says that all is done; returns with the parent's end at the latest.
fn wait_to_be_ended() {
    println!("{READY}");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}
