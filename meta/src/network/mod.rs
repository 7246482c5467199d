//! Between replicas: cached channels, the Raft service, snapshots as streams.

pub(crate) mod address;
mod channels;
mod client;
mod forwarded;
mod heard;
pub(crate) mod hello;
pub(crate) mod messages;
mod peers;
mod pulse;
mod reach;
pub(crate) mod transfers;

pub use address::{Address, Peer, PeerIdentity};
pub use client::NetworkFactory;
pub(crate) use forwarded::{forwarded, passed_on, was_forwarded};
pub use heard::Heard;
pub use peers::Peers;
pub(crate) use transfers::SnapshotOffer;
