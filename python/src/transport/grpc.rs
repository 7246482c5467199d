//! Calls over gRPC. A call's future runs on the caller's thread; only messages cross to the runtime's.

use std::collections::HashMap;
use std::future::Future;

use foreword_client::{Agent, Connection, cause};
use foreword_proto::PageKey;
use foreword_proto::limits::KEYS_MAX;
use foreword_proto::wire::{common, node as wire};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::coverage::Coverage;
use super::pieces::Messages;
use super::{Failure, Freshness, Outcome, Shards, Transport};
use crate::keys::Keys;

/// A put's messages ahead of the connection: 1 MiB each.
const PUT_MESSAGES_AHEAD: usize = 2;

/// One connection to an agent.
pub(crate) struct Grpc {
    connection: Connection,
    runtime: Handle,
    /// Cancelled when calls are to come back.
    ended: CancellationToken,
}

impl Grpc {
    /// Calls over this connection, whose runtime is the present one.
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, runtime: Handle::current(), ended: CancellationToken::new() }
    }

    /// A client that tells the agent when nobody waits any more.
    fn agent(&self, deadline: Instant) -> Agent {
        self.connection.clone().until(deadline).agent()
    }

    /// Runs a call on this thread, which is none of the runtime's, until its deadline.
    fn run<T>(&self, deadline: Instant, call: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.ended.cancelled() => Err(Failure::Closed),
                answer = timeout_at(deadline, call) => match answer {
                    Ok(answer) => answer.map_err(|status| failure(&status)),
                    Err(_) => Err(Failure::Late),
                },
            }
        })
    }
}

impl Transport for Grpc {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn end(&self) {
        self.ended.cancel();
    }

    fn keys_max(&self) -> usize {
        KEYS_MAX
    }

    fn lookup(&self, namespace: u32, keys: &Keys, fresh: Freshness, deadline: Instant) -> Result<u32, Failure> {
        let Freshness { min_revision, linearizable } = fresh;
        let request = wire::LookupRequest {
            namespace_id: namespace,
            keys: keys.wire(),
            tokens: None,
            freshness: Some(common::Freshness { min_revision, linearizable }),
        };
        let mut agent = self.agent(deadline);
        self.run(deadline, async { Ok(agent.lookup(request).await?.into_inner().pages) })
    }

    fn locate(&self, namespace: u32, keys: &Keys, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let request = wire::LocateRequest { namespace_id: namespace, keys: keys.wire(), tokens: None, freshness: None };
        let mut agent = self.agent(deadline);
        self.run(deadline, async {
            let tiers = agent.locate(request).await?.into_inner().tiers;
            one_a_key("tiers", tiers.len(), keys.len())?;
            Ok(tiers.to_vec())
        })
    }

    fn get(
        &self,
        namespace: u32,
        shards: Shards<'_>,
        every_key: bool,
        deadline: Instant,
        hits: &mut [bool],
    ) -> Result<(), Failure> {
        let request = wire::GetRequest {
            namespace_id: namespace,
            keys: shards.keys.wire(),
            shards: vec![shards.shard],
            bypass_cache: false,
            every_key,
            min_revision: 0,
        };
        let mut agent = self.agent(deadline);
        self.run(deadline, async {
            let mut answers = agent.get(request).await?.into_inner();
            let mut arriving = HashMap::new();
            while let Some(message) = answers.message().await? {
                take(message, shards, &mut arriving, hits)?;
            }
            Ok(())
        })
    }

