//! One file per invariant, by the names of docs/INVARIANTS.md.
//!
//! Between two quanta of the world each invariant looks at the [`View`]: the reference, the replicas and agents that
//! run, the disks and the history. It keeps what it needs to remember; it changes nothing.

pub mod acknowledged_confirm_survives;
pub mod acknowledged_publish_survives;
pub mod entries_are_whole;
pub mod generations_never_fall;
pub mod grants_end;
pub mod linearizable_reads_are;
pub mod liveness;
pub mod lookup_keeps_its_word;
pub mod mirror_equals_state;
pub mod never_wrong_bytes;
pub mod no_room_held_while_waiting;
pub mod no_voter_unproven;
pub mod nothing_goes_back;
pub mod nothing_leaks;
pub mod one_leader_acknowledges;
pub mod one_page_one_key;
pub mod one_slot_one_page;
pub mod page_ledger;
pub mod promises_before_votes;
pub mod protected_pages_stand;
pub mod replicas_agree;
pub mod retires_are_told;
pub mod revisions_never_go_back;
pub mod whole_pages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foreword_meta::consensus::entry_codec::decode_entry;
use foreword_meta::consensus::types::LogId;
use foreword_meta::replica::group::Group;
use foreword_meta::state::command::ClusterSettings;
use foreword_node::agent::Agent;

pub use foreword_meta::state::invariants::Violation;

use crate::cluster::{Orders, Trial};
use crate::history::History;
use crate::oracle::Oracle;
use crate::world::context::SimTime;
use crate::world::disk::Disk;
use crate::world::l3::L3Counts;

/// A replica that runs, or is paused.
pub struct ReplicaView {
    pub id: u64,
    pub group: Arc<Group>,
    /// Which life of its process.
    pub incarnation: u64,
    pub ready: bool,
    /// False while it must not vote: it lost acknowledged entries and has not caught up.
    pub may_vote: bool,
    pub directory: Directory,
}

/// Names a data directory, whatever it says of itself: its machine, and which of those that were made there.
pub type Directory = (u32, u32);

/// An agent that runs, or is paused.
pub struct AgentView {
    /// The number by which the history calls it.
    pub number: u32,
    /// The node name of its sessions.
    pub name: String,
    /// Which life of its process.
    pub incarnation: u64,
    pub api: Agent,
}

/// The disk of a replica, whether the replica runs or not.
#[derive(Clone)]
pub struct DiskView {
    pub replica: u64,
    /// Which directory is on it.
    pub directory: Directory,
    /// The last entry that a power cut now would leave: of the log as far as it was synced, or of a durable snapshot,
    /// whichever is later.
    pub durable_last: Option<u64>,
    /// The last entry that a durable snapshot covers.
    pub covered: Option<u64>,
    /// Its log; none in the checks' own tests.
    pub log: Option<Disk>,
}

impl DiskView {
    /// True if a power cut now would leave this entry, or a snapshot that covers it.
    pub fn holds(&self, entry: LogId) -> bool {
        let is_it = |item| decode_entry(entry.index, &item).is_ok_and(|there| there.log_id == entry);
        let logged = |log: &Disk| log.durable_last() >= Some(entry.index) && log.item(entry.index).is_some_and(is_it);
        self.covered >= Some(entry.index) || self.log.as_ref().is_some_and(logged)
    }

    /// The last entry of the log that a power cut now would leave.
    pub fn last_entry(&self) -> Option<LogId> {
        let log = self.log.as_ref()?;
        let last = log.durable_last()?;
        decode_entry(last, &log.item(last)?).ok().map(|entry| entry.log_id)
    }
}

/// What the checks must know of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Ids of the group's members.
    pub members: BTreeSet<u64>,
    /// The sets that must each agree: one, or two while the membership changes.
    pub configs: Vec<BTreeSet<u64>>,
    /// Numbers of the agents that run when nothing fails.
    pub agents: BTreeSet<u32>,
    /// What the cluster was initialised with, whatever its replicas believe.
    pub cluster: ClusterSettings,
    /// A session's lease.
    pub lease: Duration,
    /// How long after a lease's end, with a leader, its session may still be open.
    pub expiry_bound: Duration,
    /// The deadline clients give to lookups of agents, which answer with what they know when it comes.
    pub lookup_deadline: Duration,
    /// How long after the faults stop everything must work again.
    pub liveness_bound: Duration,
    /// How long after the faults and the workload stop nothing may be left that nobody owns. Longer than lease, rests
    /// and deadlines together.
    pub quiet_bound: Duration,
    /// How long readers of page files were told that a page stays their key's.
    pub protection: Duration,
    /// How long a reservation of a page lasts of which nothing is heard.
    pub reservation: Duration,
}

/// Everything there is to look at, at one moment between two quanta.
pub struct View<'a> {
    pub now: SimTime,
    pub oracle: &'a Oracle,
    /// Those that are down are not in the list.
    pub replicas: Vec<ReplicaView>,
    /// Those that are down are not in the list.
    pub agents: Vec<AgentView>,
    /// Those that run under the id of a member, beside it.
    pub strays: Vec<ReplicaView>,
    /// One a member.
    pub disks: Vec<DiskView>,
    /// Of each member that runs and is not paused, those that it could hear and be heard by now, itself among them.
    pub earshot: BTreeMap<u64, BTreeSet<u64>>,
    /// What operators asked for so far.
    pub orders: Orders,
    /// What agents must bear now.
    pub trial: Option<Trial>,
    /// What happened on L3 so far.
    pub l3: L3Counts,
    /// A fault is under way.
    pub disturbed: bool,
    /// An agent is paused.
    pub agents_stand_still: bool,
    pub history: &'a History,
    /// Since when nothing fails; None while faults go on.
    pub healed_since: Option<SimTime>,
    /// Since when no client calls anything; None while clients work.
    pub quiet_since: Option<SimTime>,
    pub settings: &'a Settings,
}

