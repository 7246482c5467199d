//! What a namespace's calls amounted to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A sum that only grows.
#[derive(Default)]
pub(crate) struct Sum(AtomicU64);

impl Sum {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Time spent in calls.
#[derive(Default)]
pub(crate) struct Seconds(Sum);

impl Seconds {
    pub(crate) fn add(&self, time: Duration) {
        self.0.add(time.as_nanos() as usize);
    }
}

/// Since the namespace was made, in this process.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) lookups: Sum,
    pub(crate) lookup_keys: Sum,
    /// Pages that lookups counted.
    pub(crate) lookup_pages: Sum,
    pub(crate) gets: Sum,
    /// Pages of gets: there, or not.
    pub(crate) hits: Sum,
    pub(crate) misses: Sum,
    pub(crate) bytes_got: Sum,
    pub(crate) puts: Sum,
    /// Pages of puts that are safe with the agent or the cluster, and all others.
    pub(crate) pages_put: Sum,
    pub(crate) pages_not_put: Sum,
    pub(crate) bytes_put: Sum,
    /// Calls that could not be made, or failed.
    pub(crate) failures: Sum,
    pub(crate) lookup_seconds: Seconds,
    pub(crate) get_seconds: Seconds,
    pub(crate) put_seconds: Seconds,
}

impl Counters {
    /// All of them by name.
    pub(crate) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let sums = [
            ("lookups", &self.lookups),
            ("lookup_keys", &self.lookup_keys),
            ("lookup_pages", &self.lookup_pages),
            ("gets", &self.gets),
            ("hits", &self.hits),
            ("misses", &self.misses),
            ("bytes_got", &self.bytes_got),
            ("puts", &self.puts),
            ("pages_put", &self.pages_put),
            ("pages_not_put", &self.pages_not_put),
            ("bytes_put", &self.bytes_put),
            ("failures", &self.failures),
        ];
        for (name, sum) in sums {
            dict.set_item(name, sum.get())?;
        }
        let seconds = [
            ("lookup_seconds", &self.lookup_seconds),
            ("get_seconds", &self.get_seconds),
            ("put_seconds", &self.put_seconds),
        ];
        for (name, Seconds(nanos)) in seconds {
            dict.set_item(name, nanos.get() as f64 / 1e9)?;
        }
        Ok(dict)
    }
}
