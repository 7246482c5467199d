//! The calls that the leader decides: look, decide, propose, and make sure that it still leads.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::limits::HF3FS_KEYS_MAX;
use foreword_proto::{EntryKey, Revision};
use foreword_seams::{Marker, sometimes};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::answer::{indices_body, reserved_body};
use super::body::{Request, parse};
use super::office::{Office, Pick, ReserveDecision, ReserveTime};
use super::outcome::answer_of;
use super::{Answer, Call, Operation};
use crate::replica::checked::Author;
use crate::replica::clock::LeaderClock;
use crate::replica::duties::Duty;
use crate::replica::group::{Group, encode_commands};
use crate::replica::proposer::ProposeError;
use crate::replica::unavailable::Unavailable;
use crate::state::State;
use crate::state::command::{Command, Outcome};
use crate::state::hf3fs::{
    File, FileId, FileName, Hf3fs, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex, Reserved,
};

/// Reservations that one command ends; the next round ends more.
const EXPIRE_PAGES_MAX: u32 = 4096;

/// A replica as the one that decides. Without office it refuses.
pub struct Leader {
    group: Arc<Group>,
    clock: Arc<LeaderClock>,
    /// A reserved page of which nothing was heard for so long is taken back.
    reservation: Duration,
    /// Locked before the applied state, never after it, and never across an await.
    office: Mutex<Option<Held>>,
}

struct Held {
    office: Office,
    since: Instant,
}

impl Held {
    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }
}

/// Where and when a decision is taken.
struct Moment<'a> {
    office: &'a mut Office,
    id: FileId,
    file: &'a File,
    now_ms: u64,
}

/// What was decided, and as of when.
struct Decided<T> {
    /// None: there is no such file.
    what: Option<T>,
    term: u64,
    revision: Revision,
}

/// What takes effect by a command alone.
enum Change {
    Confirm { written: Vec<(EntryKey, PageIndex)>, released: Vec<PageIndex> },
    Delete(Vec<EntryKey>),
    Clear,
}

/// A command on a page file and what it takes away meanwhile.
struct Proposal {
    command: Hf3fsCommand,
    pick: Option<Pick>,
}

impl Leader {
    /// A replica that is not in office.
    pub fn new(group: Arc<Group>, clock: Arc<LeaderClock>, reservation: Duration) -> Self {
        Self { group, clock, reservation, office: Mutex::new(None) }
    }

    /// How long a reservation is kept of which nothing is heard.
    pub fn reservation(&self) -> Duration {
        self.reservation
    }

    /// Pages that readers were told of; None without office.
    pub fn protected_pages(&self) -> Option<u64> {
        self.office.lock().as_ref().map(|held| held.office.protected_pages())
    }

    /// The cluster's, so that no leader gives away what another promised.
    fn protection_ms(&self) -> u64 {
        self.group.applied.read(|state| state.settings().hf3fs_protection_ms)
    }

    /// Answers a call of any operation but initialize and exists.
    ///
    /// Errors: this replica does not lead, or could not make sure of it by `deadline`. What was proposed may still be
    /// applied; the same call again, here or at the next leader, is the right thing to do.
    pub async fn answer(self: &Arc<Self>, call: &Call, deadline: Instant) -> Result<Answer, Unavailable> {
        let body = match parse(call.operation, &call.body) {
            Ok(body) => body,
            Err(error) => return Ok(Answer::unprocessable(&error)),
        };
        let name = FileName { deployment: call.deployment.clone(), rank: call.rank, pool: body.pool };
        match (call.operation, body.request) {
            (_, Err(error)) => {
                let decided = self.decide(&name, |_| ())?;
                self.settle(&name, decided, deadline, |(), _| Answer::unprocessable(&error)).await
            }
            (Operation::Get, Ok(Request::Keys(keys))) => {
                // Protected first, leadership confirmed then: a leader of a later term took office after that, and
                // evicts nothing for a whole protection.
                let decided = self.decide(&name, |at| at.office.get(at.id, at.file, &keys, at.now_ms))?;
                self.settle(&name, decided, deadline, |pages, revision| Answer::ok(indices_body(&pages), revision))
                    .await
            }
            (Operation::Reserve, Ok(Request::Keys(keys))) => self.reserve(&name, keys, deadline).await,
            (Operation::Delete, Ok(Request::Keys(keys))) => self.change(&name, Change::Delete(keys), deadline).await,
            (Operation::Confirm, Ok(Request::Confirm { written, released })) => {
                self.change(&name, Change::Confirm { written, released }, deadline).await
            }
            (Operation::Clear, Ok(Request::Clear)) => self.change(&name, Change::Clear, deadline).await,
            (operation, Ok(_)) => Err(Unavailable::Stopped(format!("{} is not the leader's", operation.name()))),
        }
    }

