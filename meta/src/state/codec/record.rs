//! One definition a record: what it lists is what is written, read, counted and hashed.
//!
//! ```text
//! little-endian; text, bytes, lists: u32 length or count before them; bool: u8, 0 or 1
//! record: its fields in the order of its definition · one of several kinds: kind u8, then the fields of that kind
//! ```

use bytes::{Bytes, BytesMut};
use foreword_proto::{AgentId, DirectoryId, EntryKey, Fingerprint, PublishOutcome, RetireReason, SessionId};

use crate::state::input::{DecodeError, Input};

/// What encoded bytes go into.
pub(in crate::state) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts bytes and keeps none.
struct Length(usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// A value that can be written.
pub(in crate::state) trait Encode {
    fn encode(&self, out: &mut impl Sink);

    /// Bytes it takes.
    fn encoded_bytes(&self) -> usize {
        let mut length = Length(0);
        self.encode(&mut length);
        length.0
    }
}

/// A value that can be read back. Nothing in the input is trusted.
pub(in crate::state) trait Decode: Sized {
    /// Bytes that each value takes at least: a count that the rest of the input cannot hold is refused before room is
    /// made.
    const BYTES_MIN: usize;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError>;
}

/// [`Decode::BYTES_MIN`] of a field's type.
pub(in crate::state) const fn field_bytes_min<T, F: Decode>(_: fn(&T) -> &F) -> usize {
    F::BYTES_MIN
}

/// Defines the encoding of a struct: its fields, in order. Those under `rebuilt` are not written: they follow from what
/// is, and come back as their default. A field in neither list does not compile.
macro_rules! record {
    ($name:ty { $($field:ident),* $(,)? } $(rebuilt { $($rebuilt:ident),* })?) => {
        impl $crate::state::codec::Encode for $name {
            fn encode(&self, out: &mut impl $crate::state::codec::Sink) {
                let Self { $($field,)* $($($rebuilt: _,)*)? } = self;
                $($crate::state::codec::Encode::encode($field, out);)*
            }
        }

        impl $crate::state::codec::Decode for $name {
            const BYTES_MIN: usize =
                0 $(+ $crate::state::codec::field_bytes_min::<Self, _>(|value| &value.$field))*;

            fn decode(
                input: &mut $crate::state::input::Input<'_>,
            ) -> Result<Self, $crate::state::input::DecodeError> {
                Ok(Self {
                    $($field: $crate::state::codec::Decode::decode(input)?,)*
                    $($($rebuilt: Default::default(),)*)?
                })
            }
        }
    };
}

/// Defines the encoding of an enum: each kind's frozen number and its fields, in order. `what` is the enum's name in
/// errors.
macro_rules! kinds {
    ($name:ty, $what:literal {
        $($kind:literal => $variant:ident $({ $($field:ident),* $(,)? })? $(($inner:ident))?,)*
    }) => {
        impl $crate::state::codec::Encode for $name {
            fn encode(&self, out: &mut impl $crate::state::codec::Sink) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => {
                        out.put(&[$kind]);
                        $($($crate::state::codec::Encode::encode($field, out);)*)?
                        $($crate::state::codec::Encode::encode($inner, out);)?
                    })*
                }
            }
        }

        impl $crate::state::codec::Decode for $name {
            const BYTES_MIN: usize = 1;

            fn decode(
                input: &mut $crate::state::input::Input<'_>,
            ) -> Result<Self, $crate::state::input::DecodeError> {
                Ok(match input.u8()? {
                    $($kind => Self::$variant
                        $({ $($field: $crate::state::codec::Decode::decode(input)?),* })?
                        $(({
                            let $inner = $crate::state::codec::Decode::decode(input)?;
                            $inner
                        }))?,)*
                    found => return Err($crate::state::codec::unknown_kind($what, found)),
                })
            }
        }
    };
}

pub(in crate::state) use {kinds, record};

macro_rules! numbers {
    ($($number:ident)*) => {
        $(impl Encode for $number {
            fn encode(&self, out: &mut impl Sink) {
                out.put(&self.to_le_bytes());
            }
        }

        impl Decode for $number {
            const BYTES_MIN: usize = size_of::<Self>();

            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(input.array()?))
            }
        })*
    };
}

numbers! { u8 u32 u64 i64 }

impl Encode for bool {
    fn encode(&self, out: &mut impl Sink) {
        out.put(&[u8::from(*self)]);
    }
}

