//! The policy's own thread: feeds it what is applied, lets it start over from a frozen view, and asks it what the
//! leader wants to know.
//!
//! All work is done in slices. Between two of them a simulator may run something else, and a stop is noticed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::limits::KEYS_PER_LOCK_HOLD_MAX;
use foreword_proto::{NamespaceId, Revision};
use foreword_seams::{Marker, Telemetry, sometimes};
use metrics::{Counter, Gauge};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, Question, Victims};
use super::feed::{Cut, Feed, Next};
use super::reports::{Report, Reports};
use super::{EntryId, EvictionPolicy, LeafLru, PolicyPlace};
use crate::replica::applied::Applied;
use crate::replica::observer::Observer;
use crate::replica::supervise::Failing;
use crate::state::State;
use crate::state::command::Retirement;

/// How often the policy looks for what has come. A question, and a feed that fills, wake it.
const LOOK: Duration = Duration::from_millis(20);
/// Pages, or events, of one slice: about a millisecond.
const SLICE: usize = 4096;

/// What the rest of a replica has of the policy.
pub struct Policy {
    pub(super) feed: Arc<Feed>,
    pub(super) desk: Arc<Desk>,
    pub(super) reports: Arc<Reports>,
    wake: Arc<Notify>,
    place: PolicyPlace,
}

impl Policy {
    /// A policy that does not run yet.
    pub fn new(place: PolicyPlace, telemetry: &Telemetry) -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            feed: Arc::new(Feed::new(place.feed_bytes_max, wake.clone(), telemetry)),
            desk: Arc::new(Desk::new(wake.clone())),
            reports: Arc::new(Reports::new(telemetry)),
            wake,
            place,
        }
    }

    /// What tells the policy of each entry that is applied.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.feed.clone()
    }

    /// Begins to follow `applied`, which has [`Self::observer`], until `stop`. Errors: no thread could be made.
    pub fn start(
        &self,
        applied: Arc<Applied>,
        telemetry: &Telemetry,
        (failing, stop): (Failing, CancellationToken),
    ) -> io::Result<()> {
        let thread = PolicyThread {
            policy: Box::new(LeafLru::new()),
            feed: self.feed.clone(),
            desk: self.desk.clone(),
            reports: self.reports.clone(),
            wake: self.wake.clone(),
            applied,
            seen: None,
            stop,
            meters: Meters::new(telemetry),
        };
        (self.place.runner)(Box::pin(failing.supervise("the eviction policy", thread.run())))
    }
}

struct PolicyThread {
    policy: Box<dyn EvictionPolicy>,
    feed: Arc<Feed>,
    desk: Arc<Desk>,
    reports: Arc<Reports>,
    wake: Arc<Notify>,
    applied: Arc<Applied>,
    /// Up to where the policy knows everything; None while it starts over.
    seen: Option<Revision>,
    stop: CancellationToken,
    meters: Meters,
}

