//! One watch stream: all namespaces that one agent has open. Their tails in one pass over what the hub keeps, resyncs
//! one after the other in between, and the revision for all of them at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::{
    NAMESPACE_TEXT_BYTES_MAX, WATCH_FRAMES_WAITING_MAX, WATCH_STREAMS_MAX, WATCHED_NAMESPACES_MAX,
};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::watch_request::Kind as Ask;
use foreword_proto::wire::meta::watch_response::Kind;
use foreword_proto::{BadInput, NamespaceId, Revision};
use foreword_seams::{Marker, sometimes};
use futures::future::{BoxFuture, FutureExt, OptionFuture};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::encoded::StartOver;
use super::hub::WatchHub;
use super::measures::Counted;
use super::resync::{Mirrored, Resync, Step};
use super::wakes::Wake;
use crate::replica::group::Group;
use crate::state::State;

/// How often watchers of namespaces at rest learn that the revision moves on. 200 idle agents then cost 1,000 small
/// frames a second, whatever the group's load; who waits for a revision asks for it ([`EAGER`]) and does not wait for
/// this.
const PROGRESS: Duration = Duration::from_millis(200);
/// A stream that was just told of entries rests for so long: a hundred agents that watch one busy namespace take its
/// entries a few at a time. One that waits for a revision does not rest.
const REST: Duration = Duration::from_millis(2);
/// How long a watcher that asked for a revision is told of each one as it comes, unless it has that one before.
const EAGER: Duration = Duration::from_secs(1);
/// How long a replica tries to make sure that a namespace it does not know was dropped.
const SURE_WITHIN: Duration = Duration::from_secs(2);

type Frame = Result<wire::WatchResponse, Status>;

/// Serves a watch stream. It ends when its requests do.
///
/// A stream of a replica that is alone ends, unless its watcher has found no better one: it would stay where it is.
///
/// Errors: RESOURCE_EXHAUSTED when this replica has too many streams. In the stream: FAILED_PRECONDITION `behind` when
/// a mirror has a revision that is not applied here yet; UNAVAILABLE when this replica cannot make sure in time that a
/// namespace it does not know was dropped; INVALID_ARGUMENT with the field.
pub(crate) fn watch<R>(
    group: &Arc<Group>,
    hub: &Arc<WatchHub>,
    requests: R,
) -> Result<BoxStream<'static, Frame>, Status>
where
    R: Stream<Item = Result<wire::WatchRequest, Status>> + Send + Unpin + 'static,
{
    let too_many = |_| Status::resource_exhausted(format!("watch: at most {WATCH_STREAMS_MAX} streams a replica"));
    let permit = hub.streams.clone().try_acquire_owned().map_err(too_many)?;
    let (frames, stream) = mpsc::channel(WATCH_FRAMES_WAITING_MAX);
    let watcher = Watcher::new(group.clone(), hub.clone(), frames);
    tokio::spawn(async move {
        watcher.serve(requests).await;
        drop(permit);
    });
    Ok(ReceiverStream::new(stream).boxed())
}

/// Why a stream is over.
pub(super) enum Ended {
    /// The watcher left; there is nobody to tell.
    Left,
    /// It takes nothing.
    Stuck,
    Failed(Status),
}

impl From<BadInput> for Ended {
    fn from(error: BadInput) -> Self {
        Self::Failed(error.into())
    }
}

/// A namespace that is open on the stream.
pub(super) enum Space {
    /// Told of every entry, but of none up to this revision.
    Tail { after: Revision },
    /// Its resync has not begun.
    Waiting { mirrored: Mirrored, _waiting: Counted },
    /// Told of every entry, and of its buckets.
    Resyncing(Box<Resync>),
}

