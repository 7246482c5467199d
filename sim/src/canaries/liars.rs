//! What men in the middle do to the messages of meta's and node's services.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::key::page_keys_from_wire;
use foreword_proto::records::{PageRecord, Record};
use foreword_proto::wire::meta as m;
use foreword_proto::wire::meta::meta_client::MetaClient;
use foreword_proto::wire::node as n;
use foreword_proto::wire::raft as r;
use foreword_proto::workload::page;
use foreword_proto::{PageKey, PublishOutcome};
use openraft::raft::AppendEntriesResponse;
use parking_lot::Mutex;
use prost::Message;
use tonic::transport::Channel;

use super::tap::{Meddler, Meddling};
use crate::profiles::LEASE_MS;

const META: &str = "/foreword.meta.v1.Meta/";
const RAFT: &str = "/foreword.raft.v1.Raft/";
const NODE: &str = "/foreword.node.v1.Node/";
/// A page's shards are found this many in the load's namespaces with one.
const ONE_SHARD: usize = 1;
/// How often a session is renewed that should have ended.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// True for one call in so many.
fn one_in(every: u64) -> impl Fn() -> bool + Send + Sync + Clone {
    let count = Arc::new(AtomicU64::new(0));
    move || count.fetch_add(1, Ordering::Relaxed) % every == every - 1
}

/// The message with a change; one that cannot be read stays as it is.
fn edited<M: Message + Default>(message: Bytes, change: impl FnOnce(&mut M)) -> Bytes {
    match M::decode(message.clone()) {
        Ok(mut read) => {
            change(&mut read);
            read.encode_to_vec().into()
        }
        Err(_) => message,
    }
}

/// A method's answers are changed.
fn answers<M: Message + Default>(path: String, change: impl Fn(&mut M) + Send + Sync + Clone + 'static) -> Meddler {
    Arc::new(move |called, _| {
        let change = change.clone();
        let down = Box::new(move |message| Some(edited::<M>(message, &change)));
        (called == path).then(|| Meddling { down, ..Meddling::default() })
    })
}

/// A method's questions are changed.
fn questions<M: Message + Default>(path: String, change: impl Fn(&mut M) + Send + Sync + Clone + 'static) -> Meddler {
    Arc::new(move |called, _| {
        let change = change.clone();
        let up = Box::new(move |message| Some(edited::<M>(message, &change)));
        (called == path).then(|| Meddling { up, ..Meddling::default() })
    })
}

fn revision_of(watched: &Bytes) -> Option<u64> {
    match m::WatchResponse::decode(watched.clone()).ok()?.kind? {
        m::watch_response::Kind::Events(events) => Some(events.revision),
        m::watch_response::Kind::End(end) => Some(end.revision),
        _ => None,
    }
}

/// Publishes are acknowledged when they are sent, at the revision that should come next.
pub(super) fn acknowledge_early() -> Meddler {
    let newest = Arc::new(AtomicU64::new(0));
    Arc::new(move |path, _| {
        let newest = newest.clone();
        match path.strip_prefix(META)? {
            "Watch" => {
                let down = Box::new(move |message| {
                    newest.fetch_max(revision_of(&message).unwrap_or(0), Ordering::Relaxed);
                    Some(message)
                });
                Some(Meddling { down, ..Meddling::default() })
            }
            "Publish" => {
                let early = Box::new(move |message: &Bytes| {
                    let request = m::PublishRequest::decode(message.clone()).ok()?;
                    let pages = request.pages.len() / PageRecord::bytes(ONE_SHARD);
                    let outcomes = vec![PublishOutcome::Published as u8; pages].into();
                    let revision = newest.load(Ordering::Relaxed) + 1;
                    Some(m::PublishResponse { revision, outcomes, existing: Bytes::new() }.encode_to_vec().into())
                });
                Some(Meddling { early: Some(early), ..Meddling::default() })
            }
            _ => None,
        }
    })
}

