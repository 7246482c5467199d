//! What the agent decides, as functions of what it knows: no clock, no randomness, no I/O, no async.
//!
//! Times are milliseconds since the agent started, given by the caller.

pub mod breaker;
pub mod fair_shares;
pub mod gather;
pub mod grants;
pub mod health;
pub mod lookup;
pub mod places;
pub mod prefetch;
