//! The log store as its callers see it: bounds of reads, purges, what a restart finds.

use foreword_meta::consensus::entry_codec::{
    decode_entry, encode_entry, encode_vote, entry_bytes, entry_from_wire, entry_to_wire,
};
use foreword_meta::consensus::types::{EntryBatch, Member, Vote};
use foreword_meta::storage::{LogEngine, MetaKey};
use foreword_proto::DirectoryId;
use foreword_proto::limits::{ENTRY_BYTES_MAX, FORMAT_VERSION, RAFT_MESSAGE_BYTES_MAX, RAFT_PAYLOAD_BYTES_SOFT_MAX};
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, Membership, RaftLogReader};
use proptest::prelude::*;

use crate::support::{MemoryReplica, append, close, entry, last, log_id};

#[tokio::test]
async fn a_restart_finds_everything() {
    let replica = MemoryReplica::default();
    let (mut store, recovered) = replica.open().unwrap();
    assert_eq!((recovered.last, recovered.vote, recovered.entries), (None, None, 0));
    append(&mut store, (0..10).map(|index| entry(1, index, 1000))).await.unwrap();
    store.save_vote(&Vote::new_committed(3, 2)).await.unwrap();
    store.truncate(log_id(1, 8)).await.unwrap();
    append(&mut store, (8..20).map(|index| entry(3, index, 50))).await.unwrap();
    store.save_committed(Some(log_id(3, 15))).await.unwrap();
    store.purge(log_id(1, 4)).await.unwrap();
    let (bytes, entries) = (store.log_bytes(), store.try_get_log_entries(..).await.unwrap());
    assert_eq!(bytes, entries.iter().map(|entry| entry_bytes(entry) as u64).sum::<u64>());
    assert_eq!(store.last_index(), Some(19));
    close(store).await;

    let (mut store, recovered) = replica.open().unwrap();
    assert_eq!(recovered.last, Some(log_id(3, 19)));
    assert_eq!(recovered.vote, Some(Vote::new_committed(3, 2)));
    assert_eq!(recovered.committed, Some(log_id(3, 15)));
    assert_eq!(recovered.purged, Some(log_id(1, 4)));
    assert_eq!((recovered.entries, recovered.log_bytes), (15, bytes));
    assert_eq!(store.try_get_log_entries(..).await.unwrap(), entries);
    // openraft finds a vote that was given, and no leader: whoever led stands for election again.
    assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(3, 2)));
}

#[tokio::test]
async fn how_much_of_the_log_follows_an_entry_is_known_through_truncations_and_purges() {
    let replica = MemoryReplica::default();
    let (mut store, _) = replica.open().unwrap();
    let log = store.reader();
    assert_eq!((log.bytes_after(0), log.index_before(1)), (0, None));
    append(&mut store, (0..10).map(|index| entry(1, index, 1000))).await.unwrap();
    let one = entry_bytes(&entry(1, 0, 1000)) as u64;
    let known = |first: u64, next: u64| {
        assert_eq!(log.log_bytes(), (next - first) * one);
        for index in first..next {
            assert_eq!(log.bytes_after(index), (next - 1 - index) * one, "after {index}");
        }
        assert_eq!(
            (log.bytes_after(next), log.bytes_after(first.saturating_sub(2))),
            (0, log.bytes_after(first) + one)
        );
        // So many bytes and not one less.
        assert_eq!(log.index_before(2 * one), Some(next - 3));
        assert_eq!(log.index_before(2 * one + 1), Some(next - 4));
        assert_eq!((log.index_before(0), log.index_before((next - first) * one)), (Some(next - 1), None));
    };
    store.truncate(log_id(1, 8)).await.unwrap();
    append(&mut store, (8..12).map(|index| entry(1, index, 1000))).await.unwrap();
    store.purge(log_id(1, 4)).await.unwrap();
    known(5, 12);
    close(store).await;
    let (store, _) = replica.open().unwrap();
    assert_eq!((store.reader().bytes_after(7), store.reader().bytes_after(0)), (4 * one, 7 * one));
}

/// Found by the simulator: a replica whose disk was full wrote entries without a sync, was started again, and the
/// leader counted them.
#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_durable_before_anyone_hears_of_it() {
    let replica = MemoryReplica::default();
    {
        let mut process = replica.disk.open();
        let items: Vec<_> = (0..5).map(|index| (index, encode_entry(FORMAT_VERSION, &entry(1, index, 100)))).collect();
        process.append(&items).unwrap();
        process.put_meta(MetaKey::Vote, encode_vote(FORMAT_VERSION, &Vote::new(1, 2))).unwrap();
    }
    let (mut store, recovered) = replica.open().unwrap();
    assert_eq!(recovered.last, Some(log_id(1, 4)));
    assert_eq!(last(&mut store).await, Some(log_id(1, 4)));
    drop(store);
    replica.disk.crash(|_| 0);
    let (_, recovered) = replica.open().unwrap();
    assert_eq!((recovered.last, recovered.vote), (Some(log_id(1, 4)), Some(Vote::new(1, 2))));
}

