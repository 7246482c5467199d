//! What the engine's side and the agent's side agree on.

pub mod control;
pub mod futex;
pub mod handshake;
pub mod mapping;
pub mod ops;
pub mod spin;

pub use control::{Control, SlotRef};
pub use mapping::{Mapping, SharedMemory};

/// Version of all of it. Another one is refused with both named.
pub const VERSION: u32 = 1;
/// Calls of one session at once: bits of one word.
pub const SLOTS: usize = 64;
/// Keys of one call; who has more asks again.
pub const KEYS_PER_SLOT_MAX: usize = 2048;
/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
