//! Replicas that come and go: killed together, joined, put in another's place, dismissed.

use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use foreword_seams::Endpoint;
use serde::Deserialize;

use super::child::Child;
use super::{Cluster, Replica, ports};

/// What `foreword meta replace --json` prints.
#[derive(Deserialize)]
struct Membership {
    voters: Vec<u64>,
}

impl Cluster {
    /// SIGKILL for all replicas that run, at once; returns when all are dead.
    pub fn kill_all_replicas(&mut self) {
        let mut children: Vec<Child> = self.replicas.iter_mut().filter_map(|one| one.child.take()).collect();
        // All are told before the first one's end is waited for.
        children.iter_mut().for_each(Child::signal_kill);
    }

    /// Makes a directory for a new replica of the running group and starts it. It is no member yet.
    pub async fn join_replica(&mut self, id: u64) -> anyhow::Result<()> {
        ensure!(self.replica(id).is_err(), "replica {id}: expected a new id");
        let join = self.running().into_iter().next().context("a running replica to join")?;
        let port = ports::draw(1)?.first().copied().context("a port")?;
        let data_dir = self.data_dir(id).display().to_string();
        let (id_text, join) = (id.to_string(), join.to_string());
        self.foreword(&["meta", "init", "--data-dir", &data_dir, "--replica-id", &id_text, "--join", &join]).await?;
        let endpoint = Endpoint::Tcp(format!("127.0.0.1:{port}"));
        self.replicas.push(Replica { id, endpoint, child: None });
        self.start_replica(id).await
    }

    /// Puts the running replica `new` in the place of `old`, with `foreword meta replace`; the voters since.
    pub async fn replace_replica(&mut self, old: u64, new: u64) -> anyhow::Result<Vec<u64>> {
        let members = self.replicas.iter().filter(|one| one.id != new && one.child.is_some());
        let meta: Vec<String> = members.map(|one| one.endpoint.to_string()).collect();
        let (old, endpoint) = (old.to_string(), self.replica(new)?.endpoint.to_string());
        let (meta, new) = (meta.join(","), new.to_string());
        let args =
            ["meta", "replace", "--json", "--meta", &meta, "--old", &old, "--new", &new, "--endpoint", &endpoint];
        let printed = self.foreword(&args).await?;
        let membership: Membership = serde_json::from_str(printed.trim()).context("what meta replace prints")?;
        Ok(membership.voters)
    }

    /// SIGKILL for a replica that has left the group; nothing here asks it any more.
    pub fn dismiss_replica(&mut self, id: u64) -> anyhow::Result<()> {
        self.kill_replica(id)?;
        self.replicas.retain(|one| one.id != id);
        Ok(())
    }

    /// Runs the binary to its end; what it printed.
    async fn foreword(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(&self.spec.binary);
        let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.with_context(|| format!("foreword {}", args.join(" ")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("foreword {}: {}\n{said}", args.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
