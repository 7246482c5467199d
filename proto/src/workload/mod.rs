//! The pure workload: what the demo, the replay, the benches and the simulator put through Foreword, and what a perfect
//! cache would have answered.
//!
//! A workload is a [`Trace`]: requests in order, each a list of block ids. A page is a block *with everything before
//! it*: [`chain_keys`] and the models of [`ideal`](mod@ideal) take the whole prefix as the identity, so two requests
//! share a page exactly when they share the blocks up to it. (In the published traces an id names its prefix already:
//! each id of both files in tests/it/traces.rs has one predecessor. Chaining costs nothing there and is right for
//! traces where it is not so.)

pub mod generate;
pub mod ideal;
pub mod keys;
pub mod page;
mod splitmix;
pub mod trace;

pub use generate::Generator;
pub use ideal::{Ideal, ideal, ideal_cross_node_hits, strict_lru};
pub use keys::chain_keys;
pub use page::{Mismatch, fill, verify};
pub use splitmix::SplitMix;
pub use trace::{Request, Trace, parse};