impl View<'_> {
    /// True when this bound has passed since the faults stopped.
    pub fn healed_for(&self, bound: Duration) -> bool {
        self.healed_since.is_some_and(|since| since + bound <= self.now)
    }
}

/// Something that must always hold.
pub trait Invariant {
    /// Its name in docs/INVARIANTS.md.
    fn name(&self) -> &'static str;

    /// How many things it held against what they should be; in units of its own. 0: it has seen nothing that could be
    /// broken.
    fn compared(&self) -> u64;

    /// Looks between two quanta.
    fn observe(&mut self, view: &View<'_>) -> Result<(), Violation>;

    /// Looks once more, at the end of the run.
    fn finish(&mut self, view: &View<'_>) -> Result<(), Violation>;
}

/// A violation of `name` unless it holds.
pub fn ensure(name: &'static str, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { name, detail: detail() }) }
}

/// The first violation of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub at: SimTime,
    pub violation: Violation,
}

/// All invariants of a run, and what they found.
pub struct Checks {
    invariants: Vec<Box<dyn Invariant>>,
    /// Violations of the oracle that were taken over.
    oracle_seen: usize,
    found: Vec<Found>,
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

impl Checks {
    /// Every invariant there is.
    pub fn new() -> Self {
        Self::of(vec![
            Box::<acknowledged_confirm_survives::AcknowledgedConfirmSurvives>::default(),
            Box::<acknowledged_publish_survives::AcknowledgedPublishSurvives>::default(),
            Box::<entries_are_whole::EntriesAreWhole>::default(),
            Box::<generations_never_fall::GenerationsNeverFall>::default(),
            Box::<grants_end::GrantsEnd>::default(),
            Box::<linearizable_reads_are::LinearizableReadsAre>::default(),
            Box::<liveness::Liveness>::default(),
            Box::<lookup_keeps_its_word::LookupKeepsItsWord>::default(),
            Box::<mirror_equals_state::MirrorEqualsState>::default(),
            Box::<never_wrong_bytes::NeverWrongBytes>::default(),
            Box::<no_room_held_while_waiting::NoRoomHeldWhileWaiting>::default(),
            Box::<no_voter_unproven::NoVoterUnproven>::default(),
            Box::<nothing_goes_back::NothingGoesBack>::default(),
            Box::<nothing_leaks::NothingLeaks>::default(),
            Box::<one_leader_acknowledges::OneLeaderAcknowledges>::default(),
            Box::<one_page_one_key::OnePageOneKey>::default(),
            Box::<one_slot_one_page::OneSlotOnePage>::default(),
            Box::<promises_before_votes::PromisesBeforeVotes>::default(),
            Box::<protected_pages_stand::ProtectedPagesStand>::default(),
            Box::<replicas_agree::ReplicasAgree>::default(),
            Box::<retires_are_told::RetiresAreTold>::default(),
            Box::<revisions_never_go_back::RevisionsNeverGoBack>::default(),
            Box::<whole_pages::WholePages>::default(),
        ])
    }

    /// These only.
    pub fn of(invariants: Vec<Box<dyn Invariant>>) -> Self {
        Self { invariants, oracle_seen: 0, found: Vec::new() }
    }

    /// Looks between two quanta. True if a name was found broken that was not before.
    pub fn observe(&mut self, view: &View<'_>) -> bool {
        self.run(view, |invariant| invariant.observe(view))
    }

    /// Looks at the end; the oracle should have checked its state a last time ([`Oracle::check_now`]).
    pub fn finish(&mut self, view: &View<'_>) -> bool {
        self.run(view, |invariant| invariant.observe(view).and_then(|()| invariant.finish(view)))
    }

    fn run(&mut self, view: &View<'_>, mut look: impl FnMut(&mut dyn Invariant) -> Result<(), Violation>) -> bool {
        let before = self.found.len();
        let of_oracle = view.oracle.violations();
        for violation in &of_oracle[self.oracle_seen.min(of_oracle.len())..] {
            add(&mut self.found, view.now, violation.clone());
        }
        self.oracle_seen = of_oracle.len();
        for invariant in &mut self.invariants {
            if let Err(violation) = look(invariant.as_mut()) {
                add(&mut self.found, view.now, violation);
            }
        }
        self.found.len() > before
    }

    /// The first violation of each broken name, in the order in which they were found.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// How much each invariant compared ([`Invariant::compared`]): a run in which one of them saw nothing says nothing
    /// about it.
    pub fn compared(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.invariants.iter().map(|invariant| (invariant.name(), invariant.compared()))
    }

    /// The broken names.
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.found.iter().map(|found| found.violation.name).collect()
    }
}

fn add(found: &mut Vec<Found>, at: SimTime, violation: Violation) {
    if found.iter().all(|found| found.violation.name != violation.name) {
        found.push(Found { at, violation });
    }
}

#[cfg(test)]
mod random;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
