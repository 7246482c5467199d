//! What this machine gives an agent: its L3 store, and the memory that L3 reaches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_seams::Telemetry;
use foreword_usrbio::{is_hf3fs, mount_point_of};

use crate::arena::{MemfdRegions, RegionProvider};
use crate::config::{L3Location, NodeConfig};
use crate::serve::{StoreFactory, machine_stores};
use crate::store::{ClientKind, UsrbioMount, UsrbioRegions, UsrbioSettings, UsrbioStore};

/// The parts of [`crate::Deps`] that depend on where L3 is.
pub struct Machine {
    pub store: StoreFactory,
    pub regions: Arc<dyn RegionProvider>,
}

/// Makes them for this configuration. Blocks: a 3FS mount is asked.
///
/// Errors name `l3` and what is missing.
pub fn machine(config: &NodeConfig, telemetry: &Telemetry) -> Result<Machine, BadInput> {
    match resolved(&config.l3)? {
        L3Location::Usrbio { dir, lib } => on_3fs(config, telemetry, dir, lib),
        location => {
            tracing::info!(%location, "L3");
            let stores = machine_stores();
            // What `auto` chose, whatever the configuration calls it.
            let store: StoreFactory =
                Arc::new(move |_, cluster_id, chunk_bytes| stores(&location, cluster_id, chunk_bytes));
            Ok(Machine { store, regions: Arc::new(MemfdRegions::new(true)) })
        }
    }
}

/// The arena lies in memory that the mount's daemon maps, so that L3 reads land where L1 serves them.
fn on_3fs(config: &NodeConfig, telemetry: &Telemetry, dir: PathBuf, lib: Option<PathBuf>) -> Result<Machine, BadInput> {
    let client = lib.map_or(ClientKind::Native, ClientKind::Library);
    tracing::info!(dir = %dir.display(), ?client, "L3 is on 3FS, by USRBIO");
    let mount = UsrbioMount::attach(&dir, client)?;
    let regions = Arc::new(UsrbioRegions::new(mount.clone()));
    // Whoever waited for an I/O has left after the deadline.
    let patience = Duration::from_millis(config.l3_deadline_ms);
    let settings = UsrbioSettings { patience, ..UsrbioSettings::default() };
    let telemetry = telemetry.clone();
    let store: StoreFactory = Arc::new(move |_, cluster_id, _| {
        let store = UsrbioStore::new(mount.clone(), dir.clone(), cluster_id, settings)?;
        store.report_to(&telemetry);
        Ok(Arc::new(store))
    });
    Ok(Machine { store, regions })
}

/// Chooses for `auto`; the rest stays as it is.
fn resolved(location: &L3Location) -> Result<L3Location, BadInput> {
    let L3Location::Auto(dir) = location else { return Ok(location.clone()) };
    Ok(match chunk_bytes_on_3fs(dir)? {
        Some(_) => L3Location::Usrbio { dir: dir.clone(), lib: None },
        None => L3Location::Posix(dir.clone()),
    })
}

/// The chunk size of a directory on a 3FS mount; None for one that is elsewhere. Blocks.
///
/// Errors: a directory that cannot be read.
pub fn chunk_bytes_on_3fs(dir: &Path) -> Result<Option<u32>, BadInput> {
    let asked = || {
        let file = std::fs::File::open(dir)?;
        if mount_point_of(dir)?.is_none() || !is_hf3fs(&file) {
            return Ok(None);
        }
        let bytes = rustix::fs::fstat(&file)?.st_blksize;
        u32::try_from(bytes).map(Some).map_err(std::io::Error::other)
    };
    asked().map_err(|error: std::io::Error| BadInput::new("l3", format!("a directory, {}: {error}", dir.display())))
}

#[cfg(test)]
mod tests {
    use foreword_proto::ClusterId;

    use super::*;

    #[test]
    fn auto_is_posix_where_there_is_no_3fs() {
        let dir = tempfile::tempdir().unwrap();
        let auto = L3Location::Auto(dir.path().into());
        let config = NodeConfig::new("a", vec!["127.0.0.1:1".parse().unwrap()], auto.clone());
        let machine = machine(&config, &Telemetry::new()).unwrap();
        let store = (machine.store)(&auto, ClusterId([1; 16]), 4096).unwrap();
        assert_eq!((store.chunk_bytes(), store.epoch()), (4096, 0));
        let usrbio = L3Location::Usrbio { dir: dir.path().into(), lib: None };
        let config = NodeConfig { l3: usrbio, ..config };
        assert_eq!(super::machine(&config, &Telemetry::new()).err().unwrap().field, "l3");
    }
}
