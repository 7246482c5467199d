//! A stand-in for a 3FS mount: a FUSE filesystem over an ordinary directory that serves USRBIO clients as the 3FS
//! daemon does.
//!
//! `fs` is what the kernel asks (posix calls, `3fs-virt`, ioctls), `service` is what clients ask through shared memory
//! (links, rings, I/Os). They meet in [`service::BackingFiles`] and in the methods of [`service::Service`].

pub mod config;
mod fs;
mod mount;
mod namespace;
pub mod service;
mod standin;

pub use config::Config;
pub use fs::COUNTERS_FILE;
pub use namespace::{enter_private_mounts, mount_private_shm};
pub use standin::{StandIn, StartError, raise_open_files_hard, start};
