//! Where meta and node meet the world: time is tokio's, everything else comes in through these traits.
//!
//! The binary passes the implementations of this crate; the simulator passes its own. Nothing is mocked and nothing
//! asks which of the two it runs under. docs/adr/0001-seams-crate.md says why this is a crate of its own.

#![forbid(unsafe_code)]

pub mod connection;
pub mod deadline;
pub mod entropy;
pub mod files;
pub mod http;
pub mod listener;
pub mod net;
pub mod process;
pub mod requests;
pub mod rpc;
pub mod rpc_errors;
pub mod rpc_metrics;
pub mod runner;
pub mod seldom;
pub mod sometimes;
pub mod stopwatch;
pub mod telemetry;

pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use files::{FileReader, FileWriter, Files, LocalFiles, replace_file};
pub use net::{Endpoint, Incoming, Net, Stream, TokioNet};
pub use runner::{Runner, in_the_background, on_a_task, on_a_thread};
pub use sometimes::{Marker, sometimes};
pub use telemetry::Telemetry;
