//! `foreword bench`: what the group and the agents can do on this machine.

pub mod prepare;

use clap::{Args, Subcommand};

use super::Done;

/// `foreword bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Fill the data directories of a new group with a state of any size
    Prepare(prepare::PrepareArgs),
}

/// Runs the command.
pub async fn run(args: BenchArgs, json: bool) -> Done {
    match args.command {
        BenchCommand::Prepare(args) => prepare::run(args, json).await,
    }
}
