//! The ground of replication: the types that openraft works with here, and how an entry is stored and sent.

pub mod entry_codec;
pub mod types;
pub mod write_version;
