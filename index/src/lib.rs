//! Where the pages of one namespace are: the table that the group's state and an agent's mirror both keep.
//!
//! Pure: no clock, no I/O, no randomness, no unordered iteration. A clone is a frozen view, which shares what neither
//! changes.

#![forbid(unsafe_code)]

mod bucket;
mod grid;
mod location;
mod places;
mod table;

pub use bucket::Bucket;
pub use grid::{Copies, Grid};
pub use location::LocationRef;
pub use table::{BUCKETS_MAX, BucketFull, KEYS_AT_ONCE, Table};
