//! The demo over USRBIO: what it needs of the machine, the stand-in's end and return, and what the report says of it.

use anyhow::Context;
use foreword_proto::BadInput;
use tokio::sync::watch;

use crate::clients;
use crate::cluster::Cluster;
use crate::commands::playing::Voice;
use crate::driver::report::UsrbioReport;

/// Gives this process mounts of its own, /dev/shm among them, so that nothing of the stand-in's or the agents' outlives
/// it however it ends. Before any thread is made.
///
/// Errors name what the machine lacks.
pub fn enter_own_mounts() -> anyhow::Result<()> {
    let missing =
        |what: &str| BadInput::new("l3", format!("root and /dev/fuse for usrbio ({what}); posix needs neither"));
    if !rustix::process::geteuid().is_root() {
        return Err(missing("this process is not root's").into());
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        return Err(missing("there is no /dev/fuse").into());
    }
    foreword_usrbiod::enter_private_mounts().map_err(|error| missing(&format!("a mount namespace: {error}")))?;
    foreword_usrbiod::mount_private_shm().map_err(|error| missing(&format!("a /dev/shm of its own: {error}")).into())
}

/// The stand-in was killed and came back.
pub(super) struct Restarted {
    /// Of each shard of a page.
    l3_hits_before: u64,
    pids_before: Vec<u32>,
}

/// Kills the stand-in at a quarter of the requests and restarts it at three eighths.
pub(super) async fn kill(
    cluster: &mut Cluster,
    submitted: &mut watch::Receiver<usize>,
    requests: usize,
    voice: &Voice,
) -> anyhow::Result<Restarted> {
    submitted.wait_for(|count| *count * 4 >= requests).await?;
    let pids_before = cluster.agent_pids();
    cluster.kill_standin()?;
    voice.say("killed the stand-in: L3 is gone");
    submitted.wait_for(|count| *count * 8 >= requests * 3).await?;
    let l3_hits_before = l3_hits(cluster).await?;
    cluster.restart_standin().await?;
    voice.say("restarted the stand-in");
    Ok(Restarted { l3_hits_before, pids_before })
}

/// What the report says of the stand-in; None without one.
pub(super) async fn report(
    cluster: &Cluster,
    shards: u64,
    restarted: Option<Restarted>,
) -> anyhow::Result<Option<UsrbioReport>> {
    let Some(standin) = cluster.standin_counters().await? else { return Ok(None) };
    let (mut bytes_copied, mut l3_epochs) = (0, 0);
    for endpoint in cluster.agent_endpoints() {
        let status = clients::agent_status(&endpoint).await.context("an agent's counters")?;
        bytes_copied += status.counters.bytes_copied;
        l3_epochs += status.counters.l3_epochs;
    }
    let hits_now = l3_hits(cluster).await?;
    Ok(Some(UsrbioReport {
        standin,
        agent_bytes_copied: bytes_copied,
        l3_epochs,
        l3_hits_after_restart: restarted.as_ref().map(|restarted| (hits_now - restarted.l3_hits_before) / shards),
        agents_lived_on: restarted.map(|restarted| restarted.pids_before == cluster.agent_pids()),
    }))
}

async fn l3_hits(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut hits = 0;
    for endpoint in cluster.agent_endpoints() {
        hits += clients::agent_status(&endpoint).await.context("an agent's counters")?.counters.l3_hits;
    }
    Ok(hits)
}
