//! What watchers are told: each entry's events, encoded once for all of them, and a namespace's pages for one that starts.

pub mod hub;
mod stream;

pub(crate) use stream::watch;
