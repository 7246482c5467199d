//! `Connection`: one agent, as Python sees it.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::BadInput;
use foreword_proto::limits::NAMESPACE_TEXT_BYTES_MAX;
use foreword_seams::Endpoint;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::detached::detached;
use crate::link::Link;
use crate::namespace::Namespace;
use crate::spec::{self, refused};

/// The longest a call may be asked to wait.
const TIMEOUT_MS_MAX: u64 = 600_000;

/// One agent, to which this process and its children connect in the background, again whenever it is necessary.
#[pyclass(frozen, module = "foreword._native")]
pub(crate) struct Connection {
    link: Arc<Link>,
    tenant: String,
    timeout: Duration,
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (address, *, tenant="default", timeout_ms=5000, token=None, ca=None, cert=None, key=None))]
    fn new(
        address: &str,
        tenant: &str,
        timeout_ms: u64,
        token: Option<&str>,
        ca: Option<&str>,
        cert: Option<&str>,
        key: Option<&str>,
    ) -> PyResult<Self> {
        let endpoint: Endpoint =
            address.parse().map_err(|error: BadInput| refused(BadInput::new("address", error.expected)))?;
        if tenant.is_empty() || tenant.len() > NAMESPACE_TEXT_BYTES_MAX {
            let expected = format!("1 to {NAMESPACE_TEXT_BYTES_MAX} bytes, got {}", tenant.len());
            return Err(refused(BadInput::new("tenant", expected)));
        }
        for (field, value) in [("token", token), ("ca", ca), ("cert", cert), ("key", key)] {
            if value.is_some() {
                let expected = "none: agents of this release know neither TLS nor tokens";
                return Err(refused(BadInput::new(field, expected)));
            }
        }
        let timeout = timeout_of(Some(timeout_ms), Duration::ZERO)?;
        Ok(Self { link: Arc::new(Link::new(endpoint, tenant)), tenant: tenant.to_owned(), timeout })
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (transport, error) = self.link.state();
        let dict = PyDict::new(py);
        dict.set_item("connected", transport.is_some())?;
        dict.set_item("transport", transport)?;
        dict.set_item("error", error)?;
        Ok(dict)
    }

    fn namespace(&self, spec: &Bound<'_, PyDict>) -> PyResult<Namespace> {
        let namespace = spec::namespace(spec, &self.tenant)?;
        Ok(Namespace::open(self.link.clone(), namespace, self.timeout))
    }

    fn close(&self, py: Python<'_>) {
        detached(py, || self.link.close());
    }
}

/// What a call may take: what it names, else `default`.
pub(crate) fn timeout_of(timeout_ms: Option<u64>, default: Duration) -> PyResult<Duration> {
    match timeout_ms {
        None => Ok(default),
        Some(ms) if (1..=TIMEOUT_MS_MAX).contains(&ms) => Ok(Duration::from_millis(ms)),
        Some(ms) => Err(refused(BadInput::new("timeout_ms", format!("1 to {TIMEOUT_MS_MAX}, got {ms}")))),
    }
}
