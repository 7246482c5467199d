//! The `foreword` binary: wiring, subcommands, the cluster harness and the driver of demo and replay.

#![forbid(unsafe_code)]

pub mod args;
pub mod clients;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod driver;
mod glance;
pub mod human;
mod out;
pub mod process;

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches};
use foreword_meta::generated::directories::GenerateError;
use foreword_meta::open::OpenDirError;
use foreword_meta::serve::{Failure, ServeError};
use foreword_meta::storage::DataDirError;
use foreword_node::ServeError as AgentError;
use foreword_node::store::{MarkError, StoreError};
use foreword_proto::BadInput;

use self::args::{Cli, Command, MetaCommand};
use self::commands::membership::Change;
use self::commands::{
    Done, bench, demo, feature_level, import_hf3fs, keyed, membership, meta_init, meta_run, names, node, removal,
    replay, status, usrbiod,
};

/// Runs the binary: parses the command line, runs the command, says what went wrong. Exit codes: `foreword --help`.
pub fn run() -> ExitCode {
    let matches = without_empty_variables(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run_command(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("foreword: {}", in_words(&error));
            ExitCode::from(if error.chain().any(is_bad_input) { 2 } else { 1 })
        }
    }
}

/// The error and its causes; a cause that was said already is not said again.
fn in_words(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |words, cause| {
        if words.ends_with(&cause) { words } else { format!("{words}: {cause}") }
    })
}

/// The command, for which a variable that is set to nothing is not set: a container's template leaves those behind.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if arg.get_env().is_some_and(empty) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// What the caller can mend names a field (by another binary, if a file is another version's); everything else happened
/// to us.
fn is_bad_input(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<BadInput>()
        || matches!(cause.downcast_ref(), Some(DataDirError::Bad(_) | DataDirError::OtherVersion(_)))
        || cause.downcast_ref().is_some_and(OpenDirError::is_refusal)
        || cause.downcast_ref().is_some_and(GenerateError::is_refusal)
        || matches!(cause.downcast_ref(), Some(ServeError::OtherVersion(_)))
        || matches!(cause.downcast_ref(), Some(Failure::OtherVersion(_)))
        || matches!(cause.downcast_ref(), Some(MarkError::OtherVersion(_)))
        || matches!(
            cause.downcast_ref(),
            Some(AgentError::Store { error: StoreError::OtherVersion(_) | StoreError::NoAccess(_), .. })
        )
}

fn run_command(mut cli: Cli) -> Done {
    let server = match &cli.command {
        Command::Meta(MetaCommand::Run(args)) => Some(&args.server),
        Command::Node(args) => Some(&args.server),
        _ => None,
    };
    let standin = match &cli.command {
        Command::Usrbiod(args) => Some(args),
        _ => None,
    };
    let serves = server.is_some() || standin.is_some();
    let _logs_end = process::init_logs(if serves { "info" } else { "error" }, serves)?;
    process::raise_descriptor_limit();
    let parent = server.map_or_else(|| standin.and_then(|args| args.die_with_parent), |server| server.die_with_parent);
    if let Some(parent) = parent {
        process::die_with_parent(parent)?;
    }
    if let Command::Demo(args) = &cli.command
        && args.through_standin()
    {
        demo::usrbio::enter_own_mounts()?;
    }
    if let Command::Bench(args) = &mut cli.command
        && args.wants_own_mounts()
    {
        args.own_mounts = demo::usrbio::enter_own_mounts().map_err(|error| format!("{error:#}"));
    }
    check_worker_threads()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(dispatch(cli))
}

/// tokio reads this variable, and panics at what is no number.
fn check_worker_threads() -> Result<(), BadInput> {
    const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";
    let Some(text) = std::env::var_os(WORKER_THREADS) else { return Ok(()) };
    let threads = text.to_str().and_then(|text| text.parse::<usize>().ok());
    match threads {
        Some(1..) => Ok(()),
        _ => Err(BadInput::new(WORKER_THREADS, format!("a positive number of threads, got {text:?}"))),
    }
}

async fn dispatch(cli: Cli) -> Done {
    let json = cli.json;
    match cli.command {
        Command::Demo(args) => demo::run(*args, json).await,
        Command::Replay(args) => replay::run(*args, json).await,
        Command::Meta(MetaCommand::Init(args)) => meta_init::run(*args, json).await,
        Command::Meta(MetaCommand::Run(args)) => meta_run::run(*args).await,
        Command::Meta(MetaCommand::Add(args)) => membership::run(Change::Add(args), json).await,
        Command::Meta(MetaCommand::Remove(args)) => membership::run(Change::Remove(args), json).await,
        Command::Meta(MetaCommand::Leader(args)) => membership::leader(args, json).await,
        Command::Meta(MetaCommand::Namespaces(args)) => names::namespaces(args, json).await,
        Command::Meta(MetaCommand::PageFiles(args)) => names::page_files(args, json).await,
        Command::Meta(MetaCommand::FeatureLevel(args)) => feature_level::run(args, json).await,
        Command::Meta(MetaCommand::Replace(args)) => membership::run(Change::Replace(args), json).await,
        Command::Clear(args) => removal::clear(*args, json).await,
        Command::Delete(args) => removal::delete(*args, json).await,
        Command::Node(args) => node::run(*args).await,
        Command::Usrbiod(args) => usrbiod::run(*args).await,
        Command::Status(args) => status::run(args, json).await,
        Command::Lookup(args) => keyed::lookup(*args, json).await,
        Command::Get(args) => keyed::get(*args, json).await,
        Command::Put(args) => keyed::put(*args, json).await,
        Command::Bench(args) => bench::run(args, json).await,
        Command::ImportHf3fs(args) => import_hf3fs::run(args, json).await,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let said = |error: anyhow::Error| in_words(&error);
        assert_eq!(said(anyhow!("denied").context("log: denied")), "log: denied");
        assert_eq!(said(anyhow!("denied").context("log").context("data_dir")), "data_dir: log: denied");
    }
}
