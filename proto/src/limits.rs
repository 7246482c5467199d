//! Every limit, named, in one place, with the relations between them asserted at compile time.
//!
//! Units come last in a name. A limit is reached gracefully: the caller gets an error that names the field.

use crate::versions::Versions;

/// 1 in the tests' binary of a next version.
const NEXT: u32 = if cfg!(feature = "next-version") { 1 } else { 0 };

/// Newest version of the gRPC surface that this binary speaks, and all that it speaks: two sides use the highest they
/// share; a peer that shares none is refused with both ranges named.
pub const WIRE_VERSION: u32 = 1 + NEXT;
pub const WIRE_VERSIONS: Versions = Versions::up_to(WIRE_VERSION);
/// Newest version of a data directory, a log entry, a command and a snapshot that this binary writes, and all that it
/// reads. What is written is of the committed feature level's version.
pub const FORMAT_VERSION: u32 = 1 + NEXT;
pub const FORMAT_VERSIONS: Versions = Versions::up_to(FORMAT_VERSION);
/// Behaviour this binary knows how to apply; the committed feature level never exceeds what all members report. A level
/// goes with the format version of the same number.
pub const FEATURE_LEVEL_MAX: u32 = FORMAT_VERSION;

/// Bytes of a page key at the edge.
pub const PAGE_KEY_BYTES: usize = 32;
/// Bytes of a page key in the index.
pub const ENTRY_KEY_BYTES: usize = 16;
/// Shards start at multiples of this within a slot; also the smallest chunk.
pub const SHARD_ALIGN_BYTES: u64 = 4096;
/// Smallest and largest chunk of an L3 directory.
pub const CHUNK_BYTES_MIN: u32 = 4096;
pub const CHUNK_BYTES_MAX: u32 = 64 << 20;
/// Largest page: the sum of its strides.
pub const PAGE_BYTES_MAX: u64 = 256 << 20;
/// Ranks behind one agent.
pub const SHARDS_MAX: usize = 64;
/// Tokens of one page.
pub const PAGE_TOKENS_MAX: u32 = 8192;
/// Length of each text field of a namespace.
pub const NAMESPACE_TEXT_BYTES_MAX: usize = 256;
/// The shortest lease: an election takes longer than less of it.
pub const LEASE_MS_MIN: u64 = 1000;
/// Registered namespaces of one cluster.
pub const NAMESPACES_MAX: usize = 65_536;
/// Namespaces in one answer to an operator: each at most 1 KiB.
pub const NAMESPACES_PER_LIST_MAX: usize = 1024;
/// Replica ids that the group remembers, those of replicas that have left included: 24 bytes each.
pub const REPLICA_IDS_MAX: usize = 1024;
/// Sessions open at once.
pub const SESSIONS_MAX: usize = 4096;

/// Keys of one lookup, locate, get, put, prefetch, release or delete: a prompt of 1 M tokens at 64 a page.
pub const KEYS_MAX: usize = 16_384;
/// Bytes of the token ids of one lookup by tokens: a prompt of 1 M tokens, or of half as many when its ids need u64. A
/// longer prompt is looked up by keys.
pub const TOKEN_IDS_BYTES_MAX: usize = 4_000_000;
/// Pages of one publish, slots of one grant or abort.
pub const PAGES_PER_PUBLISH_MAX: usize = 1024;
pub const SLOTS_PER_GRANT_MAX: u32 = 4096;
pub const SLOTS_PER_ABORT_MAX: usize = 16_384;
pub const SUSPECTS_PER_REPORT_MAX: usize = 256;
pub const HEAT_KEYS_PER_REPORT_MAX: usize = 65_536;
/// Bytes of reports of heat that wait for the eviction policy; more are dropped.
pub const HEAT_REPORTS_BYTES_MAX: usize = 16 << 20;
/// Bytes of events that wait for the eviction policy: some seconds of publishes. More, and it starts over from a view
/// of the state.
pub const POLICY_FEED_BYTES_MAX: usize = 64 << 20;
/// Pages that one command retires, each under one hold of the applied state's lock, and that the leader decides to
/// evict in one round.
pub const RETIREMENTS_PER_COMMAND_MAX: usize = 1024;
pub const RETIREMENTS_PER_ROUND_MAX: usize = 8192;
/// Keys looked up in the applied state under one hold of its lock by whoever has many.
pub const KEYS_PER_LOCK_HOLD_MAX: usize = 256;
/// A session's commands under way at once, and its outcomes kept for a retry.
pub const SESSION_WINDOW: usize = 64;

