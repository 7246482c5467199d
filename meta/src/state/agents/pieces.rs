//! Agents in a snapshot.
//!
//! ```text
//! agents      next session
//! sessions    count, then each: id, node, incarnation, endpoint, opened, suspicions, limited, window
//! window      highest u64, count, then each: sequence, outcome
//! suspicions  count, then each: namespace, key; session, since
//! ```
//! What a session was granted is in the slots' pieces.

use std::sync::Arc;

use bytes::BytesMut;
use foreword_proto::{SessionId, SlabId, Slot};

use super::Agents;
use super::sessions::{Session, Sessions};
use super::suspicions::{Suspected, Suspicion};
use crate::state::codec::Decode;
use crate::state::input::{DecodeError, Input};
use crate::state::pieces::{PieceKind, piece, pieces};

impl Agents {
    /// All pieces. What has been passed is let go of.
    pub(in crate::state) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        let Self { sessions, suspicions } = self;
        let Sessions { open, next } = sessions;
        std::iter::once(piece(PieceKind::Agents, next))
            .chain(pieces(PieceKind::Sessions, (), open.into_iter()))
            .chain(pieces(PieceKind::Suspicions, (), suspicions.into_pending().into_iter()))
    }

    pub(in crate::state) fn take_agents(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        self.sessions.next = SessionId::decode(input)?;
        Ok(())
    }

    pub(in crate::state) fn take_sessions(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (id, session) in Vec::<(SessionId, Session)>::decode(input)? {
            self.sessions.open.insert(id, Arc::new(session));
        }
        Ok(())
    }

    pub(in crate::state) fn take_suspicions(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (page, suspicion) in Vec::<(Suspected, Suspicion)>::decode(input)? {
            self.suspicions.add(page, suspicion);
        }
        Ok(())
    }

    /// A slot of a snapshot is granted to this session; false if it is not open.
    pub(in crate::state) fn hold(&mut self, session: SessionId, slab: SlabId, slot: Slot) -> bool {
        let Some(open) = self.sessions.get_mut(session) else { return false };
        open.granted.insert((slab, slot))
    }
}
