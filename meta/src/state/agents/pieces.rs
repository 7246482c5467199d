//! Agents in a snapshot.
//!
//! ```text
//! agents      next holder
//! sessions    count, then each: id, node, agent, incarnation, endpoint, opened, holder, suspicions, limited, window
//! window      highest u64, count, then each: sequence, outcome
//! suspicions  count, then each: namespace, key; session, since
//! ```
//! What a session was granted is in the slots' pieces.

use bytes::BytesMut;
use foreword_proto::{SessionId, SlabId, Slot};

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
        std::iter::once(piece(PieceKind::Agents, next))
            .chain(pieces(PieceKind::Sessions, (), open.into_iter()))
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
        open.granted.insert((slab, slot))
    }
}
