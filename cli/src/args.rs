//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use foreword_seams::Endpoint;

use crate::commands::{
    bench, demo, feature_level, import_hf3fs, keyed, membership, meta_init, names, removal, replay, status, usrbiod,
};
use crate::config::meta::MetaFlags;
use crate::config::node::NodeFlags;

const EXAMPLES: &str = "\
Examples:
  foreword demo                                      a whole cluster on this machine, its leader killed, every byte checked
  foreword demo --trace conversation.jsonl.gz --page-bytes 4096 --json
  foreword status --meta 127.0.0.1:7400 --agent unix:/run/foreword.sock
  foreword meta init --help                          how a cluster begins

Exit codes:
  0    done; for demo and replay also: no wrong byte, no lost publish
  1    failed: a server could not be reached or said no, or a demo found something wrong or lost
  2    a flag, a variable or a configuration file is wrong; the message names the field
  3    get: the page is not there; clear, delete: no such namespace
  130  interrupted

Environment: each flag that names a variable can be given there; an empty one counts as not set. FOREWORD_LOG filters the
log on stderr (info, warn, foreword_node=debug, ...). Flags go before variables, variables before a configuration file.";

/// A global prefix cache for LLM serving: pages that one node computed, readable by every node.
#[derive(Debug, Parser)]
#[command(name = "foreword", version, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster here, play requests through it, kill its leader, and prove every byte
    Demo(Box<demo::DemoArgs>),
    /// Play requests through agents that run already
    Replay(Box<replay::ReplayArgs>),
    /// The metadata group: make, run and change it
    #[command(subcommand)]
    Meta(MetaCommand),
    /// Run the agent of this machine
    Node(Box<NodeArgs>),
    /// Show a directory as a 3FS mount, for USRBIO without a 3FS
    Usrbiod(Box<usrbiod::UsrbiodArgs>),
    /// What replicas and agents say of themselves
    Status(status::StatusArgs),
    /// How much of a prompt is there
    Lookup(Box<keyed::LookupArgs>),
    /// Read a page through an agent
    Get(Box<keyed::GetArgs>),
    /// Write a page through an agent
    Put(Box<keyed::PutArgs>),
    /// Make all pages of a namespace invisible, on every agent
    Clear(Box<removal::ClearArgs>),
    /// Delete pages, on every agent
    Delete(Box<removal::DeleteArgs>),
    /// Measure what the group can do on this machine
    Bench(bench::BenchArgs),
    /// Take over what SGLang's 3FS metadata server saved
    ImportHf3fs(import_hf3fs::ImportArgs),
}

#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Make the data directories of a new cluster, or one of them, and mark its L3 directory
    Init(Box<meta_init::InitArgs>),
    /// Run one replica
    Run(Box<RunArgs>),
    /// Take a new replica into the group
    Add(membership::AddArgs),
    /// Take a replica out of the group
    Remove(membership::RemoveArgs),
    /// Put a new replica in the place of another
    Replace(membership::ReplaceArgs),
    /// Show the group's feature level and what each member knows, or raise it
    FeatureLevel(feature_level::FeatureLevelArgs),
    /// Move leadership to another replica
    Leader(membership::LeaderArgs),
    /// List the registered namespaces, or drop one
    Namespaces(names::NamespacesArgs),
    /// List the page files of SGLang's hf3fs backend, or drop one
    PageFiles(names::PageFilesArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  foreword meta run --data-dir /var/lib/foreword/meta-1 --http 0.0.0.0:7401
  foreword meta run --config /etc/foreword.toml

Configuration file:
  [meta]
  data_dir = \"/var/lib/foreword/meta-1\"
  listen = \"0.0.0.0:7400\"
  http = \"0.0.0.0:7401\"
  hf3fs = \"0.0.0.0:18000\"

Once it listens it prints one line of JSON on stdout: role, name, grpc, http, hf3fs, pid. SIGTERM ends it in good order.";

/// `foreword meta run`
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub flags: MetaFlags,
}

const NODE_EXAMPLES: &str = "\
Examples:
  foreword node --name gpu-1 --meta m1:7400,m2:7400,m3:7400 --l3 posix:/mnt/3fs/foreword --socket /run/foreword.sock
  foreword node --config /etc/foreword.toml

Configuration file:
  [node]
  node = \"gpu-1\"
  meta = [\"m1:7400\", \"m2:7400\", \"m3:7400\"]
  l3 = \"posix:/mnt/3fs/foreword\"
  socket = \"/run/foreword.sock\"
  http = \"0.0.0.0:7501\"
  arena_bytes = \"64GiB\"

Once it listens it prints one line of JSON on stdout: role, name, grpc, socket, http, pid. SIGTERM ends it in good order.";

/// `foreword node`
#[derive(Debug, Args)]
#[command(after_help = NODE_EXAMPLES)]
pub struct NodeArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub flags: NodeFlags,
}

/// What both servers take.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Configuration file (TOML); flags and variables go before it
    #[arg(long, env = "FOREWORD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End with this process, if it is the parent
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with_parent: Option<u32>,
}

/// The replicas a command talks to.
#[derive(Debug, Clone, Args)]
pub struct GroupArgs {
    /// gRPC endpoints of meta replicas; any one will do
    #[arg(long, env = "FOREWORD_META", value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    pub meta: Vec<Endpoint>,
}
