//! Reads one section of a configuration file, lays flags over it, and finds the line an error is about.

use std::path::{Path, PathBuf};

use foreword_proto::BadInput;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Overlay, bytes_value, integer_value};
use crate::human::{Size, Span};

const SECTIONS: [&str; 2] = ["meta", "node"];

/// A configuration file's text; empty when there is none.
#[derive(Debug, Default)]
pub struct Source {
    path: Option<PathBuf>,
    text: String,
}

impl Source {
    /// Reads the file, when there is one.
    pub fn read(path: Option<&Path>) -> Result<Self, BadInput> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| BadInput::new("config", format!("a readable file at {}: {error}", path.display())))?;
        Ok(Self { path: Some(path.to_owned()), text })
    }

    /// The error with `file:line` behind it, when the file has its field.
    pub fn place(&self, mut error: BadInput) -> BadInput {
        let Some(path) = &self.path else { return error };
        if let Some(line) = line_of(&self.text, &error.field) {
            error.expected = format!("{} ({}:{line})", error.expected, path.display());
        }
        error
    }

    fn table(&self) -> Result<Table, BadInput> {
        self.text.parse::<Table>().map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(self.text.len());
            let line = self.text[..start].matches('\n').count();
            let path = self.path.as_deref().unwrap_or(Path::new("config"));
            let message = one_line(error.message());
            BadInput::new(field_at(&self.text, line), format!("TOML: {message} ({}:{})", path.display(), line + 1))
        })
    }
}

/// A server's section of the file, with flags on top.
#[derive(Debug)]
pub struct Section<'a> {
    source: &'a Source,
    name: &'static str,
    table: Table,
}

impl<'a> Section<'a> {
    /// Reads the section and lays the overlay over it.
    ///
    /// A field of bytes (`arena_bytes`, `watch_bytes_max`) may be written as a size, one of time (`_ms`) as a duration.
    /// Errors name `section.field`.
    pub fn new(source: &'a Source, name: &'static str, overlay: Overlay) -> Result<Self, BadInput> {
        let mut file = source.table()?;
        if let Some(other) = file.keys().find(|name| !SECTIONS.contains(&name.as_str())) {
            let error = BadInput::new(other, format!("one of the sections [{}]: unknown field", SECTIONS.join("], [")));
            return Err(source.place(error));
        }
        let mut table = match file.remove(name) {
            Some(Value::Table(table)) => table,
            Some(_) => return Err(source.place(BadInput::new(name, "a section"))),
            None => Table::new(),
        };
        table.extend(overlay.0);
        let section = Self { source, name, table: Table::new() };
        for (field, value) in &mut table {
            plain(field, value).map_err(|error| section.place(error))?;
        }
        Ok(Self { table, ..section })
    }

    /// Whether the field has a value.
    pub fn has(&self, field: &str) -> bool {
        self.table.contains_key(field)
    }

    /// Gives a field a value when it has none.
    #[must_use]
    pub fn or(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.table.entry(field).or_insert_with(|| value.into());
        self
    }

    /// The settings.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, BadInput> {
        T::deserialize(Value::Table(self.table.clone())).map_err(|error| self.place(field_error(&error)))
    }

    /// The error with the section before its field, and with `file:line` when the file has it.
    pub fn place(&self, error: BadInput) -> BadInput {
        self.source.place(error.within(self.name))
    }
}

/// Turns a size or a duration that is written as text into its number.
fn plain(field: &str, value: &mut Value) -> Result<(), BadInput> {
    let Value::String(text) = &*value else { return Ok(()) };
    let bad = |message: String| BadInput::new(field, message.trim_start_matches("expected ").to_owned());
    if field.contains("_bytes") {
        *value = bytes_value(field, text.parse::<Size>().map_err(bad)?.0)?;
    } else if field.contains("_ms") {
        *value = integer_value(field, text.parse::<Span>().map_err(bad)?.ms(), "milliseconds")?;
    }
    Ok(())
}

