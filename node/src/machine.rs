//! What this machine gives an agent: its L3 store, and the memory that L3 reaches.

use std::path::Path;
use std::sync::Arc;

use foreword_proto::BadInput;
use foreword_usrbio::{is_hf3fs, mount_point_of};

use crate::arena::{MemfdRegions, RegionProvider};
use crate::config::{L3Location, NodeConfig};
use crate::serve::{StoreFactory, machine_stores};

/// The parts of [`crate::Deps`] that depend on where L3 is.
pub struct Machine {
    pub store: StoreFactory,
    pub regions: Arc<dyn RegionProvider>,
}

/// Makes them for this configuration. Blocks: a 3FS mount is asked.
///
/// Errors name `l3` and what is missing.
pub fn machine(config: &NodeConfig) -> Result<Machine, BadInput> {
    match resolved(&config.l3)? {
        L3Location::Usrbio { .. } => Err(BadInput::new("l3", "posix:/dir")),
        _ => Ok(Machine { store: machine_stores(), regions: Arc::new(MemfdRegions { prefault: true }) }),
    }
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
