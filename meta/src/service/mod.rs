//! What a replica serves: the Meta and Admin gRPC services and the HTTP surface.

mod admin;
mod feature_level;
mod http;
mod import;
mod lookup;
mod meta;
mod names;
mod raft;
pub mod status;

pub use admin::AdminService;
pub use http::router;
pub use meta::MetaService;
pub use raft::RaftService;
