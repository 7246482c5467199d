//! Commands and outcomes come back as they went; bytes that are none never panic.

use bytes::{Bytes, BytesMut};
use foreword_meta::state::DecodeError;
use foreword_meta::state::codec::{self, CODEC_VERSION, decode_batch, decode_command, decode_outcome, encode_batch};
use foreword_meta::state::command::{
    Command, Invalid, Limit, Outcome, Refusal, Registered, Retirement, SessionOperation, SuspectOutcome,
};
use foreword_proto::limits::FORMAT_VERSION;
use foreword_proto::records::SuspectRecord;
use foreword_proto::{AgentId, DirectoryId, EntryKey, Namespace, PublishOutcome, RetireReason, SessionId, SlotRef};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::hf3fs::codec as hf3fs;

pub(crate) fn key() -> impl Strategy<Value = EntryKey> {
    any::<[u8; 16]>().prop_map(EntryKey)
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

fn slot() -> impl Strategy<Value = SlotRef> {
    any::<(u32, u32, u32)>().prop_map(|(slab, slot, generation)| SlotRef { slab, slot, generation })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn namespace() -> impl Strategy<Value = Namespace> {
    (any::<[String; 11]>(), any::<[u32; 10]>(), vec(any::<u64>(), 0..5), vec(any::<u8>(), 0..9)).prop_map(
        |(texts, numbers, shard_bytes, salt)| {
            let [
                tenant,
                model,
                revision,
                dtype,
                layout,
                storage_format,
                head_split,
                pool,
                draft_model,
                draft_revision,
                _,
            ] = texts;
            let [
                page_tokens,
                layer_first,
                layer_count,
                cp_rank,
                cp_size,
                dcp_rank,
                dcp_size,
                tp_first,
                tp_count,
                tp_size,
            ] = numbers;
            Namespace {
                tenant,
                model,
                revision,
                dtype,
                layout,
                storage_format,
                page_tokens,
                layer_first,
                layer_count,
                cp_rank,
                cp_size,
                dcp_rank,
                dcp_size,
                tp_first,
                tp_count,
                tp_size,
                head_split,
                shard_bytes,
                pool,
                draft_model,
                draft_revision,
                salt,
            }
        },
    )
}

fn operation() -> impl Strategy<Value = SessionOperation> {
    prop_oneof![
        any::<(u64, u32)>().prop_map(|(slot_bytes, slots)| SessionOperation::Grant { slot_bytes, slots }),
        (any::<u32>(), any::<u32>(), bytes()).prop_map(|(namespace, epoch, pages)| SessionOperation::Publish {
            namespace,
            epoch,
            pages
        }),
        (vec(slot(), 0..5), vec(slot(), 0..5))
            .prop_map(|(unwritten, unknown)| SessionOperation::Abort { unwritten, unknown }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let suspect = (key(), slot(), any::<u32>(), any::<u64>()).prop_map(|(key, slot, shard, checksum)| SuspectRecord {
        key,
        slot,
        shard,
        checksum,
    });
    let retirement =
        (any::<u32>(), key(), slot()).prop_map(|(namespace, key, slot)| Retirement { namespace, key, slot });
    let reason = (1u8..6).prop_filter_map("a reason", RetireReason::from_u8);
    prop_oneof![
        any::<u64>().prop_map(|now_ms| Command::Tick { now_ms }),
        namespace().prop_map(|namespace| Command::RegisterNamespace { namespace: Box::new(namespace) }),
        (session(), any::<(String, [u8; 16], u64, String)>()).prop_map(
            |(session, (node, agent, incarnation, endpoint))| Command::OpenSession {
                session,
                node,
                agent: AgentId(agent),
                incarnation,
                endpoint
            }
        ),
        session().prop_map(|session| Command::EndSession { session }),
        (session(), any::<u64>(), operation()).prop_map(|(session, sequence, operation)| Command::Session {
            session,
            sequence,
            operation
        }),
        (session(), any::<u32>(), vec(suspect, 0..4)).prop_map(|(session, namespace, suspects)| Command::Suspect {
            session,
            namespace,
            suspects
        }),
        (reason, vec(retirement, 0..4)).prop_map(|(reason, entries)| Command::Retire { reason, entries }),
        any::<u32>().prop_map(|namespace| Command::Clear { namespace }),
        any::<u32>().prop_map(|namespace| Command::DropNamespace { namespace }),
        (any::<u32>(), vec(key(), 0..4)).prop_map(|(namespace, keys)| Command::Delete { namespace, keys }),
        any::<u32>().prop_map(|entries_max| Command::Reclaim { entries_max }),
        vec(any::<u32>(), 0..4).prop_map(|slabs| Command::DropSlabs { slabs }),
        any::<u32>().prop_map(|level| Command::RaiseFeatureLevel { level }),
        (any::<u64>(), any::<[u8; 16]>()).prop_map(|(replica_id, directory)| Command::RecordMember {
            replica_id,
            directory: DirectoryId(directory)
        }),
        hf3fs::command().prop_map(Command::Hf3fs),
    ]
}

fn registered() -> impl Strategy<Value = Registered> {
    (any::<u32>(), vec(any::<u64>(), 0..5), any::<bool>()).prop_map(|(page_tokens, shard_bytes, other_page_tokens)| {
        Registered { page_tokens, shard_bytes, other_page_tokens }
    })
}

fn invalid() -> impl Strategy<Value = Invalid> {
    prop_oneof![
        Just(Invalid::Namespace),
        any::<u32>().prop_map(|bytes| Invalid::Node { bytes }),
        any::<u32>().prop_map(|bytes| Invalid::Endpoint { bytes }),
        any::<u64>().prop_map(|found| Invalid::SlotBytes { found }),
        any::<(u32, u32)>().prop_map(|(bytes, record_bytes)| Invalid::Pages { bytes, record_bytes }),
        any::<u32>().prop_map(|slab| Invalid::Slab { slab }),
        any::<String>().prop_map(|found| Invalid::Deployment { found }),
        any::<u32>().prop_map(|bytes| Invalid::Pool { bytes }),
        any::<u32>().prop_map(|found| Invalid::FilePages { found }),
        any::<(u64, [u8; 16], [u8; 16])>().prop_map(|(replica_id, known, found)| Invalid::Directory {
            replica_id,
            known: DirectoryId(known),
            found: DirectoryId(found),
        }),
        session().prop_map(|found| Invalid::Session { found }),
    ]
}

fn limit() -> impl Strategy<Value = Limit> {
    prop::sample::select(vec![
        Limit::Namespaces,
        Limit::Clears,
        Limit::Sessions,
        Limit::GrantedSlots,
        Limit::PublishedPages,
        Limit::AbortedSlots,
        Limit::DeletedKeys,
        Limit::Suspects,
        Limit::PageFiles,
        Limit::ReplicaIds,
        Limit::NamespaceIds,
        Limit::PageFileIds,
    ])
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        session().prop_map(|session| Refusal::NoSession { session }),
        any::<(u64, u32)>().prop_map(|(sequence, window)| Refusal::SequenceTooOld { sequence, window }),
        any::<u32>().prop_map(|namespace| Refusal::NoNamespace { namespace }),
        (any::<u32>(), registered())
            .prop_map(|(namespace, registered)| Refusal::OtherGeometry { namespace, registered }),
        invalid().prop_map(Refusal::Invalid),
        limit().prop_map(Refusal::TooMany),
        any::<(String, String, String)>().prop_map(|(node, running, refused)| Refusal::NameTaken {
            node,
            running,
            refused
        }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let published = (1u8..6).prop_map(|number| PublishOutcome::from_u8(number).unwrap());
    let suspected = prop_oneof![Just(SuspectOutcome::Void), Just(SuspectOutcome::Noted), Just(SuspectOutcome::Retired)];
    prop_oneof![
        Just(Outcome::Done),
        any::<(u32, u32, u64)>().prop_map(|(namespace, epoch, slot_bytes)| Outcome::NamespaceRegistered {
            namespace,
            epoch,
            slot_bytes
        }),
        session().prop_map(|session| Outcome::SessionOpened { session }),
        vec(slot(), 0..5).prop_map(|slots| Outcome::Granted { slots }),
        (any::<u64>(), vec(published, 0..9), bytes()).prop_map(|(revision, outcomes, existing)| Outcome::Published {
            revision,
            outcomes,
            existing
        }),
        vec(suspected, 0..9).prop_map(|outcomes| Outcome::Suspected { outcomes }),
        any::<u32>().prop_map(|epoch| Outcome::Cleared { epoch }),
        any::<u64>().prop_map(|pages| Outcome::NamespaceDropped { pages }),
        any::<u32>().prop_map(|entries| Outcome::Retired { entries }),
        any::<u64>().prop_map(|left| Outcome::Reclaimed { left }),
        hf3fs::outcome().prop_map(Outcome::Hf3fs),
        refusal().prop_map(Outcome::Refused),
    ]
}

pub(crate) fn encoded(command: &Command) -> Bytes {
    let mut out = BytesMut::new();
    codec::encode_command(command, &mut out);
    out.freeze()
}

proptest! {
    #[test]
    fn commands_come_back(command in command()) {
        let mut bytes = encoded(&command);
        prop_assert_eq!(decode_command(&mut bytes), Ok(command));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn batches_come_back(commands in vec(command(), 0..5)) {
        let parts: Vec<Bytes> = commands.iter().map(encoded).collect();
        prop_assert_eq!(decode_batch(encode_batch(FORMAT_VERSION, &parts)), Ok(commands));
    }

    #[test]
    fn outcomes_come_back(outcome in outcome()) {
        let mut bytes = codec::outcome_bytes(&outcome);
        prop_assert_eq!(decode_outcome(&mut bytes), Ok(outcome));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn a_part_of_a_batch_is_an_error(commands in vec(command(), 1..4), cut in any::<prop::sample::Index>()) {
        let parts: Vec<Bytes> = commands.iter().map(encoded).collect();
        let whole = encode_batch(FORMAT_VERSION, &parts);
        prop_assert!(decode_batch(whole.slice(..cut.index(whole.len()))).is_err());
    }

    #[test]
    fn damage_never_panics(command in command(), outcome in outcome(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        for bytes in [encode_batch(FORMAT_VERSION, &[encoded(&command)]), codec::outcome_bytes(&outcome)] {
            let mut damaged = bytes.to_vec();
            let at = at.index(damaged.len());
            damaged[at] = value;
            let _ = decode_batch(Bytes::from(damaged.clone()));
            let _ = decode_outcome(&mut Bytes::from(damaged));
        }
    }

    #[test]
    fn noise_never_panics(bytes in bytes()) {
        let _ = decode_batch(bytes.clone());
        let _ = decode_command(&mut bytes.clone());
        let _ = decode_outcome(&mut bytes.clone());
    }
}

#[test]
fn another_version_is_named_with_ours() {
    let mut bytes = encode_batch(FORMAT_VERSION, &[encoded(&Command::Tick { now_ms: 1 })]).to_vec();
    bytes[0] = CODEC_VERSION + 1;
    let error = decode_batch(Bytes::from(bytes)).unwrap_err();
    assert_eq!(error, DecodeError::Version { what: "log entry", found: 2, known: 1 });
    assert_eq!(error.to_string(), "log entry: format version 2 cannot be read by this binary, which reads version 1");
}

#[test]
fn an_unknown_kind_is_named() {
    for bytes in [&[CODEC_VERSION, 200][..], &[CODEC_VERSION, 0]] {
        let error = decode_command(&mut Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(error, DecodeError::Kind { what: "command", found: bytes[1].into(), known: 1 });
        let error = decode_outcome(&mut Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(error, DecodeError::Kind { what: "outcome", found: bytes[1].into(), known: 1 });
    }
}

/// Pages are the bulk of the log: decoding shares them.
#[test]
fn pages_are_not_copied() {
    let pages = Bytes::from(vec![7; 4400]);
    let operation = SessionOperation::Publish { namespace: 1, epoch: 1, pages };
    let entry = encode_batch(
        FORMAT_VERSION,
        &[encoded(&Command::Session { session: SessionId([1; 16]), sequence: 1, operation })],
    );
    let commands = decode_batch(entry.clone()).unwrap();
    let Command::Session { operation: SessionOperation::Publish { pages, .. }, .. } = &commands[0] else {
        panic!("another command")
    };
    assert!(entry.as_ptr_range().contains(&pages.as_ptr()));
}
