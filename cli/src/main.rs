//! The `foreword` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    foreword_cli::run()
}
