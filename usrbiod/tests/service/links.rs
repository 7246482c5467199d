//! Links: what is refused, and how.

use std::path::Path;
use std::sync::Arc;

use foreword_usrbio::{LinkKind, LinkName, Priority, RingLayout, ShmFile};
use foreword_usrbiod::service::{Link, Owner, limits};
use rustix::io::Errno;

use crate::client::{ALICE, BOB, Buffer, Client, Files, READS, new_id, semaphore, service, shm};

fn data(block_bytes: u64) -> String {
    LinkName { id: new_id(), kind: LinkKind::Data { block_bytes } }.to_string()
}

#[test]
fn a_link_is_its_owners() {
    let service = service(&Arc::new(Files::default()), "", 0);
    let buffer = Buffer::new(&service, 8192, 4096, ALICE);
    let ring = Client::new(&service, 7, READS, BOB);
    let link = Link { descriptor: 0, name: buffer.name.clone(), target: buffer.file.path(), owner: ALICE };
    assert_eq!(service.lookup(&buffer.name, ALICE.uid), Ok(link.clone()));
    assert_eq!(service.lookup(&buffer.name, BOB.uid), Err(Errno::PERM));
    assert_eq!(service.lookup("x", BOB.uid), Err(Errno::NOENT));
    assert_eq!(service.by_descriptor(0, ALICE.uid), Ok(link.clone()));
    assert_eq!(service.by_descriptor(1, ALICE.uid), Err(Errno::PERM));
    assert_eq!(service.list(ALICE.uid), [link]);
    assert_eq!(service.list(BOB.uid)[0].name, ring.name);
    let counters = service.counters();
    assert_eq!((counters.links, counters.rings), (2, 1));
    assert_eq!(service.unlink(&ring.name, ALICE.uid), Err(Errno::PERM));
    assert_eq!(service.unlink(&ring.name, BOB.uid), Ok(()));
    assert_eq!(service.unlink(&ring.name, BOB.uid), Err(Errno::NOENT));
    service.owner_gone(0);
    service.owner_gone(BOB.pid);
    assert_eq!(service.counters().links, 1);
    service.owner_gone(ALICE.pid);
    assert_eq!(service.counters().links, 0);
}

#[test]
fn bad_names_and_targets_are_refused() {
    let service = service(&Arc::new(Files::default()), "", 0);
    let (file, id) = shm(8192);
    let path = file.path();
    let refused = |name: &str, target: &Path, owner: Owner| service.link(name, target, owner).unwrap_err();
    for name in
        ["", "x", "submit-ios", &format!("{id}.x"), &format!("{id}.b0"), &format!("{id}.t5"), &format!("{id}.r")]
    {
        assert_eq!(refused(name, &path, ALICE), Errno::INVAL, "{name}");
    }
    for target in ["/dev/shm", "/dev/shm/", "/dev/shm/..", "/dev/shm/no-such-file", "/etc/passwd", "relative", ""] {
        assert_eq!(refused(&data(0), Path::new(target), ALICE), Errno::INVAL, "{target}");
    }
    let aside = path.with_extension("aside");
    std::os::unix::fs::symlink("/etc/passwd", &aside).unwrap();
    assert_eq!(refused(&data(0), &aside, ALICE), Errno::INVAL, "a symlink");
    std::fs::remove_file(&aside).unwrap();
    std::fs::create_dir(&aside).unwrap();
    assert_eq!(refused(&data(0), &aside, ALICE), Errno::INVAL, "a directory");
    std::fs::remove_dir(&aside).unwrap();
    assert_eq!(refused(&data(8193), &path, ALICE), Errno::INVAL, "a block larger than the memory");
    assert_eq!(refused(&data(0), &shm(0).0.path(), ALICE), Errno::INVAL, "nothing to map");
    assert_eq!(refused(&data(0), &shm(limits::LINK_BYTES_MAX + 1).0.path(), ALICE), Errno::FBIG);
    let small = shm(RingLayout::with_entries(1).unwrap().bytes() - 1).0;
    assert_eq!(refused(&format!("{id}.r0.t0"), &small.path(), ALICE), Errno::INVAL, "no room for an I/O");
    let ring = shm(RingLayout::with_entries(4).unwrap().bytes()).0;
    assert_eq!(refused(&format!("{id}.r5.t0"), &ring.path(), ALICE), Errno::INVAL, "a batch beyond the ring");
    assert!(service.link(&format!("{id}.r4.t0"), &ring.path(), ALICE).is_ok());
    assert_eq!(refused(&format!("{id}.r4.t0"), &ring.path(), ALICE), Errno::EXIST, "the name");
    assert_eq!(refused(&id.to_string(), &path, ALICE), Errno::EXIST, "the id");
    assert_eq!(service.counters().links, 1);
}

#[test]
fn nobody_reaches_anothers_memory() {
    let service = service(&Arc::new(Files::default()), "", 0);
    let private = ShmFile::create(&format!("foreword-test-private-{}", new_id()), 4096, 0o600, false).unwrap();
    rustix::fs::fchown(&private, Some(rustix::fs::Uid::from_raw(ALICE.uid)), None).unwrap_or_else(|_| {
        println!("skipped in part: only root gives a file away");
    });
    assert_eq!(service.link(&data(0), &private.path(), BOB).unwrap_err(), Errno::ACCESS);
    let root = Owner { uid: 0, gid: 0, pid: 1 };
    assert!(service.link(&data(0), &private.path(), root).is_ok());
}

#[test]
fn links_have_a_limit() {
    let service = service(&Arc::new(Files::default()), "", 0);
    let (file, _) = shm(4096);
    let names: Vec<String> = (0..limits::LINKS_MAX).map(|_| data(0)).collect();
    for name in &names {
        service.link(name, &file.path(), ALICE).unwrap();
    }
    assert_eq!(service.link(&data(0), &file.path(), ALICE).unwrap_err(), Errno::MFILE);
    service.unlink(&names[1000], ALICE.uid).unwrap();
    assert_eq!(service.link(&data(0), &file.path(), ALICE).unwrap().descriptor, 1000);
}

#[test]
fn semaphores_go_with_the_service() {
    let service = service(&Arc::new(Files::default()), "", 0);
    let targets = Priority::ALL.map(|priority| service.submit_target(priority));
    for (priority, target) in Priority::ALL.into_iter().zip(&targets) {
        assert!(target.starts_with("/dev/shm") && target.to_str().unwrap().contains("/sem."));
        assert_eq!(std::fs::metadata(target).unwrap().len(), 32);
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(target).unwrap()) & 0o777, 0o666);
        semaphore(&service, priority).post();
    }
    service.stop();
    service.stop();
    assert!(targets.iter().all(|target| !target.exists()));
}
