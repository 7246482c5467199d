//! What `foreword node` needs to know: the flags that lie over the `[node]` section.
//! The section's fields, their defaults and their checks are the agent's own.

use std::path::PathBuf;

use clap::Args;
use foreword_proto::BadInput;
use foreword_seams::Endpoint;
use toml::Value;

use super::{Overlay, bytes_value};
use crate::human::Size;

/// The flags and variables that lie over the `[node]` section.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeFlags {
    /// This agent's name, unique in the cluster (field `node`)
    #[arg(long, env = "FOREWORD_NODE_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// gRPC endpoints of meta replicas; any one will do
    #[arg(long, env = "FOREWORD_NODE_META", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub meta: Vec<Endpoint>,
    /// Where the engine API listens on TCP [default: 127.0.0.1:7500]
    #[arg(long, env = "FOREWORD_NODE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Endpoint>,
    /// Unix socket of the engine API [default: none]
    #[arg(long, env = "FOREWORD_NODE_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where /metrics, /healthz, /readyz and /status are served [default: nowhere]
    #[arg(long, env = "FOREWORD_NODE_HTTP", value_name = "HOST:PORT")]
    pub http: Option<Endpoint>,
    /// Where the agent keeps who it is, so that a restart is ready without waiting for its old session's lease
    /// [default: nowhere]
    #[arg(long, env = "FOREWORD_NODE_STATE_DIR", value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// Size of the L1 arena in memory [default: 1GiB]
    #[arg(long, env = "FOREWORD_NODE_ARENA_BYTES", value_name = "SIZE")]
    pub arena_bytes: Option<Size>,
    /// The L3 store: usrbio:/dir[,lib=/path] on a 3FS mount, posix:/dir, auto:/dir (usrbio where it can), or memory to
    /// try one agent alone; the directory is the one given to `foreword meta init`
    #[arg(long, env = "FOREWORD_NODE_L3", value_name = "STORE")]
    pub l3: Option<String>,
}

impl NodeFlags {
    /// What lies over the file.
    pub fn overlay(self) -> Result<Overlay, BadInput> {
        let meta: Vec<Value> = self.meta.iter().map(|endpoint| Value::String(endpoint.to_string())).collect();
        let arena_bytes = self.arena_bytes.map(|size| bytes_value("node.arena_bytes", size.0)).transpose()?;
        Ok(Overlay::default()
            .with("node", self.name)
            .with("meta", (!meta.is_empty()).then_some(meta))
            .with_text("listen", self.listen.as_ref())
            .with_text("socket", self.socket.map(|path| path.display().to_string()).as_ref())
            .with_text("http", self.http.as_ref())
            .with_text("state_dir", self.state_dir.map(|path| path.display().to_string()).as_ref())
            .with("arena_bytes", arena_bytes)
            .with("l3", self.l3))
    }
}