/// Other replicas have appended whatever they are sent.
pub(super) fn append_for_others() -> Meddler {
    Arc::new(|path, _| {
        (path == format!("{RAFT}AppendEntries")).then_some(())?;
        let early = Box::new(|_: &Bytes| {
            let body = serde_json::to_vec(&AppendEntriesResponse::<u64>::Success).ok()?.into();
            Some(r::AppendResponse { body }.encode_to_vec().into())
        });
        Some(Meddling { early: Some(early), ..Meddling::default() })
    })
}

/// Leases are renewed without a replica.
pub(super) fn renew_alone() -> Meddler {
    Arc::new(|path, _| {
        (path == format!("{META}RenewSession")).then_some(())?;
        let early = Box::new(|_: &Bytes| {
            Some(m::RenewSessionResponse { lease_ms: LEASE_MS as u32, ..Default::default() }.encode_to_vec().into())
        });
        Some(Meddling { early: Some(early), ..Meddling::default() })
    })
}

/// One in so many entries that are told lacks its last event.
pub(super) fn drop_events(every: u64) -> Meddler {
    let now = one_in(every);
    answers(format!("{META}Watch"), move |answer: &mut m::WatchResponse| {
        if let Some(m::watch_response::Kind::Events(events)) = &mut answer.kind
            && let Some(entry) = events.entries.last_mut()
            && now()
        {
            entry.events = Bytes::new();
        }
    })
}

/// Of a resync of several buckets the last one is never sent.
pub(super) fn skip_last_bucket() -> Meddler {
    let is_last = |told: m::WatchResponse| match told.kind {
        Some(m::watch_response::Kind::Bucket(bucket)) => bucket.bits > 0 && bucket.bucket + 1 == 1 << bucket.bits,
        _ => false,
    };
    Arc::new(move |path, _| {
        let down = Box::new(move |message: Bytes| {
            let skipped = m::WatchResponse::decode(message.clone()).is_ok_and(is_last);
            (!skipped).then_some(message)
        });
        (path == format!("{META}Watch")).then(|| Meddling { down, ..Meddling::default() })
    })
}

/// A replica's answers to lookups name the next revision: they were read in the middle of its entry.
pub(super) fn half_an_entry() -> Meddler {
    answers(format!("{META}Lookup"), |answer: &mut m::LookupResponse| answer.revision += 1)
}

/// Lookups are answered by whichever replica is asked, with what it has.
pub(super) fn ask_no_leader() -> Meddler {
    questions(format!("{META}Lookup"), |asked: &mut m::LookupRequest| asked.freshness = None)
}

/// One in so many lookups of an agent is answered with the revision of some answers ago.
pub(super) fn old_revisions(every: u64) -> Meddler {
    const KEPT: usize = 20;
    let (now, before) = (one_in(every), Arc::new(Mutex::new(VecDeque::from([0]))));
    answers(format!("{NODE}Lookup"), move |answer: &mut n::LookupResponse| {
        let mut before = before.lock();
        before.push_back(answer.revision);
        if before.len() > KEPT {
            before.pop_front();
        }
        if now() {
            answer.revision = before[0];
        }
    })
}

/// A bit of one in so many pieces of pages flips on its way to the client.
pub(super) fn flip_a_bit(every: u64) -> Meddler {
    let now = one_in(every);
    answers(format!("{NODE}Get"), move |answer: &mut n::GetResponse| {
        if let Some(piece) = answer.pieces.last_mut()
            && now()
        {
            let mut data = piece.data.to_vec();
            let middle = data.len() / 2;
            data.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            piece.data = data.into();
        }
    })
}

