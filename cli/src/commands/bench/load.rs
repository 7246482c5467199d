//! A load of publishes, and what became of each batch.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::session::{Ack, Session};

/// How a load publishes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Pages of one batch.
    pub(super) pages: usize,
    /// Batches under way at once, over all sessions.
    pub(super) in_flight: usize,
    /// Pages a second, at most; None: as many as are acknowledged.
    pub(super) pages_per_s: Option<f64>,
}

/// A load under way. Dropped, it ends at once.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    workers: JoinSet<anyhow::Result<()>>,
    acks: Arc<Mutex<Vec<Ack>>>,
}

impl Load {
    /// Starts publishing through these sessions.
    pub(super) fn start(sessions: &[Arc<Session>], shape: Shape) -> Self {
        let (stop, stopped) = watch::channel(false);
        let acks: Arc<Mutex<Vec<Ack>>> = Arc::default();
        let pace = Arc::new(Pace::new(&shape));
        let mut workers = JoinSet::new();
        for number in 0..shape.in_flight {
            let (session, stopped) = (sessions[number % sessions.len()].clone(), stopped.clone());
            let (acks, pace) = (acks.clone(), pace.clone());
            workers.spawn(async move {
                while !*stopped.borrow() {
                    pace.wait().await;
                    let ack = session.publish(shape.pages).await?;
                    acks.lock().push(ack);
                }
                Ok(())
            });
        }
        Self { stop, workers, acks }
    }

    /// The batches acknowledged since this was last asked for, in the order of their acknowledgement.
    pub(super) fn take_acks(&self) -> Vec<Ack> {
        std::mem::take(&mut self.acks.lock())
    }

    /// Stops, waits for what is under way, and gives the batches that were not taken yet.
    ///
    /// Errors: a publish that failed.
    pub(super) async fn finish(mut self) -> anyhow::Result<Vec<Ack>> {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        Ok(self.take_acks())
    }
}

/// Spaces batches evenly. What an outage held up is not made up for.
struct Pace {
    every: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(shape: &Shape) -> Self {
        let every = shape.pages_per_s.map(|rate| Duration::from_secs_f64(shape.pages as f64 / rate));
        Self { every, next: Mutex::new(None) }
    }

    async fn wait(&self) {
        let Some(every) = self.every else { return };
        let at = {
            let mut next = self.next.lock();
            let now = Instant::now();
            // Tokio's timers are of a millisecond: batches that come more often are let go in small groups.
            let at = next.map_or(now, |next| next.max(now.checked_sub(SLACK).unwrap_or(now)));
            *next = Some(at + every);
            at
        };
        sleep_until(at).await;
    }
}

const SLACK: Duration = Duration::from_millis(5);

/// Pages a second of these batches, over the time they took.
pub(super) fn pages_per_s(acks: &[Ack], took: Duration) -> f64 {
    acks.iter().map(|ack| ack.pages).sum::<usize>() as f64 / took.as_secs_f64()
}

/// How long each of these batches took, in milliseconds.
pub(super) fn latencies_ms(acks: &[Ack]) -> Vec<f64> {
    acks.iter().map(|ack| ms(ack.acked - ack.submitted)).collect()
}

/// Milliseconds.
pub(super) fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
