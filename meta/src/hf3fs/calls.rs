//! The calls of a replica, whoever decides them: here where this replica may, else through the leader.

use std::sync::Arc;
use std::time::Duration;

use foreword_seams::{Marker, Telemetry, sometimes};
use tokio::time::Instant;

use super::answer::exists_body;
use super::body::{Body, Request, parse};
use super::forward::Forwards;
use super::measures::Measures;
use super::outcome::{answer_of, other_size};
use super::{Answer, Call, Leader, Operation};
use crate::network::Peer;
use crate::replica::group::{Group, Leader as Leading};
use crate::replica::unavailable::Unavailable;
use crate::state::command::Command;
use crate::state::hf3fs::{FileName, Hf3fsCommand, Presence};

/// How long a call is tried before the client is told to come back: it tries three times more, and an election takes
/// less.
const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// Everything a replica answers of page files.
pub struct Calls {
    group: Arc<Group>,
    leader: Arc<Leader>,
    forwards: Forwards,
    measures: Measures,
}

impl Calls {
    /// The calls of one replica.
    pub fn new(group: Arc<Group>, leader: Arc<Leader>, telemetry: Telemetry) -> Self {
        let forwards = Forwards::new(group.clone());
        Self { group, leader, forwards, measures: Measures::new(telemetry) }
    }

    /// Answers a call; with 503 when no leader could be found in time.
    pub async fn answer(&self, call: Call) -> Answer {
        let started = Instant::now();
        let deadline = started + CALL_DEADLINE;
        let answered = match call.operation {
            Operation::Exists => self.exists(&call, deadline).await,
            Operation::Initialize => self.initialize(&call, deadline).await,
            _ => self.decided(&call, deadline).await,
        };
        let answer = answered.unwrap_or_else(|error| Answer::detail(503, &error.to_string()));
        self.measures.answered(call.operation, answer.status, started.elapsed());
        answer
    }

    async fn exists(&self, call: &Call, deadline: Instant) -> Result<Answer, Unavailable> {
        let (name, keys) = match parse(Operation::Exists, &call.body) {
            Ok(Body { pool, request: Ok(Request::Keys(keys)) }) => (call.file(pool), keys),
            Ok(Body { request: Err(error), .. }) | Err(error) => return Ok(Answer::unprocessable(&error)),
            Ok(body) => return Err(Unavailable::Stopped(format!("exists was read as {:?}", body.request))),
        };
        let look = || {
            self.group.applied.read(|state| {
                let file = state.hf3fs().file(state.hf3fs().file_id(&name)?)?;
                let presences = file.presences(&keys);
                let found = presences.iter().map(|presence| matches!(presence, Presence::Confirmed(_)));
                Some(Answer::ok(exists_body(found), state.revision()))
            })
        };
        if let Some(answer) = look() {
            return Ok(answer);
        }
        // It may have been made a moment ago, elsewhere.
        let revision = self.group.catch_up(deadline).await?;
        Ok(look().unwrap_or_else(|| Answer::no_file(&name.deployment, name.rank, &name.pool, revision)))
    }

    async fn initialize(&self, call: &Call, deadline: Instant) -> Result<Answer, Unavailable> {
        let (name, pages) = match parse(Operation::Initialize, &call.body) {
            Ok(Body { pool, request: Ok(Request::Initialize { pages }) }) => (call.file(pool), pages),
            Ok(Body { request: Err(error), .. }) | Err(error) => return Ok(Answer::unprocessable(&error)),
            Ok(body) => return Err(Unavailable::Stopped(format!("initialize was read as {:?}", body.request))),
        };
        // A file never changes its size. It may have been dropped a moment ago, elsewhere. While nobody leads, an
        // engine that starts is answered from what is known here, as its reads are.
        let _nobody_leads = self.group.catch_up(deadline).await.is_err();
        let known = self.group.applied.read(|state| {
            let file = state.hf3fs().file(state.hf3fs().file_id(&name)?)?;
            Some((file.pages(), state.revision()))
        });
        if let Some((has, revision)) = known {
            return Ok(if has == pages { Answer::done(revision) } else { other_size(&name, has, pages, revision) });
        }
        let command = Command::Hf3fs(Hf3fsCommand::Initialize { name: name.clone(), pages });
        let (revision, outcome) = self.group.propose_one(command, deadline).await?;
        self.see(revision, deadline).await;
        answer_of(&name, pages, revision, outcome)
    }

    /// Asks whoever leads, again and again as leaders change.
    async fn decided(&self, call: &Call, deadline: Instant) -> Result<Answer, Unavailable> {
        loop {
            let answered = match self.group.leader() {
                Leading::Here => self.leader.answer(call, deadline).await,
                Leading::There(peer) => self.forward(&peer, call, deadline).await,
                Leading::Unknown => Err(Unavailable::NoLeader),
            };
            if !matches!(answered, Err(Unavailable::NoLeader | Unavailable::Unknown)) {
                return answered;
            }
            self.group.leader_may_change(deadline).await?;
            sometimes(Marker::PageFileCallRetried);
        }
    }

    async fn forward(&self, leader: &Peer, call: &Call, deadline: Instant) -> Result<Answer, Unavailable> {
        let answer = self.forwards.ask(leader, call, deadline).await?;
        self.see(answer.revision, deadline).await;
        Ok(answer)
    }

    /// Waits until this replica has seen what a call did, so that its own next answer is not older. The call is done
    /// either way.
    async fn see(&self, revision: foreword_proto::Revision, deadline: Instant) {
        let _ = self.group.wait_applied(revision, deadline).await;
    }
}

impl Call {
    fn file(&self, pool: String) -> FileName {
        FileName { deployment: self.deployment.clone(), rank: self.rank, pool }
    }
}
