//! What an agent is told: from a file, the environment and flags, checked before anything starts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use foreword_proto::limits::{
    ENGINE_SESSIONS_MAX, ENGINE_STAGING_BYTES_MAX, ENGINE_STAGING_BYTES_MIN, PAGES_PER_PUBLISH_MAX, SHARD_ALIGN_BYTES,
};
use foreword_proto::{BadInput, ClusterId};
use foreword_seams::Endpoint;
use serde::{Deserialize, Serialize};

/// Bytes of an arena, at least.
pub const ARENA_BYTES_MIN: u64 = 1 << 20;
/// Length of a node's name.
pub const NODE_NAME_BYTES_MAX: usize = 128;
/// Longest time any of the settings may hold: an hour.
const MS_MAX: u64 = 3_600_000;

/// Settings of one agent. Every field but `node`, `meta` and `l3` has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The machine's name in the cluster: a second agent of one name is refused until the first one's session ends.
    pub node: String,
    /// The cluster to belong to; none: the one the replicas name.
    #[serde(default)]
    pub cluster_id: Option<ClusterId>,
    /// Replicas to begin with; they name the others.
    pub meta: Vec<Endpoint>,
    /// gRPC over TCP.
    #[serde(default = "default_listen")]
    pub listen: Endpoint,
    /// gRPC over a unix socket.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// /metrics, /healthz, /readyz and /status.
    #[serde(default)]
    pub http: Option<Endpoint>,
    /// L1's size.
    #[serde(default = "default_arena_bytes")]
    pub arena_bytes: u64,
    /// Size of an arena segment; none: chosen from the arena's size.
    #[serde(default)]
    pub segment_bytes: Option<u64>,
    /// Where page bytes are: `usrbio:/directory[,lib=/path]`, `posix:/directory`, `auto:/directory` or `memory`.
    pub l3: L3Location,
    /// How long an L3 read or write may take.
    #[serde(default = "default_l3_deadline_ms")]
    pub l3_deadline_ms: u64,
    /// L3 writes under way at once.
    #[serde(default = "default_l3_write_depth")]
    pub l3_write_depth: usize,
    /// Pages of one publish command.
    #[serde(default = "default_publish_batch_pages")]
    pub publish_batch_pages: usize,
    /// How long a page waits for all its shards.
    #[serde(default = "default_gather_deadline_ms")]
    pub gather_deadline_ms: u64,
    /// A namespace that nobody has used for so long is closed here. One that was closed as often as it was opened:
    /// after a minute.
    #[serde(default = "default_namespace_idle_ms")]
    pub namespace_idle_ms: u64,
    /// How long one put call waits for room and frames, all its pages together; and then each page for a slot where L3
    /// is full.
    #[serde(default = "default_put_room_wait_ms")]
    pub put_room_wait_ms: u64,
    /// How long a page waits for a session, or for an answer of the group, before it is refused.
    #[serde(default = "default_publish_wait_ms")]
    pub publish_wait_ms: u64,
    /// How often accessed keys are reported.
    #[serde(default = "default_heat_report_ms")]
    pub heat_report_ms: u64,
    /// How long to look for the metadata group at the start.
    #[serde(default = "default_meta_wait_ms")]
    pub meta_wait_ms: u64,
    /// Calls served at once; more are refused as overload.
    #[serde(default = "default_calls_max")]
    pub calls_max: usize,
    /// Engines with a session in shared memory at once.
    #[serde(default = "default_engine_sessions_max")]
    pub engine_sessions_max: usize,
    /// Bytes of one session's staging memory, through which its puts go; taken as far as they are used.
    #[serde(default = "default_engine_staging_bytes")]
    pub engine_staging_bytes: u64,
    /// Tenants whose engines may clear their namespaces through this agent; others leave that to operators.
    #[serde(default)]
    pub clear_tenants: Vec<String>,
    /// Where the agent keeps who it is: with it, a restart takes its name over at once; without it, when the old
    /// session's lease ends.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Where mirrors are saved; none: they are not. The caller of [`crate::serve`] makes `Deps::files` of it.
    #[serde(default)]
    pub mirror_dir: Option<PathBuf>,
    /// How often mirrors are saved.
    #[serde(default = "default_mirror_save_ms")]
    pub mirror_save_ms: u64,
}

fn default_listen() -> Endpoint {
    Endpoint::Tcp("127.0.0.1:7500".into())
}
fn default_arena_bytes() -> u64 {
    1 << 30
}
fn default_l3_deadline_ms() -> u64 {
    5_000
}
fn default_l3_write_depth() -> usize {
    64
}
fn default_publish_batch_pages() -> usize {
    256
}
fn default_namespace_idle_ms() -> u64 {
    3_600_000
}