/// Whether it is this stream's turn to resync a mirror.
enum Turn {
    NotAsked,
    Waiting(BoxFuture<'static, Option<OwnedSemaphorePermit>>),
    Come(OwnedSemaphorePermit),
}

pub(super) struct Watcher {
    group: Arc<Group>,
    pub(super) hub: Arc<WatchHub>,
    frames: mpsc::Sender<Frame>,
    node: String,
    pub(super) wake: Arc<Wake>,
    pub(super) spaces: BTreeMap<NamespaceId, (Space, Counted)>,
    /// Those that wait to be resynced, in order, and the one that is.
    waiting: VecDeque<NamespaceId>,
    resyncing: Option<NamespaceId>,
    turn: Turn,
    /// Every namespace that takes part was told of every entry up to here.
    pub(super) cursor: Revision,
    /// The last progress, and when; and the last frame of events.
    told: (Revision, Instant),
    pub(super) events_at: Option<Instant>,
    /// The revision it asked for, until then.
    needs: Option<(Revision, Instant)>,
    /// Whether this replica is alone, and whether that is good enough for the watcher, who says so with its first
    /// request.
    alone: tokio::sync::watch::Receiver<bool>,
    even_alone: Option<bool>,
    _stream: Counted,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let open: Vec<NamespaceId> = self.spaces.keys().copied().collect();
        open.into_iter().for_each(|namespace| self.close(namespace));
        self.hub.be_eager(&self.wake, false);
    }
}

impl Watcher {
    fn new(group: Arc<Group>, hub: Arc<WatchHub>, frames: mpsc::Sender<Frame>) -> Self {
        let now = Instant::now();
        let cursor = hub.revision();
        Self {
            wake: Arc::default(),
            _stream: Counted::one(&hub.measures.streams),
            alone: group.alone.subscribe(),
            even_alone: None,
            group,
            hub,
            frames,
            node: String::new(),
            spaces: BTreeMap::new(),
            waiting: VecDeque::new(),
            resyncing: None,
            turn: Turn::NotAsked,
            cursor,
            told: (0, now),
            events_at: None,
            needs: None,
        }
    }

    async fn serve<R>(mut self, requests: R)
    where
        R: Stream<Item = Result<wire::WatchRequest, Status>> + Send + Unpin + 'static,
    {
        match self.run(requests).await {
            Ended::Left => {}
            Ended::Stuck => {
                sometimes(Marker::WatcherDroppedStuck);
                self.hub.measures.stuck.increment(1);
                let (stuck, namespaces) = (self.hub.stuck, self.spaces.len());
                tracing::warn!(node = self.node, namespaces, "a watcher took nothing for {stuck:?}, and is dropped");
            }
            Ended::Failed(status) => {
                let _ = timeout(self.hub.stuck, self.frames.send(Err(status))).await;
            }
        }
    }

    async fn run<R>(&mut self, mut requests: R) -> Ended
    where
        R: Stream<Item = Result<wire::WatchRequest, Status>> + Send + Unpin + 'static,
    {
        loop {
            if self.even_alone == Some(false) && *self.alone.borrow() {
                sometimes(Marker::WatchEndedAlone);
                let message =
                    "leader: expected to hear a quorum or a leader, this replica has heard none for some time";
                return Ended::Failed(status_for(Code::Unavailable, "leader", message));
            }
            let asked = match self.work().await {
                // What it asks is heard between any two steps.
                Ok(true) => match requests.next().now_or_never() {
                    None => continue,
                    Some(asked) => asked,
                },
                Ok(false) => match self.rest(&mut requests).await {
                    None => continue,
                    Some(asked) => asked,
                },
                Err(ended) => return ended,
            };
            // It has left, or its connection has.
            let Some(Ok(request)) = asked else { return Ended::Left };
            if let Err(ended) = self.take(request).await {
                return ended;
            }
        }
    }

    /// One step: some of the tail, one bucket. True: there is more to do at once.
    async fn work(&mut self) -> Result<bool, Ended> {
        let more = self.pass().await?;
        let resyncs = self.resync().await?;
        self.progress().await?;
        Ok(more || resyncs)
    }

