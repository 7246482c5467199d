//! The audit at the end: is every page that an agent acknowledged still there, with the right bytes on L3?
//!
//! A page that a linearizable lookup does not find is lost, unless the recorded watch stream has a retire of a later
//! revision than its acknowledgement. A page that is found is read from L3 past every cache and verified, byte by byte.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use foreword_proto::wire::common::Freshness;
use foreword_proto::wire::meta as m;
use foreword_proto::{Namespace, PageKey};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep};

use super::plan::{PageIndex, Plan};
use super::recorder::Recorder;
use super::run::Agents;
use super::transfer::{self, Got, ShardGet};
use crate::clients::Group;

/// Keys of one lookup; their answers fit a message with any number of shards.
const LOOKUP_KEYS: usize = 8192;
/// Pages of one get.
const GET_PAGES: usize = 256;
/// Gets under way at once.
const GETS_UNDER_WAY: usize = 4;
/// How long lookups may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the record may take to catch up with what a lookup saw.
pub const RECORD_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);
/// A page that could not be read is asked for again for so long: the leader may have evicted it meanwhile, or its agent
/// does not ask L3 for a while after a read that failed.
const READ_PATIENCE: Duration = Duration::from_secs(20);
const READ_PAUSE: Duration = Duration::from_millis(500);
/// One whose bytes do not verify is asked for again this often only: it may have been evicted meanwhile, but wrong
/// bytes do not get better.
const READ_ROUNDS: usize = 3;

/// What the audit needs.
pub struct Audit<'a> {
    pub plan: &'a Plan,
    pub namespace: &'a Namespace,
    pub agents: Arc<Agents>,
    pub group: &'a Group,
    pub recorder: &'a Recorder,
    /// Of each page, the largest revision at which it was acknowledged; 0: never.
    pub acked_revision: &'a [u64],
    /// How long to wait for an explanation of an absent page: [`RECORD_PATIENCE`].
    pub record_patience: Duration,
}

/// What the audit found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Findings {
    /// Acknowledged, absent, and nothing explains it; or present with bytes that do not verify, or cannot be read.
    pub lost: u64,
    /// Present, and every byte on L3 verified.
    pub proven: u64,
    /// Absent, with a later retire in the record.
    pub retired: u64,
}

