//! The simulated world: hosts with their clocks, the network between them, their disks, and L3.

pub mod context;
pub mod disk;
pub mod files;
pub mod l3;
