//! A /dev/shm that is too small.

use foreword_node::arena::{Arena, ArenaSettings, RegionProvider};
use foreword_node::store::{UsrbioRegions, UsrbioSettings};

use crate::harness::{Bench, on_a_mount, our_files, own_shm, until};

#[test]
fn too_little_room_is_an_error_at_start_that_names_it() {
    on_a_mount(|| {
        own_shm(16 << 20);
        let bench = Bench::new("");
        let mount = bench.attach();
        let settings = ArenaSettings::new(64 << 20);
        let error = Arena::new(settings, std::sync::Arc::new(UsrbioRegions::new(mount.clone()))).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("/dev/shm") && text.contains(&(64 << 20).to_string()), "{text}");
        let free = rustix::fs::statvfs("/dev/shm").unwrap();
        assert!(text.contains(&format!("{} bytes free", free.f_bavail * free.f_frsize)), "{text}");
        assert!(our_files().is_empty());
    });
}

#[test]
fn promised_room_is_there_when_it_is_wanted() {
    on_a_mount(|| {
        own_shm(24 << 20);
        let bench = Bench::new("");
        let mount = bench.attach();
        let regions = UsrbioRegions::new(mount.clone());
        regions.reserve(16 << 20).unwrap();
        let free = || rustix::fs::statvfs("/dev/shm").map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
        // Somebody takes all that is left, so that only the promise is there.
        std::fs::write("/dev/shm/taken", vec![1; free() as usize]).unwrap();
        for _ in 0..3 {
            let made: Vec<_> = (0..4).map(|_| regions.region(4 << 20).unwrap()).collect();
            assert!(regions.region(4 << 20).is_err());
            drop(made);
            // The daemon gives the memory back, and it is promised again.
            until("the room is held again", || free() < 1 << 20 && bench.links().is_empty());
        }
        std::fs::remove_file("/dev/shm/taken").unwrap();
        let store = bench.store(&mount, UsrbioSettings { ring_entries: 16, ..UsrbioSettings::default() });
        drop(store);
        assert!(our_files().is_empty());
    });
}
