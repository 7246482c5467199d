//! Tasks whose end would leave a replica that looks alive: their panic is logged, and ends the replica.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use foreword_proto::versions::OtherVersion;
use futures::FutureExt;
use tokio::sync::watch;

use super::compare::Diverged;

/// Why a running replica cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its disk failed, its log cannot be read, or a task of it ended.
    #[error("{0}")]
    Stopped(String),
    /// It met what another version wrote, or a feature level that this binary does not know. That is noted in its data
    /// directory: each start ends at once, until a binary that knows it starts there.
    #[error("data_dir.{0}")]
    OtherVersion(OtherVersion),
    /// Its state is to be set aside ([`crate::open::set_log_aside`]); started again, it rejoins empty.
    #[error(transparent)]
    Diverged(#[from] Diverged),
}

/// Tells whoever runs this replica that it cannot go on.
#[derive(Debug, Clone)]
pub struct Failing(watch::Sender<Option<Failure>>);

impl Failing {
    /// With the end at which the reason comes out.
    pub fn new() -> (Self, watch::Receiver<Option<Failure>>) {
        let (sender, reason) = watch::channel(None);
        (Self(sender), reason)
    }

    /// Says why. The first reason stays.
    pub fn fail(&self, why: Failure) {
        self.0.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(why);
            first
        });
    }

    /// Runs a task of the replica.
    pub async fn supervise(self, name: &'static str, task: impl Future<Output = ()>) {
        if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
            let why = said(&*panic);
            tracing::error!(task = name, why, "a task of this replica panicked");
            self.fail(Failure::Stopped(format!("{name} panicked: {why}")));
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_task_ends_the_replica() {
        let (failing, mut failed) = Failing::new();
        failing.clone().supervise("the duties", async {}).await;
        assert_eq!(*failed.borrow_and_update(), None);
        failing.clone().supervise("the duties", async { panic!("slot {} twice", 7) }).await;
        let failure = failed.borrow_and_update().clone();
        assert_eq!(failure, Some(Failure::Stopped("the duties panicked: slot 7 twice".into())));
        failing.fail(Failure::Stopped("what came of it".into()));
        assert!(!failed.has_changed().unwrap());
    }
}
