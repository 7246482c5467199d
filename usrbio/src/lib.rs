//! The USRBIO protocol of 3FS: what a client and the daemon say to each other through shared memory, links and
//! semaphores.
//!
//! Names, offsets and numbers live here once; the agent's store is the client, the stand-in the daemon. x86-64 and
//! glibc: a semaphore is glibc's `sem_t`.
//!
//! `memory.rs`, `ring.rs` and `semaphore.rs` hold all `unsafe`.

mod ioctl;
mod layout;
mod memory;
mod mounts;
mod name;
mod ring;
mod semaphore;

pub use ioctl::{
    FSYNC, GET_MAGIC, GET_MOUNT_NAME, GET_PATH_OFFSET, GET_VERSION, HARDLINK, HARDLINK_BYTES, MAGIC, MOUNT_NAME_BYTES,
    PUNCH_HOLE, PUNCH_HOLE_BYTES, PUNCH_RANGES_MAX, VERSION, is_hf3fs,
};
pub use layout::{
    ARGS_BYTES, CQE_BYTES, Cqe, Cursor, ENTRIES_MAX, IoArgs, RING_SPARE_BYTES, RingLayout, SEMAPHORE_BYTES, SQE_BYTES,
    Sqe,
};
pub use memory::{Mapping, ShmFile};
pub use mounts::{mount_point_in, mount_point_of};
pub use name::{
    FS_TYPE, IOVS_DIR, IovId, LinkKind, LinkName, NameError, Priority, RingName, SHM_DIR, SUBMIT_LINK, VIRT_DIR,
    shm_name_of, submit_link,
};
pub use ring::RingMemory;
pub use semaphore::NamedSemaphore;