fn default_gather_deadline_ms() -> u64 {
    5_000
}
fn default_put_room_wait_ms() -> u64 {
    2_000
}
fn default_publish_wait_ms() -> u64 {
    10_000
}
fn default_heat_report_ms() -> u64 {
    250
}
fn default_meta_wait_ms() -> u64 {
    30_000
}
fn default_calls_max() -> usize {
    1_024
}
fn default_engine_sessions_max() -> usize {
    64
}
fn default_engine_staging_bytes() -> u64 {
    64 << 20
}
fn default_mirror_save_ms() -> u64 {
    60_000
}

impl NodeConfig {
    /// The defaults, for an agent of this name with these replicas and this L3.
    pub fn new(node: impl Into<String>, meta: Vec<Endpoint>, l3: L3Location) -> Self {
        Self {
            node: node.into(),
            cluster_id: None,
            meta,
            listen: default_listen(),
            socket: None,
            http: None,
            arena_bytes: default_arena_bytes(),
            segment_bytes: None,
            l3,
            l3_deadline_ms: default_l3_deadline_ms(),
            l3_write_depth: default_l3_write_depth(),
            publish_batch_pages: default_publish_batch_pages(),
            gather_deadline_ms: default_gather_deadline_ms(),
            namespace_idle_ms: default_namespace_idle_ms(),
            put_room_wait_ms: default_put_room_wait_ms(),
            publish_wait_ms: default_publish_wait_ms(),
            heat_report_ms: default_heat_report_ms(),
            meta_wait_ms: default_meta_wait_ms(),
            calls_max: default_calls_max(),
            engine_sessions_max: default_engine_sessions_max(),
            engine_staging_bytes: default_engine_staging_bytes(),
            clear_tenants: Vec::new(),
            state_dir: None,
            mirror_dir: None,
            mirror_save_ms: default_mirror_save_ms(),
        }
    }

    /// Checks every field; the error names it.
    pub fn validate(&self) -> Result<(), BadInput> {
        if self.node.is_empty() || self.node.len() > NODE_NAME_BYTES_MAX {
            return Err(BadInput::new(
                "node",
                format!("a name of 1 to {NODE_NAME_BYTES_MAX} bytes, got {:?}", self.node),
            ));
        }
        if self.meta.is_empty() {
            return Err(BadInput::new("meta", "at least one replica's endpoint, got none"));
        }
        if matches!(self.listen, Endpoint::Unix(_)) {
            return Err(BadInput::new(
                "listen",
                format!("host:port (`socket` is the unix socket), got {}", self.listen),
            ));
        }
        if self.socket.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(BadInput::new("socket", "an absolute path"));
        }
        self.validate_sizes()?;
        self.validate_times()
    }

    fn validate_sizes(&self) -> Result<(), BadInput> {
        if self.arena_bytes < ARENA_BYTES_MIN {
            let expected = format!("at least {ARENA_BYTES_MIN} bytes, got {}", self.arena_bytes);
            return Err(BadInput::new("arena_bytes", expected));
        }
        let fits = |bytes: u64| bytes > 0 && bytes <= self.arena_bytes && bytes.is_multiple_of(SHARD_ALIGN_BYTES);
        if let Some(bytes) = self.segment_bytes.filter(|bytes| !fits(*bytes)) {
            let expected = format!("a multiple of {SHARD_ALIGN_BYTES} up to arena_bytes, got {bytes}");
            return Err(BadInput::new("segment_bytes", expected));
        }
        let staging = self.engine_staging_bytes;
        if !(ENGINE_STAGING_BYTES_MIN..=ENGINE_STAGING_BYTES_MAX).contains(&staging) {
            let expected = format!("{ENGINE_STAGING_BYTES_MIN} to {ENGINE_STAGING_BYTES_MAX} bytes, got {staging}");
            return Err(BadInput::new("engine_staging_bytes", expected));
        }
        let counts = [
            ("l3_write_depth", self.l3_write_depth, 4096),
            ("publish_batch_pages", self.publish_batch_pages, PAGES_PER_PUBLISH_MAX),
            ("calls_max", self.calls_max, 65_536),
            ("engine_sessions_max", self.engine_sessions_max, ENGINE_SESSIONS_MAX),
        ];
        for (field, value, max) in counts {
            if value == 0 || value > max {
                return Err(BadInput::new(field, format!("1 to {max}, got {value}")));
            }
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), BadInput> {
        let times = [
            ("l3_deadline_ms", self.l3_deadline_ms),
            ("gather_deadline_ms", self.gather_deadline_ms),
            ("namespace_idle_ms", self.namespace_idle_ms),
            ("put_room_wait_ms", self.put_room_wait_ms),
            ("publish_wait_ms", self.publish_wait_ms),
            ("heat_report_ms", self.heat_report_ms),
            ("meta_wait_ms", self.meta_wait_ms),
            ("mirror_save_ms", self.mirror_save_ms),
        ];
        for (field, value) in times {
            if value == 0 || value > MS_MAX {
                return Err(BadInput::new(field, format!("1 to {MS_MAX} milliseconds, got {value}")));
            }
        }
        Ok(())
    }
}

