//! `replicas-agree`: replicas at equal revisions have equal digests; each is held against the reference.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_proto::Revision;

use super::{Invariant, ReplicaView, View, Violation, ensure};
use crate::oracle::Oracle;
use crate::world::context::SimTime;

const NAME: &str = "replicas-agree";
/// A state that differs stays different: looking at each replica so often loses nothing but time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Compares digests.
#[derive(Debug, Default)]
pub struct ReplicasAgree {
    /// When a replica is looked at again, and the revision at which it was compared last.
    looked: BTreeMap<u64, (SimTime, Revision)>,
    compared: u64,
}

impl ReplicasAgree {
    fn compare(&mut self, oracle: &Oracle, id: u64, revision: Revision, digest: u64) -> Result<(), Violation> {
        let Some(expected) = oracle.digest_at(revision) else { return Ok(()) };
        self.compared += 1;
        ensure(NAME, digest == expected, || {
            format!("replica {id} at revision {revision} has digest {digest:016x}, the reference has {expected:016x}")
        })
    }

    fn look(&mut self, view: &View<'_>, replica: &ReplicaView) -> Result<(), Violation> {
        let (revision, digest) = replica.group.applied.read(|state| (state.revision(), state.digest()));
        self.looked.insert(replica.id, (view.now + LOOK_EVERY, revision));
        self.compare(view.oracle, replica.id, revision, digest)
    }
}

impl Invariant for ReplicasAgree {
    fn name(&self) -> &'static str {
        NAME
    }

    fn compared(&self) -> u64 {
        self.compared
    }

    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for replica in &view.replicas {
            let due = match self.looked.get(&replica.id) {
                Some((at, compared)) => *at <= view.now && *compared != replica.group.applied.revision(),
                None => true,
            };
            if due {
                self.look(view, replica)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation> {
        view.replicas.iter().try_for_each(|replica| self.look(view, replica))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::tests::Log;

    #[test]
    fn another_digest_at_the_same_revision_is_found() {
        let mut log = Log::new(8);
        log.put(1);
        let (oracle, mut check) = (&log.oracle, ReplicasAgree::default());
        let (revision, digest) = (oracle.revision(), oracle.state().digest());
        assert_eq!(check.compare(oracle, 1, revision, digest), Ok(()));
        assert_eq!(check.compared, 1);
        assert!(check.compare(oracle, 2, revision - 1, digest).is_err());
        assert!(check.compare(oracle, 2, revision, digest ^ 1).is_err());
        assert_eq!(check.compare(oracle, 2, revision + 1, digest ^ 1), Ok(()), "not known yet");
    }
}