#[tokio::test]
async fn a_purge_beyond_the_log_lets_it_go_on_after_it() {
    let replica = MemoryReplica::default();
    let (mut store, _) = replica.open().unwrap();
    append(&mut store, (0..100).map(|index| entry(1, index, 100))).await.unwrap();
    store.purge(log_id(2, 500)).await.unwrap();
    assert_eq!((last(&mut store).await, store.log_bytes()), (Some(log_id(2, 500)), 0));
    append(&mut store, [entry(2, 501, 10)]).await.unwrap();
    assert!(append(&mut store, [entry(2, 503, 10)]).await.unwrap_err().contains("expected 502"));
    close(store).await;
    let (mut store, recovered) = replica.open().unwrap();
    assert_eq!((recovered.purged, recovered.last), (Some(log_id(2, 500)), Some(log_id(2, 501))));
    assert_eq!(store.try_get_log_entries(0..1000).await.unwrap(), [entry(2, 501, 10)]);
}

#[tokio::test]
async fn replication_reads_are_bounded_in_bytes() {
    let (mut store, _) = MemoryReplica::default().open().unwrap();
    let large = ENTRY_BYTES_MAX - 64;
    append(&mut store, (0..8).map(|index| entry(1, index, large))).await.unwrap();
    let mut reader = store.get_log_reader().await;
    let read = reader.limited_get_log_entries(0, 8).await.unwrap();
    let bytes = read.iter().map(entry_bytes).sum::<usize>();
    assert!((RAFT_PAYLOAD_BYTES_SOFT_MAX..RAFT_MESSAGE_BYTES_MAX - (1 << 20)).contains(&bytes), "{bytes}");
    assert_eq!(read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(reader.limited_get_log_entries(7, 8).await.unwrap().len(), 1);
    assert_eq!(store.try_get_log_entries(..).await.unwrap().len(), 8);
}

#[tokio::test]
async fn a_reader_does_not_keep_the_log_open() {
    let replica = MemoryReplica::default();
    let (mut store, _) = replica.open().unwrap();
    append(&mut store, [entry(1, 0, 10)]).await.unwrap();
    let mut reader = store.reader();
    close(store).await;
    assert_eq!(reader.try_get_log_entries(..).await.unwrap().len(), 1);
    assert_eq!(reader.last_index(), Some(0));
}

fn payloads() -> impl Strategy<Value = EntryPayload<foreword_meta::consensus::types::TypeConfig>> {
    let member = (0..9u64, "[a-z]{1,9}:[0-9]{1,5}", "[a-z]{1,9}:[0-9]{1,5}", any::<[u8; 16]>())
        .prop_map(|(id, peer, client, directory)| (id, Member { peer, client, directory: DirectoryId(directory) }));
    let members = proptest::collection::btree_map(0..9u64, member.prop_map(|(_, node)| node), 1..5);
    prop_oneof![
        Just(EntryPayload::Blank),
        proptest::collection::vec(any::<u8>(), 0..3000)
            .prop_map(|bytes| EntryPayload::Normal(EntryBatch(bytes.into()))),
        members.prop_map(|members| EntryPayload::Membership(Membership::from(members))),
    ]
}

proptest! {
    #[test]
    fn entries_survive_log_and_wire(term: u64, index: u64, payload in payloads()) {
        let entry = openraft::Entry { log_id: log_id(term, index), payload };
        let stored = encode_entry(FORMAT_VERSION, &entry);
        prop_assert_eq!(stored.len(), entry_bytes(&entry));
        prop_assert!(decode_entry(index, &stored).unwrap() == entry);
        prop_assert!(entry_from_wire(entry_to_wire(&entry)).unwrap() == entry);
    }

    #[test]
    fn damage_to_a_stored_entry_is_found(payload in payloads(), at: usize, bit in 0..8u8, cut: usize) {
        let entry = openraft::Entry { log_id: log_id(1, 77), payload };
        let stored = encode_entry(FORMAT_VERSION, &entry);
        let mut damaged = stored.to_vec();
        let at = at % damaged.len();
        damaged[at] ^= 1u8 << bit;
        let error = decode_entry(77, &damaged.into()).unwrap_err();
        prop_assert_eq!(error.index, 77);
        prop_assert!(decode_entry(77, &stored.slice(..cut % stored.len())).is_err());
        prop_assert!(decode_entry(78, &stored).unwrap_err().to_string().contains("log entry 78: holds entry 77"));
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..5u32) {
        prop_assert!(decode_entry(1, &bytes.clone().into()).is_err());
        let mut message = entry_to_wire(&entry(1, 1, 1));
        (message.kind, message.payload) = (kind, bytes.into());
        if let Err(error) = entry_from_wire(message) {
            prop_assert_eq!(error.field, "entries.1");
        }
    }
}
