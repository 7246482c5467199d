//! Outcomes: what a follower gets back for a forwarded command, and what a session's window keeps.

use bytes::{BufMut, Bytes, BytesMut};
use foreword_proto::PublishOutcome;

use super::{CODEC_VERSION, SLOT_REF_BYTES, hf3fs, put_bytes, put_slots, take_slots};
use crate::state::command::{Outcome, Refusal, SuspectOutcome};
use crate::state::hf3fs::Hf3fsOutcome;
use crate::state::input::{DecodeError, Input};

const WHAT: &str = "outcome";

mod kind {
    pub(super) const DONE: u8 = 1;
    pub(super) const NAMESPACE_REGISTERED: u8 = 2;
    pub(super) const SESSION_OPENED: u8 = 3;
    pub(super) const GRANTED: u8 = 4;
    pub(super) const PUBLISHED: u8 = 5;
    pub(super) const SUSPECTED: u8 = 6;
    pub(super) const CLEARED: u8 = 7;
    pub(super) const RETIRED: u8 = 8;
    pub(super) const RECLAIMED: u8 = 9;
    pub(super) const HF3FS: u8 = 10;
    pub(super) const REFUSED_NO_SESSION: u8 = 20;
    pub(super) const REFUSED_SEQUENCE_TOO_OLD: u8 = 21;
    pub(super) const REFUSED_NO_NAMESPACE: u8 = 22;
    pub(super) const REFUSED_OTHER_GEOMETRY: u8 = 23;
    pub(super) const REFUSED_INVALID: u8 = 24;
    pub(super) const REFUSED_TOO_MANY: u8 = 25;
}

/// An outcome as bytes of its own, with no room to spare where it is large: sessions keep many.
pub fn outcome_bytes(outcome: &Outcome) -> Bytes {
    let mut out = BytesMut::with_capacity(match outcome {
        Outcome::Granted { slots, .. } => 10 + SLOT_REF_BYTES * slots.len(),
        Outcome::Published { outcomes, existing, .. } => 18 + outcomes.len() + existing.len(),
        Outcome::Hf3fs(Hf3fsOutcome::Reserved { pages }) => 7 + hf3fs::RESERVED_BYTES * pages.len(),
        _ => 16,
    });
    encode_outcome(outcome, &mut out);
    out.freeze()
}

/// Appends one outcome.
pub fn encode_outcome(outcome: &Outcome, out: &mut BytesMut) {
    out.put_u8(CODEC_VERSION);
    match outcome {
        Outcome::Done => out.put_u8(kind::DONE),
        Outcome::NamespaceRegistered { namespace, epoch, slot_bytes } => {
            out.put_u8(kind::NAMESPACE_REGISTERED);
            out.put_u32_le(*namespace);
            out.put_u32_le(*epoch);
            out.put_u64_le(*slot_bytes);
        }
        Outcome::SessionOpened { session } => {
            out.put_u8(kind::SESSION_OPENED);
            out.put_u64_le(*session);
        }
        Outcome::Granted { slots, slots_per_slab } => {
            out.put_u8(kind::GRANTED);
            out.put_u32_le(*slots_per_slab);
            put_slots(out, slots);
        }
        Outcome::Published { revision, outcomes, existing } => {
            out.put_u8(kind::PUBLISHED);
            out.put_u64_le(*revision);
            out.put_u32_le(outcomes.len() as u32);
            outcomes.iter().for_each(|outcome| out.put_u8(*outcome as u8));
            put_bytes(out, existing);
        }
        Outcome::Suspected { outcomes } => {
            out.put_u8(kind::SUSPECTED);
            out.put_u32_le(outcomes.len() as u32);
            outcomes.iter().for_each(|outcome| out.put_u8(*outcome as u8));
        }
        Outcome::Cleared { epoch } => {
            out.put_u8(kind::CLEARED);
            out.put_u32_le(*epoch);
        }
        Outcome::Retired { entries } => {
            out.put_u8(kind::RETIRED);
            out.put_u32_le(*entries);
        }
        Outcome::Reclaimed { left } => {
            out.put_u8(kind::RECLAIMED);
            out.put_u64_le(*left);
        }
        Outcome::Hf3fs(outcome) => {
            out.put_u8(kind::HF3FS);
            hf3fs::put_outcome(out, outcome);
        }
        Outcome::Refused(refusal) => put_refusal(out, refusal),
    }
}

