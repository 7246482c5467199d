//! Kill tests with real processes: SIGKILL or SIGSTOP under load, one file a scenario. Nothing acknowledged may be
//! lost, no byte may be wrong, no reader of a living agent may notice.
//!
//! `FOREWORD_KILL_TESTS_DIR=/some/dir` keeps the clusters' directories, with a log of each process.

mod agent_killed;
mod all_replicas_killed;
mod canary;
mod cluster_restarted;
mod follower_killed;
mod leader_killed;
mod replica_behind;
mod replica_replaced;
mod replicas_stopped;
mod storm;
pub(crate) mod support;
mod under_pressure;
mod upgrade;
