//! What `foreword demo` and `foreword replay` share: the trace, how to play it, and what they say meanwhile.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use foreword_proto::workload::{Generator, Ideal, Trace, ideal, parse};
use foreword_proto::{BadInput, Namespace};
use foreword_seams::Endpoint;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clients::{self, Group};
use crate::driver::audit::{Audit, Findings, RECORD_PATIENCE};
use crate::driver::recorder::Recorder;
use crate::driver::run::{Agents, Play, play};
use crate::driver::{Counts, Plan};
use crate::human::Size;

/// Below this a wrong byte of a shard could pass its check.
const SHARD_BYTES_MIN: u64 = 16;

/// What is played, and how.
#[derive(Debug, Clone, Args)]
pub struct PlayArgs {
    /// A trace to play, as JSON lines (.gz too) with timestamp, input_length, output_length and hash_ids [default: a
    /// generated chat]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Requests to generate; of a trace: how many of its first ones [default: 2000, of a trace all]
    #[arg(long, value_name = "N")]
    pub requests: Option<usize>,
    /// Bytes of a whole page, over all its shards
    #[arg(long, value_name = "SIZE", default_value = "16KiB")]
    pub page_bytes: Size,
    /// Shards of a page, each put and got by a client of its own
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub shards: u64,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub concurrency: usize,
    /// Of the generated requests and of the writers' nonces
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Keep the pauses of the trace
    #[arg(long)]
    pub paced: bool,
}

/// A script: what will be asked, and what an infinite cache would answer.
pub struct Script {
    pub plan: Arc<Plan>,
    pub ideal: Ideal,
    pub namespace: Namespace,
    pub play: Play,
}

impl PlayArgs {
    /// Reads or generates the trace and works out everything that follows from it. `salt` keeps the pages apart from
    /// others'.
    pub fn script(&self, salt: Vec<u8>) -> anyhow::Result<Script> {
        if self.concurrency == 0 || self.concurrency > 10_000 {
            return Err(BadInput::new("concurrency", format!("1 to 10000, got {}", self.concurrency)).into());
        }
        let trace = self.trace()?;
        if trace.requests.is_empty() {
            return Err(BadInput::new("requests", "at least one, got none").into());
        }
        let namespace = Namespace { salt, ..Namespace::simple("foreword-demo", 1, self.shard_bytes()?) };
        namespace.validate()?;
        let play =
            Play { namespace: namespace.clone(), concurrency: self.concurrency, paced: self.paced, seed: self.seed };
        Ok(Script { plan: Arc::new(Plan::new(&trace)), ideal: ideal(&trace), namespace, play })
    }

    fn trace(&self) -> Result<Trace, BadInput> {
        let Some(path) = &self.trace else {
            return Ok(Generator::new(self.seed, self.requests.unwrap_or(2000)).trace());
        };
        let bytes = std::fs::read(path)
            .map_err(|error| BadInput::new("trace", format!("a readable file, {}: {error}", path.display())))?;
        let trace = parse(&bytes).map_err(|error| {
            BadInput::new(format!("trace: {}", error.field), format!("{} ({})", error.expected, path.display()))
        })?;
        Ok(match self.requests {
            Some(requests) => trace.head(requests),
            None => trace,
        })
    }

    /// The page over its shards; the first ones take what does not divide.
    fn shard_bytes(&self) -> Result<Vec<u64>, BadInput> {
        if self.shards == 0 {
            return Err(BadInput::new("shards", "at least 1, got 0"));
        }
        let (each, rest) = (self.page_bytes.0 / self.shards, self.page_bytes.0 % self.shards);
        if each < SHARD_BYTES_MIN {
            let expected = format!("at least {SHARD_BYTES_MIN} bytes for each of {} shards", self.shards);
            return Err(BadInput::new("page_bytes", format!("{expected}, got {}", self.page_bytes)));
        }
        Ok((0..self.shards).map(|shard| each + u64::from(shard < rest)).collect())
    }
}

/// A script with the agents it is played through, and the record that began before its first request.
pub struct Stage {
    pub agents: Arc<Agents>,
    pub group: Group,
    pub recorder: Recorder,
}

impl Stage {
    /// Opens the namespace on every agent and starts to record its events.
    pub async fn open(script: &Script, agents: &[Endpoint], meta: &[Endpoint]) -> anyhow::Result<Self> {
        let agents = Arc::new(Agents::open(agents, &script.namespace).await?);
        let group = clients::group(meta)?;
        let recorder = Recorder::start(group.clone(), agents.namespace_id(), script.namespace.shards()).await?;
        Ok(Self { agents, group, recorder })
    }

