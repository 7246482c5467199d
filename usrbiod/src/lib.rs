//! A stand-in for a 3FS mount: a FUSE filesystem over an ordinary directory that serves USRBIO clients as the 3FS daemon does.

pub mod service;

mod namespace;

pub use namespace::enter_private_mounts;
