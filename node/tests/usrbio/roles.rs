//! What this binary does when a test starts it as another process.

use std::io::Read;
use std::path::PathBuf;

use foreword_node::store::conformance::Suite;
use foreword_node::store::{ClientKind, UsrbioMount, UsrbioSettings, UsrbioStore};
use foreword_usrbiod::Config;

use crate::conformance;
use crate::harness::{self, CHUNK};

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by the test"))
}

fn is_role(role: &str) -> bool {
    std::env::var("FOREWORD_TEST_ROLE").is_ok_and(|wanted| wanted == role)
}

fn park() {
    loop {
        std::thread::park();
    }
}

/// The daemon of a mount, until its input ends or it is killed.
#[test]
fn stand_in() {
    if !is_role("stand_in") {
        return;
    }
    let mut config = Config::new(setting("FOREWORD_TEST_MOUNT"), setting("FOREWORD_TEST_BACKING"));
    config.chunk_bytes = CHUNK;
    config.faults = setting("FOREWORD_TEST_FAULTS").parse().unwrap();
    config.seed = 7;
    config.threads = 4;
    let standin = foreword_usrbiod::start(config).unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    standin.unmount().unwrap();
}

/// A client with everything a client makes, until it is killed.
#[test]
fn client() {
    if !is_role("client") {
        return;
    }
    let root = PathBuf::from(setting("FOREWORD_TEST_MOUNT"));
    let mount = UsrbioMount::attach(&root, ClientKind::Native).unwrap();
    let arena = harness::arena(&mount, 64 * CHUNK);
    let _frame = harness::page(&arena, 1);
    let _store = UsrbioStore::new(mount, root, harness::CLUSTER, UsrbioSettings::default()).unwrap();
    println!("client is ready");
    park();
}

/// The conformance suite, beside others on the same mount.
#[test]
fn conforming() {
    if !is_role("conforming") {
        return;
    }
    let seed = setting("FOREWORD_TEST_SEED").parse().unwrap();
    let suite = Suite { seed, batches: 60, ..Suite::default() };
    conformance::run_on(setting("FOREWORD_TEST_MOUNT").into(), seed as u8, suite, 2);
    harness::until("all threads of the store have ended", || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        // The main thread has the name of this binary, which also begins with `usrbio-`.
        let ours = ["usrbio-links", "usrbio-files", "usrbio-close", "usrbio-r", "usrbio-w"];
        !names.into_iter().any(|name| ours.iter().any(|ours| name.starts_with(ours)))
    });
}
