//! The invariants of one state, and of one step, by the names of docs/INVARIANTS.md.
