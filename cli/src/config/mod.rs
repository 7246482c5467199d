//! Configuration of the servers: a TOML file, below the environment, below flags; checked before anything starts.
//!
//! A file holds a `[meta]` and a `[node]` section, either or both. Unknown fields are errors, and every error names its
//! field, and file and line where the file has it: `node.arena_bytes: expected a size ... (foreword.toml:7)`.

mod load;
pub mod meta;
pub mod node;

pub use load::{Section, Source};

use foreword_proto::BadInput;
use toml::{Table, Value};

/// The flags and variables of a server, as they lie over its section of the file.
#[derive(Debug, Default)]
pub struct Overlay(Table);

impl Overlay {
    /// Lays `value` over the field when there is one.
    #[must_use]
    pub fn with(mut self, field: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.0.insert(field.to_owned(), value.into());
        }
        self
    }

    /// The same, for what is written as text.
    #[must_use]
    pub fn with_text(self, field: &str, value: Option<&impl ToString>) -> Self {
        self.with(field, value.map(ToString::to_string))
    }
}

/// A number of bytes as TOML holds it.
pub(crate) fn bytes_value(field: &str, bytes: u64) -> Result<Value, BadInput> {
    integer_value(field, bytes, "bytes")
}

/// A number as TOML holds it.
fn integer_value(field: &str, value: u64, unit: &str) -> Result<Value, BadInput> {
    i64::try_from(value).map(Value::Integer).map_err(|_| BadInput::new(field, format!("at most {} {unit}", i64::MAX)))
}