    /// Plays the script; `submitted` follows the number of requests submitted.
    pub async fn play(&self, script: &Script, submitted: &watch::Sender<usize>, voice: &Voice) -> (Counts, Duration) {
        let bar = voice.bar(script.plan.requests.len() as u64, "requests");
        let over = {
            let bar = bar.clone();
            move |counts: &Counts| {
                let (hit, asked) = (counts.pages_hit(), counts.pages_asked.max(1));
                bar.step(|| format!("{:.1}% of the pages hit", 100.0 * hit as f64 / asked as f64));
            }
        };
        let played = play(script.plan.clone(), self.agents.clone(), script.play.clone(), submitted, over).await;
        bar.end();
        for (reason, pages) in &played.0.refused_for {
            voice.say(&format!("{pages} pages were refused: {reason}"));
        }
        if played.0.calls_failed > 0 {
            voice.say(&format!("{} calls failed; what they cost is in the figures", played.0.calls_failed));
        }
        played
    }

    /// Audits what was acknowledged.
    pub async fn audit(&self, script: &Script, counts: &Counts, voice: &Voice) -> anyhow::Result<Findings> {
        let audit = Audit {
            plan: &script.plan,
            namespace: &script.namespace,
            agents: self.agents.clone(),
            group: &self.group,
            recorder: &self.recorder,
            acked_revision: &counts.acked_revision,
            record_patience: RECORD_PATIENCE,
        };
        let bar = voice.bar(counts.publishes_acked(), "acknowledged pages audited");
        let findings = audit.run(|settled| bar.at(settled)).await;
        bar.end();
        findings
    }

    /// Pages published into slots that were used before: by the record, which has no other namespace's; None after a
    /// gap.
    pub fn slots_reused(&self) -> Option<u64> {
        self.recorder.read(|record| (!record.gap).then_some(record.slots_reused))
    }
}

/// Says on stderr what is happening: bars on a terminal, a line now and then elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    terminal: bool,
}

impl Default for Voice {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }
}

/// Lines of a bar elsewhere than on a terminal.
const LINES_OF_A_BAR: u64 = 10;

impl Voice {
    /// A line.
    pub fn say(&self, text: &str) {
        eprintln!("foreword: {text}");
    }

    /// A bar up to `total`.
    pub fn bar(&self, total: u64, what: &'static str) -> Bar {
        let target = if self.terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = "foreword: [{bar:30}] {pos}/{len} {prefix} {msg} ({elapsed})";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what);
        Bar { bar, what, voice: *self, said: Arc::new(Mutex::new(0)) }
    }
}

/// Progress of one thing.
#[derive(Debug, Clone)]
pub struct Bar {
    bar: ProgressBar,
    what: &'static str,
    voice: Voice,
    /// Tenths said so far, elsewhere than on a terminal.
    said: Arc<Mutex<u64>>,
}

impl Bar {
    /// One more, with what there is to say by now.
    pub fn step(&self, message: impl FnOnce() -> String) {
        self.bar.inc(1);
        self.tell(Some(message));
    }

    /// So many by now.
    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
        self.tell(None::<fn() -> String>);
    }

    /// No more.
    pub fn end(&self) {
        if self.voice.terminal {
            self.bar.finish();
        }
    }

    fn tell(&self, message: Option<impl FnOnce() -> String>) {
        let message = message.map(|message| message()).unwrap_or_default();
        if self.voice.terminal {
            self.bar.set_message(message);
            return;
        }
        let (at, total) = (self.bar.position(), self.bar.length().unwrap_or_default().max(1));
        let tenth = at * LINES_OF_A_BAR / total;
        let mut said = self.said.lock();
        if tenth > *said {
            *said = tenth;
            self.voice.say(format!("{at}/{total} {} {message}", self.what).trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> PlayArgs {
        PlayArgs {
            trace: None,
            requests: Some(10),
            page_bytes: Size(4097),
            shards: 2,
            concurrency: 4,
            seed: 1,
            paced: false,
        }
    }

    #[test]
    fn a_page_is_cut_into_its_shards() {
        assert_eq!(args().shard_bytes().unwrap(), [2049, 2048]);
        assert_eq!(args().script(Vec::new()).unwrap().plan.requests.len(), 10);
    }

    #[test]
    fn errors_name_their_field() {
        type Change = fn(&mut PlayArgs);
        let cases: [(&str, Change); 5] = [
            ("shards", |args| args.shards = 0),
            ("page_bytes", |args| args.page_bytes = Size(31)),
            ("requests", |args| args.requests = Some(0)),
            ("concurrency", |args| args.concurrency = 0),
            ("trace", |args| args.trace = Some("/nowhere".into())),
        ];
        for (field, change) in cases {
            let mut args = args();
            change(&mut args);
            let error = args.script(Vec::new()).map(drop).unwrap_err();
            assert_eq!(error.downcast_ref::<BadInput>().unwrap().field, field);
        }
    }
}
