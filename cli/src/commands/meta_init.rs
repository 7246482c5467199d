//! `foreword meta init`: makes a cluster's data directories and marks its L3 directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use foreword_meta::state::command::ClusterSettings;
use foreword_meta::storage::{DataDir, Identity};
use foreword_node::L3Location;
use foreword_node::machine::chunk_bytes_on_3fs;
use foreword_node::store::{ClusterMark, filesystem_type, init_l3_root, read_cluster_mark};
use foreword_proto::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, FEATURE_LEVEL_MAX, HF3FS_PROTECTION_MS_MAX, LEASE_MS_MIN, WIRE_VERSIONS,
};
use foreword_proto::status::ReplicaStatus;
use foreword_proto::wire::meta as m;
use foreword_proto::{BadInput, ClusterId, DirectoryId};
use foreword_seams::{Endpoint, Entropy, OsEntropy};
use foreword_usrbio::{VIRT_DIR, mount_point_of};
use foreword_usrbiod::COUNTERS_FILE;
use serde_json::json;

use super::Done;
use super::claims::{Claim, Claims};
use tokio::time::Instant;

use crate::clients;
use crate::human::{Size, Span};
use crate::out::outln;

/// Slabs that a budget is divided into when --slab-bytes is not given.
const SLABS_OF_A_BUDGET: u64 = 16;
const SLAB_BYTES_MAX_DEFAULT: u64 = 16 << 30;
const JOIN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  three replicas on one machine
    foreword meta init --data-dir /d/1 --data-dir /d/2 --data-dir /d/3 \\
      --peers 1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403 --l3 posix:/d/l3 --l3-bytes 16GiB
  one replica on each of three machines: the first draws the cluster id and prints it, the others are told
    foreword meta init --data-dir /d --replica-id 1 --peers 1=m1:7400,2=m2:7400,3=m3:7400 --l3 posix:/mnt/3fs/f --l3-bytes 4TiB
    foreword meta init --data-dir /d --replica-id 2 --cluster-id HEX --peers … --l3 … --l3-bytes 4TiB   (same flags)
  a replica that joins a running group later (then: foreword meta run, foreword meta add)
    foreword meta init --data-dir /d --replica-id 4 --join m1:7400";

/// `foreword meta init`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// Data directory to make; once for each peer, in order, or once with --replica-id
    #[arg(long, value_name = "DIR", required = true)]
    pub data_dir: Vec<PathBuf>,
    /// All first members: replica ids and the addresses they are reached at
    #[arg(long, value_name = "ID=HOST:PORT,…", value_delimiter = ',', value_parser = parse_peer)]
    pub peers: Vec<(u64, Endpoint)>,
    /// The one replica whose directory is made here
    #[arg(long, value_name = "ID")]
    pub replica_id: Option<u64>,
    /// The cluster's id, as the first `meta init` printed it [default: drawn]
    #[arg(long, value_name = "HEX")]
    pub cluster_id: Option<ClusterId>,
    /// A running group to join: its id and settings are asked for there
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["peers", "cluster_id", "l3", "l3_bytes"], requires = "replica_id")]
    pub join: Option<Endpoint>,
    /// The L3 store, marked as this cluster's: usrbio:/dir on a 3FS mount, posix:/dir, or auto:/dir
    #[arg(long, value_name = "STORE", required_unless_present = "join")]
    pub l3: Option<String>,
    /// L3's budget: what all slabs together may take
    #[arg(long, value_name = "SIZE", required_unless_present = "join")]
    pub l3_bytes: Option<Size>,
    /// Size of one slab file [default: a sixteenth of --l3-bytes, 16GiB at most]
    #[arg(long, value_name = "SIZE")]
    pub slab_bytes: Option<Size>,
    /// L3's chunk [default: the directory's chunk size on 3FS, else 4096]
    #[arg(long, value_name = "SIZE")]
    pub chunk_bytes: Option<Size>,
    /// An agent's lease
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub lease: Span,
    /// How long a retired slot rests: longer than the L3 client retries
    #[arg(long, value_name = "TIME", default_value = "120s")]
    pub read_rest: Span,
    /// How long a slot rests whose write has no known result
    #[arg(long, value_name = "TIME", default_value = "300s")]
    pub write_rest: Span,
    /// How long a page of SGLang's hf3fs clients is nobody else's after a reader was told of it: longer than a read of
    /// it takes
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub hf3fs_protection: Span,
}