    async fn reserve(
        self: &Arc<Self>,
        name: &FileName,
        keys: Vec<EntryKey>,
        deadline: Instant,
    ) -> Result<Answer, Unavailable> {
        let tick_ms = self.clock.now_ms().ok_or(Unavailable::NoLeader)?;
        let Decided { what, term, revision } = self.decide(name, |at| {
            let time = ReserveTime { now_ms: at.now_ms, tick_ms };
            match at.office.reserve(at.id, at.file, &keys, time) {
                ReserveDecision::Existing(pages) => Err(pages),
                ReserveDecision::Propose(pick) => {
                    let term = at.office.term();
                    Ok(at.propose(Hf3fsOperation::Reserve { term, keys, victims: pick.pages().to_vec() }, Some(pick)))
                }
            }
        })?;
        let existing = match what {
            Some(Ok(proposal)) => return self.propose(name, proposal, deadline).await,
            Some(Err(existing)) => Some(existing),
            None => None,
        };
        let decided = Decided { what: existing, term, revision };
        let answer = |pages: Vec<PageIndex>, revision| {
            let pages: Vec<_> = pages.into_iter().map(Reserved::Existing).collect();
            Answer::ok(reserved_body(&pages), revision)
        };
        self.settle(name, decided, deadline, answer).await
    }

    /// Confirm, delete and clear. What is deleted is picked first: no reader is told of it any more.
    async fn change(
        self: &Arc<Self>,
        name: &FileName,
        change: Change,
        deadline: Instant,
    ) -> Result<Answer, Unavailable> {
        // As long as whoever was told of a page just now may use it.
        let rest_ms = self.protection_ms() + 1;
        let decided = self.decide(name, |at| match change {
            Change::Delete(keys) => {
                let pick = at.office.pick_keys(at.id, at.file, &keys);
                at.propose(Hf3fsOperation::Delete { keys, rest_ms }, Some(pick))
            }
            Change::Confirm { written, released } => at.propose(Hf3fsOperation::Confirm { written, released }, None),
            Change::Clear => {
                let pick = at.office.pick_whole(at.id);
                at.propose(Hf3fsOperation::Clear { rest_ms }, Some(pick))
            }
        })?;
        match decided.what {
            Some(proposal) => self.propose(name, proposal, deadline).await,
            None => self.settle(name, decided, deadline, |_, revision| Answer::done(revision)).await,
        }
    }

