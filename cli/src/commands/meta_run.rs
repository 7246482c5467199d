//! `foreword meta run`: one replica, until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use foreword_meta::config::MetaConfig;
use foreword_meta::open::{OpenDirError, open_data_dir, set_log_aside};
use foreword_meta::serve::{Deps, Failure, Handle, ServeError, serve};
use foreword_proto::BadInput;
use foreword_seams::{OsEntropy, Telemetry, TokioNet};

use super::Done;
use crate::args::RunArgs;
use crate::config::{Section, Source};
use crate::process::{Announcement, report_process, stop_signal};

/// Runs the command.
pub async fn run(args: RunArgs) -> Done {
    let source = Source::read(args.server.config.as_deref())?;
    let section = Section::new(&source, "meta", args.flags.overlay())?;
    let listen_is_set = section.has("listen");
    // Stands in until the data directory has said where; everything else is checked before that is opened.
    let section = section.or("listen", "127.0.0.1:0");
    let mut config: MetaConfig = section.read()?;
    config.validate().map_err(|error| section.place(error))?;
    let is_dir = std::fs::metadata(&config.data_dir).map(|found| found.is_dir());
    if let Err(error) = &is_dir
        && error.kind() != std::io::ErrorKind::NotFound
    {
        let expected = format!("a directory that can be read, {}: {error}", config.data_dir.display());
        return Err(section.place(BadInput::new("data_dir", expected)).into());
    }
    if !is_dir.unwrap_or(false) {
        let expected = format!("a directory made by `foreword meta init`, got {}", config.data_dir.display());
        return Err(section.place(BadInput::new("data_dir", expected)).into());
    }
    let deps = open(&config).await?;
    let replica_id = deps.identity.replica_id;
    if !listen_is_set {
        let address = deps.identity.members.get(&replica_id).ok_or_else(|| {
            section.place(BadInput::new("listen", "host:port: this replica joins later, its directory has no address"))
        })?;
        config.listen = address.parse()?;
    }
    let mut handle = serve_or_rejoin(config.clone(), deps).await?;
    Announcement {
        role: "meta".into(),
        name: replica_id.to_string(),
        grpc: handle.endpoint().to_string(),
        socket: None,
        http: handle.http_endpoint().map(ToString::to_string),
        hf3fs: handle.hf3fs_endpoint().map(ToString::to_string),
        pid: std::process::id(),
    }
    .print()?;
    tokio::select! {
        stopped = stop_signal() => stopped?,
        failure = handle.failed() => return stop_failed(&config, handle, failure).await,
    }
    tracing::info!("stopping");
    handle.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// Ends the process of a replica that cannot go on. One whose state is not the others' keeps it aside: started again,
/// it gets theirs.
async fn stop_failed(config: &MetaConfig, handle: Handle, failure: Failure) -> Done {
    if let Failure::Diverged(diverged) = &failure {
        handle.shutdown().await;
        // It is noted that the log is not to be used again: the next start sets it aside, if somebody holds the
        // directory now.
        if let Err(error) = set_log_aside(config, diverged) {
            tracing::warn!(%error, "the log is set aside at the next start");
        }
    }
    Err(anyhow::Error::new(failure).context("meta"))
}

async fn open(config: &MetaConfig) -> Result<Deps, OpenDirError> {
    let telemetry = Telemetry::new();
    report_process(&telemetry);
    open_data_dir(config, Arc::new(TokioNet), Arc::new(OsEntropy), telemetry).await
}

/// Serves; a replica whose snapshot is damaged begins again with nothing and gets everything from the others.
async fn serve_or_rejoin(config: MetaConfig, deps: Deps) -> anyhow::Result<Handle> {
    match serve(config.clone(), deps).await {
        Err(lost @ ServeError::SnapshotLost { .. }) => {
            set_log_aside(&config, &lost)?;
            let deps = open(&config).await?;
            serve(config, deps).await.context("meta")
        }
        served => served.context("meta"),
    }
}
