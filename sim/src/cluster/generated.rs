//! What a cluster's disks and L3 hold before its first process starts.

use foreword_meta::generated::state::generate_told;
use foreword_meta::generated::stopped::stop;
use foreword_meta::generated::{PAGE_BYTES, Plan, namespace};
use foreword_meta::state::State;
use foreword_meta::state::command::Command;
use tokio::runtime::{Builder, RngSeed};

use super::Cluster;
use super::replica::ReplicaParts;

impl Cluster {
    /// Fills the disks of all replicas, and L3, as a group of this plan leaves them when it stops; the commands that
    /// led there.
    pub(super) fn fill(&self, plan: &Plan) -> Vec<Command> {
        let replicas: Vec<&ReplicaParts> = self.replicas().map(|(parts, _)| parts).collect();
        let identities = || replicas.iter().map(|parts| parts.disk.identity());
        let directories = identities().map(|identity| (identity.replica_id, identity.directory)).collect();
        let settings = identities().next().expect("a group has replicas").settings;
        let mut commands = Vec::new();
        let state = generate_told(plan, &settings, &directories, &mut |command| commands.push(command.clone()));
        let state = state.expect("the profile's L3 has room for its plan");
        self.write_pages(plan, &state);
        // Disks have no weather yet: what waits here waits for another task, and for no time.
        let mut runtime = Builder::new_current_thread();
        runtime.enable_time().start_paused(true).rng_seed(RngSeed::from_bytes(&[0]));
        runtime.build().expect("a runtime without I/O takes nothing that could fail").block_on(async {
            let members = replicas.iter().map(|parts| parts.opened().expect("a new disk opens")).collect();
            stop(state, members).await.expect("disks without faults take what they are given");
        });
        commands
    }

    /// Puts the pages that have bytes where the state says that they are.
    fn write_pages(&self, plan: &Plan, state: &State) {
        let cluster_id = self.cluster_id;
        for (at, pages) in plan.namespaces.iter().enumerate() {
            let (keys, fingerprint) = (plan.keys(at), namespace(at).fingerprint());
            let id = state.namespace_by_fingerprint(&fingerprint).expect("the plan's namespaces are registered").id;
            for number in 0..plan.written.min(*pages) {
                let location = state.location(id, &keys.page(number).entry()).expect("the plan's pages are there");
                let slot = location.to_location().slot;
                let offset = u64::from(slot.slot) * PAGE_BYTES as u64;
                self.l3.put(cluster_id, slot.slab, offset, &keys.bytes(number));
            }
        }
    }
}
