//! One replica: openraft over our log and state, group commit, the leader's duties.

pub mod applied;
pub mod checked;
pub mod clock;
pub mod compare;
pub mod duties;
pub mod group;
pub mod halt;
pub mod leases;
pub(crate) mod level;
pub mod observer;
pub mod proposer;
mod read_index;
pub mod reclaim;
pub mod rejoin;
pub mod state_machine;
