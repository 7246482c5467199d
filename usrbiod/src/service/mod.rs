//! Links, rings and their I/Os.
