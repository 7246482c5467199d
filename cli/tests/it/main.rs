//! The binary and the driver from outside.

mod bad_input;
mod bench;
mod binary;
mod driver;
mod fakes;
mod hf3fs_python;
mod kill;
mod slow_disk;
mod usrbio_python;
mod usrbiod;

/// Clusters at once: with more than two on a small machine elections flap.
static CLUSTERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);
