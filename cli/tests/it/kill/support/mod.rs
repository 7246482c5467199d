//! What the kill tests share: a cluster under load, a history kept in this process, and the judgement at the end.
//!
//! The acknowledgements are remembered here, in the test's process: no process that is killed could take them with it.

pub(crate) mod audit;
pub(crate) mod checker;
pub(crate) mod history;
pub(crate) mod readers;
pub(crate) mod run;
pub(crate) mod writers;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take that must happen. Far above what it takes: nothing here measures.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Asks until the answer is there; panics with `what` when it does not come.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(POLL).await;
    }
}
