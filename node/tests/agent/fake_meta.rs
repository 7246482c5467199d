//! The metadata group as one small in-process server: maps, one lock, and faults on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use foreword_proto::bad_input::status_for;
use foreword_proto::buckets::{bucket_of, hash_of_page};
use foreword_proto::limits::{META_MESSAGE_BYTES_MAX, WIRE_VERSION};
use foreword_proto::records::{self, NamespaceEvent, PageRecord, SuspectRecord};
use foreword_proto::wire::meta as wire;
use foreword_proto::wire::namespace_from_wire;
use foreword_proto::{
    AgentId, ClusterId, EntryKey, Fingerprint, Location, PublishOutcome, RetireReason, Revision, SessionId, SlotRef,
};
use foreword_seams::{Endpoint, Net, TokioNet, rpc};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, Status, Streaming};
use wire::meta_server::{Meta, MetaServer};
use wire::watch_request::Kind as Ask;
use wire::watch_response::Kind;

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const CHUNK_BYTES: u32 = 4096;

/// What the fake can be told to do.
#[derive(Debug, Clone)]
pub struct Settings {
    pub lease_ms: u32,
    pub slab_bytes: u64,
    /// Slots that can be granted before the group is full.
    pub slots: u32,
    pub wire_version: u32,
    /// Watch streams send nothing while this is set.
    pub hold_watches: bool,
    /// Publishes and grants are not answered while this is set.
    pub unavailable: bool,
    /// This many session commands are applied, and their answer is lost.
    pub lose_answers: u32,
    /// Every node's name is another agent's.
    pub name_taken: bool,
    /// Who the group is, by every renewal's answer.
    pub members: Vec<String>,
    /// No call is answered any more.
    pub gone: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 10_000,
            slab_bytes: 16 << 20,
            slots: 1 << 20,
            wire_version: WIRE_VERSION,
            hold_watches: false,
            unavailable: false,
            lose_answers: 0,
            name_taken: false,
            members: Vec::new(),
            gone: false,
        }
    }
}

struct Space {
    epoch: u32,
    deleted_at: Revision,
    shards: usize,
    slot_bytes: u32,
    entries: BTreeMap<EntryKey, PageRecord>,
    /// Events since the last clear.
    log: Vec<(Revision, Vec<NamespaceEvent>)>,
    /// Events after this revision are in the log.
    kept_after: Revision,
}

#[derive(Clone)]
enum Outcome {
    Grant(wire::GrantResponse),
    Publish(wire::PublishResponse),
    Abort(wire::AbortResponse),
}

#[derive(Default)]
struct Session {
    node: String,
    outcomes: BTreeMap<u64, Outcome>,
    granted: BTreeSet<SlotRef>,
}

/// Everything the fake knows; tests look into it.
#[derive(Default)]
pub struct State {
    revision: Revision,
    ids: BTreeMap<Fingerprint, u32>,
    /// None is given out twice.
    last_id: u32,
    spaces: BTreeMap<u32, Space>,
    sessions: BTreeMap<SessionId, Session>,
    sessions_ever: u64,
    next_slot: BTreeMap<u32, u32>,
    slots_given: u32,
    free: VecDeque<(u32, SlotRef)>,
    pub heat: Vec<EntryKey>,
    /// Reports without any access.
    pub cold_reports: u64,
    pub suspects: Vec<SuspectRecord>,
    pub aborted_unknown: Vec<SlotRef>,
    pub publishes: u64,
    pub snapshots_sent: u64,
    /// Renewals that named members.
    pub members_told: u64,
    /// Who asked for sessions, one for each time.
    pub asked: Vec<(AgentId, u64)>,
}

#[derive(Clone)]
pub struct FakeMeta {
    pub state: Arc<Mutex<State>>,
    pub settings: Arc<Mutex<Settings>>,
    changed: Arc<watch::Sender<u64>>,
}

