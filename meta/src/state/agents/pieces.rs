//! Agents in a snapshot.
//!
//! ```text
//! agents      next holder
//! sessions    count, then each: id, node, agent, incarnation, endpoint, opened, holder, suspicions, limited, window
//! window      highest u64, 0 u32
//! outcomes    count, then each: session, sequence, outcome
//! suspicions  count, then each: namespace, key; session, since
//! ```
//! What a session was granted is in the slots' pieces. A window's outcomes are records of their own: all of one session
//! may take 34 MB.

use bytes::{Bytes, BytesMut};
use foreword_proto::{Sequence, SessionId, SlabId, Slot};

use super::Agents;
use super::sessions::{Session, Sessions};
use super::suspicions::{Suspected, Suspicion};
use crate::state::codec::Decode;
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, piece, pieces};
use crate::state::room::Holder;

impl Agents {
    /// All pieces. What has been passed is let go of.
    pub(in crate::state) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        let Self { sessions, suspicions } = self;
        let Sessions { open, holders: _, next } = sessions;
        let sessions: Vec<_> = open.iter().map(|(id, session)| (*id, session.without_outcomes())).collect();
        let outcomes = open.into_iter().flat_map(|(id, session)| {
            let outcomes = session.window.outcomes();
            outcomes.map(move |(sequence, outcome)| (id, sequence, outcome))
        });
        std::iter::once(piece(PieceKind::Agents, next))
            .chain(pieces(PieceKind::Sessions, (), sessions.into_iter()))
            .chain(pieces(PieceKind::Outcomes, (), outcomes))
            .chain(pieces(PieceKind::Suspicions, (), suspicions.into_pending().into_iter()))
    }

    pub(in crate::state) fn take_agents(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        self.sessions.next = Holder::decode(input)?;
        Ok(())
    }

    pub(in crate::state) fn take_sessions(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (id, session) in Vec::<(SessionId, Session)>::decode(input)? {
            let holder = session.holder;
            if !self.sessions.insert(id, session) {
                return Err(input.invalid(format!("session {id}, or holder {holder}, is there twice")));
            }
        }
        Ok(())
    }

    pub(in crate::state) fn take_outcomes(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for _ in 0..input.count(<(SessionId, Sequence, Bytes)>::BYTES_MIN)? {
            let (id, sequence, outcome) = <(SessionId, Sequence, Bytes)>::decode(input)?;
            let kept = self.sessions.get_mut(id).is_some_and(|session| session.window.put_back(sequence, &outcome));
            if !kept {
                let what = format!("outcome {sequence} of session {id}: twice, outside its window, or of no session");
                return Err(input.invalid(what));
            }
        }
        Ok(())
    }

    pub(in crate::state) fn take_suspicions(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (page, suspicion) in Vec::<(Suspected, Suspicion)>::decode(input)? {
            self.suspicions.add(page, suspicion);
        }
        Ok(())
    }

    /// A slot of a snapshot is granted to this holder; false if no open session is that.
    pub(in crate::state) fn hold(&mut self, holder: Holder, slab: SlabId, slot: Slot) -> bool {
        let open = self.holding(holder).and_then(|session| self.sessions.get_mut(session));
        let Some(open) = open else { return false };
        open.granted.insert(slab, slot)
    }
}
