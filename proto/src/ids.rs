//! Small identities. Plain integers where they are counted or packed into records, newtypes where mixing them up would hurt.

use std::fmt;
use std::str::FromStr;

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
/// An agent's lease, never reused.
pub type SessionId = u64;
/// Position of a command within its session, starting at 1.
pub type Sequence = u64;

/// A newtype of 16 bytes that is written as 32 hexadecimal digits; `$field` is what its errors name.
macro_rules! id_of_16_bytes {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Parses the 16 bytes of a wire field.
            pub fn from_wire(bytes: &[u8]) -> Result<Self, BadInput> {
                <[u8; 16]>::try_from(bytes)
                    .map(Self)
                    .map_err(|_| BadInput::new($field, format!("16 bytes, got {}", bytes.len())))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
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
    /// 128 random bits drawn once for each agent and kept in its state directory; without one, for each of its processes. A node's
    /// name is its agent's until the session ends.
    AgentId, "agent_id"
}

id_of_16_bytes! {
    /// 128 random bits drawn for each data directory of a replica: a replica id belongs to one directory for ever.
    DirectoryId, "directory"
}
