//! What an operator wants to see first of a group: whether all is well, and if not, what is wrong. Pure.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::status::{ReplicaRole, ReplicaStatus};

use crate::human::Size;

/// A follower that lacks more entries than this is behind: a second of a busy group.
const ENTRIES_BEHIND_MAX: u64 = 1000;
/// Less free disk than this is little: a log and two snapshots of millions of pages take as much.
const DISK_FREE_BYTES_MIN: u64 = 4 << 30;
/// L3 is nearly full above this share of its budget.
const L3_USED_PERCENT_HIGH: u64 = 98;

/// One line that says how the group is, and one for each thing that is wrong. `asked`: how many replicas were.
pub(crate) fn glance(answers: &[ReplicaStatus], asked: usize) -> Vec<String> {
    let wrong = wrong(answers, asked);
    let Some(one) = answers.iter().max_by_key(|replica| replica.revision) else {
        return vec![format!("no replica of {asked} answers")];
    };
    let leader = leader(answers).map_or("no leader".to_owned(), |(id, term)| format!("leader {id} in term {term}"));
    let state = match wrong.len() {
        0 => "all is well".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        many => format!("{many} things are wrong"),
    };
    let head = format!(
        "{state}: {leader}, {} of {asked} replicas answer, {} pages, {} of {} L3 used",
        answers.len(),
        one.pages,
        Size(used_bytes(one)),
        Size(one.l3.budget_bytes)
    );
    std::iter::once(head).chain(wrong.into_iter().map(|what| format!("  {what}"))).collect()
}

fn used_bytes(replica: &ReplicaStatus) -> u64 {
    let l3 = &replica.l3;
    l3.granted_bytes + l3.published_bytes + l3.resting_bytes
}

/// The leader of the newest term, by its own word.
fn leader(answers: &[ReplicaStatus]) -> Option<(u64, u64)> {
    let leaders = answers.iter().filter(|replica| replica.role == ReplicaRole::Leader);
    leaders.map(|replica| (replica.replica_id, replica.term)).max_by_key(|(_, term)| *term)
}

fn wrong(answers: &[ReplicaStatus], asked: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    if answers.len() < asked {
        wrong.push(format!("{} of {asked} replicas do not answer", asked - answers.len()));
    }
    let clusters: BTreeSet<String> = answers.iter().map(|replica| replica.cluster_id.to_string()).collect();
    if clusters.len() > 1 {
        wrong.push(format!("the replicas are of {} clusters: {clusters:?}", clusters.len()));
    }
    if !answers.is_empty() && leader(answers).is_none() {
        wrong.push("none of them leads: publishes wait, lookups go on".to_owned());
    }
    for replica in answers {
        wrong.extend(wrong_of(replica));
    }
    wrong.extend(different_digests(answers));
    wrong
}

fn wrong_of(replica: &ReplicaStatus) -> Vec<String> {
    let id = replica.replica_id;
    let mut wrong = Vec::new();
    if replica.role == ReplicaRole::Isolated || replica.role == ReplicaRole::Rejoining {
        wrong.push(format!("replica {id} is {}", replica.role));
    } else if !replica.ready {
        wrong.push(format!("replica {id} is not ready: its /readyz says why"));
    }
    for (follower, entries) in replica.followers_behind.iter().filter(|(_, entries)| **entries > ENTRIES_BEHIND_MAX) {
        wrong.push(format!("replica {follower} is {entries} entries behind its leader"));
    }
    if let Some(free) = replica.disk_free_bytes.filter(|free| *free < DISK_FREE_BYTES_MIN) {
        wrong.push(format!("replica {id} has {} of disk left", Size(free)));
    }
    let l3 = &replica.l3;
    let full = used_bytes(replica) > l3.budget_bytes / 100 * L3_USED_PERCENT_HIGH;
    if replica.role == ReplicaRole::Leader && full {
        wrong.push(format!("L3 is full up to {L3_USED_PERCENT_HIGH}%: what rests is {}", Size(l3.resting_bytes)));
    }
    wrong
}

/// Replicas at one revision must have one digest.
fn different_digests(answers: &[ReplicaStatus]) -> Option<String> {
    let mut digests: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for replica in answers {
        digests.entry(replica.revision).or_default().insert(&replica.state_digest);
    }
    let (revision, _) = digests.into_iter().find(|(_, digests)| digests.len() > 1)?;
    Some(format!("replicas hold different states at revision {revision}: this is a bug, keep their data directories"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: u64, role: &str) -> ReplicaStatus {
        serde_json::from_value(serde_json::json!({
            "cluster_id": "00112233445566778899aabbccddeeff", "replica_id": id, "version": "0", "role": role,
            "leader_id": 1, "term": 7, "voters": [1, 2, 3], "learners": [], "endpoints": {}, "ready": true,
            "last_log_index": 9, "revision": 9, "snapshot_revision": 0, "purged_index": 0, "log_bytes": 1,
            "state_digest": "aa", "feature_level": 1, "pages": 5, "namespaces": [], "sessions": [],
            "l3": {"chunk_bytes": 4096, "budget_bytes": 1_000_000, "slabs": 1, "slab_bytes": 1_000_000, "free_bytes": 500_000,
                   "granted_bytes": 100_000, "published_bytes": 400_000, "resting_bytes": 0, "slots_reused": 0},
        }))
        .unwrap()
    }

    fn group() -> Vec<ReplicaStatus> {
        vec![replica(1, "leader"), replica(2, "follower"), replica(3, "follower")]
    }

    #[test]
    fn a_group_that_is_well_is_one_line() {
        let lines = glance(&group(), 3);
        let head = "all is well: leader 1 in term 7, 3 of 3 replicas answer, 5 pages, 500KB of 1MB L3 used";
        assert_eq!(lines, [head]);
    }

    #[test]
    fn each_thing_that_is_wrong_has_a_line() {
        type Spoil = fn(&mut Vec<ReplicaStatus>);
        let cases: [(Spoil, &str); 8] = [
            (|group| drop(group.pop()), "1 of 3 replicas do not answer"),
            (|group| group[0].role = ReplicaRole::Isolated, "replica 1 is isolated"),
            (|group| group[1].ready = false, "replica 2 is not ready"),
            (|group| _ = group[0].followers_behind.insert(3, 70_000), "replica 3 is 70000 entries behind"),
            (|group| group[2].disk_free_bytes = Some(1000), "replica 3 has 1KB of disk left"),
            (|group| group[2].state_digest = "bb".into(), "different states at revision 9"),
            (|group| group[0].l3.resting_bytes = 499_000, "L3 is full"),
            (|group| group[0].role = ReplicaRole::Candidate, "none of them leads"),
        ];
        for (spoil, expected) in cases {
            let mut group = group();
            spoil(&mut group);
            let lines = glance(&group, 3);
            assert!(lines.iter().any(|line| line.contains(expected)), "{expected}: {lines:?}");
            assert!(!lines[0].starts_with("all is well"), "{lines:?}");
        }
        assert_eq!(glance(&[], 3), ["no replica of 3 answers"]);
    }
}
