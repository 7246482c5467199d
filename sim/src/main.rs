//! `sim`: runs seeds. docs/SIMULATION.md says what a seed is.

use std::process::ExitCode;

fn main() -> ExitCode {
    foreword_sim::cli::run()
}
