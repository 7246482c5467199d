//! What must hold of sessions and suspicions: by the names of docs/INVARIANTS.md.

use std::collections::{BTreeMap, BTreeSet};

use foreword_proto::SessionId;

use super::Agents;
use crate::state::pages::Pages;
use crate::state::room::{Holder, Room, SlotUse};
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
        let SlotUse::Granted(holder) = used else { continue };
        let open = agents.holding(holder).and_then(|session| sessions.get(session));
        let knows = open.is_some_and(|open| open.granted.contains(at.slab, at.slot));
        ensure(NAME, knows, || format!("{at:?} is granted to holder {holder}, which does not hold it"))?;
        held += 1;
    }
    let known: usize = sessions.iter().map(|(_, open)| open.granted.len()).sum();
    ensure(NAME, known == held, || format!("sessions hold {known} slots, {held} are granted"))?;
    let nodes: BTreeSet<&str> = sessions.iter().map(|(_, open)| open.node.as_str()).collect();
    ensure(NAME, nodes.len() == sessions.len(), || "two open sessions of one node".into())?;
    let holders = sessions.iter().map(|(id, open)| (open.holder, id)).collect::<BTreeMap<Holder, SessionId>>();
    ensure(NAME, holders.len() == sessions.len() && holders == sessions.holders, || {
        format!("open sessions are the holders {holders:?}, {:?} is kept", sessions.holders)
    })?;
    let last = holders.last_key_value().map_or(0, |(holder, _)| *holder);
    ensure(NAME, last < sessions.next, || format!("holder {last} is open, {} is next", sessions.next))
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
    next: Holder,
    /// Holder and node of each open one.
    open: BTreeMap<SessionId, (Holder, String)>,
}

impl Summary {
    pub(in crate::state) fn of(agents: &Agents) -> Self {
        let open = agents.sessions.iter().map(|(id, open)| (id, (open.holder, open.node.clone())));
        Self { next: agents.sessions.next, open: open.collect() }
    }
}

/// Checks one command's step.
pub(in crate::state) fn check_step(before: &Summary, agents: &Agents) -> Result<(), Violation> {
    let next = agents.sessions.next;
    ensure(BACK, before.next <= next, || format!("next holder {next} after {}", before.next))?;
    for (id, open) in agents.sessions.iter() {
        let same = match before.open.get(&id) {
            Some((holder, node)) => *holder == open.holder && *node == open.node,
            None => open.holder >= before.next,
        };
        ensure(BACK, same, || format!("session {id}, holder {}, was given out twice", open.holder))?;
    }
    Ok(())
}
