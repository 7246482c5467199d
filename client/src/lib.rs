//! All that talks to an agent or to the group from outside, over gRPC: which replica is asked, when a call is tried
//! again, and what a watch stream and a page's pieces are. Connections come through [`foreword_seams::Net`], randomness
//! through [`foreword_seams::Entropy`], time is tokio's: it runs in a simulator as it does on a machine.

#![forbid(unsafe_code)]

mod connection;
mod group;
mod hello;
pub mod retry;
mod rotation;
pub mod transfer;
pub mod watch;

pub use connection::{Admin, Agent, Connection, Replica, admin, agent, cause, never_sent, replica};
pub use group::{Group, Member};
pub use hello::{Cluster, HelloError};
pub use retry::{Backoff, Tries};