/// The second shard of one in so many puts never reaches its agent.
pub(super) fn hold_a_rank_back(every: u64) -> Meddler {
    let now = one_in(every);
    Arc::new(move |path, _| {
        (path == format!("{NODE}Put")).then_some(())?;
        let (mut held_back, now) = (false, now.clone());
        let up = Box::new(move |message: Bytes| {
            let asked = n::PutRequest::decode(message.clone()).ok().and_then(|asked| asked.kind);
            match asked {
                Some(n::put_request::Kind::Header(header)) => held_back = header.shard == 1 && now(),
                Some(n::put_request::Kind::Pieces(_)) if held_back => return None,
                _ => {}
            }
            Some(message)
        });
        Some(Meddling { up, ..Meddling::default() })
    })
}

/// One in so many pages that an agent gives is said to have met an open breaker.
pub(super) fn withhold(every: u64) -> Meddler {
    let now = one_in(every);
    answers(format!("{NODE}Get"), move |answer: &mut n::GetResponse| {
        if let Some(end) = answer.ends.iter_mut().find(|end| end.hit)
            && now()
        {
            (end.hit, end.reason) = (false, "breaker_open".to_owned());
        }
    })
}

/// The second shard of one in so many puts is what another client would have written.
pub(super) fn mix_writers(every: u64) -> Meddler {
    let now = one_in(every);
    Arc::new(move |path, _| {
        (path == format!("{NODE}Put")).then_some(())?;
        let (mut keys, mut nonces, now) = (Vec::new(), BTreeMap::new(), now.clone());
        let up = Box::new(move |message| {
            Some(edited::<n::PutRequest>(message, |asked| match &mut asked.kind {
                Some(n::put_request::Kind::Header(header)) if header.shard == 1 && now() => {
                    keys = page_keys_from_wire("keys", &header.keys, usize::MAX).unwrap_or_default();
                }
                Some(n::put_request::Kind::Pieces(pieces)) => {
                    for piece in &mut pieces.pieces {
                        if let Some(key) = keys.get(piece.index as usize) {
                            write_as_another(piece, key, &mut nonces);
                        }
                    }
                }
                _ => {}
            }))
        });
        Some(Meddling { up, ..Meddling::default() })
    })
}

/// The piece as another client would have written it. `nonces`: the other's, by page, from the page's first piece on.
fn write_as_another(piece: &mut n::Piece, key: &PageKey, nonces: &mut BTreeMap<u32, u64>) {
    if let (0, Some((nonce, _))) = (piece.offset, piece.data.split_first_chunk::<8>()) {
        nonces.insert(piece.index, u64::from_le_bytes(*nonce) ^ 1 << 32);
    }
    let Some(nonce) = nonces.get(&piece.index) else { return };
    let begin = piece.offset as usize;
    let mut page = BytesMut::zeroed(begin + piece.data.len());
    page::fill(&mut page, key, piece.shard, *nonce);
    piece.data = page.freeze().slice(begin..);
}

/// Each process opens its session under a name of its own, and what earlier ones opened is renewed for ever.
pub(super) fn renew_for_ever() -> Meddler {
    let opened: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    Arc::new(move |path, onward| {
        (path == format!("{META}OpenSession")).then_some(())?;
        let up = Box::new(|message| {
            Some(edited::<m::OpenSessionRequest>(message, |asked| {
                asked.node = format!("{}-{}", asked.node, asked.incarnation);
            }))
        });
        let (opened, onward) = (opened.clone(), onward.clone());
        let down = Box::new(move |message: Bytes| {
            if let Ok(answer) = m::OpenSessionResponse::decode(message.clone()) {
                let mut opened = opened.lock();
                for session in opened.iter() {
                    tokio::spawn(renew(onward.clone(), session.clone()));
                }
                opened.push(answer.session);
            }
            Some(message)
        });
        Some(Meddling { up, down, early: None })
    })
}

async fn renew(onward: Channel, session: Bytes) {
    let mut meta = MetaClient::new(onward);
    loop {
        let _not_now = meta.renew_session(m::RenewSessionRequest { session: session.clone() }).await;
        tokio::time::sleep(RENEW_EVERY).await;
    }
}
