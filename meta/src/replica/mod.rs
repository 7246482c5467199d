//! One replica: openraft over our log and state, group commit, the leader's duties.

pub mod applied;
pub mod beat;
pub(crate) mod changes;
pub mod checked;
pub mod clock;
pub mod compare;
pub mod duties;
pub(crate) mod forming;
pub mod group;
pub mod halt;
pub(crate) mod handover;
pub(crate) mod introduce;
pub mod leases;
pub(crate) mod level;
mod names_taken;
pub(crate) mod newcomer;
pub mod observer;
pub(crate) mod pace;
pub mod proposer;
mod read_index;
pub mod readiness;
pub mod reclaim;
pub mod rejoin;
pub(crate) mod removed;
pub mod state_machine;
pub mod supervise;
pub mod unavailable;
