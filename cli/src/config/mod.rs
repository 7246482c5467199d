//! Configuration of the servers: a TOML file, below the environment, below flags; checked before anything starts.
//!
//! A file holds a `[meta]` and a `[node]` section, either or both. Unknown fields are errors, and every error names its
//! field, and file and line where there is one: `node.arena_bytes: expected a size ... (foreword.toml:7)`.

mod file;
pub mod meta;
pub mod node;

pub use file::{FileConfig, read_file};

use foreword_proto::BadInput;

/// The value, or an error that names the field and the three places it may come from.
fn required<T>(value: Option<T>, section: &str, field: &str, expected: &str) -> Result<T, BadInput> {
    value.ok_or_else(|| {
        let flag = field.replace('_', "-");
        let env = format!("FOREWORD_{}_{}", section.to_uppercase(), field.to_uppercase());
        BadInput::new(format!("{section}.{field}"), format!("{expected} (config file, --{flag} or {env}), got none"))
    })
}
