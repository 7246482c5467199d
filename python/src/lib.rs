//! `foreword._native`: the agent's client for Python. Its types and functions are described in `foreword/_native.pyi`.

mod calls;
mod connection;
mod counters;
mod detached;
mod exported;
mod fork;
mod keys;
mod link;
mod namespace;
mod places;
mod spec;
mod tokens;
mod transport;

use pyo3::prelude::*;

/// The agent's client: connections, namespaces, and where pages lie.
#[pymodule]
mod _native {
    use pyo3::prelude::*;
    use pyo3::types::PyBytes;

    #[pymodule_export]
    use crate::connection::Connection;
    use crate::detached::{detached, watch_for_the_end};
    #[pymodule_export]
    use crate::namespace::Namespace;
    #[pymodule_export]
    use crate::places::Places;
    use crate::spec::refused;
    use crate::tokens::Prompt;
    use crate::transport::Outcome;

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    const OUT_FAILED: u32 = Outcome::Failed as u32;
    #[pymodule_export]
    const OUT_TAKEN: u32 = Outcome::Taken as u32;
    #[pymodule_export]
    const OUT_PUBLISHED: u32 = Outcome::Published as u32;
    #[pymodule_export]
    const OUT_EXISTS: u32 = Outcome::Exists as u32;
    #[pymodule_export]
    const OUT_DECLINED: u32 = Outcome::Declined as u32;
    #[pymodule_export]
    const OUT_REFUSED: u32 = Outcome::Refused as u32;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        watch_for_the_end(module)
    }

    #[pyfunction]
    #[pyo3(signature = (tokens, page_tokens, *, seed=None, unit="token", algorithm="sha256"))]
    fn keys_from_tokens<'py>(
        py: Python<'py>,
        tokens: &Bound<'py, PyAny>,
        page_tokens: u32,
        seed: Option<&[u8]>,
        unit: &str,
        algorithm: &str,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let prompt = Prompt::parse(tokens, seed, unit, algorithm)?;
        let keys = detached(py, || prompt.keys(page_tokens)).map_err(refused)?;
        Ok(keys.iter().map(|key| PyBytes::new(py, &key.0)).collect())
    }
}