/// SGLang's page files: how many, pages of one, bytes of a key, keys of one request, bytes of one request's body.
pub const HF3FS_FILES_MAX: usize = 4096;
/// The longest protection of a page that a reader was told of.
pub const HF3FS_PROTECTION_MS_MAX: u64 = 3_600_000;
pub const HF3FS_PAGES_MAX: u32 = 1 << 28;
pub const HF3FS_KEY_BYTES_MAX: usize = 1024;
pub const HF3FS_KEYS_MAX: usize = 65_536;
pub const HF3FS_BODY_BYTES_MAX: usize = 8 << 20;
/// Length of a deployment's name and of a pool's.
pub const HF3FS_DEPLOYMENT_BYTES_MAX: usize = 64;
pub const HF3FS_POOL_BYTES_MAX: usize = 64;

/// Connections that one listener holds at once; a newer one is closed.
pub const CONNECTIONS_PER_LISTENER_MAX: usize = 8192;

/// Sessions in shared memory that an agent may be told to allow, and bytes of one's staging memory.
pub const ENGINE_SESSIONS_MAX: usize = 1024;
pub const ENGINE_STAGING_BYTES_MIN: u64 = 1 << 20;
pub const ENGINE_STAGING_BYTES_MAX: u64 = 16 << 30;

/// Largest gRPC message of the meta services, either way.
pub const META_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Largest gRPC message of the agent's service; page bytes come in pieces below it.
pub const NODE_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of page data in one message of a get or put stream.
pub const PIECES_BYTES_MAX: usize = 1 << 20;
/// Largest gRPC message between replicas.
pub const RAFT_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Bytes of one log entry, above which the proposer starts another (a single larger command still gets its own).
pub const ENTRY_BYTES_SOFT_MAX: usize = 64 << 10;
/// Bytes of one log entry, always.
pub const ENTRY_BYTES_MAX: usize = META_MESSAGE_BYTES_MAX + 1024;
/// Bytes of an entry that are no proposal's: its head, and the leader's tick that leads it.
pub const ENTRY_FRAME_BYTES: usize = 64;
/// Entries of one AppendEntries.
pub const RAFT_PAYLOAD_ENTRIES_MAX: u64 = 64;
/// Bytes of entries after which a read of the log stops (it always returns at least one): what keeps AppendEntries
/// below its message limit.
pub const RAFT_PAYLOAD_BYTES_SOFT_MAX: usize = 8 << 20;
/// Bytes after which a file that is being written is synced.
pub const FILE_BYTES_PER_SYNC: usize = 8 << 20;
/// Bytes of a snapshot's file that are read and sent at once.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// A piece of the state in a snapshot ends with the record that reaches this size; how large a record may be is said in
/// `meta/src/state/pieces.rs`.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;
/// Bytes of one frame of a snapshot's file, which is one piece of the state.
pub const SNAPSHOT_FRAME_BYTES_MAX: usize = 16 << 20;
/// Commands of one log entry: what is read of one before it is applied stays within some tens of MB, and so does
/// applying it.
pub const COMMANDS_PER_ENTRY_MAX: usize = 16_384;
/// Proposals of callers that wait at the leader, and the bytes they take in entries: some seconds of a slow disk. More
/// are refused.
pub const PROPOSALS_WAITING_MAX: usize = 4096;
pub const PROPOSALS_WAITING_BYTES_MAX: usize = 32 << 20;
/// The same of the leader's own decisions, which no caller can crowd out.
pub const PROPOSALS_OWN_MAX: usize = 16;
pub const PROPOSALS_OWN_BYTES_MAX: usize = 2 * ENTRY_BYTES_MAX;
/// Watch streams of one replica: every agent's, and as many again that have not noticed yet that they are dead.
pub const WATCH_STREAMS_MAX: usize = 2 * SESSIONS_MAX;
/// Namespaces of one watch stream, and so of one agent.
pub const WATCHED_NAMESPACES_MAX: usize = 1024;
/// Bits of the buckets whose digests a mirror sends to be told what differs: 32 KiB of digests, at most.
pub const WATCH_DIGEST_BITS_MAX: u32 = 12;
/// Pages of a bucket of a resync, about: what one difference costs, and what one slice of a replica's work is.
pub const WATCH_BUCKET_PAGES: u64 = 1024;
/// Bytes of events or pages in one frame of a watch stream, about, and frames that wait for a watcher: all that it
/// makes a replica hold.
pub const WATCH_FRAME_BYTES: usize = 256 << 10;
pub const WATCH_FRAMES_WAITING_MAX: usize = 8;
/// Resyncs that one replica serves at once; others wait in the order in which they came.
pub const WATCH_RESYNCS_MAX: usize = 8;
/// A watcher that takes no frame for so long is dropped.
pub const WATCH_STUCK_MS: u64 = 30_000;