/// The field a deserialisation error is about, and its message.
fn field_error(error: &toml::de::Error) -> BadInput {
    let message = one_line(error.message());
    let text = error.to_string();
    let path = text.lines().find_map(|line| line.trim().strip_prefix("in `")?.strip_suffix('`'));
    // `missing field` and `unknown field` name it in the message only.
    let named = message.split('`').nth(1).filter(|_| message.contains("field `"));
    let field = named.or(path).unwrap_or("config").to_owned();
    BadInput::new(field, in_our_words(&message))
}

/// A message of serde as what was expected.
fn in_our_words(message: &str) -> String {
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((got, expected)) = message.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected ")) {
            return format!("{expected}, got {got}");
        }
    }
    if message.starts_with("missing field") {
        return "a value: missing field".to_owned();
    }
    match message.split_once(", expected ") {
        Some((unknown, expected)) if unknown.starts_with("unknown field") => format!("{expected}: {unknown}"),
        _ => message.trim_start_matches("expected ").to_owned(),
    }
}

fn one_line(message: &str) -> String {
    message.lines().collect::<Vec<_>>().join(", ")
}

fn header(line: &str) -> Option<&str> {
    line.trim().strip_prefix('[')?.split(']').next().map(str::trim)
}

fn key(line: &str) -> Option<&str> {
    line.split_once('=').map(|(key, _)| key.trim())
}

/// The line, counted from 1, that has `section.field`, or the section.
fn line_of(text: &str, field: &str) -> Option<usize> {
    let (section, wanted) = field.split_once('.').map_or((None, field), |(section, key)| (Some(section), key));
    let mut at = None;
    for (number, line) in text.lines().enumerate() {
        at = header(line).or(at);
        let found = key(line) == Some(wanted) && at == section || section.is_none() && header(line) == Some(wanted);
        if found {
            return Some(number + 1);
        }
    }
    None
}

/// `section.key` of a line (counted from 0), as far as the text has them.
fn field_at(text: &str, line: usize) -> String {
    let section = text.lines().take(line + 1).filter_map(header).last();
    let key = text.lines().nth(line).and_then(key);
    match (section, key) {
        (Some(section), Some(key)) => format!("{section}.{key}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "config".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Node {
        name: String,
        arena_bytes: u64,
        #[serde(default)]
        wait_ms: u64,
    }

    fn read(text: &str, overlay: Overlay) -> Result<Node, BadInput> {
        let source = Source { path: Some("f.toml".into()), text: text.to_owned() };
        Section::new(&source, "node", overlay)?.read()
    }

    #[test]
    fn an_error_names_section_field_and_line() {
        for (text, field, says) in [
            ("[node]\nname = \"a\"\narena_bytes = \"12 bananas\"\n", "node.arena_bytes", "12 bananas"),
            ("[node]\nname = \"a\"\narena_bytes = []\n", "node.arena_bytes", "f.toml:3"),
            ("[node]\n\ndata_dirs = \"x\"\n", "node.data_dirs", "f.toml:3"),
            ("[node]\nname = \"a\"\n", "node.arena_bytes", "missing field"),
            ("[mata]\n", "mata", "f.toml:1"),
            ("node = 1\n", "node", "f.toml:1"),
            ("[node\n", "node", "f.toml:1"),
            ("[node]\nname = \n", "node.name", "f.toml:2"),
            ("[node]\nname = \"a\"\nwait_ms = \"5\"\n", "node.wait_ms", "duration"),
        ] {
            let error = read(text, Overlay::default()).unwrap_err();
            assert_eq!(error.field, field, "{text:?}: {error}");
            assert!(error.expected.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn flags_lie_over_the_file() {
        let text = "[node]\nname = \"a\"\narena_bytes = \"1GiB\"\nwait_ms = \"2s\"\n[meta]\nany = 1\n";
        let node = read(text, Overlay::default().with("name", Some("b"))).unwrap();
        assert_eq!(node, Node { name: "b".into(), arena_bytes: 1 << 30, wait_ms: 2000 });
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Source::read(Some(Path::new("/nowhere/f.toml"))).unwrap_err();
        assert_eq!(error.field, "config");
        assert!(error.expected.contains("/nowhere/f.toml"));
    }
}
