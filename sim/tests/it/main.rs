//! The parts of the simulation each without the others, and the whole of it.

mod canaries;
mod cluster;
mod determinism;
mod regressions;
mod slow_disks;
mod swarm;
mod workload;