    /// Waits until there is something to do. Some: the watcher asks for something, or has left.
    async fn rest<R>(&mut self, requests: &mut R) -> Option<Option<Result<wire::WatchRequest, Status>>>
    where
        R: Stream<Item = Result<wire::WatchRequest, Status>> + Send + Unpin + 'static,
    {
        let rested = self.events_at.filter(|_| self.needs.is_none()).map(|at| at + REST);
        let woken = async {
            OptionFuture::from(rested.map(sleep_until)).await;
            self.wake.woken().await;
        };
        let turn = match &mut self.turn {
            Turn::Waiting(turn) => OptionFuture::from(Some(turn)),
            Turn::NotAsked | Turn::Come(_) => None.into(),
        };
        tokio::select! {
            asked = requests.next() => Some(asked),
            Some(Some(turn)) = turn => {
                self.turn = Turn::Come(turn);
                None
            }
            () = woken => None,
            () = sleep_until(self.told.1 + PROGRESS) => None,
            () = self.frames.closed() => Some(None),
        }
    }

    async fn take(&mut self, request: wire::WatchRequest) -> Result<(), Ended> {
        let even_alone = *self.even_alone.get_or_insert(request.even_alone);
        if !even_alone && *self.alone.borrow() {
            // Said by whoever looks next; nothing is begun.
            return Ok(());
        }
        if !request.node.is_empty() {
            self.node = request.node.chars().take(NAMESPACE_TEXT_BYTES_MAX).collect();
        }
        match request.kind {
            None => {}
            Some(Ask::Open(open)) => self.open(open).await?,
            Some(Ask::Close(close)) => self.close(close.namespace_id),
            Some(Ask::Need(need)) if need.revision > self.told.0 => self.need(need.revision),
            Some(Ask::Need(_)) => {}
        }
        Ok(())
    }

    fn need(&mut self, revision: Revision) {
        let before = self.needs.map_or(0, |(revision, _)| revision);
        self.needs = Some((revision.max(before), Instant::now() + EAGER));
        self.hub.be_eager(&self.wake, true);
    }

    async fn open(&mut self, open: wire::WatchOpen) -> Result<(), Ended> {
        let (namespace, mirrored) = (open.namespace_id, Mirrored::parse(&open)?);
        self.close(namespace);
        if self.spaces.len() >= WATCHED_NAMESPACES_MAX {
            return Err(BadInput::new("namespace_id", format!("at most {WATCHED_NAMESPACES_MAX} on a stream")).into());
        }
        // Before anything is looked at: no entry is missed.
        self.hub.follow(namespace, &self.wake);
        let counted = Counted::one(&self.hub.measures.namespaces);
        let waiting = Space::Waiting { mirrored, _waiting: Counted::one(&self.hub.measures.resyncs_waiting) };
        self.spaces.insert(namespace, (waiting, counted));
        let group = self.group.clone();
        let look = || group.applied.read(|state| (state.namespace(namespace).map(|n| n.epoch), state.revision()));
        let (mut epoch, mut revision) = look();
        if epoch.is_none() {
            // Registered a moment ago, elsewhere: a watcher that was told otherwise would give it up.
            let caught_up = group.catch_up(Instant::now() + SURE_WITHIN).await;
            caught_up.map_err(|unavailable| Ended::Failed(unavailable.into()))?;
            (epoch, revision) = look();
        }
        if revision < open.from_revision {
            sometimes(Marker::WatchRefusedBehind);
            let message = format!("behind: revision {} is not applied here, only {revision}", open.from_revision);
            return Err(Ended::Failed(status_for(Code::FailedPrecondition, "behind", message)));
        }
        match epoch {
            None => self.over(namespace, StartOver::Dropped).await,
            Some(_) if open.resync || open.from_revision == 0 => {
                self.waiting.push_back(namespace);
                Ok(())
            }
            Some(epoch) if epoch != open.epoch => self.over(namespace, StartOver::Cleared(epoch)).await,
            Some(_) => self.catch_up(namespace, open.from_revision).await,
        }
    }

    /// Nothing more is told of a namespace.
    pub(super) fn close(&mut self, namespace: NamespaceId) {
        if self.spaces.remove(&namespace).is_none() {
            return;
        }
        self.hub.leave(namespace, &self.wake);
        self.waiting.retain(|other| *other != namespace);
        if self.resyncing == Some(namespace) {
            self.resyncing = None;
        }
    }

