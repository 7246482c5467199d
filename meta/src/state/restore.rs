//! Building a state from the pieces of a snapshot. Nothing in the input is trusted; the recorded digest decides at the
//! end.

use bytes::Bytes;
use foreword_proto::limits::{FORMAT_VERSION, FORMAT_VERSIONS};

use super::State;
use super::codec::Decode;
use super::input::{DecodeError, Input};
use super::pieces::PieceKind;
use super::snapshot::Head;

const WHAT: &str = "snapshot";

/// Why a snapshot is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It has no head or no end.
    #[error("snapshot: pieces are missing ({missing})")]
    Incomplete { missing: &'static str },
    /// What was restored is not what was written.
    #[error("snapshot: it records digest {recorded:016x}, what it holds has {restored:016x}")]
    Digest { recorded: u64, restored: u64 },
}

/// Takes the pieces of a snapshot in order.
#[derive(Debug, Default)]
pub struct Restorer {
    state: Option<State>,
    recorded: u64,
    ended: bool,
}

impl Restorer {
    /// A restorer without any piece yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece. After an error the restorer is of no more use.
    pub fn push(&mut self, mut piece: Bytes) -> Result<(), RestoreError> {
        let mut input = Input::new(&mut piece, WHAT);
        // The version also stands for what the format takes as given: the number of buckets.
        let version = input.version_in(FORMAT_VERSIONS)?;
        let found = input.u8()?;
        let unknown = || DecodeError::Kind { what: WHAT, found: found.into(), known: FORMAT_VERSION };
        let kind = PieceKind::from_number(found).ok_or_else(unknown)?;
        if kind == PieceKind::Head {
            let head = Head::decode(&mut input)?;
            input.trailer(version)?;
            self.recorded = head.digest;
            self.state = Some(State::of_head(head, &input)?);
            return Ok(input.end()?);
        }
        let state = self.state.as_mut().ok_or(RestoreError::Incomplete { missing: "the head" })?;
        self.ended |= kind == PieceKind::End;
        state.take_piece(kind, &mut input)?;
        Ok(input.end()?)
    }

    /// The state, if all pieces came and it has the recorded digest.
    pub fn finish(self) -> Result<State, RestoreError> {
        let state = self.state.ok_or(RestoreError::Incomplete { missing: "the head" })?;
        if !self.ended {
            return Err(RestoreError::Incomplete { missing: "the end" });
        }
        // The sums in it were built up from what was restored, piece by piece.
        let restored = state.digest();
        if restored != self.recorded {
            return Err(RestoreError::Digest { recorded: self.recorded, restored });
        }
        Ok(state)
    }
}

impl State {
    /// Restores a state from all pieces of a snapshot.
    pub fn restore<E: From<RestoreError>>(pieces: impl Iterator<Item = Result<Bytes, E>>) -> Result<Self, E> {
        let mut restorer = Restorer::new();
        for piece in pieces {
            restorer.push(piece?)?;
        }
        Ok(restorer.finish()?)
    }

    /// A state of no owner's pieces yet.
    fn of_head(head: Head, input: &Input<'_>) -> Result<Self, DecodeError> {
        let Head { settings, revision, tick_ms, feature_level, digest: _ } = head;
        if settings.chunk_bytes == 0 {
            return Err(input.invalid("chunk_bytes is 0"));
        }
        Ok(Self { revision, tick_ms, feature_level, ..Self::new(settings) })
    }

    /// Takes the fields of a piece to their owner.
    fn take_piece(&mut self, kind: PieceKind, input: &mut Input<'_>) -> Result<(), DecodeError> {
        match kind {
            PieceKind::Head | PieceKind::End => Ok(()),
            PieceKind::Members => self.members.take_members(input),
            PieceKind::Agents => self.agents.take_agents(input),
            PieceKind::Sessions => self.agents.take_sessions(input),
            PieceKind::Outcomes => self.agents.take_outcomes(input),
            PieceKind::Suspicions => self.agents.take_suspicions(input),
            PieceKind::Room => self.room.take_room(input),
            PieceKind::Classes => self.room.take_classes(input),
            PieceKind::Slabs => self.room.take_slabs(input),
            PieceKind::Slots => {
                let agents = &mut self.agents;
                self.room.take_slots(input, |holder, slab, slot| agents.hold(holder, slab, slot))
            }
            PieceKind::Rests => self.room.take_rests(input),
            PieceKind::Index => self.pages.take_index(input),
            PieceKind::Namespaces => self.pages.take_namespaces(self.settings.chunk_bytes, input),
            PieceKind::Garbage => self.pages.take_garbage(input),
            PieceKind::Entries => self.pages.take_entries(input),
            PieceKind::PageFileNumbers => self.hf3fs.take_numbers(input),
            PieceKind::PageFiles => self.hf3fs.take_heads(input),
            PieceKind::Pages => self.hf3fs.take_pages(self.tick_ms, input),
        }
    }
}
