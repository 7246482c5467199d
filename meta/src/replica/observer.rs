//! Who follows what this replica applies.

use crate::state::State;
use crate::state::command::Event;

/// Follows the applied state, entry by entry in log order. It is called under the lock of the applied state, which therefore comes
/// before any lock of its own; applying waits for it.
pub trait Observer: Send + Sync {
    /// An entry was applied, and `state` stands at its end. `events`: what it changed, in order; often nothing.
    fn applied(&self, state: &State, events: &[Event]);

    /// The state was replaced by a snapshot's, or is the one that this replica starts from: what was followed before is void.
    fn replaced(&self, state: &State);
}
