//! The session between an engine and its agent, in shared memory.
//!
//! [`wire`] is what both sides agree on: the handshake on the agent's unix socket, the layout of the control memory,
//! and what a slot asks and is answered. [`engine`] is the engine's side; the agent's is `foreword-node`'s.
//!
//! A call is a *slot*: the engine writes its question there and sets the slot's bit, the agent answers there. Slots
//! know no order, so a slow get holds up no lookup. Page bytes lie in the agent's segments, which the engine maps
//! read-only and copies from, or in the session's staging memory, which the engine fills and the agent copies from.
//! Neither side touches the other's own memory.
//!
//! Whatever the other side can write is read as atomics, or copied by address: there is never a reference to it.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("expected Linux on 64 bits: sessions pass memfds, futexes and 64-bit offsets");

pub mod engine;
pub mod wire;

pub use engine::{CallError, Found, Get, Got, Located, OpenError, PageMemory, Put, PutPage, Session};
