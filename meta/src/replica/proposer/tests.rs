//! The proposer over a log that a test holds still.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::limits::{ENTRY_BYTES_MAX, PROPOSALS_WAITING_BYTES_MAX};
use foreword_proto::{EntryKey, Revision};
use foreword_seams::Telemetry;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::log::{Log, Office, Progress, Written};
use super::run::ENTRIES_IN_FLIGHT_MAX;
use super::{ProposeError, Proposed, Proposer};
use crate::consensus::types::EntryBatch;
use crate::replica::checked::{Author, Checked};
use crate::replica::clock::LeaderClock;
use crate::replica::group::encode_commands;
use crate::replica::supervise::{Failing, Failure};
use crate::state::codec::decode_batch;
use crate::state::command::{Command, Outcome};

/// Entries are written when the test says so.
struct HeldLog {
    office: watch::Sender<Office>,
    entries: Mutex<Vec<(Vec<Command>, oneshot::Sender<Written>)>>,
    written: watch::Sender<usize>,
    progress: Mutex<Progress>,
}

impl Log for HeldLog {
    fn office(&self) -> Office {
        *self.office.borrow()
    }

    fn office_is_not(&self, seen: Office) -> BoxFuture<'static, bool> {
        let mut office = self.office.subscribe();
        Box::pin(async move { office.wait_for(|office| *office != seen).await.is_ok() })
    }

    fn write(&self, entry: EntryBatch) -> BoxFuture<'static, Written> {
        let (answer, answered) = oneshot::channel();
        self.entries.lock().push((decode_batch(entry.0).unwrap(), answer));
        self.written.send_modify(|written| *written += 1);
        Box::pin(async move {
            match answered.await {
                Ok(written) => written,
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn progress(&self) -> Progress {
        *self.progress.lock()
    }
}

impl HeldLog {
    /// Waits until so many entries were written, ever.
    async fn written(&self, entries: usize) {
        self.written.subscribe().wait_for(|written| *written >= entries).await.unwrap();
    }

    /// Applies the oldest entry that was not; answers with its commands, less the tick.
    fn apply(&self, revision: Revision) -> Vec<Command> {
        let (mut commands, answer) = self.entries.lock().remove(0);
        assert!(matches!(commands[0], Command::Tick { .. }));
        let _ = answer.send(Ok((revision, vec![Outcome::Done; commands.len()])));
        self.progress.lock().applied = revision;
        commands.split_off(1)
    }

    fn become_leader(&self, term: u64) {
        self.office.send_replace(Office { leads: true, term });
    }
}

const WAITS_FOR_NOTHING: Progress = Progress { applied: 7, quorum_heard: true, flushing: false };
const SLOW_DISK: Progress = Progress { flushing: true, ..WAITS_FOR_NOTHING };
const NO_QUORUM: Progress = Progress { quorum_heard: false, ..WAITS_FOR_NOTHING };

struct Running {
    proposer: Proposer,
    log: Arc<HeldLog>,
    failed: watch::Receiver<Option<Failure>>,
    telemetry: Telemetry,
}

impl Running {
    /// A proposer of the leader of term 1.
    fn new(progress: Progress) -> Self {
        let log = Arc::new(HeldLog {
            office: watch::Sender::new(Office { leads: true, term: 1 }),
            entries: Mutex::default(),
            written: watch::Sender::new(0),
            progress: Mutex::new(progress),
        });
        let (failing, failed) = Failing::new();
        let telemetry = Telemetry::new();
        let clock = Arc::new(LeaderClock::default());
        let (proposer, task) = Proposer::over(log.clone(), clock, &telemetry, failing.clone());
        tokio::spawn(failing.supervise("the proposer", task));
        Self { proposer, log, failed, telemetry }
    }

    fn propose(&self, command: Command, author: Author, within: Duration) -> JoinHandle<Proposed> {
        let checked = Checked::new(encode_commands(&[command]), author, 1).unwrap();
        let (proposer, deadline) = (self.proposer.clone(), Instant::now() + within);
        tokio::spawn(async move { proposer.propose(checked, author, deadline).await })
    }

    /// A caller's small proposal, told from others by its number.
    fn small(&self, number: u32) -> JoinHandle<Proposed> {
        self.propose(numbered(number), Author::Caller, HOUR)
    }

    /// As many entries as may be in flight, of a proposal each.
    async fn fill_flight(&self) -> Vec<JoinHandle<Proposed>> {
        let before = *self.log.written.borrow();
        let mut proposed = Vec::new();
        for entry in 1..=ENTRIES_IN_FLIGHT_MAX {
            proposed.push(self.small(entry as u32));
            self.log.written(before + entry).await;
        }
        proposed
    }

    fn shown(&self, line: &str) -> bool {
        self.telemetry.render().lines().any(|shown| shown == line)
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn numbered(number: u32) -> Command {
    Command::Reclaim { entries_max: number }
}

fn large(bytes: usize) -> Command {
    Command::Delete { namespace: 1, keys: vec![EntryKey([7; 16]); bytes / 16] }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_the_term_ends_is_unknown_and_its_place_is_free() {
    let running = Running::new(SLOW_DISK);
    let in_flight = running.fill_flight().await;
    let waiting = running.small(9);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.log.entries.lock().len(), ENTRIES_IN_FLIGHT_MAX);
    running.log.office.send_replace(Office { leads: false, term: 2 });
    for proposed in in_flight {
        assert_eq!(proposed.await.unwrap(), Err(ProposeError::Unknown));
    }
    assert_eq!(waiting.await.unwrap(), Err(ProposeError::NotLeader), "it was not proposed, and that is known");
    assert_eq!(running.small(10).await.unwrap(), Err(ProposeError::NotLeader));
    running.log.become_leader(3);
    let next = running.small(11);
    running.log.written(ENTRIES_IN_FLIGHT_MAX + 1).await;
    running.log.entries.lock().drain(..ENTRIES_IN_FLIGHT_MAX);
    assert_eq!(running.log.apply(40), [numbered(11)]);
    assert_eq!(next.await.unwrap(), Ok((40, vec![Outcome::Done])));
    assert!(running.shown("foreword_meta_proposals_unknown_total 4"), "{}", running.telemetry.render());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_stands_still_for_no_reason_is_begun_anew_and_then_given_up() {
    let mut running = Running::new(WAITS_FOR_NOTHING);
    let began = Instant::now();
    for proposed in running.fill_flight().await {
        assert_eq!(proposed.await.unwrap(), Err(ProposeError::Unknown));
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(running.shown("foreword_meta_proposer_restarts_total 1"));
    assert_eq!(*running.failed.borrow(), None);
    // What comes now is proposed. It goes through, and all is well.
    let next = running.small(9);
    running.log.written(ENTRIES_IN_FLIGHT_MAX + 1).await;
    running.log.entries.lock().drain(..ENTRIES_IN_FLIGHT_MAX);
    running.log.apply(8);
    next.await.unwrap().unwrap();
    sleep(HOUR).await;
    assert_eq!(*running.failed.borrow(), None);
    // It stands still for good: anew once, and then it ends.
    let (first, second) = (running.small(10), async {
        sleep(Duration::from_secs(7)).await;
        running.small(11).await
    });
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap(), second.unwrap()), (Err(ProposeError::Unknown), Err(ProposeError::Unknown)));
    let reason = running.failed.wait_for(Option::is_some).await.unwrap().clone().unwrap().to_string();
    assert!(reason.contains("after entry 8"), "{reason}");
    assert!(matches!(running.small(12).await.unwrap(), Err(ProposeError::Stopped(_))));
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_or_a_missing_quorum_ends_nothing() {
    for progress in [SLOW_DISK, NO_QUORUM] {
        let running = Running::new(progress);
        let proposed = running.small(1);
        sleep(HOUR).await;
        assert!(!proposed.is_finished());
        assert_eq!(*running.failed.borrow(), None);
        running.log.apply(8);
        assert_eq!(proposed.await.unwrap(), Ok((8, vec![Outcome::Done])));
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_not_proposed() {
    let running = Running::new(SLOW_DISK);
    let _in_flight = running.fill_flight().await;
    let (left, waits) = (running.small(10), running.small(11));
    let late = running.propose(numbered(12), Author::Caller, Duration::from_secs(1));
    sleep(Duration::from_secs(2)).await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    running.log.apply(8);
    running.log.written(ENTRIES_IN_FLIGHT_MAX + 1).await;
    for revision in 9..=11 {
        running.log.apply(revision);
    }
    assert_eq!(running.log.apply(12), [numbered(11)]);
    assert_eq!(late.await.unwrap(), Err(ProposeError::Late));
    waits.await.unwrap().unwrap();
    for reason in ["caller_left", "deadline"] {
        let line = format!("foreword_meta_proposals_dropped_total{{reason=\"{reason}\"}} 1");
        assert!(running.shown(&line), "{}", running.telemetry.render());
    }
    assert!(running.shown("foreword_meta_proposals_waiting_bytes 0"), "{}", running.telemetry.render());
}

#[tokio::test(start_paused = true)]
async fn callers_fill_their_own_lane_by_bytes_and_the_leaders_goes_first() {
    let running = Running::new(SLOW_DISK);
    let _in_flight = running.fill_flight().await;
    let bytes = 2 << 20;
    let mut callers: Vec<_> =
        (0..PROPOSALS_WAITING_BYTES_MAX / bytes).map(|_| running.propose(large(bytes), Author::Caller, HOUR)).collect();
    sleep(Duration::from_secs(1)).await;
    let refused: Vec<_> = callers.extract_if(.., |caller| caller.is_finished()).collect();
    // Each takes some bytes more than its keys.
    assert_eq!(refused.len(), 1);
    for refused in refused {
        assert_eq!(refused.await.unwrap(), Err(ProposeError::QueueFull));
    }
    let own = running.propose(numbered(50), Author::Leader, HOUR);
    sleep(Duration::from_secs(1)).await;
    running.log.apply(8);
    running.log.written(ENTRIES_IN_FLIGHT_MAX + 1).await;
    for revision in 9..=11 {
        running.log.apply(revision);
    }
    assert_eq!(running.log.apply(12)[0], numbered(50));
    own.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_entry_stays_within_its_limit() {
    let running = Running::new(SLOW_DISK);
    let _in_flight = running.fill_flight().await;
    let _waiting = [running.small(10), running.propose(large(ENTRY_BYTES_MAX - 80), Author::Caller, HOUR)];
    sleep(Duration::from_secs(1)).await;
    for revision in 8..=11 {
        running.log.apply(revision);
    }
    running.log.written(ENTRIES_IN_FLIGHT_MAX + 2).await;
    assert_eq!(running.log.apply(12), [numbered(10)]);
    assert_eq!(running.log.apply(13).len(), 1);
}
