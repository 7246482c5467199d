//! All invariants together, on a history by hand: what is right passes, and each planted fault is found by its name.

use std::collections::BTreeSet;

use super::testing::{disk, got, history, looked_up, published, view};
use super::*;
use crate::history::{PutResult, Record};
use crate::oracle::tests::{Log, SESSION, item};

pub(super) fn settings() -> Settings {
    Settings {
        members: BTreeSet::from([1, 2, 3]),
        configs: vec![BTreeSet::from([1, 2, 3])],
        agents: BTreeSet::new(),
        cluster: Log::new(1).oracle.state().settings().clone(),
        lease: Duration::from_secs(1),
        expiry_bound: Duration::from_secs(1),
        lookup_deadline: Duration::from_secs(1),
        liveness_bound: Duration::from_secs(10),
        quiet_bound: Duration::from_secs(10),
        protection: Duration::from_secs(1),
        reservation: Duration::from_secs(1),
    }
}

/// A run whose faults stop at once: its broken names after `seconds`.
fn names(log: &mut Log, records: Vec<Record>, disks: &[Option<u64>], seconds: u64) -> BTreeSet<&'static str> {
    let (settings, history) = (settings(), history(records));
    let mut checks = Checks::new();
    for (end, now) in [(false, 0), (false, seconds * 500), (true, seconds * 1000)] {
        log.oracle.check_now();
        let disks = (1..).zip(disks).map(|(replica, durable_last)| disk(replica, *durable_last));
        let view = View { disks: disks.collect(), ..view(&log.oracle, &history, &settings, now) };
        let new = if end { checks.finish(&view) } else { checks.observe(&view) };
        assert!(!new || !checks.found().is_empty());
    }
    assert_eq!(checks.names().len(), checks.found().len(), "one of each name");
    let seen: BTreeSet<&str> = checks.compared().filter(|(_, compared)| *compared > 0).map(|(name, _)| name).collect();
    for name in ["acknowledged-publish-survives", "entries-are-whole", "never-wrong-bytes", "linearizable-reads-are"] {
        assert!(seen.contains(name) || !checks.names().is_empty(), "{name} saw nothing: {seen:?}");
    }
    assert!(!seen.contains("mirror-equals-state") && !seen.contains("replicas-agree"), "there are none: {seen:?}");
    checks.names()
}

/// A log whose session is closed and whose rests are over, with an acknowledged publish.
fn quiet() -> (Log, Vec<Record>) {
    let mut log = Log::new(4);
    log.put(1);
    let revision = log.revision();
    log.entry(&[foreword_meta::state::command::Command::EndSession { session: SESSION }]);
    log.tick(10_000);
    let told = published(1, revision, PutResult::Published, (10, 20));
    let read = looked_up(&[1, 2], log.revision(), &[true, false], true, (30, 40));
    (log, vec![told, got(1, vec![(1, Ok(vec![5]))]), read])
}

#[test]
fn a_run_without_faults_breaks_nothing() {
    let (mut log, records) = quiet();
    let on = Some(log.revision());
    assert_eq!(names(&mut log, records, &[on, on, None], 5), BTreeSet::new());
}

#[test]
fn planted_faults_are_found_by_their_names() {
    let on = Some(1000);
    let broken = |plant: &dyn Fn(&mut Log, &mut Vec<Record>), disks: &[Option<u64>], seconds| {
        let (mut log, mut records) = quiet();
        plant(&mut log, &mut records);
        names(&mut log, records, disks, seconds)
    };
    let all = [on, on, on];
    assert_eq!(broken(&|_, _| {}, &all, 5), BTreeSet::new());
    assert_eq!(broken(&|_, _| {}, &all, 20), BTreeSet::from(["liveness"]), "no replica ever comes");
    assert_eq!(broken(&|_, _| {}, &[on, None, None], 5), BTreeSet::from(["promises-before-votes"]));
    let wrong_bytes = |_: &mut Log, records: &mut Vec<Record>| records.push(got(1, vec![(1, Err("shard 0".into()))]));
    assert_eq!(broken(&wrong_bytes, &all, 5), BTreeSet::from(["never-wrong-bytes"]));
    let two_writers = |_: &mut Log, records: &mut Vec<Record>| records.push(got(1, vec![(1, Ok(vec![5, 6]))]));
    assert_eq!(broken(&two_writers, &all, 5), BTreeSet::from(["whole-pages"]));
    let phantom =
        |_: &mut Log, records: &mut Vec<Record>| records.push(published(3, 2, PutResult::Published, (50, 60)));
    assert_eq!(broken(&phantom, &all, 5), BTreeSet::from(["acknowledged-publish-survives"]));
    let rewritten = |log: &mut Log, _: &mut Vec<Record>| log.oracle.advance(2, &item(2, 9, &[]));
    assert_eq!(broken(&rewritten, &all, 5), BTreeSet::from(["nothing-goes-back"]));
    let stale = |log: &mut Log, records: &mut Vec<Record>| {
        let before = log.oracle.presence().changes(1, &crate::oracle::tests::key(1).entry())[0].0 - 1;
        records.push(looked_up(&[1], before, &[false], true, (50, 60)));
    };
    assert_eq!(broken(&stale, &all, 5), BTreeSet::from(["linearizable-reads-are"]));
    let orphan = |log: &mut Log, _: &mut Vec<Record>| {
        let (node, endpoint) = ("b".to_owned(), String::new());
        log.entry(&[foreword_meta::state::command::Command::OpenSession {
            session: foreword_proto::SessionId([9; 16]),
            node,
            agent: foreword_proto::AgentId([1; 16]),
            incarnation: 7,
            endpoint,
        }]);
    };
    assert_eq!(broken(&orphan, &all, 5), BTreeSet::from(["grants-end"]));
}
