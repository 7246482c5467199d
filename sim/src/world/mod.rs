//! The simulated world: hosts with their clocks, the network between them, their disks, and L3.

pub mod context;
pub mod disk;
pub mod entropy;
pub mod files;
pub mod host;
pub(crate) mod interpose;
pub mod l3;
pub mod logs;
pub mod net;
