//! Workloads: traces, generated prompts, the ideal cache.
