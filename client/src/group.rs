//! The metadata group as one peer: any replica answers, and another is asked when one fails.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use foreword_proto::bad_input::status_for;
use foreword_seams::{Endpoint, Entropy, Net};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Response, Status};

use crate::connection::{Connection, Replica};
use crate::retry::{Next, Tries, next};
use crate::rotation::{Members, Silence, Turn};

/// A client of the group. Clones share whose turn it is.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
    turn: Arc<Mutex<Turn>>,
}

struct Shared {
    net: Arc<dyn Net>,
    entropy: Arc<dyn Entropy>,
    /// Taken after a turn's lock, never before it.
    known: Mutex<Known>,
}

struct Known {
    members: Members,
    connections: BTreeMap<Endpoint, Connection>,
    silence: Silence,
}

/// The replica whose turn it was.
#[derive(Debug, Clone)]
pub struct Member {
    pub endpoint: Endpoint,
    pub connection: Connection,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<String> = self.endpoints().iter().map(ToString::to_string).collect();
        write!(f, "meta {}", endpoints.join(","))
    }
}

impl Group {
    /// A client of the group that these endpoints belong to; there is at least one. Users spread over the replicas.
    pub fn new(net: Arc<dyn Net>, entropy: Arc<dyn Entropy>, endpoints: &[Endpoint]) -> Self {
        assert!(!endpoints.is_empty(), "a group has at least one endpoint");
        let first = endpoints[entropy.below(endpoints.len() as u64) as usize].clone();
        let known =
            Known { members: Members::new(endpoints), connections: BTreeMap::new(), silence: Silence::default() };
        let shared = Shared { net, entropy, known: Mutex::new(known) };
        Self { shared: Arc::new(shared), turn: Arc::new(Mutex::new(Turn::new(first))) }
    }

    /// The same group for a user with turns of its own, who begins where this one is: who leaves a replica because of
    /// what it sees there takes nobody along.
    pub fn apart(&self) -> Self {
        let at = self.turn.lock().at.clone();
        Self { shared: self.shared.clone(), turn: Arc::new(Mutex::new(Turn::new(at))) }
    }

    /// Where the group can be reached, as far as is known.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.known.lock().members.all().cloned().collect()
    }

    /// A replica says who belongs to the group; who does not parse is left out.
    pub fn members_are<'a>(&self, endpoints: impl IntoIterator<Item = &'a String>) {
        let mut known = self.shared.known.lock();
        let Known { members, connections, .. } = &mut *known;
        if members.are(endpoints.into_iter().filter_map(|text| text.parse().ok())) {
            connections.retain(|endpoint, _| members.all().any(|member| member == endpoint));
        }
    }

    /// The replica whose turn it is.
    pub fn member(&self) -> Member {
        let endpoint = self.turn.lock().at.clone();
        let mut known = self.shared.known.lock();
        let connect = || Connection::new(self.shared.net.clone(), &endpoint);
        let connection = known.connections.entry(endpoint.clone()).or_insert_with(connect).clone();
        Member { endpoint, connection }
    }

    /// This replica failed: if it is still its turn, it is the next one's.
    pub fn failed(&self, member: &Member, status: &Status) {
        let mut turn = self.turn.lock();
        let mut known = self.shared.known.lock();
        if turn.failed(&member.endpoint, &known.members) && known.silence.goes_on(Instant::now()) {
            let (replica, asked) = (&member.endpoint, known.members.all().count());
            tracing::warn!(%replica, error = status.message(), "none of {asked} replicas answers; asking on");
        }
    }

    /// Somebody answered.
    pub fn answered(&self) {
        self.turn.lock().answered();
        if self.shared.known.lock().silence.ends() {
            tracing::info!("the group answers again");
        }
    }

    /// True: every replica was asked since the last answer, and none gave one.
    pub fn went_round(&self) -> bool {
        self.turn.lock().went_round(&self.shared.known.lock().members)
    }

    /// The source of jitter.
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.shared.entropy
    }

    /// Repeats a call that may be repeated, through one replica after another, until it is answered or the deadline
    /// comes.
    ///
    /// Errors: the group's own refusal at once; else the last replica's failure.
    pub async fn retry<T, F, C>(&self, deadline: Instant, mut call: C) -> Result<T, Status>
    where
        C: FnMut(Replica) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = Tries::until(deadline);
        loop {
            let status = match self.attempt(&tries, &mut call).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            match tries.pause(&status, Instant::now(), self.entropy()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(status),
            }
        }
    }

    /// Asks the replica whose turn it is once, for as long as the tries allow; when it fails, it is the next one's
    /// turn.
    pub async fn attempt<T, F, C>(&self, tries: &Tries, call: &mut C) -> Result<T, Status>
    where
        C: FnMut(Replica) -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let member = self.member();
        let until = tries.attempt_ends(Instant::now());
        let late = || {
            let message = format!("deadline: no answer of {} in time", member.endpoint);
            status_for(Code::DeadlineExceeded, "deadline", message)
        };
        let answered = match timeout_at(until, call(member.connection.clone().until(until).replica())).await {
            // The connection keeps the same time, and may be the first to see that it is over.
            Ok(Err(status)) if status.code() == Code::Cancelled => Err(late()),
            Ok(answered) => answered,
            Err(_) => Err(late()),
        };
        match &answered {
            Err(status) if next(status) == Next::Elsewhere => self.failed(&member, status),
            _ => self.answered(),
        }
        answered.map(Response::into_inner)
    }
}
