//! Is there one order of operations that explains what every client saw?
