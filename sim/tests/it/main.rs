//! The parts of the simulation, each without the others.

mod canaries;
mod cluster;
mod workload;
