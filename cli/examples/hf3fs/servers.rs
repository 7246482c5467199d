//! A Foreword group of three replicas.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use foreword_cli::cluster::{Cluster, L3Spec, Spec};
use foreword_cli::human::Span;

const REPLICAS: usize = 3;

/// A group whose rests and protections are short: the load takes a page for each key and gives none back.
pub(crate) async fn foreword(binary: &Path, dir: &Path) -> anyhow::Result<Cluster> {
    let spec = Spec {
        binary: binary.to_owned(),
        dir: Some(dir.to_owned()),
        keep: false,
        replicas: REPLICAS,
        agents: 1,
        l3: L3Spec::Posix,
        l3_bytes: 64 << 20,
        slab_bytes: 8 << 20,
        chunk_bytes: 4096,
        arena_bytes: 8 << 20,
        lease: Span(Duration::from_secs(5)),
        read_rest: Span(Duration::from_secs(1)),
        write_rest: Span(Duration::from_secs(1)),
        config: "[meta]\nhf3fs = \"127.0.0.1:0\"\n".into(),
        generated: None,
    };
    Cluster::start(spec, |line| eprintln!("{line}")).await
}

/// Where a replica serves SGLang's clients.
pub(crate) fn address_of(cluster: &Cluster, replica: u64) -> anyhow::Result<String> {
    let announced = cluster.replica_announced(replica).context("a replica that runs")?;
    announced.hf3fs.clone().context("a replica that serves SGLang's clients")
}