fn parse_peer(text: &str) -> Result<(u64, Endpoint), String> {
    let bad = || format!("expected ID=HOST:PORT, got {text:?}");
    let (id, endpoint) = text.split_once('=').ok_or_else(bad)?;
    let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(bad)?;
    match endpoint.parse() {
        Ok(Endpoint::Tcp(address)) if address.ends_with(":0") => Err(bad()),
        Ok(endpoint @ Endpoint::Tcp(_)) => Ok((id, endpoint)),
        _ => Err(bad()),
    }
}

/// Runs the command.
pub async fn run(args: InitArgs, json: bool) -> Done {
    let made = match &args.join {
        Some(endpoint) => join(&args, endpoint).await?,
        None => begin(&args)?,
    };
    if json {
        outln!("{}", json!({ "cluster_id": made.cluster_id, "data_dirs": made.data_dirs, "l3": args.l3 }));
    } else {
        outln!("cluster {}", made.cluster_id);
        for dir in &made.data_dirs {
            outln!("made {}", dir.display());
        }
        if let Some(l3) = &args.l3 {
            outln!("L3 {l3}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Made {
    cluster_id: ClusterId,
    data_dirs: Vec<PathBuf>,
}

fn begin(args: &InitArgs) -> anyhow::Result<Made> {
    let members = members(&args.peers)?;
    let replicas = replicas(args, &members)?;
    let root = L3Root::find(args.l3.as_deref().unwrap_or_default())?;
    let settings = settings(args, root.chunk_bytes)?;
    root.check_rests(&settings)?;
    let cluster_id = args.cluster_id.unwrap_or_else(|| ClusterId(OsEntropy.bytes16()));
    let claims = Claims::new(&root.dir, cluster_id);
    let ids: Vec<u64> = replicas.iter().map(|(id, _)| *id).collect();
    claims.check(&ids, &members, &settings)?;
    let first = members.keys().next().copied().unwrap_or_default();
    let mark = ClusterMark::new(cluster_id, settings.chunk_bytes, filesystem_type(&root.dir));
    match args.cluster_id {
        Some(_) => mark_l3_of_known(&root.dir, &mark, (!ids.contains(&first)).then_some(first))?,
        None => init_l3_root(&root.dir, &mark).context("l3")?,
    }
    for (id, dir) in &replicas {
        let directory = DirectoryId(OsEntropy.bytes16());
        let data_dir = dir.display().to_string();
        claims.take(&Claim {
            replica_id: *id,
            directory,
            data_dir,
            peers: members.clone(),
            settings: settings.clone(),
        })?;
        let identity = Identity::new(cluster_id, *id, directory, settings.clone(), members.clone());
        if let Err(error) = DataDir::init(dir, &identity) {
            claims.give_back(*id);
            return Err(error.into());
        }
    }
    Ok(Made { cluster_id, data_dirs: args.data_dir.clone() })
}

/// A replica that joins later: what the running group says is what its directory says.
async fn join(args: &InitArgs, endpoint: &Endpoint) -> anyhow::Result<Made> {
    let group = clients::group(std::slice::from_ref(endpoint))?;
    let hello = m::HelloRequest {
        wire_version: WIRE_VERSIONS.max,
        wire_version_min: WIRE_VERSIONS.min,
        cluster_id: Default::default(),
    };
    let hello = group
        .retry(Instant::now() + JOIN_PATIENCE, |mut replica| {
            let hello = hello.clone();
            async move { replica.hello(hello).await }
        })
        .await
        .with_context(|| format!("join: {endpoint}"))?;
    let cluster_id = ClusterId::from_wire(&hello.cluster_id)?;
    if hello.feature_level > FEATURE_LEVEL_MAX {
        let expected =
            format!("a group of feature level {FEATURE_LEVEL_MAX} or below, it is at {}", hello.feature_level);
        return Err(BadInput::new("join", expected).into());
    }
    let settings = ClusterSettings {
        chunk_bytes: hello.chunk_bytes,
        slab_bytes: hello.slab_bytes,
        l3_bytes: hello.l3_bytes,
        read_rest_ms: u64::from(hello.read_rest_ms),
        write_rest_ms: u64::from(hello.write_rest_ms),
        first_feature_level: hello.first_feature_level,
        hf3fs_protection_ms: u64::from(hello.hf3fs_protection_ms),
        lease_ms: u64::from(hello.lease_ms),
    };
    let (Some(id), [dir]) = (args.replica_id, args.data_dir.as_slice()) else {
        return Err(BadInput::new("data_dir", "exactly one directory, with --replica-id").into());
    };
    // Whom to ask, should this replica ever lose its log.
    let status =
        clients::admin(endpoint).status(m::StatusRequest {}).await.with_context(|| format!("join: {endpoint}"))?;
    let status: ReplicaStatus = serde_json::from_str(&status.into_inner().json)?;
    if let Some(known) = status.directories.get(&id) {
        let expected = format!("an id that the group never had, replica {id} is directory {known}");
        return Err(BadInput::new("replica_id", expected).into());
    }
    if let Some(endpoint) = status.endpoints.get(&id) {
        let expected = format!("an id that the group never had, replica {id} is a member, at {endpoint}");
        return Err(BadInput::new("replica_id", expected).into());
    }
    let directory = DirectoryId(OsEntropy.bytes16());
    let identity = Identity::joining(cluster_id, id, directory, settings, status.endpoints);
    // What the replica writes is of the level that the group has by now.
    DataDir::init(dir, &Identity { format_version: hello.feature_level, ..identity })?;
    Ok(Made { cluster_id, data_dirs: args.data_dir.clone() })
}

fn settings(args: &InitArgs, l3_chunk_bytes: Option<u32>) -> Result<ClusterSettings, BadInput> {
    let l3_bytes = args.l3_bytes.map_or(0, |size| size.0);
    let by_l3 = Size(u64::from(l3_chunk_bytes.unwrap_or(CHUNK_BYTES_MIN)));
    let asked = args.chunk_bytes.unwrap_or(by_l3);
    if l3_chunk_bytes.is_some() && asked.0 != by_l3.0 {
        return Err(BadInput::new("chunk_bytes", format!("{by_l3}, the chunk of the L3 directory, got {asked}")));
    }
    let chunk_bytes = u32::try_from(asked.0)
        .ok()
        .filter(|bytes| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(bytes) && bytes.is_power_of_two())
        .ok_or_else(|| {
            let expected = format!("a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}, got {asked}");
            BadInput::new("chunk_bytes", expected)
        })?;
    let chunk = u64::from(chunk_bytes);
    let by_default = (l3_bytes / SLABS_OF_A_BUDGET / chunk * chunk).clamp(chunk, SLAB_BYTES_MAX_DEFAULT);
    if l3_bytes < chunk {
        let expected = format!("at least one chunk, {chunk}, got {l3_bytes}");
        return Err(BadInput::new("l3_bytes", expected));
    }
    let slab_bytes = args.slab_bytes.map_or(by_default, |size| size.0);
    if slab_bytes < chunk || slab_bytes > l3_bytes {
        let expected = format!("from chunk_bytes {chunk} to l3_bytes {l3_bytes}, got {slab_bytes}");
        return Err(BadInput::new("slab_bytes", expected));
    }
    for (field, span) in [("lease", args.lease), ("read_rest", args.read_rest), ("write_rest", args.write_rest)] {
        if span.ms() == 0 || span.ms() > u64::from(u32::MAX) {
            return Err(BadInput::new(field, format!("1ms to {}ms, got {span}", u32::MAX)));
        }
    }
    if args.lease.ms() < LEASE_MS_MIN {
        let expected = format!("at least {}, got {}", Span::from_ms(LEASE_MS_MIN), args.lease);
        return Err(BadInput::new("lease", expected));
    }
    let protection = args.hf3fs_protection;
    if !(1..=HF3FS_PROTECTION_MS_MAX).contains(&protection.ms()) {
        let expected = format!("1ms to {}, got {protection}", Span::from_ms(HF3FS_PROTECTION_MS_MAX));
        return Err(BadInput::new("hf3fs_protection", expected));
    }
    Ok(ClusterSettings {
        chunk_bytes,
        slab_bytes,
        l3_bytes,
        read_rest_ms: args.read_rest.ms(),
        write_rest_ms: args.write_rest.ms(),
        first_feature_level: FEATURE_LEVEL_MAX,
        hf3fs_protection_ms: args.hf3fs_protection.ms(),
        lease_ms: args.lease.ms(),
    })
}

fn members(peers: &[(u64, Endpoint)]) -> Result<BTreeMap<u64, String>, BadInput> {
    if peers.is_empty() {
        return Err(BadInput::new("peers", "every member, as ID=HOST:PORT,… (or --join for a running group)"));
    }
    let mut members = BTreeMap::new();
    let mut ids: BTreeMap<String, u64> = BTreeMap::new();
    for (id, endpoint) in peers {
        if let Some(first) = members.insert(*id, endpoint.to_string()) {
            return Err(BadInput::new("peers", format!("each id once, {id} is {first} and {endpoint}")));
        }
        if let Some(first) = ids.insert(one_spelling(endpoint), *id) {
            return Err(BadInput::new("peers", format!("each endpoint once, {endpoint} is replica {first} and {id}")));
        }
    }
    Ok(members)
}

/// An endpoint in the one spelling by which two are compared: host names know no case, and this machine has several
/// names.
fn one_spelling(endpoint: &Endpoint) -> String {
    let text = endpoint.to_string().to_lowercase();
    match text.rsplit_once(':') {
        Some(("localhost" | "[::1]", port)) => format!("127.0.0.1:{port}"),
        _ => text,
    }
}

/// Which replica gets which directory.
fn replicas(args: &InitArgs, members: &BTreeMap<u64, String>) -> Result<Vec<(u64, PathBuf)>, BadInput> {
    match args.replica_id {
        Some(id) if !members.contains_key(&id) => {
            Err(BadInput::new("replica_id", format!("one of the peers' ids, got {id}")))
        }
        Some(id) => match args.data_dir.as_slice() {
            [dir] => Ok(vec![(id, dir.clone())]),
            dirs => Err(BadInput::new("data_dir", format!("one directory with --replica-id, got {}", dirs.len()))),
        },
        None if args.data_dir.len() != args.peers.len() => {
            let expected = format!("one directory for each of {} peers, got {}", args.peers.len(), args.data_dir.len());
            Err(BadInput::new("data_dir", format!("{expected} (or one, with --replica-id)")))
        }
        None => {
            for (at, dir) in args.data_dir.iter().enumerate() {
                if args.data_dir[..at].contains(dir) {
                    let expected = format!("each directory once, {} is there twice", dir.display());
                    return Err(BadInput::new("data_dir", expected));
                }
            }
            Ok(args.peers.iter().map(|(id, _)| *id).zip(args.data_dir.iter().cloned()).collect())
        }
    }
}

/// 3FS goes on with an I/O for so long, whatever becomes of who asked for it.
const RETRIES_3FS: Duration = Duration::from_secs(60);

/// Whether the directory is on a mount of `foreword usrbiod`.
fn is_standin(dir: &Path) -> bool {
    let mount = mount_point_of(dir).ok().flatten();
    mount.is_some_and(|mount| mount.join(VIRT_DIR).join(COUNTERS_FILE).exists())
}

/// Where L3 is, and the chunk size it has of itself.
struct L3Root {
    dir: PathBuf,
    chunk_bytes: Option<u32>,
    /// How long its clients go on trying an I/O whose caller has given up.
    retries: Duration,
}

impl L3Root {
    fn find(l3: &str) -> Result<Self, BadInput> {
        let location: L3Location = l3.parse()?;
        let Some(dir) = location.dir().map(Path::to_owned) else {
            let expected = "usrbio:/dir, posix:/dir or auto:/dir: one process's memory is nobody else's";
            return Err(BadInput::new("l3", format!("{expected}, got {l3:?}")));
        };
        if !dir.is_dir() {
            return Err(BadInput::new("l3", format!("an existing directory, got {}", dir.display())));
        }
        let chunk_bytes = chunk_bytes_on_3fs(&dir)?;
        if chunk_bytes.is_none() && matches!(location, L3Location::Usrbio { .. }) {
            return Err(BadInput::new("l3", format!("a directory on a 3FS mount, got {}", dir.display())));
        }
        let retries = if chunk_bytes.is_some() && !is_standin(&dir) { RETRIES_3FS } else { Duration::ZERO };
        Ok(Self { dir, chunk_bytes, retries })
    }

    /// A slot must not go to its next page while a late I/O of the one before may still be on its way.
    fn check_rests(&self, settings: &ClusterSettings) -> Result<(), BadInput> {
        let retries_ms = self.retries.as_millis() as u64;
        for (field, rest_ms) in [("read_rest", settings.read_rest_ms), ("write_rest", settings.write_rest_ms)] {
            if rest_ms < retries_ms {
                let expected = format!("at least the {retries_ms}ms for which 3FS goes on trying, got {rest_ms}ms");
                return Err(BadInput::new(field, expected));
            }
        }
        Ok(())
    }
}

/// Finds the CLUSTER mark of a cluster whose id is known. Only the init of the first member makes it (`first`: who that
/// is, when it is another): a directory without the mark is otherwise one where L3 is not mounted.
fn mark_l3_of_known(root: &Path, mark: &ClusterMark, first: Option<u64>) -> anyhow::Result<()> {
    if let Some(found) = read_cluster_mark(root, mark.cluster_id)? {
        found.check(mark.cluster_id, mark.chunk_bytes).map_err(|error| error.within("l3"))?;
        return Ok(());
    }
    if let Some(first) = first {
        let expected = format!(
            "a directory with the mark of cluster {}, which the init of replica {first} makes, {} has none: is L3 mounted here?",
            mark.cluster_id,
            root.display()
        );
        return Err(BadInput::new("l3", expected).into());
    }
    init_l3_root(root, mark).context("l3")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(extra: &[&str]) -> InitArgs {
        #[derive(clap::Parser)]
        struct Wrap {
            #[command(flatten)]
            args: InitArgs,
        }
        let base = ["init", "--data-dir=/a", "--peers=1=h:1,2=h:2", "--l3=posix:/", "--l3-bytes=1MiB"];
        let parsed = <Wrap as clap::Parser>::try_parse_from(base.iter().chain(extra));
        parsed.map(|wrap| wrap.args).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn errors_name_their_field() {
        type Check = fn(&InitArgs) -> Result<(), BadInput>;
        let settings_of: Check = |args| settings(args, None).map(drop);
        let replicas_of: Check = |args| replicas(args, &members(&args.peers)?).map(drop);
        let cases: [(&[&str], &str, Check); 8] = [
            (&["--chunk-bytes=5000"], "chunk_bytes", settings_of),
            (&["--slab-bytes=2MiB"], "slab_bytes", settings_of),
            (&["--read-rest=0s"], "read_rest", settings_of),
            (&[], "data_dir", replicas_of),
            (&["--replica-id=3"], "replica_id", replicas_of),
            (&["--replica-id=1", "--data-dir=/b"], "data_dir", replicas_of),
            (&["--peers=1=h:3"], "peers", replicas_of),
            (&["--peers=3=H:1"], "peers", replicas_of),
        ];
        for (extra, field, check) in cases {
            assert_eq!(check(&args(extra)).unwrap_err().field, field, "{extra:?}");
        }
        assert!(replicas(&args(&["--replica-id=2"]), &members(&args(&[]).peers).unwrap()).is_ok());
        for l3 in ["usrbio:/no/such", "usrbio:/", "memory", "posix:relative"] {
            assert_eq!(L3Root::find(l3).err().expect(l3).field, "l3");
        }
        let short = settings(&args(&["--read-rest=59s"]), None).unwrap();
        let root = |retries| L3Root { dir: "/".into(), chunk_bytes: Some(4096), retries };
        assert_eq!(root(RETRIES_3FS).check_rests(&short).unwrap_err().field, "read_rest");
        assert!(root(Duration::ZERO).check_rests(&short).is_ok());
        let on_3fs = |extra: &[&str]| settings(&args(extra), Some(65_536));
        assert_eq!(on_3fs(&[]).unwrap().chunk_bytes, 65_536);
        assert_eq!(on_3fs(&["--chunk-bytes=4096"]).unwrap_err().field, "chunk_bytes");
    }

    #[test]
    fn the_default_slab_is_whole_chunks_of_a_sixteenth() {
        assert_eq!(settings(&args(&[]), None).unwrap().slab_bytes, 65_536);
    }
}
