//! Planted faults, by name.

use anyhow::bail;

use crate::run::Options;

/// Plants a fault in the seams of a run. Fails when there is none of this name.
pub(super) fn plant(name: &str, _options: &mut Options) -> anyhow::Result<()> {
    bail!("there is no canary {name}")
}

/// Names of all planted faults.
pub(super) fn names() -> Vec<&'static str> {
    Vec::new()
}