impl PolicyThread {
    async fn run(mut self) {
        while !self.stop.is_cancelled() {
            if self.work().await {
                yield_now().await;
                continue;
            }
            self.meters.show(self.seen, self.policy.heap_bytes());
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Some of what there is to do; false if that was all.
    async fn work(&mut self) -> bool {
        let mut more = self.follow().await;
        if let Some(report) = self.reports.next() {
            self.heat(&report).await;
            more = true;
        }
        more |= self.policy.sweep(SLICE);
        if let Some(question) = self.seen.and_then(|seen| self.desk.take(seen)) {
            self.decide(question).await;
            more = true;
        }
        more
    }

    /// Tells the policy a slice of what was applied, or lets it start over; false if it has caught up.
    async fn follow(&mut self) -> bool {
        let mut told = 0;
        while told < SLICE {
            match self.feed.next() {
                Next::Cut(cut) => {
                    self.rebuild(cut).await;
                    return true;
                }
                Next::Nothing(revision) => {
                    self.seen = self.seen.max(Some(revision));
                    return false;
                }
                // Of before the view that the policy started from.
                Next::Entry(entry) if Some(entry.revision) <= self.seen => {}
                Next::Entry(entry) => {
                    let slot_bytes_of = |namespace: NamespaceId| {
                        self.applied.peek(|state| state.namespace(namespace).map(|info| info.slot_bytes))
                    };
                    for events in entry.events.chunks(SLICE) {
                        events.iter().for_each(|event| self.policy.observe(event, &slot_bytes_of));
                        if events.len() == SLICE {
                            yield_now().await;
                        }
                    }
                    self.seen = Some(entry.revision);
                    told += entry.events.len();
                }
            }
        }
        true
    }

    /// Starts over from a frozen view: one pass over all pages of all namespaces, each bucket let go of as it is
    /// passed. The lock of the applied state is held for the freeze alone.
    async fn rebuild(&mut self, cut: Cut) {
        let began = Instant::now();
        self.seen = None;
        self.desk.delay();
        self.meters.show(None, 0);
        self.policy.restart(0);
        self.feed.resume();
        let frozen = self.applied.read(State::freeze);
        self.policy.restart(frozen.state().pages() as usize);
        let revision = frozen.state().revision();
        for info in frozen.state().namespaces() {
            self.policy.open(info.id, info.epoch, info.slot_bytes);
        }
        let mut passed = 0;
        for pages in frozen.into_pages() {
            passed += pages.len();
            for page in pages {
                self.policy.page(page.namespace, page.key, page.parent);
            }
            if passed >= SLICE {
                passed = 0;
                yield_now().await;
                // Further pages would be of a view that is not followed by what the feed has.
                if self.stop.is_cancelled() || self.feed.is_cut() {
                    return;
                }
            }
        }
        self.seen = Some(revision);
        if cut == Cut::Overflowed {
            sometimes(Marker::PolicyRebuiltAfterOverflow);
        }
        self.meters.rebuilt(began.elapsed());
    }

    async fn heat(&mut self, report: &Report) {
        for (number, entry) in report.entries().enumerate() {
            self.policy.heat(&entry);
            if number % SLICE == SLICE - 1 {
                yield_now().await;
            }
        }
    }

    /// Answers the leader.
    async fn decide(&mut self, question: Question) {
        let mut victims = Vec::new();
        self.policy.begin_round();
        for need in question.needs {
            let mut picked = Vec::new();
            loop {
                let mut steps = SLICE;
                picked.extend(self.policy.victims(need.slot_bytes, need.slots - picked.len(), &mut steps));
                if steps > 0 || picked.len() == need.slots || self.stop.is_cancelled() {
                    break;
                }
                yield_now().await;
            }
            victims.push(Victims { slot_bytes: need.slot_bytes, pages: locate(&self.applied, &picked).await });
        }
        self.desk.put(question.term, victims);
    }
}

/// Where these pages are. Those that are gone from a state that is ahead of the policy are left out: their retire will
/// be seen.
async fn locate(applied: &Applied, picked: &[EntryId]) -> Vec<Retirement> {
    let mut located = Vec::with_capacity(picked.len());
    for some in picked.chunks(KEYS_PER_LOCK_HOLD_MAX) {
        applied.peek(|state| {
            let of_page = |id: &EntryId| {
                let slot = state.location(id.namespace, &id.key)?.slot;
                Some(Retirement { namespace: id.namespace, key: id.key, slot })
            };
            located.extend(some.iter().filter_map(of_page));
        });
        yield_now().await;
    }
    located
}

/// What an operator sees of the policy.
struct Meters {
    rebuilds: Counter,
    rebuild_seconds: Gauge,
    caught_up: Gauge,
    revision: Gauge,
    bytes: Gauge,
}

impl Meters {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            rebuilds: telemetry.counter(
                "foreword_meta_policy_rebuilds_total",
                "Times the eviction policy started over from a view of the whole state",
            ),
            rebuild_seconds: telemetry.gauge("foreword_meta_policy_rebuild_seconds", "How long the last start took"),
            caught_up: telemetry.gauge(
                "foreword_meta_policy_caught_up",
                "1: the eviction policy has seen what was applied; 0: it starts over",
            ),
            revision: telemetry
                .gauge("foreword_meta_policy_revision", "The revision that the eviction policy has seen"),
            bytes: telemetry.gauge("foreword_meta_policy_bytes", "Heap bytes of the eviction policy"),
        }
    }

    fn show(&self, seen: Option<Revision>, heap_bytes: usize) {
        self.caught_up.set(if seen.is_some() { 1.0 } else { 0.0 });
        self.revision.set(seen.unwrap_or(0) as f64);
        self.bytes.set(heap_bytes as f64);
    }

    fn rebuilt(&self, took: Duration) {
        self.rebuilds.increment(1);
        self.rebuild_seconds.set(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