/// Where page bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum L3Location {
    /// Slab files below this directory, by read and write.
    Posix(PathBuf),
    /// Slab files below this directory on a 3FS mount, by USRBIO: `lib` is the vendor's client library, none: our own
    /// client.
    Usrbio { dir: PathBuf, lib: Option<PathBuf> },
    /// USRBIO where the directory is on a 3FS mount, else posix.
    Auto(PathBuf),
    /// This process's memory: for tests and the simulator.
    Memory,
}

impl L3Location {
    /// The directory of the slab files, if there is one.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Posix(dir) | Self::Auto(dir) | Self::Usrbio { dir, .. } => Some(dir),
            Self::Memory => None,
        }
    }
}

impl fmt::Display for L3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Posix(path) => write!(f, "posix:{}", path.display()),
            Self::Usrbio { dir, lib: None } => write!(f, "usrbio:{}", dir.display()),
            Self::Usrbio { dir, lib: Some(lib) } => write!(f, "usrbio:{},lib={}", dir.display(), lib.display()),
            Self::Auto(path) => write!(f, "auto:{}", path.display()),
            Self::Memory => f.write_str("memory"),
        }
    }
}

impl FromStr for L3Location {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let wrong = || {
            let expected = "usrbio:/directory[,lib=/path], posix:/directory, auto:/directory or memory";
            BadInput::new("l3", format!("{expected}, got {text:?}"))
        };
        let absolute = |path: &str| match path {
            "" => Err(wrong()),
            path if path.starts_with('/') => Ok(PathBuf::from(path)),
            path => {
                Err(BadInput::new("l3", format!("an absolute path, one that begins with /, got {path:?} in {text:?}")))
            }
        };
        match text.split_once(':') {
            Some(("posix", dir)) => Ok(Self::Posix(absolute(dir)?)),
            Some(("auto", dir)) => Ok(Self::Auto(absolute(dir)?)),
            Some(("usrbio", rest)) => match rest.rsplit_once(",lib=") {
                Some((dir, lib)) => Ok(Self::Usrbio { dir: absolute(dir)?, lib: Some(absolute(lib)?) }),
                None => Ok(Self::Usrbio { dir: absolute(rest)?, lib: None }),
            },
            None if text == "memory" => Ok(Self::Memory),
            _ => Err(wrong()),
        }
    }
}

impl From<L3Location> for String {
    fn from(location: L3Location) -> Self {
        location.to_string()
    }
}

impl TryFrom<String> for L3Location {
    type Error = BadInput;

    fn try_from(text: String) -> Result<Self, BadInput> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig::new("gpu-1", vec!["127.0.0.1:7400".parse().unwrap()], L3Location::Memory)
    }

    #[test]
    fn l3_locations_parse_and_print() {
        for text in [
            "posix:/mnt/3fs/foreword",
            "usrbio:/mnt/3fs/f",
            "usrbio:/mnt/3fs/a,b,lib=/opt/libhf3fs_api_shared.so",
            "auto:/mnt/3fs/f",
            "memory",
        ] {
            assert_eq!(text.parse::<L3Location>().unwrap().to_string(), text);
        }
        for text in
            ["", "posix:relative", "posix:", "hf3fs:/x", "/plain", "usrbio:x", "usrbio:/x,lib=y", "auto:", "memory:"]
        {
            assert_eq!(text.parse::<L3Location>().unwrap_err().field, "l3", "{text:?}");
        }
        for text in ["posix:relative", "auto:relative", "usrbio:relative", "usrbio:/x,lib=relative"] {
            let error = text.parse::<L3Location>().unwrap_err().to_string();
            assert!(error.contains("absolute") && error.contains("\"relative\""), "{error}");
        }
    }

    #[test]
    fn each_bad_setting_is_named() {
        config().validate().unwrap();
        type Change = fn(&mut NodeConfig);
        let cases: [(&str, Change); 9] = [
            ("node", |c| c.node.clear()),
            ("meta", |c| c.meta.clear()),
            ("listen", |c| c.listen = Endpoint::Unix("/x".into())),
            ("socket", |c| c.socket = Some("relative".into())),
            ("arena_bytes", |c| c.arena_bytes = 0),
            ("segment_bytes", |c| c.segment_bytes = Some(5000)),
            ("l3_write_depth", |c| c.l3_write_depth = 0),
            ("publish_batch_pages", |c| c.publish_batch_pages = 100_000),
            ("gather_deadline_ms", |c| c.gather_deadline_ms = 0),
        ];
        for (field, change) in cases {
            let mut config = config();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn an_unknown_field_is_refused_and_the_rest_has_defaults() {
        let text = r#"{"node": "a", "meta": ["m:1"], "l3": "memory"}"#;
        let read: NodeConfig = serde_json::from_str(text).unwrap();
        assert_eq!(read.publish_batch_pages, 256);
        let error = serde_json::from_str::<NodeConfig>(r#"{"node": "a", "meta": [], "l3": "memory", "arena": 1}"#);
        assert!(error.unwrap_err().to_string().contains("arena"));
    }
}
