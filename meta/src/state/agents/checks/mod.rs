//! What must hold of sessions and suspicions: by the names of docs/INVARIANTS.md.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::SessionId;

use super::Agents;
use crate::state::pages::Pages;
use crate::state::room::{Room, SlotUse};
use crate::state::violation::{BACK, Violation, ensure};

#[cfg(test)]
mod canaries;

/// Checks one state.
pub(in crate::state) fn check(agents: &Agents, pages: &Pages, room: &Room) -> Result<(), Violation> {
    grants_end(agents, room)?;
    suspicions_stand(agents, pages)
}

/// `grants-end`: a granted slot belongs to an open session, which knows of it.
fn grants_end(agents: &Agents, room: &Room) -> Result<(), Violation> {
    const NAME: &str = "grants-end";
    let sessions = &agents.sessions;
    let mut held = 0;
    for (at, used) in room.all_slots() {
        let SlotUse::Granted(session) = used else { continue };
        let knows = sessions.get(session).is_some_and(|open| open.granted.contains(&(at.slab, at.slot)));
        ensure(NAME, knows, || format!("{at:?} is granted to {session}, which does not hold it"))?;
        held += 1;
    }
    let known: usize = sessions.iter().map(|(_, open)| open.granted.len()).sum();
    ensure(NAME, known == held, || format!("sessions hold {known} slots, {held} are granted"))?;
    let nodes: BTreeSet<&str> = sessions.iter().map(|(_, open)| open.node.as_str()).collect();
    ensure(NAME, nodes.len() == sessions.len(), || "two open sessions of one node".into())?;
    let last = sessions.iter().last().map_or(0, |(id, _)| id);
    ensure(NAME, last < sessions.next, || format!("session {last} is open, {} is next", sessions.next))
}

/// `suspicions-stand`: a suspicion is of a present page, by an open session, which counts it.
fn suspicions_stand(agents: &Agents, pages: &Pages) -> Result<(), Violation> {
    const NAME: &str = "suspicions-stand";
    let mut of_session: BTreeMap<SessionId, u32> = BTreeMap::new();
    for ((namespace, key), suspicion) in agents.suspicions.iter() {
        let present = pages.location(namespace, &key).is_some();
        ensure(NAME, present, || format!("{key:?} of namespace {namespace} is suspected and not there"))?;
        *of_session.entry(suspicion.session).or_default() += 1;
    }
    for (id, session) in agents.sessions.iter() {
        let counted = of_session.remove(&id).unwrap_or(0);
        ensure(NAME, counted == session.suspicions, || {
            format!("session {id} counts {} suspicions, {counted} are there", session.suspicions)
        })?;
    }
    ensure(NAME, of_session.is_empty(), || format!("suspicions of sessions that ended: {of_session:?}"))
}

/// What later sessions are held against.
#[derive(Debug, Clone)]
pub(in crate::state) struct Summary {
    next: SessionId,
    nodes: BTreeMap<SessionId, String>,
}

impl Summary {
    pub(in crate::state) fn of(agents: &Agents) -> Self {
        let nodes = agents.sessions.iter().map(|(id, open)| (id, open.node.clone()));
        Self { next: agents.sessions.next, nodes: nodes.collect() }
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, agents: &Agents) -> Result<(), Violation> {
    let next = agents.sessions.next;
    ensure(BACK, before.next <= next, || format!("next session {next} after {}", before.next))?;
    for (id, open) in agents.sessions.iter() {
        let same = before.nodes.get(&id).map_or(id >= before.next, |node| *node == open.node);
        ensure(BACK, same, || format!("session {id} was given out twice"))?;
    }
    Ok(())
}
