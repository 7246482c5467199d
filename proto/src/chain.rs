//! Prefix chains.