    fn put(
        &self,
        namespace: u32,
        shards: Shards<'_>,
        parent: Option<PageKey>,
        wait_published: bool,
        deadline: Instant,
        outcomes: &mut [Outcome],
    ) -> Result<Option<String>, Failure> {
        let mut agent = self.agent(deadline);
        self.run(deadline, async {
            let wanted = wanted(&mut agent, namespace, shards, wait_published, outcomes).await?;
            let (Some(first), Some(last)) = (wanted.first().copied(), wanted.last().copied()) else {
                return Ok(None);
            };
            let before = first.checked_sub(1).map(|before| shards.keys.key(before)).or(parent);
            let header = wire::PutHeader {
                namespace_id: namespace,
                shard: shards.shard,
                keys: shards.keys.range(first..last + 1).wire(),
                parent: before.map(|key| Keys::of(&[key]).wire()).unwrap_or_default(),
                wait_published,
            };
            let header = wire::PutRequest { kind: Some(wire::put_request::Kind::Header(header)) };
            let (sender, messages) = mpsc::channel(PUT_MESSAGES_AHEAD);
            let feed = async move {
                for message in std::iter::once(header).chain(Messages::new(shards, &wanted, first)) {
                    // The call is over: its answer says why.
                    if sender.send(message).await.is_err() {
                        break;
                    }
                }
                wanted
            };
            let (answer, wanted) = tokio::join!(agent.put(ReceiverStream::new(messages)), feed);
            let pages = answer?.into_inner().pages;
            one_a_key("pages", pages.len(), last + 1 - first)?;
            for page in wanted {
                outcomes[page] = outcome(&pages[page - first]).unwrap_or(Outcome::Failed);
            }
            Ok(pages.into_iter().map(|page| page.reason).find(|reason| !reason.is_empty()))
        })
    }
}

/// Takes one message of a get: bytes to their places, and how pages ended.
fn take(
    message: wire::GetResponse,
    shards: Shards<'_>,
    arriving: &mut HashMap<u32, Coverage>,
    hits: &mut [bool],
) -> Result<(), Status> {
    for piece in message.pieces {
        let (page, len) = (piece.index as usize, piece.data.len());
        let offset = usize::try_from(piece.offset).unwrap_or(usize::MAX);
        let within = offset.checked_add(len).is_some_and(|end| end <= shards.shard_bytes);
        // Of a page that has ended nothing may come any more.
        let expected = piece.shard == shards.shard && page < hits.len() && !hits[page] && within;
        if !expected || !arriving.entry(piece.index).or_default().add(offset, len) {
            let got = format!("{len} at {offset} of page {page}, shard {}", piece.shard);
            return Err(Status::data_loss(format!("pieces: expected bytes that were asked for, once, got {got}")));
        }
        shards.places.write(shards.first + page, offset, &piece.data);
    }
    for end in message.ends {
        let came = arriving.remove(&end.index).unwrap_or_default();
        if !end.hit {
            continue;
        }
        let Some(hit) = hits.get_mut(end.index as usize).filter(|_| came.is_whole(shards.shard_bytes)) else {
            let expected = format!("ends: expected {} bytes of page {} before its end", shards.shard_bytes, end.index);
            return Err(Status::data_loss(expected));
        };
        *hit = true;
    }
    Ok(())
}

/// Asks which pages' bytes are worth sending, and notes what became of the others.
async fn wanted(
    agent: &mut Agent,
    namespace: u32,
    shards: Shards<'_>,
    wait_published: bool,
    outcomes: &mut [Outcome],
) -> Result<Vec<usize>, Status> {
    let request = wire::WantedRequest { namespace_id: namespace, shard: shards.shard, keys: shards.keys.wire() };
    let known = agent.wanted(request).await?.into_inner().pages;
    one_a_key("pages", known.len(), shards.keys.len())?;
    let mut wanted = Vec::new();
    for (page, known) in known.iter().enumerate() {
        match outcome(known) {
            // Its bytes are on their way with another call; who waits until it is published sends them too.
            Some(Outcome::Taken) if wait_published => wanted.push(page),
            Some(known) => outcomes[page] = known,
            None => wanted.push(page),
        }
    }
    Ok(wanted)
}

/// None: the agent has not said.
fn outcome(page: &wire::PagePut) -> Option<Outcome> {
    match page.outcome() {
        wire::PutOutcome::Unspecified => None,
        wire::PutOutcome::Taken => Some(Outcome::Taken),
        wire::PutOutcome::Published => Some(Outcome::Published),
        wire::PutOutcome::Exists => Some(Outcome::Exists),
        wire::PutOutcome::Declined => Some(Outcome::Declined),
        wire::PutOutcome::Refused => Some(Outcome::Refused),
    }
}

fn one_a_key(field: &str, got: usize, keys: usize) -> Result<(), Status> {
    match got == keys {
        true => Ok(()),
        false => Err(Status::data_loss(format!("{field}: expected one for each of {keys} keys, got {got}"))),
    }
}

fn failure(status: &Status) -> Failure {
    match status.code() {
        Code::NotFound => Failure::NotOpen,
        Code::DeadlineExceeded => Failure::Late,
        code => Failure::Said(format!("{} ({code:?})", cause(status))),
    }
}
