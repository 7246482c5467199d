//! A namespace as Python writes it: a dict with the fields of its message by name.

use foreword_proto::{BadInput, Namespace};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Reads the fields. Those of a draft and the salt may be left out; the tenant too, which is the connection's.
///
/// Errors: ValueError, naming the field and what was expected.
pub(crate) fn namespace(spec: &Bound<'_, PyDict>, tenant: &str) -> PyResult<Namespace> {
    let fields = Fields(spec.copy()?);
    let namespace = Namespace {
        tenant: fields.take("tenant", "a str")?.unwrap_or_else(|| tenant.to_owned()),
        model: fields.text("model")?,
        revision: fields.text("revision")?,
        dtype: fields.text("dtype")?,
        layout: fields.text("layout")?,
        storage_format: fields.text("storage_format")?,
        page_tokens: fields.number("page_tokens")?,
        layer_first: fields.number("layer_first")?,
        layer_count: fields.number("layer_count")?,
        cp_rank: fields.number("cp_rank")?,
        cp_size: fields.number("cp_size")?,
        dcp_rank: fields.number("dcp_rank")?,
        dcp_size: fields.number("dcp_size")?,
        tp_first: fields.number("tp_first")?,
        tp_count: fields.number("tp_count")?,
        tp_size: fields.number("tp_size")?,
        head_split: fields.text("head_split")?,
        shard_bytes: fields.required("shard_bytes", "a list of sizes in bytes")?,
        pool: fields.text("pool")?,
        draft_model: fields.take("draft_model", "a str")?.unwrap_or_default(),
        draft_revision: fields.take("draft_revision", "a str")?.unwrap_or_default(),
        salt: fields.take("salt", "bytes")?.unwrap_or_default(),
    };
    fields.none_left()?;
    namespace.validate().map_err(|error| refused(error.within("namespace")))?;
    if namespace.tenant != tenant {
        let expected = format!("the connection's, {tenant:?}, got {:?}", namespace.tenant);
        return Err(refused(BadInput::new("namespace.tenant", expected)));
    }
    Ok(namespace)
}

/// The ValueError of an input that can be mended.
pub(crate) fn refused(error: BadInput) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The fields that nobody has read yet.
struct Fields<'py>(Bound<'py, PyDict>);

impl<'py> Fields<'py> {
    fn take<T: for<'a> FromPyObject<'a, 'py>>(&self, field: &str, expected: &str) -> PyResult<Option<T>> {
        let Some(value) = self.0.get_item(field)? else { return Ok(None) };
        self.0.del_item(field)?;
        let value = value.extract().map_err(|_| {
            let got = value.repr().map_or_else(|_| "something else".to_owned(), |repr| repr.to_string());
            refused(BadInput::new(format!("namespace.{field}"), format!("{expected}, got {got}")))
        })?;
        Ok(Some(value))
    }

    fn required<T: for<'a> FromPyObject<'a, 'py>>(&self, field: &str, expected: &str) -> PyResult<T> {
        let missing = || refused(BadInput::new(format!("namespace.{field}"), format!("{expected}, got none")));
        self.take(field, expected)?.ok_or_else(missing)
    }

    fn text(&self, field: &str) -> PyResult<String> {
        self.required(field, "a str")
    }

    fn number(&self, field: &str) -> PyResult<u32> {
        self.required(field, "an int of 32 bits, 0 or more")
    }

    fn none_left(&self) -> PyResult<()> {
        match self.0.keys().iter().next() {
            None => Ok(()),
            Some(field) => {
                Err(refused(BadInput::new(format!("namespace.{field}"), "a field of a namespace, got another name")))
            }
        }
    }
}
