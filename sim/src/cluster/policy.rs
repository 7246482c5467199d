//! Where a simulated replica's eviction policy works: at once, or when its thread gets a processor now and then.

use std::sync::Arc;
use std::time::Duration;

use foreword_meta::eviction::PolicyPlace;
use foreword_seams::{Entropy, Runner, on_a_task};
use tokio::time::sleep;

use crate::world::entropy::HostEntropy;
use crate::world::net::HostId;

/// How a replica's eviction policy keeps up.
#[derive(Debug, Clone, Copy)]
pub struct PolicyPace {
    /// Bytes of events that wait for it.
    pub feed_bytes_max: usize,
    /// For how long it gets no processor, at most; 0: it always has one.
    pub starved_ms_max: u64,
}

impl PolicyPace {
    /// The place of one process of this host.
    pub(super) fn place(self, host: HostId) -> PolicyPlace {
        let runner = match self.starved_ms_max {
            0 => on_a_task(),
            most_ms => starved(most_ms, Arc::new(HostEntropy::new(host))),
        };
        PolicyPlace { runner, feed_bytes_max: self.feed_bytes_max }
    }
}

/// Goes on with the work after times of its own, whatever it waits for.
fn starved(most_ms: u64, entropy: Arc<dyn Entropy>) -> Runner {
    Arc::new(move |mut work| {
        let entropy = entropy.clone();
        tokio::spawn(async move {
            while futures::poll!(&mut work).is_pending() {
                sleep(Duration::from_millis(entropy.u64() % (most_ms + 1))).await;
            }
        });
        Ok(())
    })
}
