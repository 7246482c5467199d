//! The operator of a simulated cluster: changes who is in the group, sometimes by a slip of the pen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_client::retry::{Next, next};
use foreword_proto::wire::meta as wire;
use foreword_seams::{Endpoint, Net};
use parking_lot::Mutex;
use tonic::{Code, Response, Status};

use crate::world::context::{self, Kind, SimTime};

/// How long one attempt may take, and how long to wait before the next.
const ATTEMPT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts of a call that is not insisted on.
const ATTEMPTS_MAX: usize = 4;

/// A change of who is in the group, or leads it.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Add {
        id: u64,
        endpoint: Endpoint,
    },
    Remove {
        id: u64,
    },
    /// One member for another.
    Replace {
        old: u64,
        new: u64,
        endpoint: Endpoint,
    },
    /// A member leads.
    Lead {
        to: u64,
    },
}

impl Change {
    /// Who is a member by it.
    fn joins(&self) -> Option<u64> {
        match self {
            Self::Add { id, .. } | Self::Replace { new: id, .. } => Some(*id),
            Self::Remove { .. } | Self::Lead { .. } => None,
        }
    }
}

/// What an operator wants to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Will {
    /// Until it is done.
    Insist,
    /// Until it is answered, whatever the answer.
    Once,
    /// The same; it is a mistake, and should be refused.
    Slip,
}

/// A change, and how it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Order {
    change: Change,
    will: Will,
}

impl Order {
    pub(super) fn insist(change: Change) -> Self {
        Self { change, will: Will::Insist }
    }

    pub(super) fn once(change: Change) -> Self {
        Self { change, will: Will::Once }
    }

    pub(super) fn slip(change: Change) -> Self {
        Self { change, will: Will::Slip }
    }
}

/// What was asked of the group, and what it said.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// When it was first asked to make this id a member.
    pub asked: BTreeMap<u64, SimTime>,
    /// Changes that were made.
    pub made: u64,
    /// Slips that were refused, and those that were not.
    pub slips_refused: u64,
    pub slips_taken: u64,
}

/// Carries out one order after the other, asking one member after the other.
pub(super) async fn carry_out(net: Arc<dyn Net>, members: Vec<Endpoint>, orders: Vec<Order>, book: Arc<Mutex<Orders>>) {
    for Order { change, will } in orders {
        if let Some(id) = change.joins() {
            book.lock().asked.entry(id).or_insert_with(context::now);
        }
        for (attempt, member) in members.iter().cycle().enumerate() {
            let answer = tokio::time::timeout(ATTEMPT, ask(net.clone(), member, &change)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            context::event(Kind::Client, || match &answer {
                Ok(who) => format!("operator: {change:?} made: {who:?}"),
                Err(status) => format!("operator: {change:?} at {member}: {}", status.message()),
            });
            let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
            let answered = answer.as_ref().is_ok() || answer.as_ref().is_err_and(|status| next(status) == Next::Final);
            let over = match will {
                // Not found: made by an attempt whose answer did not come.
                Will::Insist => matches!(code, Code::Ok | Code::NotFound),
                Will::Once | Will::Slip => answered || attempt + 1 == ATTEMPTS_MAX,
            };
            if over {
                book.lock().note(will, code, answered);
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Orders {
    fn note(&mut self, will: Will, code: Code, answered: bool) {
        match (will, code) {
            (Will::Slip, Code::Ok) => self.slips_taken += 1,
            (Will::Slip, _) => self.slips_refused += u64::from(answered),
            (_, Code::Ok) => self.made += 1,
            _ => {}
        }
    }
}

/// The voters after the change; who leads, where that was changed.
async fn ask(net: Arc<dyn Net>, member: &Endpoint, change: &Change) -> Result<Vec<u64>, Status> {
    let mut admin = foreword_client::admin(net, member);
    let answer = match change.clone() {
        Change::Add { id, endpoint } => {
            let (endpoint, client_endpoint) = (endpoint.to_string(), String::new());
            admin.add_replica(wire::AddReplicaRequest { replica_id: id, endpoint, client_endpoint }).await
        }
        Change::Remove { id } => admin.remove_replica(wire::RemoveReplicaRequest { replica_id: id }).await,
        Change::Replace { old, new, endpoint } => {
            let request = wire::ReplaceReplicaRequest {
                old_replica_id: old,
                new_replica_id: new,
                endpoint: endpoint.to_string(),
                client_endpoint: String::new(),
            };
            admin.replace_replica(request).await
        }
        Change::Lead { to } => {
            let moved = admin.move_leader(wire::MoveLeaderRequest { to }).await?;
            return Ok(vec![moved.into_inner().leader]);
        }
    };
    answer.map(Response::into_inner).map(|answer| answer.voters)
}
