//! Each collection of the state leaves in bounded pieces, however much is in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use foreword_meta::state::SUSPICIONS_PER_SESSION_MAX;
use foreword_meta::state::command::{Command, Outcome, SessionOperation};
use foreword_proto::limits::{
    NAMESPACE_TEXT_BYTES_MAX, PAGES_PER_PUBLISH_MAX, SESSION_WINDOW, SESSIONS_MAX, SHARDS_MAX,
    SNAPSHOT_FRAME_BYTES_MAX, SNAPSHOT_PIECE_BYTES,
};
use foreword_proto::location::{Checksums, Location};
use foreword_proto::records::{self, PageRecord, SuspectRecord};
use foreword_proto::{AgentId, Namespace, SessionId, SlotRef};

use crate::examples::{A, Cluster, page_key};
use crate::restore::{pieces, restore};

/// The largest outcome there is: a publish of the most pages of the most shards, each of which exists: half a MiB. A
/// session keeps 64: two sessions, four frames. In real size.
#[test]
fn outcomes_of_sessions_come_in_pieces_too() {
    const PAGE_BYTES: u64 = SHARDS_MAX as u64 * 4096;
    let mut cluster = Cluster::with_slots(1 << 25);
    let namespace = Box::new(Namespace::simple("wide", 16, vec![4096; SHARDS_MAX]));
    cluster.apply(Command::RegisterNamespace { namespace });
    let epoch = cluster.state.namespace(2).unwrap().epoch;
    let checksums = Checksums::new(&[7; SHARDS_MAX]);
    let second = cluster.open("b");
    for (session, publishes) in [(A, 1), (A, SESSION_WINDOW), (second, SESSION_WINDOW)] {
        let mut granted: Vec<SlotRef> = Vec::new();
        while granted.len() < PAGES_PER_PUBLISH_MAX {
            let slots = cluster.session(session, SessionOperation::Grant { slot_bytes: PAGE_BYTES, slots: 1024 });
            let Outcome::Granted { slots } = slots else { panic!("{slots:?}") };
            granted.extend(slots);
        }
        let page = |(number, slot): (u64, &SlotRef)| PageRecord {
            key: page_key(number),
            parent: 0,
            location: Location { slot: *slot, checksums: checksums.clone() },
        };
        let pages: Vec<PageRecord> = (0..).zip(&granted).take(PAGES_PER_PUBLISH_MAX).map(page).collect();
        let pages: Bytes = records::encode(&pages, SHARDS_MAX);
        for _ in 0..publishes {
            cluster.session(session, SessionOperation::Publish { namespace: 2, epoch, pages: pages.clone() });
        }
    }
    let pieces = pieces(&cluster.state);
    let written: usize = pieces.iter().map(Bytes::len).sum();
    assert!(written > 4 * SNAPSHOT_FRAME_BYTES_MAX, "{written}");
    let longest = pieces.iter().map(Bytes::len).max().unwrap();
    assert!(longest < 2 * SNAPSHOT_PIECE_BYTES, "{longest}");
    let again = restore(pieces).unwrap();
    assert_eq!(again.digest_from_scratch(), cluster.state.digest());
}

/// Bytes of a kind of piece, and of its longest one.
fn sizes(pieces: &[Bytes]) -> BTreeMap<u8, (usize, usize)> {
    let mut sizes = BTreeMap::new();
    for piece in pieces {
        let (all, longest): &mut (usize, usize) = sizes.entry(piece[1]).or_default();
        (*all, *longest) = (*all + piece.len(), piece.len().max(*longest));
    }
    sizes
}

/// Every collection that can be so large, at four times what ends a piece (a frame is never longer than a piece); the
/// largest record of each kind fits beside it, which `state/pieces.rs` asserts.
#[test]
fn every_collection_comes_in_bounded_pieces() {
    const REPORTED: usize = 100_000;
    let mut cluster = Cluster::with_slots(1 << 20);
    cluster.fill(280_000);
    cluster.delete_oldest(280_000);
    cluster.fill(120_000);
    let text = "x".repeat(NAMESPACE_TEXT_BYTES_MAX - 8);
    for number in 0..12_000 {
        let namespace = Namespace { tenant: format!("{number:08}{text}"), ..Namespace::simple("many", 16, vec![4096]) };
        cluster.apply(Command::RegisterNamespace { namespace: Box::new(namespace) });
    }
    let mut present = Vec::new();
    cluster.state.pages_of(1, |page| present.push(page));
    let mut reported = present.into_iter().take(REPORTED);
    for number in 1..SESSIONS_MAX as u64 {
        let session = SessionId((u128::from(number) << 64).to_le_bytes());
        cluster.apply(Command::OpenSession {
            session,
            node: format!("{number:08}{text}"),
            agent: AgentId([2; 16]),
            incarnation: 1,
            endpoint: format!("{number:08}{text}"),
        });
        let of_page = |page: PageRecord| SuspectRecord {
            key: page.key,
            slot: page.location.slot,
            shard: 0,
            checksum: page.location.checksums.as_slice()[0],
        };
        let suspects: Vec<_> = reported.by_ref().take(SUSPICIONS_PER_SESSION_MAX as usize).map(of_page).collect();
        if !suspects.is_empty() {
            cluster.apply(Command::Suspect { session, namespace: 1, suspects });
        }
    }
    let pieces = pieces(&cluster.state);
    let sizes = sizes(&pieces);
    let large = |bytes: &usize| *bytes >= 4 * SNAPSHOT_PIECE_BYTES;
    assert_eq!(sizes.values().filter(|(all, _)| large(all)).count(), 5, "{sizes:?}");
    for (kind, (_, longest)) in &sizes {
        assert!(*longest < SNAPSHOT_PIECE_BYTES + 4096, "kind {kind}: {longest}");
    }
    let again = restore(pieces).unwrap();
    assert_eq!(again.digest_from_scratch(), cluster.state.digest());
}