impl Audit<'_> {
    /// Runs the audit; `progress` is told how many pages are settled.
    pub async fn run(&self, progress: impl Fn(u64)) -> anyhow::Result<Findings> {
        let mut findings = Findings::default();
        let acked = self.acked_revision.iter().enumerate().filter(|(_, revision)| **revision > 0);
        let mut open: Vec<PageIndex> = acked.map(|(page, _)| page as PageIndex).collect();
        let mut until = None;
        let mut bad: Vec<(PageIndex, Got)> = Vec::new();
        for round in 1.. {
            let (present, revision) = self.present(&open, &mut findings).await?;
            let failed =
                self.read(&present, revision, |settled| progress(findings.retired + findings.proven + settled)).await?;
            findings.proven += (present.len() - failed.len()) as u64;
            let now = Instant::now();
            let over = now >= *until.get_or_insert(now + READ_PATIENCE);
            let is_final = |got: Got| over || got == Got::Wrong && round >= READ_ROUNDS;
            bad.extend(failed.iter().filter(|(_, got)| is_final(*got)));
            open = failed.iter().filter(|(_, got)| !is_final(*got)).map(|(page, _)| *page).collect();
            if open.is_empty() {
                break;
            }
            sleep(READ_PAUSE).await;
        }
        for (page, got) in &bad {
            let what = if *got == Got::Wrong { "its bytes do not verify" } else { "it could not be read" };
            tracing::error!(key = %self.plan.key(*page), "acknowledged and present, but {what}");
        }
        findings.lost += bad.len() as u64;
        Ok(findings)
    }

    /// The pages that a linearizable lookup finds, and the revision it saw. The others are retired, or lost.
    async fn present(&self, pages: &[PageIndex], findings: &mut Findings) -> anyhow::Result<(Vec<PageIndex>, u64)> {
        let (mut present, mut absent, mut revision) = (Vec::new(), Vec::new(), 0);
        for batch in pages.chunks(LOOKUP_KEYS) {
            let request = m::LookupRequest {
                namespace_id: self.agents.namespace_id(),
                keys: self.plan.wire_keys(batch),
                tokens: None,
                freshness: Some(Freshness { min_revision: 0, linearizable: true }),
                with_locations: false,
                every_key: true,
            };
            let answer = self
                .group
                .retry(Instant::now() + PATIENCE, |mut replica| {
                    let request = request.clone();
                    async move { replica.lookup(request).await }
                })
                .await
                .context("audit: linearizable lookup")?;
            ensure!(
                answer.present.len() == batch.len(),
                "audit: expected {} answers of a lookup of every key, got {}",
                batch.len(),
                answer.present.len()
            );
            revision = revision.max(answer.revision);
            for (page, there) in batch.iter().zip(&answer.present) {
                if *there == 1 { present.push(*page) } else { absent.push(*page) }
            }
        }
        let unexplained = self.unexplained(absent.clone()).await;
        for page in &unexplained {
            let (key, acked) = (self.plan.key(*page), self.acked_revision[*page as usize]);
            tracing::error!(%key, acked, "acknowledged, absent, and no later retire explains it");
        }
        findings.lost += unexplained.len() as u64;
        findings.retired += (absent.len() - unexplained.len()) as u64;
        Ok((present, revision))
    }

    /// Those absent pages that no retire in the record explains, once the record has had time to catch up.
    async fn unexplained(&self, mut absent: Vec<PageIndex>) -> Vec<PageIndex> {
        let until = Instant::now() + self.record_patience;
        loop {
            self.recorder.read(|record| {
                absent.retain(|page| {
                    !record.retired_after(&self.plan.key(*page).entry(), self.acked_revision[*page as usize])
                });
            });
            if absent.is_empty() || Instant::now() >= until {
                return absent;
            }
            sleep(POLL).await;
        }
    }

    /// Reads these pages from L3, past every cache; those that did not verify or could not be read. Batch by batch
    /// through one agent after another.
    async fn read(
        &self,
        pages: &[PageIndex],
        revision: u64,
        settled: impl Fn(u64),
    ) -> anyhow::Result<Vec<(PageIndex, Got)>> {
        let batches = pages.chunks(GET_PAGES).enumerate();
        let reads = batches.map(|(number, batch)| self.read_batch(number % self.agents.len(), batch, revision));
        let mut done = 0;
        let mut bad = Vec::new();
        let mut reads = stream::iter(reads).buffer_unordered(GETS_UNDER_WAY);
        while let Some((read, failed)) = reads.try_next().await? {
            done += read as u64;
            bad.extend(failed);
            settled(done);
        }
        Ok(bad)
    }

    async fn read_batch(
        &self,
        agent: usize,
        batch: &[PageIndex],
        min_revision: u64,
    ) -> anyhow::Result<(usize, Vec<(PageIndex, Got)>)> {
        let keys: Vec<PageKey> = batch.iter().map(|page| *self.plan.key(*page)).collect();
        // None: every shard so far is right.
        let mut bad: Vec<Option<Got>> = vec![None; batch.len()];
        for (shard, bytes) in self.namespace.shard_bytes.iter().enumerate() {
            let ask = ShardGet {
                namespace_id: self.agents.namespace_id(),
                shard: shard as u32,
                shard_bytes: *bytes as usize,
                min_revision,
                bypass_cache: true,
                every_key: true,
            };
            let got = transfer::get(&mut self.agents.shard(agent, shard), &ask, &keys).await;
            match got {
                Ok(got) => bad.iter_mut().zip(got).for_each(|(bad, got)| match got {
                    Got::Right(_) => {}
                    Got::Wrong => *bad = Some(Got::Wrong),
                    Got::Miss => *bad = bad.or(Some(Got::Miss)),
                }),
                Err(status) => {
                    tracing::warn!(%status, "a get of the audit failed; its pages are asked for again");
                    bad.iter_mut().for_each(|bad| *bad = bad.or(Some(Got::Miss)));
                }
            }
        }
        let bad = batch.iter().zip(bad).filter_map(|(page, bad)| Some((*page, bad?)));
        Ok((batch.len(), bad.collect()))
    }
}
