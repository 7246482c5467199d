//! The parts of the simulation, each without the others.

mod cluster;
mod workload;
