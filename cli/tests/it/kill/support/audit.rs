//! What is there at the end: a linearizable lookup of every acknowledged page, and its bytes from L3.

use std::collections::BTreeMap;
use std::time::Duration;

use foreword_cli::clients::{self, Group};
use foreword_cli::driver::recorder::Recorder;
use foreword_cli::driver::transfer::{self, Got, ShardGet};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta as m;
use foreword_proto::{PageKey, Revision};
use foreword_seams::Endpoint;
use tokio::time::{Instant, sleep};

use super::PATIENCE;
use super::checker::{AtEnd, End};
use super::history::Ack;
use super::run::PAGE_BYTES;

const LOOKUP_KEYS: usize = 4096;
const GET_PAGES: usize = 256;
/// A page that was found and could not be read is looked for again: the leader may have evicted it meanwhile.
const ROUNDS: usize = 3;
/// How long the record may need to catch up with what a lookup saw.
const RECORD_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// Looks for every acknowledged page and reads each that is there, past every cache.
pub(super) async fn audit(
    group: &Group,
    sockets: &[Endpoint],
    namespace_id: u32,
    recorder: &Recorder,
    acks: &[Ack],
) -> End {
    let mut end = End::default();
    let mut open: Vec<PageKey> = acks.iter().map(|ack| ack.key).collect();
    let mut looked_at = 0;
    for _ in 0..ROUNDS {
        let (present, absent, revision) = look(group, namespace_id, &open).await;
        looked_at = revision.max(looked_at);
        end.pages.extend(absent.iter().map(|key| (key.0, AtEnd::Absent)));
        open.clear();
        for (number, batch) in present.chunks(GET_PAGES).enumerate() {
            let got = read(&sockets[number % sockets.len()], namespace_id, revision, batch).await;
            for (key, got) in batch.iter().zip(got) {
                end.pages.insert(key.0, AtEnd::Present(got));
                if !matches!(got, Got::Right(_)) {
                    open.push(*key);
                }
            }
        }
        if open.is_empty() {
            break;
        }
    }
    read_record(recorder, acks, looked_at, &mut end).await;
    end
}

/// The keys that are there and those that are not, and the revision that was seen.
async fn look(group: &Group, namespace_id: u32, keys: &[PageKey]) -> (Vec<PageKey>, Vec<PageKey>, Revision) {
    let (mut present, mut absent, mut revision) = (Vec::new(), Vec::new(), 0);
    for batch in keys.chunks(LOOKUP_KEYS) {
        let request = m::LookupRequest {
            namespace_id,
            keys: page_keys_to_wire(batch),
            tokens: None,
            freshness: Some(Freshness { min_revision: 0, linearizable: true }),
            with_locations: false,
            every_key: true,
        };
        let call = |mut replica: clients::Replica| {
            let request = request.clone();
            async move { replica.lookup(request).await }
        };
        let answer = group.retry(Instant::now() + PATIENCE, call).await.expect("a linearizable lookup");
        assert_eq!(answer.present.len(), batch.len(), "one answer a key");
        revision = answer.revision.max(revision);
        for (key, there) in batch.iter().zip(&answer.present) {
            if *there == 1 { present.push(*key) } else { absent.push(*key) }
        }
    }
    (present, absent, revision)
}

async fn read(socket: &Endpoint, namespace_id: u32, min_revision: Revision, keys: &[PageKey]) -> Vec<Got> {
    let ask = ShardGet {
        namespace_id,
        shard: 0,
        shard_bytes: PAGE_BYTES as usize,
        min_revision,
        bypass_cache: true,
        every_key: true,
    };
    transfer::get(&mut clients::agent(socket), &ask, keys).await.expect("a get of pages that are there")
}

/// Takes what the record says, once it has come to the revision the lookups saw, or explains every absent page before.
async fn read_record(recorder: &Recorder, acks: &[Ack], looked_at: Revision, end: &mut End) {
    let until = Instant::now() + RECORD_PATIENCE;
    loop {
        let complete = recorder.read(|record| record.revision) >= looked_at;
        end.retired = recorder.read(|record| {
            let retired = acks.iter().filter(|ack| record.retired_after(&ack.key.entry(), ack.revision));
            // The record compared; the checker compares again, against the same acknowledgement.
            retired.map(|ack| (ack.key.0, ack.revision + 1)).collect::<BTreeMap<_, _>>()
        });
        (end.record_has_gap, end.retired_as_suspect) = recorder.read(|record| (record.gap, record.retired_as_suspect));
        let absent = end.pages.iter().filter(|(_, found)| **found == AtEnd::Absent);
        let explained = absent.map(|(key, _)| key).all(|key| end.retired.contains_key(key));
        if explained || complete || Instant::now() >= until {
            return;
        }
        sleep(POLL).await;
    }
}
