//! What `foreword meta run` needs to know.

use std::path::PathBuf;

use clap::Args;
use foreword_proto::BadInput;
use foreword_seams::Endpoint;
use serde::Deserialize;

use super::{FileConfig, required};

/// The `[meta]` section, and the flags and variables above it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct MetaSection {
    /// Data directory of this replica, made by `foreword meta init`
    #[arg(long, env = "FOREWORD_META_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where gRPC listens, for agents and for the other replicas; default: this replica's address in the data directory
    #[arg(long, env = "FOREWORD_META_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Endpoint>,
    /// The address the others reach this replica at; default: its address in the data directory
    #[arg(long, env = "FOREWORD_META_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<Endpoint>,
    /// Where /metrics, /healthz, /readyz and /status are served [default: 127.0.0.1:0]
    #[arg(long, env = "FOREWORD_META_HTTP", value_name = "HOST:PORT")]
    pub http: Option<Endpoint>,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct MetaConfig {
    pub data_dir: PathBuf,
    /// None: the address in the data directory.
    pub listen: Option<Endpoint>,
    pub advertise: Option<Endpoint>,
    pub http: Endpoint,
}

impl MetaConfig {
    /// Lays the flags over the file and checks every field.
    pub fn new(file: FileConfig, flags: MetaSection) -> Result<Self, BadInput> {
        let file = file.meta;
        let config = Self {
            data_dir: required(flags.data_dir.or(file.data_dir), "meta", "data_dir", "a directory")?,
            listen: flags.listen.or(file.listen),
            advertise: flags.advertise.or(file.advertise),
            http: flags.http.or(file.http).unwrap_or_else(|| Endpoint::Tcp("127.0.0.1:0".into())),
        };
        let addresses = [("meta.listen", &config.listen), ("meta.advertise", &config.advertise)];
        for (field, endpoint) in addresses {
            if let Some(Endpoint::Unix(path)) = endpoint {
                return Err(BadInput::new(field, format!("host:port, got unix:{}", path.display())));
            }
        }
        if !config.data_dir.is_dir() {
            let expected = format!("a directory made by `foreword meta init`, got {}", config.data_dir.display());
            return Err(BadInput::new("meta.data_dir", expected));
        }
        Ok(config)
    }
}
