//! node

pub mod arena;
pub mod store;
pub mod tier;
