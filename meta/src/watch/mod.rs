//! What watchers are told: each entry's events, encoded once for all of them, and for a mirror that lost its place the
//! buckets in which it differs from the state.

mod encoded;
pub mod hub;
mod measures;
mod resync;
mod stream;
mod tail;
mod wakes;

pub use encoded::{EncodedEntry, NamespaceChange, StartOver};
pub(crate) use stream::watch;
