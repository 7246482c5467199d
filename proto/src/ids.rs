//! Small identities. Plain integers where they are counted or packed into records, newtypes where mixing them up would
//! hurt.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::BadInput;

/// Index of a Raft log entry; every answer names the one it saw. 0: nothing applied yet.
pub type Revision = u64;
/// A registered namespace, unique in its cluster. 0 is never given out.
pub type NamespaceId = u32;
/// How often a namespace was cleared, plus one.
pub type Epoch = u32;
/// A slab file, never reused.
pub type SlabId = u32;
/// Index of a slot within its slab.
pub type Slot = u32;
/// Counts the uses of a slot, starting at 1.
pub type Generation = u32;
/// Position of a command within its session, starting at 1.
pub type Sequence = u64;

/// A newtype of 16 bytes; `$field` is what its errors name.
macro_rules! of_16_bytes {
    ($(#[$meta:meta])* $name:ident, $field:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Parses the 16 bytes of a wire field.
            pub fn from_wire(bytes: &[u8]) -> Result<Self, BadInput> {
                <[u8; 16]>::try_from(bytes)
                    .map(Self)
                    .map_err(|_| BadInput::new($field, format!("16 bytes, got {}", bytes.len())))
            }

            /// The 16 bytes of a wire field.
            pub fn to_wire(self) -> Bytes {
                Bytes::copy_from_slice(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

/// The same, written as 32 hexadecimal digits.
macro_rules! id_of_16_bytes {
    ($(#[$meta:meta])* $name:ident, $field:literal) => {
        of_16_bytes! {
            $(#[$meta])*
            #[derive(Serialize, Deserialize)]
            #[serde(into = "String", try_from = "String")]
            $name, $field
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = BadInput;

            fn from_str(text: &str) -> Result<Self, BadInput> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| BadInput::new($field, format!("32 hexadecimal digits, got {text:?}")))?;
                Ok(Self(bytes))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadInput;

            fn try_from(text: String) -> Result<Self, BadInput> {
                text.parse()
            }
        }
    };
}

id_of_16_bytes! {
    /// 128 random bits drawn at `meta init`: says which replicas, L3 directories and agents belong together.
    ClusterId, "cluster_id"
}

id_of_16_bytes! {
    /// 128 random bits drawn once for each agent and kept in its state directory; without one, for each of its
    /// processes. A node's name is its agent's until the session ends.
    AgentId, "agent_id"
}

id_of_16_bytes! {
    /// 128 random bits drawn for each data directory of a replica: a replica id belongs to one directory for ever.
    DirectoryId, "directory"
}

of_16_bytes! {
    /// An agent's lease: 128 random bits drawn when it opens, so that no other group and no earlier life of this one
    /// knows it. Whoever has it acts as the session; so it is never written whole.
    SessionId, "session"
}

/// The first 8 of its hexadecimal digits: they tell sessions apart, and nobody can act as one with them.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}