impl FakeMeta {
    /// Serves on a port of its own.
    pub async fn start(settings: Settings) -> (Self, Endpoint) {
        let meta = Self {
            state: Arc::default(),
            settings: Arc::new(Mutex::new(settings)),
            changed: Arc::new(watch::Sender::new(0)),
        };
        meta.serve().await
    }

    /// Another member of the same group, with faults of its own.
    pub async fn another(&self, settings: Settings) -> (Self, Endpoint) {
        Self { settings: Arc::new(Mutex::new(settings)), ..self.clone() }.serve().await
    }

    async fn serve(self) -> (Self, Endpoint) {
        let (incoming, endpoint) = TokioNet.listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let service = MetaServer::new(self.clone()).max_decoding_message_size(META_MESSAGE_BYTES_MAX);
        let settings = self.settings.clone();
        let unless_gone = move |request| match settings.lock().gone {
            true => Err(Status::unavailable("gone")),
            false => Ok(request),
        };
        let service = InterceptedService::new(service, unless_gone);
        tokio::spawn(rpc::server().serve_with_incoming(service, incoming));
        (self, endpoint)
    }

    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Expires every session.
    pub fn expire_sessions(&self) {
        self.state.lock().sessions.clear();
    }

    pub fn location(&self, namespace: u32, key: &EntryKey) -> Option<Location> {
        self.state.lock().spaces[&namespace].entries.get(key).map(|page| page.location.clone())
    }

    pub fn pages(&self, namespace: u32) -> usize {
        self.state.lock().spaces[&namespace].entries.len()
    }

    pub fn sessions(&self) -> usize {
        self.state.lock().sessions.len()
    }

    pub fn revision(&self) -> Revision {
        self.state.lock().revision
    }

