//! The state machine and the eviction policy, against models that are slow and obvious.

mod codec;
mod eviction;
mod examples;
mod hf3fs;
mod markers;
mod memory;
mod model;
mod operations;
mod pieces;
pub(crate) mod random;
mod restore;