    /// The next bucket of the resync under way, or the start of the next one. True: there is more to do at once.
    async fn resync(&mut self) -> Result<bool, Ended> {
        let Some(namespace) = self.resyncing else { return self.next_resync().await };
        let Some((Space::Resyncing(resync), _)) = self.spaces.get_mut(&namespace) else {
            self.resyncing = None;
            return Ok(true);
        };
        let step = self.group.applied.peek_at(|state, shows| resync.step(state, shows));
        // Eight of them would keep a small machine's workers for themselves.
        yield_now().await;
        match step {
            Step::Bucket(bucket) => {
                self.hub.measures.buckets_sent.increment(1);
                self.hub.measures.resync_bytes.increment(bucket.entries.len() as u64);
                self.send(namespace, Kind::Bucket(bucket)).await?;
                Ok(true)
            }
            Step::More => Ok(true),
            Step::EndAt(revision) if revision > self.cursor => {
                self.need(revision);
                Ok(false)
            }
            Step::EndAt(_) => {
                let revision = self.cursor;
                self.spaces.get_mut(&namespace).expect("it is resyncing").0 = Space::Tail { after: revision };
                self.resyncing = None;
                self.send(namespace, Kind::End(wire::ResyncEnd { revision })).await?;
                Ok(true)
            }
            Step::Over => Ok(false),
        }
    }

    async fn next_resync(&mut self) -> Result<bool, Ended> {
        if self.waiting.is_empty() {
            self.turn = Turn::NotAsked;
            return Ok(false);
        }
        let turns = self.hub.turns.clone();
        let turn = match std::mem::replace(&mut self.turn, Turn::NotAsked) {
            Turn::Come(turn) => turn,
            Turn::Waiting(turn) => {
                self.turn = Turn::Waiting(turn);
                return Ok(false);
            }
            Turn::NotAsked => match turns.clone().try_acquire_owned() {
                Ok(turn) => turn,
                Err(_) => {
                    sometimes(Marker::ResyncAwaitedTurn);
                    self.turn = Turn::Waiting(async { turns.acquire_owned().await.ok() }.boxed());
                    return Ok(false);
                }
            },
        };
        let Some(namespace) = self.waiting.pop_front() else { return Ok(false) };
        let Some((Space::Waiting { mirrored, .. }, _)) = self.spaces.get(&namespace) else { return Ok(true) };
        let began = |state: &State| Resync::begin(state, namespace, mirrored, &self.hub.measures, turn);
        let Some((begin, resync)) = self.group.applied.read(began) else {
            self.over(namespace, StartOver::Dropped).await?;
            return Ok(true);
        };
        self.spaces.get_mut(&namespace).expect("it waits").0 = Space::Resyncing(Box::new(resync));
        self.resyncing = Some(namespace);
        self.send(namespace, Kind::Begin(begin)).await?;
        Ok(true)
    }

    /// Says how far it is, if that is due.
    async fn progress(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let needed = self.needs.is_some();
        if self.needs.is_some_and(|(revision, until)| self.cursor >= revision || now >= until) {
            self.needs = None;
            self.hub.be_eager(&self.wake, false);
        }
        if !needed && now < self.told.1 + PROGRESS {
            return Ok(());
        }
        let revision = self.cursor;
        if self.told.0 < revision {
            self.send(0, Kind::Progress(wire::Progress { revision })).await?;
        }
        self.told = (revision, now);
        Ok(())
    }

    pub(super) async fn send(&mut self, namespace: NamespaceId, kind: Kind) -> Result<(), Ended> {
        let room = timeout(self.hub.stuck, self.frames.reserve()).await.map_err(|_| Ended::Stuck)?;
        room.map_err(|_| Ended::Left)?.send(Ok(wire::WatchResponse { namespace_id: namespace, kind: Some(kind) }));
        Ok(())
    }
}
