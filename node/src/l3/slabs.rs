//! Slab files are opened before their first I/O, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use foreword_proto::SlabId;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::slab_file_bytes;
use crate::plan::health::Direction;
use crate::store::{SharedStore, StoreError};

/// The slabs of one store.
pub(super) struct Slabs {
    store: SharedStore,
    slab_bytes: u64,
    cells: Mutex<Cells>,
}

/// The slabs opened in one epoch of the store.
#[derive(Default)]
struct Cells {
    epoch: u64,
    /// To write, or only to read.
    by_slab: BTreeMap<(SlabId, Direction), Arc<OnceCell<()>>>,
}

impl Slabs {
    pub(super) fn new(store: SharedStore, slab_bytes: u64) -> Self {
        Self { store, slab_bytes, cells: Mutex::default() }
    }

    /// Opens the slab for I/Os in this direction unless it is open; several callers wait for one opening. Only a writer
    /// makes its file.
    pub(super) async fn open(
        &self,
        slab: SlabId,
        direction: Direction,
        slot_bytes: u32,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let cell = self.cell(slab, direction);
        if cell.initialized() {
            return Ok(());
        }
        let opening = cell.get_or_try_init(|| match direction {
            Direction::Read => self.store.open_to_read(slab),
            Direction::Write => self.store.open_slab(slab, slab_file_bytes(self.slab_bytes, slot_bytes)),
        });
        tokio::time::timeout_at(deadline, opening).await.map_err(|_| StoreError::TimedOut)??;
        Ok(())
    }

    /// A new epoch has no slab open.
    fn cell(&self, slab: SlabId, direction: Direction) -> Arc<OnceCell<()>> {
        let epoch = self.store.epoch();
        let mut cells = self.cells.lock();
        if cells.epoch < epoch {
            *cells = Cells { epoch, by_slab: BTreeMap::new() };
        }
        cells.by_slab.entry((slab, direction)).or_default().clone()
    }
}
