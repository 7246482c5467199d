//! The driver behind `foreword demo` and `foreword replay`: plays a trace through agents and checks every byte it gets.
//!
//! It keeps no cache and never substitutes a result: what it counts it has received. CONTRACTS' words, exactly.

pub mod audit;
pub mod counts;
pub mod plan;
pub mod probe;
pub mod recorder;
pub mod report;
pub mod run;
pub mod schedule;
pub mod transfer;

pub use counts::Counts;
pub use plan::Plan;
pub use report::Report;
