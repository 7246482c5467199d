//! Replication: openraft's types, network and state machine for the metadata group.
pub mod types;
