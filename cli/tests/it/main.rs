//! The binary and the driver from outside.

mod bad_input;
mod bench;
mod binary;
mod driver;
mod failing_jobs;
mod fakes;
mod grpcio_python;
mod hf3fs_python;
mod kill;
mod removal;
mod slow_disk;
mod usrbio_python;
mod usrbiod;

/// Clusters at once: with more than two on a small machine elections flap.
static CLUSTERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

/// Not `eprintln!`: the harness would swallow it, and a skip has to be seen.
fn tell(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}