    /// Drops a page file. Nobody is told of its pages any more; in one of its name that is made anew they rest first.
    /// False: there is no such file.
    ///
    /// Errors: as [`Self::answer`].
    pub async fn drop_file(self: &Arc<Self>, id: FileId, deadline: Instant) -> Result<bool, Unavailable> {
        // As long as whoever was told of a page just now may use it.
        let rest_ms = self.protection_ms() + 1;
        let decided = self.decide_on(
            |_| Some(id),
            |at| Proposal { command: Hf3fsCommand::Drop { file: id, rest_ms }, pick: Some(at.office.pick_whole(id)) },
        )?;
        let Some(proposal) = decided.what else {
            let leads = timeout_at(deadline, self.group.leads_in(decided.term)).await;
            return if leads == Ok(true) { Ok(false) } else { Err(Unavailable::NoLeader) };
        };
        match self.decided(proposal, deadline).await?.1 {
            Outcome::Hf3fs(Hf3fsOutcome::Dropped) => Ok(true),
            Outcome::Hf3fs(Hf3fsOutcome::NoFile) => Ok(false),
            other => Err(Unavailable::Stopped(format!("the group answered {other:?}"))),
        }
    }

    /// Looks at the file of this name.
    fn decide<T>(&self, name: &FileName, decide: impl FnOnce(Moment<'_>) -> T) -> Result<Decided<T>, Unavailable> {
        self.decide_on(|files| files.file_id(name), decide)
    }

    /// Looks at a file in office: the state has everything that was acknowledged by earlier leaders.
    fn decide_on<T>(
        &self,
        find: impl FnOnce(&Hf3fs) -> Option<FileId>,
        decide: impl FnOnce(Moment<'_>) -> T,
    ) -> Result<Decided<T>, Unavailable> {
        let term = self.group.leading_term().ok_or(Unavailable::NoLeader)?;
        let mut held = self.office.lock();
        let held = held.as_mut().filter(|held| held.office.term() == term).ok_or(Unavailable::NoLeader)?;
        let now_ms = held.now_ms();
        self.group.applied.read_with_position(|state, position| {
            if position.last_applied.map(|id| id.leader_id.term) != Some(term) {
                sometimes(Marker::PageFileOfficeNotOpen);
                return Err(Unavailable::NoLeader);
            }
            let file = find(state.hf3fs()).and_then(|id| Some((id, state.hf3fs().file(id)?)));
            let what = file.map(|(id, file)| decide(Moment { office: &mut held.office, id, file, now_ms }));
            Ok(Decided { what, term, revision: state.revision() })
        })
    }

    /// Answers without a command, once this replica is known to have led in that term after the decision.
    async fn settle<T>(
        &self,
        name: &FileName,
        decided: Decided<T>,
        deadline: Instant,
        answer: impl FnOnce(T, Revision) -> Answer,
    ) -> Result<Answer, Unavailable> {
        match timeout_at(deadline, self.group.leads_in(decided.term)).await {
            Ok(true) => Ok(match decided.what {
                Some(what) => answer(what, decided.revision),
                None => Answer::no_file(&name.deployment, name.rank, &name.pool, decided.revision),
            }),
            _ => {
                sometimes(Marker::PageFileLeadershipUnconfirmed);
                Err(Unavailable::NoLeader)
            }
        }
    }

    /// What the group answers to a command, as the answer to a call.
    async fn propose(
        self: &Arc<Self>,
        name: &FileName,
        proposal: Proposal,
        deadline: Instant,
    ) -> Result<Answer, Unavailable> {
        let (revision, outcome) = self.decided(proposal, deadline).await?;
        if let Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages }) = &outcome
            && pages.contains(&Reserved::NoPage)
        {
            sometimes(Marker::PageFileReserveFoundNoPage);
        }
        answer_of(name, 0, revision, outcome)
    }

