//! The words of Foreword and how they travel: page keys and prefix chains, namespaces, locations, limits, wire records
//! and generated messages; and the pure workload (traces, generated prompts, the ideal cache).
//!
//! Nothing here reads a clock, draws a random number or does I/O.

#![forbid(unsafe_code)]

pub mod bad_input;
pub mod buckets;
pub mod chain;
pub mod checksum;
pub mod ids;
pub mod key;
pub mod limits;
pub mod location;
pub mod namespace;
pub mod outcome;
pub mod records;
pub mod status;
pub mod versions;
pub mod wire;
pub mod workload;

pub use bad_input::BadInput;
pub use ids::{
    AgentId, ClusterId, DirectoryId, Epoch, Generation, NamespaceId, Revision, Sequence, SessionId, SlabId, Slot,
};
pub use key::{EntryKey, PageKey};
pub use location::{Location, SlotRef};
pub use namespace::{Fingerprint, Namespace};
pub use outcome::{PublishOutcome, PutOutcome, PutRefusal, RetireReason, Tier};
pub use versions::Versions;
