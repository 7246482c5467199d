//! The state machine of the metadata group.
pub mod command;