    /// Proposes a command. A caller that leaves does not end it: what it picked stays picked until the group has
    /// decided.
    async fn decided(
        self: &Arc<Self>,
        proposal: Proposal,
        deadline: Instant,
    ) -> Result<(Revision, Outcome), Unavailable> {
        let Proposal { command, pick } = proposal;
        let encoded = encode_commands(&[Command::Hf3fs(command)]);
        let checked = match self.group.check(encoded, Author::Caller) {
            Ok(checked) => checked,
            Err(error) => {
                if let Some(pick) = pick {
                    self.end(&pick, &[]);
                }
                return Err(error.into());
            }
        };
        let leader = self.clone();
        let deciding = tokio::spawn(async move {
            let decided = leader.group.propose_to_its_end(checked, deadline).await;
            // Where nobody knows, the command may be applied yet: what it picked stays picked as long as this office.
            match (&decided, pick) {
                (Ok((_, outcomes)), Some(pick)) => leader.end(&pick, reserved_pages(outcomes)),
                (Err(ProposeError::QueueFull | ProposeError::Late | ProposeError::NotLeader), Some(pick)) => {
                    leader.end(&pick, &[]);
                }
                _ => {}
            }
            decided
        });
        let (revision, outcomes) = match timeout_at(deadline, deciding).await {
            Ok(Ok(decided)) => decided?,
            Ok(Err(error)) => return Err(Unavailable::Stopped(error.to_string())),
            Err(_) => return Err(Unavailable::Unknown),
        };
        let outcome = outcomes.into_iter().next();
        Ok((revision, outcome.ok_or_else(|| Unavailable::Stopped("an outcome is missing".into()))?))
    }

    fn end(&self, pick: &Pick, pages: &[Reserved]) {
        if let Some(held) = self.office.lock().as_mut() {
            let now_ms = held.now_ms();
            held.office.end(pick, pages, now_ms);
        }
    }

    fn expiries(&self, state: &State, tick_ms: u64) -> Vec<Command> {
        // How long, not since when: by the time it is applied another leader may have told the time.
        let unheard_ms = self.reservation.as_millis() as u64;
        let due = |file: &File| file.oldest_reservation_ms().is_some_and(|heard_ms| heard_ms + unheard_ms < tick_ms);
        let expire = |file| {
            sometimes(Marker::PageFileReservationExpired);
            let operation = Hf3fsOperation::Expire { unheard_ms, pages_max: EXPIRE_PAGES_MAX };
            Command::Hf3fs(Hf3fsCommand::On { file, touched: Vec::new(), operation })
        };
        state.hf3fs().files().filter(|(_, file)| due(file)).map(|(id, _)| expire(id)).collect()
    }
}

/// Ends reservations of which nothing was heard, and tells the group which pages were read.
impl Duty for Leader {
    fn take_office(&self, term: u64) {
        // It knows of no reader yet.
        let office = Office::new(term, self.protection_ms());
        *self.office.lock() = Some(Held { office, since: Instant::now() });
    }

    fn leave_office(&self) {
        *self.office.lock() = None;
    }

    fn commands(&self, tick_ms: u64) -> Vec<Command> {
        let mut held = self.office.lock();
        let Some(held) = held.as_mut() else { return Vec::new() };
        let now_ms = held.now_ms();
        let office = &mut held.office;
        office.sweep(now_ms);
        let mut commands = self.group.applied.read(|state| {
            office.keep_files(|id| state.hf3fs().file(id).is_some());
            self.expiries(state, tick_ms)
        });
        let mut touches = 0;
        for file in office.due_touches(now_ms) {
            let touched = office.drain_touched(file, now_ms);
            touches += touched.len();
            commands.push(Command::Hf3fs(Hf3fsCommand::On { file, touched, operation: Hf3fsOperation::Touch }));
            // They share one entry; the others come in the next round.
            if touches >= HF3FS_KEYS_MAX {
                break;
            }
        }
        commands
    }
}

/// What a reserve was answered, if it was one.
fn reserved_pages(outcomes: &[Outcome]) -> &[Reserved] {
    match outcomes {
        [Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages })] => pages,
        _ => &[],
    }
}

impl Moment<'_> {
    /// A command on this file, with what was read of it since the last one.
    fn propose(self, operation: Hf3fsOperation, pick: Option<Pick>) -> Proposal {
        let touched = self.office.drain_touched(self.id, self.now_ms);
        Proposal { command: Hf3fsCommand::On { file: self.id, touched, operation }, pick }
    }
}
