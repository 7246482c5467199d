//! `foreword node`: the agent of this machine, until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use foreword_node::kept_id::KeptId;
use foreword_node::machine::{Machine, machine};
use foreword_node::{Deps, NodeConfig, serve};
use foreword_proto::BadInput;
use foreword_seams::{Files, LocalFiles, OsEntropy, Telemetry, TokioNet, on_a_thread};

use super::Done;
use crate::args::NodeArgs;
use crate::config::{Section, Source};
use crate::process::{Announcement, report_process, stop_signal};

/// Runs the command.
pub async fn run(args: NodeArgs) -> Done {
    let source = Source::read(args.server.config.as_deref())?;
    let section = Section::new(&source, "node", args.flags.overlay()?)?;
    let config: NodeConfig = section.read()?;
    config.validate().map_err(|error| section.place(error))?;
    let files = match &config.mirror_dir {
        None => None,
        Some(dir) => Some(Arc::new(LocalFiles::new(dir).map_err(|error| {
            section.place(BadInput::new("mirror_dir", format!("a directory, {}: {error}", dir.display())))
        })?) as Arc<dyn Files>),
    };
    let kept = match &config.state_dir {
        None => None,
        Some(dir) => Some(Arc::new(
            KeptId::open(dir, &OsEntropy)
                .map_err(|error| section.place(BadInput::new("state_dir", format!("{error} ({})", dir.display()))))?,
        )),
    };
    let telemetry = Telemetry::new();
    report_process(&telemetry);
    let Machine { store, regions } = {
        let (config, telemetry) = (config.clone(), telemetry.clone());
        let made = tokio::task::spawn_blocking(move || machine(&config, &telemetry)).await?;
        made.map_err(|error| section.place(error))?
    };
    let deps = Deps {
        net: Arc::new(TokioNet),
        entropy: Arc::new(OsEntropy),
        store,
        files,
        kept,
        regions,
        segment_maker: on_a_thread("foreword-arena"),
        telemetry,
    };
    let (name, socket) = (config.node.clone(), config.socket.clone());
    let handle = serve(config, deps).await.context("node")?;
    Announcement {
        role: "node".into(),
        name,
        grpc: handle.endpoint().to_string(),
        socket: socket.map(|path| path.display().to_string()),
        http: handle.http_endpoint().map(ToString::to_string),
        hf3fs: None,
        pid: std::process::id(),
    }
    .print()?;
    stop_signal().await?;
    tracing::info!("stopping");
    handle.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
