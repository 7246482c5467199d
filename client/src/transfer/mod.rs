//! Pages of the workload through an agent's public API: what a rank of an engine sends, and the check of every byte
//! that comes back.

mod get;
mod put;

pub use get::{Gather, GotPage};
pub use put::{ShardPut, messages};
