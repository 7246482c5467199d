//! Planted faults, by name.

use anyhow::Context;

use crate::canaries::{CANARIES, Canary};
use crate::run::Options;

/// Plants a fault in the seams of a run. Fails when there is none of this name.
pub(super) fn plant(name: &str, options: &mut Options) -> anyhow::Result<()> {
    let canary = Canary::named(name).with_context(|| format!("there is no canary {name} (--list names them)"))?;
    (canary.plant)(options);
    Ok(())
}

/// Names of all planted faults.
pub(super) fn names() -> Vec<&'static str> {
    CANARIES.iter().map(|canary| canary.name).collect()
}
