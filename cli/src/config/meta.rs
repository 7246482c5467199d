//! The flags of `foreword meta run` that lie over the `[meta]` section.
//! The section's fields, their defaults and their checks are the replica's own.

use std::path::PathBuf;

use clap::Args;
use foreword_proto::ClusterId;
use foreword_seams::Endpoint;

use super::Overlay;
use crate::human::Span;

/// The flags and variables that lie over the `[meta]` section.
#[derive(Debug, Clone, Default, Args)]
pub struct MetaFlags {
    /// Data directory of this replica, made by `foreword meta init`
    #[arg(long, env = "FOREWORD_META_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Refuse a data directory of another cluster than this
    #[arg(long, env = "FOREWORD_META_CLUSTER_ID", value_name = "HEX")]
    pub cluster_id: Option<ClusterId>,
    /// Refuse a data directory of another replica than this
    #[arg(long, env = "FOREWORD_META_REPLICA_ID", value_name = "ID")]
    pub replica_id: Option<u32>,
    /// Where gRPC listens, for agents and the other replicas [default: this replica's address in its data directory]
    #[arg(long, env = "FOREWORD_META_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Endpoint>,
    /// Where /metrics, /healthz, /readyz and /status are served [default: nowhere]
    #[arg(long, env = "FOREWORD_META_HTTP", value_name = "HOST:PORT")]
    pub http: Option<Endpoint>,
    /// Where the metadata clients of SGLang's hf3fs backend are served [default: nowhere]
    #[arg(long, env = "FOREWORD_META_HF3FS", value_name = "HOST:PORT")]
    pub hf3fs: Option<Endpoint>,
    /// When a page is taken back whose writer is not heard of [default: 2m]
    #[arg(long, env = "FOREWORD_META_HF3FS_RESERVATION", value_name = "DURATION")]
    pub hf3fs_reservation: Option<Span>,
}

impl MetaFlags {
    /// What lies over the file.
    pub fn overlay(&self) -> Overlay {
        let data_dir = self.data_dir.as_ref().map(|dir| dir.display().to_string());
        Overlay::default()
            .with("data_dir", data_dir)
            .with_text("cluster_id", self.cluster_id.as_ref())
            .with("replica_id", self.replica_id)
            .with_text("listen", self.listen.as_ref())
            .with_text("http", self.http.as_ref())
            .with_text("hf3fs", self.hf3fs.as_ref())
            .with_text("hf3fs_reservation_ms", self.hf3fs_reservation.as_ref())
    }
}
