//! Tests of the binary: every one of them starts real processes.

mod bad_input;

/// Clusters at once: with more than two on a small machine elections flap.
static CLUSTERS: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);
