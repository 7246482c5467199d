//! Between replicas: cached channels, the Raft service, snapshots as streams.

mod client;
mod messages;
mod peers;
mod server;

pub use client::NetworkFactory;
pub use peers::{PeerIdentity, Peers};
pub use server::RaftService;
