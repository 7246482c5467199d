//! Pages that are put and got, some at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foreword_proto::{Namespace, PageKey};
use foreword_seams::{Entropy, SeededEntropy};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::way::Way;
use super::{Moved, Runs};

pub(super) const PAGE_BYTES: usize = 4 << 20;
/// Pages that are read from L3, or put: 1 GiB.
pub(super) const SET_PAGES: usize = 256;
/// Pages that are read from L1.
pub(super) const L1_PAGES: usize = 32;
/// Calls at once, each of one page.
pub(super) const IN_FLIGHT: usize = 8;
/// Pages that one run gets.
const RUN_PAGES: usize = 512;

/// Pages of one namespace.
#[derive(Clone)]
pub(super) struct Pages {
    namespace_id: u32,
    keys: Arc<Vec<PageKey>>,
}

impl Pages {
    /// Puts pages into a namespace, until all are published.
    pub(super) async fn put(way: &Way, namespace: &Namespace, pages: usize) -> anyhow::Result<Self> {
        let namespace_id = way.open(namespace).await?;
        let keys: Vec<PageKey> = (0..pages as u64).map(|number| PageKey::opaque(&number.to_le_bytes())).collect();
        let set = Self { namespace_id, keys: Arc::new(keys) };
        let bytes = Arc::new(page());
        let (way, putting) = (way.clone(), set.clone());
        let put = move |index: usize| {
            let (way, set, bytes) = (way.clone(), putting.clone(), bytes.clone());
            async move { way.put(set.namespace_id, set.keys[index], &bytes).await }
        };
        each(pages, put).await?;
        Ok(set)
    }

    pub(super) fn namespace_id(&self) -> u32 {
        self.namespace_id
    }

    /// The first of them.
    pub(super) fn first(&self, pages: usize) -> Self {
        Self { namespace_id: self.namespace_id, keys: Arc::new(self.keys[..pages].to_vec()) }
    }

    /// Gets them again and again; the first run warms up. `from_l3`: whether L1 has them or not; else all are in L1.
    pub(super) async fn get_runs(&self, way: &Way, runs: usize, from_l3: bool) -> anyhow::Result<Runs> {
        let mut values = Runs::default();
        for run in 0..=runs {
            let (began, cpu) = (Instant::now(), way.cpu()?);
            let (to, set) = (way.clone(), self.clone());
            let get = move |index: usize| {
                let (way, set) = (to.clone(), set.clone());
                async move { way.get(set.namespace_id, set.keys[index % set.keys.len()], from_l3).await }
            };
            each(RUN_PAGES, get).await?;
            if run > 0 {
                let bytes = (RUN_PAGES * PAGE_BYTES) as u64;
                values.add(Moved { bytes, took: began.elapsed(), cpu: way.cpu()?.saturating_sub(cpu) });
            }
        }
        Ok(values)
    }
}

/// Does something for each index, [`IN_FLIGHT`] at once, each in a task of its own as an agent's callers are.
async fn each<F>(count: usize, work: impl Fn(usize) -> F + Clone + Send + 'static) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (next, work) = (next.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(());
                }
                work(index).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// What is in every page.
pub(super) fn page() -> Vec<u8> {
    let entropy = SeededEntropy::new(0);
    (0..PAGE_BYTES / 8).flat_map(|_| entropy.u64().to_le_bytes()).collect()
}