impl Decode for bool {
    const BYTES_MIN: usize = 1;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(input.invalid(format!("{found} is neither 0 nor 1"))),
        }
    }
}

impl Encode for Bytes {
    fn encode(&self, out: &mut impl Sink) {
        (self.len() as u32).encode(out);
        out.put(self);
    }
}

/// Shares the input, uncopied.
impl Decode for Bytes {
    const BYTES_MIN: usize = 4;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        input.bytes()
    }
}

impl Encode for String {
    fn encode(&self, out: &mut impl Sink) {
        (self.len() as u32).encode(out);
        out.put(self.as_bytes());
    }
}

impl Decode for String {
    const BYTES_MIN: usize = 4;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        input.text()
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut impl Sink) {
        (self.len() as u32).encode(out);
        self.iter().for_each(|item| item.encode(out));
    }
}

impl<T: Decode> Decode for Vec<T> {
    const BYTES_MIN: usize = 4;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let count = input.count(T::BYTES_MIN)?;
        (0..count).map(|_| T::decode(input)).collect()
    }
}

impl<T: Encode> Encode for Box<T> {
    fn encode(&self, out: &mut impl Sink) {
        (**self).encode(out);
    }
}

impl<T: Decode> Decode for Box<T> {
    const BYTES_MIN: usize = T::BYTES_MIN;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        T::decode(input).map(Self::new)
    }
}

impl<T: Encode> Encode for std::sync::Arc<T> {
    fn encode(&self, out: &mut impl Sink) {
        (**self).encode(out);
    }
}

impl<T: Decode> Decode for std::sync::Arc<T> {
    const BYTES_MIN: usize = T::BYTES_MIN;

    fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        T::decode(input).map(Self::new)
    }
}

impl Encode for () {
    fn encode(&self, _: &mut impl Sink) {}
}

impl<T: Encode> Encode for &T {
    fn encode(&self, out: &mut impl Sink) {
        (**self).encode(out);
    }
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {
        $(#[allow(non_snake_case, reason = "a variable is called as its type")]
        impl<$($name: Encode),*> Encode for ($($name,)*) {
            fn encode(&self, out: &mut impl Sink) {
                let ($($name,)*) = self;
                $($name.encode(out);)*
            }
        }

        impl<$($name: Decode),*> Decode for ($($name,)*) {
            const BYTES_MIN: usize = 0 $(+ $name::BYTES_MIN)*;

            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Ok(($($name::decode(input)?,)*))
            }
        })*
    };
}

tuples! { (A B) (A B C) }

/// Newtypes of bytes.
macro_rules! bytes {
    ($($name:ident)*) => {
        $(impl Encode for $name {
            fn encode(&self, out: &mut impl Sink) {
                out.put(&self.0);
            }
        }

        impl Decode for $name {
            const BYTES_MIN: usize = size_of::<Self>();

            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                Ok(Self(input.array()?))
            }
        })*
    };
}

bytes! { AgentId DirectoryId EntryKey SessionId }

/// Enums whose numbers are the wire's.
macro_rules! numbered {
    ($($name:ident, $what:literal;)*) => {
        $(impl Encode for $name {
            fn encode(&self, out: &mut impl Sink) {
                out.put(&[*self as u8]);
            }
        }

        impl Decode for $name {
            const BYTES_MIN: usize = 1;

            fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
                let number = input.u8()?;
                Self::from_u8(number).ok_or_else(|| super::unknown_kind($what, number))
            }
        })*
    };
}

numbered! {
    PublishOutcome, "publish outcome";
    RetireReason, "retire reason";
}

impl Encode for Fingerprint {
    fn encode(&self, out: &mut impl Sink) {
        out.put(&self.0);
    }
}

mod of_proto {
    use foreword_proto::records::SuspectRecord;
    use foreword_proto::{Namespace, SlotRef};

    record!(SlotRef { slab, slot, generation });
    record!(SuspectRecord { key, slot, shard, checksum });
    record!(Namespace {
        tenant,
        model,
        revision,
        dtype,
        layout,
        storage_format,
        page_tokens,
        layer_first,
        layer_count,
        cp_rank,
        cp_size,
        dcp_rank,
        dcp_size,
        tp_first,
        tp_count,
        tp_size,
        head_split,
        shard_bytes,
        pool,
        draft_model,
        draft_revision,
        salt,
    });
}
