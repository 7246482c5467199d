//! One file for each subcommand: from arguments to calls to what is printed.

pub mod bench;
mod claims;
pub mod demo;
pub mod feature_level;
pub mod import_hf3fs;
pub mod keyed;
pub mod membership;
pub mod meta_init;
pub mod meta_run;
pub mod names;
pub mod node;
pub mod playing;
pub mod removal;
pub mod replay;
pub mod status;
pub mod usrbiod;

use std::process::ExitCode;

/// Something was not there, or is not as it should be: neither an error nor a success.
pub const NOT_FOUND: u8 = 3;

/// What a command ends with when it did not fail.
pub type Done = anyhow::Result<ExitCode>;