/// Entries between two revisions at which replicas note their state's digest, and notes kept.
pub const DIGEST_EVERY_ENTRIES: u64 = 256;
pub const DIGESTS_KEPT: usize = 64;
/// Log bytes between two snapshots: by default at least this, or half the last snapshot's file, which is more from two
/// million pages on; and at most, unless more is configured: the log since the last snapshot stands in memory.
pub const LOG_BYTES_PER_SNAPSHOT: u64 = 64 << 20;
pub const LOG_BYTES_PER_SNAPSHOT_MAX: u64 = 512 << 20;

const _: () = {
    assert!(RAFT_PAYLOAD_BYTES_SOFT_MAX + ENTRY_BYTES_MAX + (1 << 20) <= RAFT_MESSAGE_BYTES_MAX);
    assert!(ENTRY_BYTES_SOFT_MAX <= ENTRY_BYTES_MAX);
    assert!(LOG_BYTES_PER_SNAPSHOT <= LOG_BYTES_PER_SNAPSHOT_MAX);
    assert!(ENTRY_BYTES_MAX <= PROPOSALS_WAITING_BYTES_MAX && ENTRY_BYTES_MAX <= PROPOSALS_OWN_BYTES_MAX);
    // What the leader decides in one round fits one entry: ends of sessions, for each page file what expired and what
    // was read, and retirements of 32 bytes.
    assert!(
        SESSIONS_MAX + 2 * HF3FS_FILES_MAX + RETIREMENTS_PER_ROUND_MAX / RETIREMENTS_PER_COMMAND_MAX + 16
            <= COMMANDS_PER_ENTRY_MAX
    );
    assert!(RETIREMENTS_PER_ROUND_MAX * 32 + (64 << 10) <= ENTRY_BYTES_MAX);
    assert!(HEAT_KEYS_PER_REPORT_MAX * ENTRY_KEY_BYTES <= HEAT_REPORTS_BYTES_MAX);
    // An entry's events take up to three times its bytes.
    assert!(4 * ENTRY_BYTES_MAX <= POLICY_FEED_BYTES_MAX);
    // A frame of a watch stream is over its bytes by one entry's events at most, which are hardly more than the entry;
    // all digests fit.
    assert!(WATCH_FRAME_BYTES + ENTRY_BYTES_SOFT_MAX + (1 << 20) <= META_MESSAGE_BYTES_MAX);
    assert!(WATCH_FRAME_BYTES + RETIREMENTS_PER_ROUND_MAX * 32 + (1 << 20) <= META_MESSAGE_BYTES_MAX);
    assert!((8 << WATCH_DIGEST_BITS_MAX) + (64 << 10) <= META_MESSAGE_BYTES_MAX);
    assert!(PIECES_BYTES_MAX + (64 << 10) <= NODE_MESSAGE_BYTES_MAX);
    assert!(KEYS_MAX * PAGE_KEY_BYTES + (64 << 10) <= NODE_MESSAGE_BYTES_MAX);
    assert!(TOKEN_IDS_BYTES_MAX + (64 << 10) <= META_MESSAGE_BYTES_MAX);
    assert!(TOKEN_IDS_BYTES_MAX + (64 << 10) <= NODE_MESSAGE_BYTES_MAX);
    // A publish of the most shards still fits one message: 48 B a page and 8 B a shard.
    assert!(PAGES_PER_PUBLISH_MAX * (48 + 8 * SHARDS_MAX) + (64 << 10) <= META_MESSAGE_BYTES_MAX);
    // A lookup that finds every key answers with locations of one shard within one message; more shards: fewer keys.
    assert!(KEYS_MAX * 24 + (64 << 10) <= META_MESSAGE_BYTES_MAX);
    // A reserve of the most keys, each with a victim and a touch, fits one entry; a body is passed on to the leader
    // whole.
    assert!(HF3FS_KEYS_MAX * (16 + 4 + 4) + (64 << 10) <= ENTRY_BYTES_MAX);
    assert!(HF3FS_BODY_BYTES_MAX + (64 << 10) <= RAFT_MESSAGE_BYTES_MAX);
    // Every agent keeps a connection to a replica; as many again are left to replicas and operators.
    assert!(CONNECTIONS_PER_LISTENER_MAX >= 2 * SESSIONS_MAX);
    assert!(CHUNK_BYTES_MIN as u64 == SHARD_ALIGN_BYTES);
};
