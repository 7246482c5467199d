//! The `foreword` binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Of the allocators that were measured the one with the least latency of a publish (docs/adr/0019).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    foreword_cli::run()
}
