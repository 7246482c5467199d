//! What `foreword node` needs to know.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use foreword_proto::BadInput;
use foreword_proto::limits::NAMESPACE_TEXT_BYTES_MAX;
use foreword_seams::Endpoint;
use serde::Deserialize;

use super::{FileConfig, required};
use crate::human::Size;

/// Smallest arena: room for a handful of the smallest pages.
const ARENA_BYTES_MIN: u64 = 64 << 10;
const ARENA_BYTES_DEFAULT: u64 = 1 << 30;

/// Where page bytes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum L3 {
    /// A directory, read and written with plain system calls.
    Posix(PathBuf),
    /// This process's memory: for trying one agent alone, since another agent cannot see it.
    Memory,
}

impl FromStr for L3 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("posix", path)) if path.starts_with('/') => Ok(Self::Posix(path.into())),
            None if text == "memory" => Ok(Self::Memory),
            Some(("usrbio", _)) => Err("expected posix:/dir or memory: this build has no USRBIO store yet".into()),
            _ => Err(format!("expected posix:/dir or memory, got {text:?}")),
        }
    }
}

impl fmt::Display for L3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Posix(path) => write!(f, "posix:{}", path.display()),
            Self::Memory => f.write_str("memory"),
        }
    }
}

impl<'de> Deserialize<'de> for L3 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The `[node]` section, and the flags and variables above it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// This agent's name, unique in the cluster
    #[arg(long, env = "FOREWORD_NODE_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// gRPC endpoints of meta replicas, any one will do
    #[arg(long, env = "FOREWORD_NODE_META", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub meta: Option<Vec<Endpoint>>,
    /// Where the engine API listens on TCP [default: 127.0.0.1:0]
    #[arg(long, env = "FOREWORD_NODE_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<Endpoint>,
    /// Unix socket of the engine API; default: none
    #[arg(long, env = "FOREWORD_NODE_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where /metrics, /healthz, /readyz and /status are served [default: 127.0.0.1:0]
    #[arg(long, env = "FOREWORD_NODE_HTTP", value_name = "HOST:PORT")]
    pub http: Option<Endpoint>,
    /// Size of the L1 arena in memory [default: 1GiB]
    #[arg(long, env = "FOREWORD_NODE_ARENA_BYTES", value_name = "SIZE")]
    pub arena_bytes: Option<Size>,
    /// The L3 store: posix:/dir (the directory given to `foreword meta init`) or memory
    #[arg(long, env = "FOREWORD_NODE_L3", value_name = "STORE")]
    pub l3: Option<L3>,
}

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    pub name: String,
    /// At least one.
    pub meta: Vec<Endpoint>,
    pub listen: Endpoint,
    pub socket: Option<PathBuf>,
    pub http: Endpoint,
    pub arena_bytes: u64,
    pub l3: L3,
}

impl NodeConfig {
    /// Lays the flags over the file and checks every field.
    pub fn new(file: FileConfig, flags: NodeSection) -> Result<Self, BadInput> {
        let file = file.node;
        let any_port = || Endpoint::Tcp("127.0.0.1:0".into());
        let config = Self {
            name: required(flags.name.or(file.name), "node", "name", "a name")?,
            meta: required(flags.meta.or(file.meta), "node", "meta", "host:port of a meta replica")?,
            listen: flags.listen.or(file.listen).unwrap_or_else(any_port),
            socket: flags.socket.or(file.socket),
            http: flags.http.or(file.http).unwrap_or_else(any_port),
            arena_bytes: flags.arena_bytes.or(file.arena_bytes).map_or(ARENA_BYTES_DEFAULT, |size| size.0),
            l3: required(flags.l3.or(file.l3), "node", "l3", "posix:/dir or memory")?,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), BadInput> {
        if self.name.is_empty() || self.name.len() > NAMESPACE_TEXT_BYTES_MAX {
            let expected = format!("1 to {NAMESPACE_TEXT_BYTES_MAX} bytes, got {}", self.name.len());
            return Err(BadInput::new("node.name", expected));
        }
        if self.meta.is_empty() {
            return Err(BadInput::new("node.meta", "at least one host:port, got none"));
        }
        if self.arena_bytes < ARENA_BYTES_MIN {
            let expected = format!("at least {}, got {}", Size(ARENA_BYTES_MIN), Size(self.arena_bytes));
            return Err(BadInput::new("node.arena_bytes", expected));
        }
        if let Some(path) = self.socket.as_ref().filter(|path| !path.is_absolute()) {
            return Err(BadInput::new("node.socket", format!("an absolute path, got {}", path.display())));
        }
        match &self.l3 {
            L3::Posix(path) if !path.is_dir() => {
                let expected = format!("a directory made by `foreword meta init`, got {}", path.display());
                Err(BadInput::new("node.l3", expected))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> NodeSection {
        NodeSection {
            name: Some("a".into()),
            meta: Some(vec!["127.0.0.1:1".parse().unwrap()]),
            l3: Some(L3::Memory),
            ..NodeSection::default()
        }
    }

    #[test]
    fn flags_lie_over_the_file() {
        let file = FileConfig {
            node: NodeSection { name: Some("b".into()), arena_bytes: Some(Size(1 << 20)), ..NodeSection::default() },
            ..FileConfig::default()
        };
        let config = NodeConfig::new(file, flags()).unwrap();
        assert_eq!((config.name.as_str(), config.arena_bytes), ("a", 1 << 20));
    }

    #[test]
    fn every_error_names_its_field() {
        type Change = fn(&mut NodeSection);
        let cases: [(&str, Change); 6] = [
            ("node.name", |f| f.name = None),
            ("node.name", |f| f.name = Some(String::new())),
            ("node.meta", |f| f.meta = Some(Vec::new())),
            ("node.l3", |f| f.l3 = Some(L3::Posix("/nowhere/at/all".into()))),
            ("node.arena_bytes", |f| f.arena_bytes = Some(Size(1))),
            ("node.socket", |f| f.socket = Some("relative".into())),
        ];
        for (field, change) in cases {
            let mut section = flags();
            change(&mut section);
            assert_eq!(NodeConfig::new(FileConfig::default(), section).unwrap_err().field, field);
        }
    }

    #[test]
    fn l3_says_what_is_missing() {
        assert_eq!("posix:/a".parse(), Ok(L3::Posix("/a".into())));
        assert!("usrbio:/3fs".parse::<L3>().unwrap_err().contains("no USRBIO"));
        assert!("posix:relative".parse::<L3>().is_err());
    }
}
