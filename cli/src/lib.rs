//! The `foreword` binary: wiring, subcommands, the cluster harness and the driver of demo and replay.

pub mod clients;
pub mod cluster;
pub mod config;
pub mod driver;
pub mod human;
pub mod process;
