//! `Namespace`: pages that may be shared, as Python sees them. Arguments are read under Python's lock, which is let go
//! for the rest.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use tokio::time::Instant;

use crate::calls::Calls;
use crate::connection::timeout_of;
use crate::detached::detached;
use crate::keys::Keys;
use crate::link::Link;
use crate::places::Places;
use crate::spec::refused;
use crate::tokens::Prompt;
use crate::transport::{Freshness, Outcome};

/// The longest wait for an opening: a year.
const WAIT_S_MAX: f64 = 365.0 * 86_400.0;
/// How often a wait looks whether the user has had enough.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// One namespace of a connection: opened in the background, and again after a reconnect.
#[pyclass(frozen, module = "foreword._native")]
pub(crate) struct Namespace {
    calls: Calls,
    timeout: Duration,
}

impl Namespace {
    pub(crate) fn open(link: Arc<Link>, namespace: foreword_proto::Namespace, timeout: Duration) -> Self {
        Self { calls: Calls::open(link, namespace), timeout }
    }
}

#[pymethods]
impl Namespace {
    #[getter]
    fn fingerprint(&self) -> String {
        self.calls.fingerprint().to_string()
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let opened = self.calls.opened();
        let dict = PyDict::new(py);
        dict.set_item("open", opened.is_some())?;
        dict.set_item("error", self.calls.error())?;
        dict.set_item("namespace_id", opened.map(|opened| opened.id))?;
        Ok(dict)
    }

    fn wait_open(&self, py: Python<'_>, timeout_s: f64) -> PyResult<bool> {
        // What is no time is none at all.
        let wait = Duration::try_from_secs_f64(timeout_s.clamp(0.0, WAIT_S_MAX)).unwrap_or_default();
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if detached(py, || self.calls.wait_open(left.min(SIGNALS_EVERY))) {
                return Ok(true);
            }
            py.check_signals()?;
            if left <= SIGNALS_EVERY {
                return Ok(false);
            }
        }
    }

    #[pyo3(signature = (keys, *, min_revision=0, linearizable=false, timeout_ms=None))]
    fn lookup(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        min_revision: u64,
        linearizable: bool,
        timeout_ms: Option<u64>,
    ) -> PyResult<u32> {
        let (keys, timeout) = (Keys::parse(keys)?, timeout_of(timeout_ms, self.timeout)?);
        Ok(detached(py, || self.calls.lookup(&keys, Freshness { min_revision, linearizable }, timeout)))
    }

    #[pyo3(signature = (
        tokens, *, seed=None, unit="token", algorithm="sha256", min_revision=0, linearizable=false, timeout_ms=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "by name in Python")]
    fn lookup_tokens(
        &self,
        py: Python<'_>,
        tokens: &Bound<'_, PyAny>,
        seed: Option<&[u8]>,
        unit: &str,
        algorithm: &str,
        min_revision: u64,
        linearizable: bool,
        timeout_ms: Option<u64>,
    ) -> PyResult<u32> {
        let prompt = Prompt::parse(tokens, seed, unit, algorithm)?;
        let timeout = timeout_of(timeout_ms, self.timeout)?;
        let found = detached(py, || {
            let keys = Keys::of(&prompt.keys(self.calls.page_tokens())?);
            Ok(self.calls.lookup(&keys, Freshness { min_revision, linearizable }, timeout))
        });
        found.map_err(refused)
    }

    #[pyo3(signature = (keys, *, timeout_ms=None))]
    fn locate<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (keys, timeout) = (Keys::parse(keys)?, timeout_of(timeout_ms, self.timeout)?);
        let tiers = detached(py, || self.calls.locate(&keys, timeout));
        Ok(PyBytes::new(py, &tiers))
    }

    #[pyo3(signature = (keys, shard, places, *, every_key=false, timeout_ms=None))]
    fn get(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        shard: u32,
        places: &Bound<'_, Places>,
        every_key: bool,
        timeout_ms: Option<u64>,
    ) -> PyResult<Vec<bool>> {
        let (keys, timeout) = (Keys::parse(keys)?, timeout_of(timeout_ms, self.timeout)?);
        let places = places.get();
        Ok(detached(py, || self.calls.get(&keys, shard, places, every_key, timeout)))
    }

    #[pyo3(signature = (keys, shard, places, *, parent=None, wait=false, timeout_ms=None))]
    #[expect(clippy::too_many_arguments, reason = "by name in Python")]
    fn put(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        shard: u32,
        places: &Bound<'_, Places>,
        parent: Option<&Bound<'_, PyAny>>,
        wait: bool,
        timeout_ms: Option<u64>,
    ) -> PyResult<Vec<u32>> {
        let (keys, timeout) = (Keys::parse(keys)?, timeout_of(timeout_ms, self.timeout)?);
        let parent = parent.map(|key| Keys::parse_one("parent", key)).transpose()?;
        let places = places.get();
        let outcomes = detached(py, || self.calls.put(&keys, shard, places, parent, wait, timeout));
        Ok(outcomes.into_iter().map(|outcome: Outcome| outcome as u32).collect())
    }

    fn clear(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, || self.calls.clear(self.timeout)).map_err(PyRuntimeError::new_err)
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.calls.counters.to_dict(py)
    }

    fn close(&self) {
        self.calls.close();
    }
}
