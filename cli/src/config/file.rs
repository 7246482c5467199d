//! Reads a configuration file and finds the field an error is about.

use std::path::Path;

use foreword_proto::BadInput;
use serde::Deserialize;

use super::meta::MetaSection;
use super::node::NodeSection;

/// A configuration file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    #[serde(default)]
    pub meta: MetaSection,
    #[serde(default)]
    pub node: NodeSection,
}

/// Reads and parses a configuration file; no path means an empty one.
///
/// Errors name the field, the file and the line.
pub fn read_file(path: Option<&Path>) -> Result<FileConfig, BadInput> {
    let Some(path) = path else { return Ok(FileConfig::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| BadInput::new("config", format!("a readable file at {}: {error}", path.display())))?;
    parse(&text).map_err(|(line, mut error)| {
        error.expected = format!("{} ({}:{line})", error.expected, path.display());
        error
    })
}

/// Parses the text of a configuration file; an error comes with its line, counted from 1.
fn parse(text: &str) -> Result<FileConfig, (usize, BadInput)> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text[..start].matches('\n').count();
        let message = error.message().trim_start_matches("expected ").replace('\n', ", ");
        (line + 1, BadInput::new(field_at(text, line), message))
    })
}

/// `section.key` of a line (counted from 0), as far as the text has them.
fn field_at(text: &str, line: usize) -> String {
    let header = |line: &str| line.trim().strip_prefix('[')?.split(']').next().map(|name| name.trim().to_owned());
    let section = text.lines().take(line + 1).filter_map(header).last();
    let key = text.lines().nth(line).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim().to_owned());
    match (section, key) {
        (Some(section), Some(key)) => format!("{section}.{key}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "config".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::human::Size;

    #[test]
    fn an_error_names_section_key_and_line() {
        for (text, line, field, says) in [
            ("[node]\nname = \"a\"\narena_bytes = \"12 bananas\"\n", 3, "node.arena_bytes", "12 bananas"),
            ("[node]\narena_bytes = []\n", 2, "node.arena_bytes", "size"),
            ("[meta]\n\ndata_dirs = \"x\"\n", 3, "meta.data_dirs", "unknown field"),
            ("[mata]\n", 1, "mata", "unknown field"),
            ("[node\n", 1, "node", ""),
            ("[node]\nname = \n", 2, "node.name", ""),
        ] {
            let (at, error) = parse(text).unwrap_err();
            assert_eq!((at, error.field.as_str()), (line, field), "{text:?}: {error}");
            assert!(error.expected.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_full_file_parses() {
        let config = parse("[node]\nname = \"a\"\narena_bytes = \"1GiB\"\n[meta]\ndata_dir = \"/d\"\n").unwrap();
        assert_eq!(config.node.arena_bytes, Some(Size(1 << 30)));
        assert_eq!(config.meta.data_dir.as_deref(), Some(Path::new("/d")));
    }
}
