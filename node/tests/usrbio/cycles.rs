//! Regions and rings come and go, and nothing of them stays.

use std::sync::Arc;

use foreword_node::arena::RegionProvider;
use foreword_node::store::{UsrbioRegions, UsrbioSettings};

use crate::harness::{Bench, LONG, on_a_mount, our_files, own_shm, until};

const CYCLES: usize = 10_000;

#[test]
fn ten_thousand_regions_and_rings_leave_nothing() {
    on_a_mount(|| {
        own_shm(256 << 20);
        let bench = Bench::new("");
        let mount = bench.attach();
        let regions = Arc::new(UsrbioRegions::new(mount.clone()));
        let free_bytes = || rustix::fs::statvfs("/dev/shm").map(|stat| stat.f_bfree * stat.f_frsize).unwrap();
        let before = free_bytes();
        let settings = UsrbioSettings { lanes: 1, ring_entries: 4, patience: LONG };
        for cycle in 0..CYCLES {
            let region = regions.region(16_384).unwrap();
            assert!(region.name().is_some());
            // Two rings a store.
            if cycle % 2 == 0 {
                drop(bench.store(&mount, settings));
            }
        }
        until("all links are gone", || bench.links().is_empty());
        assert_eq!((bench.figure("links"), bench.figure("rings")), (0, 0));
        until("all memory is free", || free_bytes() == before);
        assert!(our_files().is_empty());
        drop((regions, mount));
    });
}
