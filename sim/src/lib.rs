//! A whole cluster in one thread, from one number: the code that ships, under simulated time, network, disks and page
//! store.
//!
//! A simulation owns its thread: the clock, the trace and the random numbers of the world are that thread's
//! ([`world::context`]), and each seed runs on a new one. docs/SIMULATION.md says how it works and what it cannot see.

#[cfg(not(tokio_unstable))]
compile_error!(
    "build with --cfg tokio_unstable (.cargo/config.toml sets it): without it tokio draws its own random numbers and no seed replays"
);

pub mod canaries;
pub mod cli;
pub mod cluster;
pub mod faults;
pub mod generated;
pub mod history;
pub mod invariants;
pub mod linearizable;
pub mod observe;
pub mod oracle;
pub mod profiles;
pub mod run;
pub mod shrink;
pub mod sightings;
pub mod workload;
pub mod world;
