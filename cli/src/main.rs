//! The `foreword` binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    foreword_cli::run()
}
