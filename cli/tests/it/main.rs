//! Tests of the binary with real processes.

mod kill;
