//! What `foreword meta run` needs to know.

use std::path::PathBuf;

use clap::Args;
use foreword_proto::BadInput;
use foreword_seams::Endpoint;
use serde::Deserialize;

use super::{Overlay, Source, load};

/// The flags and variables that lie over the `[meta]` section.
#[derive(Debug, Clone, Default, Args)]
pub struct MetaFlags {
    /// Data directory of this replica, made by `foreword meta init`
    #[arg(long, env = "FOREWORD_META_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where gRPC listens, for agents and for the other replicas [default: this replica's address in its data directory]
    #[arg(long, env = "FOREWORD_META_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Endpoint>,
    /// The address the others reach this replica at [default: its address in its data directory]
    #[arg(long, env = "FOREWORD_META_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<Endpoint>,
    /// Where /metrics, /healthz, /readyz and /status are served [default: 127.0.0.1, any port]
    #[arg(long, env = "FOREWORD_META_HTTP", value_name = "HOST:PORT")]
    pub http: Option<Endpoint>,
}

/// The `[meta]` section, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaSettings {
    pub data_dir: PathBuf,
    /// None: the address in the data directory.
    pub listen: Option<Endpoint>,
    pub advertise: Option<Endpoint>,
    #[serde(default = "any_port")]
    pub http: Endpoint,
}

fn any_port() -> Endpoint {
    Endpoint::Tcp("127.0.0.1:0".into())
}

impl MetaSettings {
    /// Lays the flags over the file and checks every field.
    pub fn load(source: &Source, flags: MetaFlags) -> Result<Self, BadInput> {
        let overlay = Overlay::default()
            .with_text("data_dir", flags.data_dir.map(|dir| dir.display().to_string()).as_ref())
            .with_text("listen", flags.listen.as_ref())
            .with_text("advertise", flags.advertise.as_ref())
            .with_text("http", flags.http.as_ref());
        let settings: Self = load(source, "meta", overlay)?;
        settings.validate().map_err(|error| source.place(error.within("meta")))?;
        Ok(settings)
    }

    fn validate(&self) -> Result<(), BadInput> {
        for (field, endpoint) in [("listen", &self.listen), ("advertise", &self.advertise)] {
            if let Some(Endpoint::Unix(path)) = endpoint {
                return Err(BadInput::new(field, format!("host:port, got unix:{}", path.display())));
            }
        }
        if !self.data_dir.is_dir() {
            let expected = format!("a directory made by `foreword meta init`, got {}", self.data_dir.display());
            return Err(BadInput::new("data_dir", expected));
        }
        Ok(())
    }
}
