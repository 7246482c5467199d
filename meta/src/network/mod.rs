//! Between replicas: cached channels, the Raft service, snapshots as streams.

mod client;
pub(crate) mod messages;
mod peers;
mod reach;

pub use client::NetworkFactory;
pub(crate) use client::SnapshotOffer;
pub use peers::{PeerIdentity, Peers};