    /// Retires a page; its slot can be granted again at once, in its next generation.
    pub fn retire(&self, namespace: u32, key: &EntryKey, reason: RetireReason) {
        self.state.lock().retire(namespace, key, reason);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Forgets a namespace, as the group does when it is dropped.
    pub fn drop_namespace(&self, namespace: u32) {
        let mut state = self.state.lock();
        state.revision += 1;
        state.spaces.remove(&namespace);
        state.ids.retain(|_, id| *id != namespace);
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// True while an agent has a session.
    pub fn has_sessions(&self) -> bool {
        !self.state.lock().sessions.is_empty()
    }

    /// Gives the new epoch, and the revision.
    pub fn clear_namespace(&self, namespace: u32) -> (u32, u64) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let space = state.spaces.get_mut(&namespace).unwrap();
        space.epoch += 1;
        let epoch = space.epoch;
        space.entries.clear();
        space.log.clear();
        space.kept_after = revision;
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        (epoch, revision)
    }

    /// Keeps none of the events so far: who has not seen them is resynced.
    pub fn forget_events(&self, namespace: u32) {
        let mut state = self.state.lock();
        let revision = state.revision;
        let space = state.spaces.get_mut(&namespace).unwrap();
        space.log.clear();
        space.kept_after = revision;
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    async fn command<T>(
        &self,
        session: &[u8],
        sequence: u64,
        apply: impl FnOnce(&mut State) -> Outcome,
        read: impl FnOnce(Outcome) -> T,
    ) -> Result<Response<T>, Status> {
        if self.settings.lock().unavailable {
            return Err(Status::unavailable("no leader"));
        }
        let session = SessionId::from_wire(session)?;
        let outcome = {
            let mut state = self.state.lock();
            let known = state.sessions.get(&session).map(|session| session.outcomes.get(&sequence).cloned());
            match known {
                None => return Err(status_for(Code::NotFound, "session", "session: not an open session")),
                Some(Some(outcome)) => outcome,
                Some(None) => {
                    let outcome = apply(&mut state);
                    if let Some(session) = state.sessions.get_mut(&session) {
                        session.outcomes.insert(sequence, outcome.clone());
                    }
                    outcome
                }
            }
        };
        self.changed.send_modify(|count| *count += 1);
        let mut settings = self.settings.lock();
        if settings.lose_answers > 0 {
            settings.lose_answers -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(read(outcome)))
    }
}

impl State {
    fn session(&mut self, id: &[u8]) -> &mut Session {
        self.sessions.get_mut(&SessionId::from_wire(id).unwrap()).unwrap()
    }

    fn retire(&mut self, namespace: u32, key: &EntryKey, reason: RetireReason) {
        let space = self.spaces.get_mut(&namespace).unwrap();
        let Some(page) = space.entries.remove(key) else { return };
        self.revision += 1;
        let slot = page.location.slot;
        if reason == RetireReason::Deleted {
            space.deleted_at = self.revision;
        }
        space.log.push((self.revision, vec![NamespaceEvent::Retired { key: *key, slot, reason }]));
        let next = SlotRef { generation: slot.generation + 1, ..slot };
        self.free.push_back((space.slot_bytes, next));
    }

    fn grant(&mut self, request: &wire::GrantRequest, settings: &Settings) -> Outcome {
        let mut slots = Vec::new();
        let slots_per_slab = (settings.slab_bytes / u64::from(request.slot_bytes)) as u32;
        while slots.len() < request.slots as usize {
            let freed = self.free.iter().position(|(bytes, _)| *bytes == request.slot_bytes);
            if let Some(at) = freed {
                slots.push(self.free.remove(at).unwrap().1);
            } else if self.slots_given < settings.slots {
                self.slots_given += 1;
                let next = self.next_slot.entry(request.slot_bytes).or_insert(0);
                // One range of slabs for each slot size.
                let slab = request.slot_bytes / CHUNK_BYTES * 1000 + *next / slots_per_slab;
                slots.push(SlotRef { slab, slot: *next % slots_per_slab, generation: 1 });
                *next += 1;
            } else {
                break;
            }
        }
        self.revision += 1;
        self.session(&request.session).granted.extend(slots.iter().copied());
        let slots = records::encode(&slots, 0);
        Outcome::Grant(wire::GrantResponse { slots, revision: self.revision })
    }

    fn publish(&mut self, request: &wire::PublishRequest) -> Outcome {
        let space = self.spaces.get_mut(&request.namespace_id).unwrap();
        let shards = space.shards;
        let pages = records::decode::<PageRecord>("pages", &request.pages, shards, 4096).unwrap();
        let session = SessionId::from_wire(&request.session).unwrap();
        let granted = &mut self.sessions.get_mut(&session).unwrap().granted;
        self.publishes += 1;
        self.revision += 1;
        let (mut outcomes, mut existing, mut events) = (BytesMut::new(), Vec::new(), Vec::new());
        for page in pages {
            let outcome = if request.epoch != space.epoch {
                PublishOutcome::Cleared
            } else if let Some(present) = space.entries.get(&page.key) {
                existing.push(present.location.clone());
                PublishOutcome::Existing
            } else if !granted.remove(&page.location.slot) {
                PublishOutcome::NotGranted
            } else {
                let PageRecord { key, parent, location } = page.clone();
                events.push(NamespaceEvent::Published { key, parent, location });
                space.entries.insert(page.key, page);
                PublishOutcome::Published
            };
            outcomes.extend_from_slice(&[outcome as u8]);
        }
        space.log.push((self.revision, events));
        let existing = records::encode(&existing, shards);
        Outcome::Publish(wire::PublishResponse { revision: self.revision, outcomes: outcomes.freeze(), existing })
    }
}

type WatchStream = ReceiverStream<Result<wire::WatchResponse, Status>>;

#[tonic::async_trait]
impl Meta for FakeMeta {
    async fn hello(&self, _: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        let settings = self.settings.lock().clone();
        Ok(Response::new(wire::HelloResponse {
            wire_version: settings.wire_version,
            cluster_id: Bytes::copy_from_slice(&CLUSTER.0),
            replica_id: 1,
            leader_id: 1,
            chunk_bytes: CHUNK_BYTES,
            slab_bytes: settings.slab_bytes,
            lease_ms: settings.lease_ms,
            ..Default::default()
        }))
    }

    async fn register_namespace(
        &self,
        request: Request<wire::RegisterNamespaceRequest>,
    ) -> Result<Response<wire::RegisterNamespaceResponse>, Status> {
        let namespace = namespace_from_wire(request.into_inner().namespace)?;
        let mut state = self.state.lock();
        let next = state.last_id + 1;
        let id = *state.ids.entry(namespace.fingerprint()).or_insert(next);
        state.last_id = state.last_id.max(id);
        let slot_bytes = namespace.geometry().slot_bytes(CHUNK_BYTES) as u32;
        state.spaces.entry(id).or_insert_with(|| Space {
            deleted_at: 0,
            epoch: 1,
            shards: namespace.shards(),
            slot_bytes,
            entries: BTreeMap::new(),
            log: Vec::new(),
            kept_after: 0,
        });
        let epoch = state.spaces[&id].epoch;
        Ok(Response::new(wire::RegisterNamespaceResponse {
            namespace_id: id,
            epoch,
            revision: state.revision,
            slot_bytes,
        }))
    }

    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionResponse>, Status> {
        let wire::OpenSessionRequest { node, incarnation, agent_id, .. } = request.into_inner();
        let mut state = self.state.lock();
        state.asked.push((AgentId::from_wire(&agent_id)?, incarnation));
        if self.settings.lock().name_taken {
            return Err(status_for(Code::FailedPrecondition, "node", "node: it is the agent's at elsewhere:1"));
        }
        state.sessions.retain(|_, session| session.node != node);
        state.sessions_ever += 1;
        let session = SessionId(u128::from(state.sessions_ever).to_le_bytes());
        state.sessions.insert(session, Session { node, ..Session::default() });
        let lease_ms = self.settings.lock().lease_ms;
        Ok(Response::new(wire::OpenSessionResponse {
            session: session.to_wire(),
            lease_ms,
            window: 64,
            revision: state.revision,
        }))
    }

    async fn renew_session(
        &self,
        request: Request<wire::RenewSessionRequest>,
    ) -> Result<Response<wire::RenewSessionResponse>, Status> {
        let settings = self.settings.lock().clone();
        if settings.unavailable {
            return Err(Status::unavailable("no leader"));
        }
        let mut state = self.state.lock();
        if !state.sessions.contains_key(&SessionId::from_wire(&request.into_inner().session)?) {
            return Err(status_for(Code::NotFound, "session", "session: not an open session"));
        }
        state.members_told += u64::from(!settings.members.is_empty());
        Ok(Response::new(wire::RenewSessionResponse {
            lease_ms: settings.lease_ms,
            revision: state.revision,
            endpoints: settings.members,
        }))
    }

    async fn close_session(
        &self,
        request: Request<wire::CloseSessionRequest>,
    ) -> Result<Response<wire::CloseSessionResponse>, Status> {
        let session = SessionId::from_wire(&request.into_inner().session)?;
        self.state.lock().sessions.remove(&session);
        Ok(Response::new(wire::CloseSessionResponse {}))
    }

    async fn grant(&self, request: Request<wire::GrantRequest>) -> Result<Response<wire::GrantResponse>, Status> {
        let request = request.into_inner();
        let settings = self.settings.lock().clone();
        let apply = |state: &mut State| state.grant(&request, &settings);
        self.command(&request.session, request.sequence, apply, |outcome| match outcome {
            Outcome::Grant(answer) => answer,
            _ => panic!("sequence {} was used for another command", request.sequence),
        })
        .await
    }

    async fn publish(&self, request: Request<wire::PublishRequest>) -> Result<Response<wire::PublishResponse>, Status> {
        let request = request.into_inner();
        let apply = |state: &mut State| state.publish(&request);
        self.command(&request.session, request.sequence, apply, |outcome| match outcome {
            Outcome::Publish(answer) => answer,
            _ => panic!("sequence {} was used for another command", request.sequence),
        })
        .await
    }

    async fn abort(&self, request: Request<wire::AbortRequest>) -> Result<Response<wire::AbortResponse>, Status> {
        let request = request.into_inner();
        let unknown = records::decode::<SlotRef>("unknown", &request.unknown, 0, 1 << 20).unwrap();
        let apply = |state: &mut State| {
            state.aborted_unknown.extend(unknown);
            Outcome::Abort(wire::AbortResponse { revision: state.revision })
        };
        self.command(&request.session, request.sequence, apply, |outcome| match outcome {
            Outcome::Abort(answer) => answer,
            _ => panic!("sequence {} was used for another command", request.sequence),
        })
        .await
    }

    async fn suspect(&self, request: Request<wire::SuspectRequest>) -> Result<Response<wire::SuspectResponse>, Status> {
        let request = request.into_inner();
        let suspects = records::decode::<SuspectRecord>("suspects", &request.suspects, 0, 256).unwrap();
        let outcomes = vec![2u8; suspects.len()];
        for suspect in &suspects {
            let present = self.location(request.namespace_id, &suspect.key);
            if present.is_some_and(|location| location.slot == suspect.slot) {
                self.retire(request.namespace_id, &suspect.key, RetireReason::Suspect);
            }
        }
        let mut state = self.state.lock();
        state.suspects.extend(suspects);
        Ok(Response::new(wire::SuspectResponse { outcomes: outcomes.into(), revision: state.revision }))
    }

    async fn report_heat(
        &self,
        request: Request<wire::ReportHeatRequest>,
    ) -> Result<Response<wire::ReportHeatResponse>, Status> {
        let keys = records::decode::<EntryKey>("keys", &request.into_inner().keys, 0, 1 << 20).unwrap();
        let mut state = self.state.lock();
        state.cold_reports += u64::from(keys.is_empty());
        state.heat.extend(keys);
        Ok(Response::new(wire::ReportHeatResponse {}))
    }

    async fn lookup(&self, _: Request<wire::LookupRequest>) -> Result<Response<wire::LookupResponse>, Status> {
        Ok(Response::new(wire::LookupResponse { revision: self.revision(), ..Default::default() }))
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<Streaming<wire::WatchRequest>>) -> Result<Response<WatchStream>, Status> {
        let (sender, messages) = mpsc::channel(16);
        tokio::spawn(watch_all(self.clone(), request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn clear(&self, request: Request<wire::ClearRequest>) -> Result<Response<wire::ClearResponse>, Status> {
        let (epoch, revision) = self.clear_namespace(request.into_inner().namespace_id);
        Ok(Response::new(wire::ClearResponse { epoch, revision }))
    }

    async fn delete(&self, _: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteResponse>, Status> {
        Err(Status::unimplemented("delete"))
    }
}

type Frames = mpsc::Sender<Result<wire::WatchResponse, Status>>;

/// Each namespace of a stream on a task of its own, as if it had the stream for itself.
async fn watch_all(meta: FakeMeta, mut requests: Streaming<wire::WatchRequest>, sender: Frames) {
    let mut open = JoinSet::new();
    while let Ok(Some(request)) = requests.message().await {
        match request.kind {
            Some(Ask::Open(request)) => _ = open.spawn(watch_one(meta.clone(), request, sender.clone())),
            // Every change is told at once.
            Some(Ask::Need(_)) | None => {}
            Some(Ask::Close(_)) => panic!("agents close no namespace"),
        }
    }
}

fn wanted_buckets(request: &wire::WatchOpen, space: &Space) -> Vec<(u32, Bytes)> {
    let bits = request.bucket_bits;
    let theirs: Vec<&[u8]> = request.digests.chunks(8).collect();
    let of = |bucket: u32| -> Vec<PageRecord> {
        space.entries.values().filter(|page| bucket_of(&page.key, bits) == bucket).cloned().collect()
    };
    let digest = |pages: &[PageRecord]| {
        pages.iter().fold(0u64, |sum, PageRecord { key, location, .. }| {
            let checksums = location.checksums.as_slice();
            sum.wrapping_add(hash_of_page(key, location.slot, checksums[0], &checksums[1..]))
        })
    };
    let differs = |bucket: u32, pages: &[PageRecord]| {
        request.epoch != space.epoch || theirs.get(bucket as usize) != Some(&&digest(pages).to_le_bytes()[..])
    };
    let all = (0..1 << bits).map(|bucket| (bucket, of(bucket)));
    let wanted = all.filter(|(bucket, pages)| differs(*bucket, pages));
    wanted.map(|(bucket, pages)| (bucket, records::encode(&pages, space.shards))).collect()
}

async fn watch_one(meta: FakeMeta, request: wire::WatchOpen, sender: Frames) -> Option<()> {
    let mut changes = meta.changed.subscribe();
    let namespace_id = request.namespace_id;
    let say = |kind| Ok(wire::WatchResponse { namespace_id, kind: Some(kind) });
    let gone = || say(Kind::Dropped(wire::Dropped {}));
    let start = {
        let state = meta.state.lock();
        let (revision, resumes) = (state.revision, !request.resync);
        state.spaces.get(&namespace_id).map(|space| {
            let resumes = resumes && request.from_revision >= space.kept_after.max(1) && request.epoch == space.epoch;
            let buckets = if request.resync { wanted_buckets(&request, space) } else { Vec::new() };
            (revision, (space.epoch, space.deleted_at), resumes, buckets)
        })
    };
    let Some((revision, (epoch, deleted_at), resumes, buckets)) = start else { return sender.send(gone()).await.ok() };
    let mut at = request.from_revision;
    if request.resync {
        meta.state.lock().snapshots_sent += 1;
        sender.send(say(Kind::Begin(wire::ResyncBegin { revision, epoch, entries: 0, deleted_at }))).await.ok()?;
        for (bucket, entries) in buckets {
            let bits = request.bucket_bits;
            sender.send(say(Kind::Bucket(wire::ResyncBucket { entries, bits, bucket }))).await.ok()?;
        }
        sender.send(say(Kind::End(wire::ResyncEnd { revision }))).await.ok()?;
        at = revision;
    } else if !resumes {
        return sender.send(say(Kind::Resync(wire::Resync { reason: "cleared, or not kept".into() }))).await.ok();
    }
    loop {
        changes.borrow_and_update();
        let message = {
            let state = meta.state.lock();
            let space = state.spaces.get(&namespace_id);
            if meta.settings.lock().hold_watches {
                None
            } else if space.is_none() {
                Some(Kind::Dropped(wire::Dropped {}))
            } else if space.is_some_and(|space| space.epoch != epoch || space.kept_after > at) {
                Some(Kind::Resync(wire::Resync { reason: "cleared, or not kept".into() }))
            } else if let Some(space) = space.filter(|_| state.revision > at) {
                let entries = space.log.iter().filter(|(revision, _)| *revision > at).map(|(revision, events)| {
                    let mut bytes = BytesMut::new();
                    events.iter().for_each(|event| event.put(&mut bytes));
                    wire::EntryEvents { revision: *revision, events: bytes.freeze() }
                });
                let events = wire::Events { revision: state.revision, entries: entries.collect() };
                at = state.revision;
                Some(Kind::Events(events))
            } else {
                None
            }
        };
        if let Some(kind) = message {
            let over = !matches!(kind, Kind::Events(_));
            sender.send(say(kind)).await.ok()?;
            if over {
                return Some(());
            }
        }
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            () = sender.closed() => return None,
        }
    }
}
