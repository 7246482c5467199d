//! The suite that every store passes, on a mount.

use std::path::PathBuf;
use std::sync::Arc;

use foreword_node::store::conformance::{Subject, Suite};
use foreword_node::store::{
    ClientKind, ClusterMark, SharedStore, UsrbioMount, UsrbioSettings, UsrbioStore, init_l3_root,
};
use foreword_proto::ClusterId;

use crate::harness::{Bench, CHUNK, LONG, arena, in_role, on_a_mount, runtime, until};

struct OnMount {
    mount: Arc<UsrbioMount>,
    mark: ClusterMark,
    settings: UsrbioSettings,
}

impl Subject for OnMount {
    fn mark(&self) -> ClusterMark {
        self.mark.clone()
    }

    fn store(&self, cluster_id: ClusterId) -> SharedStore {
        let root = self.mount.dir().to_owned();
        Arc::new(UsrbioStore::new(self.mount.clone(), root, cluster_id, self.settings).unwrap())
    }
}

/// Runs the suite on a cluster directory of its own, by a client of this kind.
fn run(root: PathBuf, number: u8, suite: Suite, lanes: usize, ring_entries: u32, client: ClientKind) {
    let mark = ClusterMark::new(ClusterId([number | 0x80; 16]), CHUNK as u32, "test");
    init_l3_root(&root, &mark).unwrap();
    let mount = UsrbioMount::attach(&root, client).unwrap();
    let settings = UsrbioSettings { lanes, ring_entries, patience: LONG };
    let arena = arena(&mount, 256 * CHUNK);
    let subject = OnMount { mount, mark, settings };
    runtime().block_on(async { suite.run(&subject, &arena).await.unwrap() });
}

pub(crate) fn run_on(root: PathBuf, number: u8, suite: Suite, lanes: usize) {
    run(root, number, suite, lanes, 256, ClientKind::Native);
}

#[test]
fn usrbio_conforms() {
    on_a_mount(|| {
        let bench = Bench::new("");
        for (seed, lanes, ring_entries) in [(1, 1, 256), (2, 2, 4), (3, 4, 64)] {
            let suite = Suite { seed, batches: 100, ..Suite::default() };
            run(bench.mount_point(), seed as u8, suite, lanes, ring_entries, ClientKind::Native);
        }
        until("all links are gone", || bench.links().is_empty());
        assert_eq!(bench.figure("rejected"), 0);
    });
}

#[test]
fn usrbio_conforms_when_answers_are_late_and_in_disorder() {
    on_a_mount(|| {
        let bench = Bench::new("reorder=50%,latency=5ms:20%");
        run_on(bench.mount_point(), 1, Suite { seed: 4, batches: 60, ..Suite::default() }, 2);
        assert!(bench.figure("fault_reorder") > 0 && bench.figure("fault_latency") > 0);
    });
}

#[test]
fn processes_on_one_mount_do_not_meet() {
    on_a_mount(|| {
        let bench = Bench::new("");
        let root = bench.mount_point().display().to_string();
        let start = |seed: u64| {
            let settings = [("FOREWORD_TEST_MOUNT", root.clone()), ("FOREWORD_TEST_SEED", seed.to_string())];
            in_role("conforming", &settings).spawn().unwrap()
        };
        let children: Vec<_> = (11..13).map(start).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        until("the links of ended processes are gone", || bench.links().is_empty());
        assert!(bench.figure("reads") > 0);
    });
}

#[test]
fn usrbio_over_the_vendors_library_conforms() {
    let Ok(library) = std::env::var("FOREWORD_USRBIO_LIB") else {
        println!("skipped: FOREWORD_USRBIO_LIB names no library of the vendor's");
        return;
    };
    on_a_mount(move || {
        let bench = Bench::new("");
        let suite = Suite { seed: 5, batches: 60, ..Suite::default() };
        run(bench.mount_point(), 1, suite, 2, 64, ClientKind::Library(library.into()));
        until("all links are gone", || bench.links().is_empty());
        assert!(bench.figure("reads") > 0 && bench.figure("writes") > 0);
    });
}
