//! An invariant that does not hold, for the owners' checks beside them.

/// An invariant that does not hold, by its name in docs/INVARIANTS.md.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {name} is broken: {detail}")]
pub struct Violation {
    pub name: &'static str,
    pub detail: String,
}

/// What goes back breaks this one, whoever owns it.
pub(in crate::state) const BACK: &str = "nothing-goes-back";

pub(in crate::state) fn ensure(
    name: &'static str,
    holds: bool,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { name, detail: detail() }) }
}
