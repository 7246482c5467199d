//! A semaphore whose permits tenants and their namespaces share.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::plan::fair_shares::{Asker, FairShares, Ticket};

/// Units that namespaces take and give back, by [`FairShares`].
#[derive(Debug)]
pub(crate) struct FairSemaphore {
    units_max: u32,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    shares: FairShares,
    senders: BTreeMap<Ticket, oneshot::Sender<FairPermit>>,
}

/// Units of a [`FairSemaphore`], until it is dropped.
#[derive(Debug)]
pub(crate) struct FairPermit {
    of: Arc<FairSemaphore>,
    asker: Asker,
    units: u32,
}

/// Somebody who waits. Dropping it leaves the queue.
struct Turn {
    of: Arc<FairSemaphore>,
    asker: Asker,
    ticket: Ticket,
    granted: oneshot::Receiver<FairPermit>,
}

impl FairSemaphore {
    /// So many units, at least 1, all free; a tenant that is not the only one has at most `each_max` of them.
    pub(crate) fn new(units_max: u32, each_max: u32) -> Arc<Self> {
        let units_max = units_max.max(1);
        let waiting = Waiting { shares: FairShares::new(units_max, each_max), senders: BTreeMap::new() };
        Arc::new(Self { units_max, waiting: Mutex::new(waiting) })
    }

    /// There is this namespace: something is kept for it.
    pub(crate) fn enter(&self, asker: Asker) {
        self.waiting.lock().shares.enter(asker);
    }

    /// Ends one [`Self::enter`].
    pub(crate) fn leave(self: &Arc<Self>, asker: Asker) {
        let mut waiting = self.waiting.lock();
        waiting.shares.leave(asker);
        self.grant(waiting);
    }

    /// Units in their turn; all of them where there are not so many. None: not before the deadline.
    pub(crate) async fn take(self: &Arc<Self>, asker: Asker, units: u32, deadline: Instant) -> Option<FairPermit> {
        let mut turn = self.ask(asker, units);
        tokio::time::timeout_at(deadline, &mut turn.granted).await.ok()?.ok()
    }

    /// Units if it would be the asker's turn now.
    pub(crate) fn take_now(self: &Arc<Self>, asker: Asker, units: u32) -> Option<FairPermit> {
        self.ask(asker, units).granted.try_recv().ok()
    }

    /// Units taken now.
    pub(crate) fn used(&self) -> u32 {
        self.waiting.lock().shares.used()
    }

    /// Units that there are.
    pub(crate) fn units_max(&self) -> u32 {
        self.units_max
    }

    fn ask(self: &Arc<Self>, asker: Asker, units: u32) -> Turn {
        let (sender, granted) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        let ticket = waiting.shares.ask(asker, units);
        waiting.senders.insert(ticket, sender);
        self.grant(waiting);
        Turn { of: self.clone(), asker, ticket, granted }
    }

    /// Gives what can be given now.
    fn grant(self: &Arc<Self>, mut waiting: MutexGuard<'_, Waiting>) {
        let mut granted = Vec::new();
        while let Some(grant) = waiting.shares.grant() {
            let permit = FairPermit { of: self.clone(), asker: grant.asker, units: grant.units };
            granted.extend(waiting.senders.remove(&grant.ticket).map(|sender| (sender, permit)));
        }
        drop(waiting);
        for (sender, permit) in granted {
            // Who has left meanwhile gives it back.
            drop(sender.send(permit));
        }
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting.lock();
        waiting.shares.give_back(self.asker, self.units);
        self.of.grant(waiting);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting.lock();
        if waiting.shares.cancel(self.asker, self.ticket) {
            waiting.senders.remove(&self.ticket);
            // The next one may need less.
            self.of.grant(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE: Asker = Asker { tenant: 1, namespace: 1 };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn units_come_back_to_who_waits_and_from_who_has_left() {
        let semaphore = FairSemaphore::new(2, 2);
        let held = semaphore.take(ONE, 5, soon()).await.unwrap();
        assert_eq!(semaphore.used(), 2);
        assert!(semaphore.take_now(ONE, 1).is_none());
        assert!(semaphore.take(ONE, 1, Instant::now()).await.is_none(), "its deadline has passed");
        let first = semaphore.take(ONE, 1, soon());
        let second = semaphore.take(ONE, 1, soon());
        let left = async {
            let gone = semaphore.take(ONE, 2, soon());
            let _ = tokio::time::timeout(Duration::from_millis(1), gone).await;
            drop(held);
        };
        let (first, second, ()) = tokio::join!(first, second, left);
        assert!(first.is_some() && second.is_some());
        drop((first, second));
        assert_eq!(semaphore.used(), 0);
    }

    #[tokio::test]
    async fn permits_that_nobody_fetches_are_given_back() {
        let semaphore = FairSemaphore::new(1, 1);
        let held = semaphore.take(ONE, 1, soon()).await;
        let turn = semaphore.ask(ONE, 1);
        drop(held);
        assert_eq!(semaphore.used(), 1, "granted to the turn");
        drop(turn);
        assert_eq!(semaphore.used(), 0);
        assert!(semaphore.waiting.lock().senders.is_empty());
    }
}