fn put_refusal(out: &mut BytesMut, refusal: &Refusal) {
    match refusal {
        Refusal::NoSession { session } => {
            out.put_u8(kind::REFUSED_NO_SESSION);
            out.put_u64_le(*session);
        }
        Refusal::SequenceTooOld { sequence, window } => {
            out.put_u8(kind::REFUSED_SEQUENCE_TOO_OLD);
            out.put_u64_le(*sequence);
            out.put_u32_le(*window);
        }
        Refusal::NoNamespace { namespace } => {
            out.put_u8(kind::REFUSED_NO_NAMESPACE);
            out.put_u32_le(*namespace);
        }
        Refusal::OtherGeometry { namespace, registered } => {
            out.put_u8(kind::REFUSED_OTHER_GEOMETRY);
            out.put_u32_le(*namespace);
            put_bytes(out, registered.as_bytes());
        }
        Refusal::Invalid { field, expected } => {
            out.put_u8(kind::REFUSED_INVALID);
            put_bytes(out, field.as_bytes());
            put_bytes(out, expected.as_bytes());
        }
        Refusal::TooMany { field, limit } => {
            out.put_u8(kind::REFUSED_TOO_MANY);
            put_bytes(out, field.as_bytes());
            out.put_u64_le(*limit);
        }
    }
}

/// Takes one outcome off the front of `bytes`.
pub fn decode_outcome(bytes: &mut Bytes) -> Result<Outcome, DecodeError> {
    let mut input = Input::new(bytes, WHAT);
    input.version(CODEC_VERSION)?;
    let input = &mut input;
    Ok(match input.u8()? {
        kind::DONE => Outcome::Done,
        kind::NAMESPACE_REGISTERED => {
            Outcome::NamespaceRegistered { namespace: input.u32()?, epoch: input.u32()?, slot_bytes: input.u64()? }
        }
        kind::SESSION_OPENED => Outcome::SessionOpened { session: input.u64()? },
        kind::GRANTED => {
            let slots_per_slab = input.u32()?;
            Outcome::Granted { slots: take_slots(input)?, slots_per_slab }
        }
        kind::PUBLISHED => take_published(input)?,
        kind::SUSPECTED => take_suspected(input)?,
        kind::CLEARED => Outcome::Cleared { epoch: input.u32()? },
        kind::RETIRED => Outcome::Retired { entries: input.u32()? },
        kind::RECLAIMED => Outcome::Reclaimed { left: input.u64()? },
        kind::HF3FS => Outcome::Hf3fs(hf3fs::take_outcome(input)?),
        found => Outcome::Refused(take_refusal(found, input)?),
    })
}

fn take_published(input: &mut Input<'_>) -> Result<Outcome, DecodeError> {
    let revision = input.u64()?;
    let numbers = input.bytes()?;
    let known = |number: &u8| {
        let outcome = PublishOutcome::from_u8(*number);
        outcome.ok_or_else(|| input.invalid(format!("publish outcome {number} is not known")))
    };
    let outcomes = numbers.iter().map(known).collect::<Result<_, _>>()?;
    Ok(Outcome::Published { revision, outcomes, existing: input.bytes()? })
}

fn take_suspected(input: &mut Input<'_>) -> Result<Outcome, DecodeError> {
    let numbers = input.bytes()?;
    let known = |number: &u8| match number {
        0 => Ok(SuspectOutcome::Void),
        1 => Ok(SuspectOutcome::Noted),
        2 => Ok(SuspectOutcome::Retired),
        number => Err(input.invalid(format!("suspect outcome {number} is not known"))),
    };
    let outcomes = numbers.iter().map(known).collect::<Result<_, _>>()?;
    Ok(Outcome::Suspected { outcomes })
}

fn take_refusal(found: u8, input: &mut Input<'_>) -> Result<Refusal, DecodeError> {
    Ok(match found {
        kind::REFUSED_NO_SESSION => Refusal::NoSession { session: input.u64()? },
        kind::REFUSED_SEQUENCE_TOO_OLD => Refusal::SequenceTooOld { sequence: input.u64()?, window: input.u32()? },
        kind::REFUSED_NO_NAMESPACE => Refusal::NoNamespace { namespace: input.u32()? },
        kind::REFUSED_OTHER_GEOMETRY => Refusal::OtherGeometry { namespace: input.u32()?, registered: input.text()? },
        kind::REFUSED_INVALID => Refusal::Invalid { field: input.text()?, expected: input.text()? },
        kind::REFUSED_TOO_MANY => Refusal::TooMany { field: input.text()?, limit: input.u64()? },
        found => return Err(DecodeError::Kind { what: WHAT, found: found.into(), known: CODEC_VERSION.into() }),
    })
}
