//! One file per invariant, by the names of docs/INVARIANTS.md.
