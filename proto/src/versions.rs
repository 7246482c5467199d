//! Versions of what is written and spoken, and the errors that tell another version from damage.
//!
//! A binary reads formats, and speaks wires, of its own version and of the one before (`limits`). What lies between two
//! binaries is of the highest version both know: a call by the ranges that both sides name, a file by the level that
//! the group has committed.

use std::fmt;
use std::str::FromStr;

use crate::BadInput;

/// A range of versions, both ends included. As text: `1` or `1-2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub min: u32,
    pub max: u32,
}

impl Versions {
    /// The version `max` and the one before it; version 1 is the first.
    pub const fn up_to(max: u32) -> Self {
        Self { min: if max > 1 { max - 1 } else { max }, max }
    }

    /// Whether `version` is one of them.
    pub fn contains(self, version: u32) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The highest version that is also one of `other`.
    pub fn highest_shared(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (self.contains(highest) && other.contains(highest)).then_some(highest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.max) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

impl FromStr for Versions {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if min <= max => Ok(Self { min, max }),
            _ => Err(BadInput::new("versions", format!("a version or MIN-MAX, got {text:?}"))),
        }
    }
}

/// What `version` has at the end of a stored entry, of a mark, of a snapshot's head and of a batch of commands:
/// nothing. Only the tests' binary of a next version (feature `next-version`) has something there, so that a binary
/// that takes one version for the other fails.
pub const fn trailer(version: u32) -> &'static [u8] {
    if cfg!(feature = "next-version") && version == crate::limits::FORMAT_VERSION { b"next version" } else { b"" }
}

/// What another version wrote: whole, so that it is no damage, but nothing that this binary reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreign {
    /// A format that this binary does not read.
    Version { found: u32, reads: Versions },
    /// A kind of record that the versions this binary reads do not have.
    Kind { record: &'static str, found: u32, reads: Versions },
    /// A committed feature level that this binary does not know.
    Level { found: u32, knows: u32 },
    /// Files of a library below us, of another version of it: what the library says.
    Engine(String),
}

/// A file that another version wrote. Nothing was changed: the version that wrote it, or one that reads it, goes on
/// from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}, {file} has {}", what.expected(), what.found())]
pub struct OtherVersion {
    /// The file's path, or its name in its directory.
    pub file: String,
    pub what: Foreign,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, found {}", self.expected(), self.found())
    }
}

impl std::error::Error for Foreign {}

impl Foreign {
    /// Checks the version of something that is whole.
    pub fn check_version(found: u32, reads: Versions) -> Result<(), Self> {
        if reads.contains(found) { Ok(()) } else { Err(Self::Version { found, reads }) }
    }

    /// Checks a feature level against the highest that this binary knows.
    pub fn check_level(found: u32, knows: u32) -> Result<(), Self> {
        if found <= knows { Ok(()) } else { Err(Self::Level { found, knows }) }
    }

    fn expected(&self) -> String {
        match self {
            Self::Version { reads, .. } => format!("format_version: expected {reads}, which this binary reads"),
            Self::Kind { record, reads, .. } => {
                format!("format_version: expected a kind of {record} of version {reads}, which this binary reads")
            }
            Self::Level { knows, .. } => format!("feature_level: expected at most {knows}, which this binary knows"),
            Self::Engine(_) => "format_version: expected files that this binary's log engine reads".to_owned(),
        }
    }

    fn found(&self) -> String {
        match self {
            Self::Version { found, .. } | Self::Level { found, .. } => found.to_string(),
            Self::Kind { found, .. } => format!("kind {found}"),
            Self::Engine(what) => what.clone(),
        }
    }

    /// The error, with the file that holds it.
    pub fn of(self, file: impl Into<String>) -> OtherVersion {
        OtherVersion { file: file.into(), what: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ranges_meet_at_the_highest_version_of_both() {
        let range = |min, max| Versions { min, max };
        for (ours, theirs, shared) in [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 1), range(1, 2), Some(1)),
            (range(1, 2), range(2, 3), Some(2)),
            (range(1, 2), range(1, 2), Some(2)),
            (range(1, 1), range(2, 3), None),
            (range(1, 2), range(3, 4), None),
        ] {
            assert_eq!(ours.highest_shared(theirs), shared, "{ours} and {theirs}");
            assert_eq!(theirs.highest_shared(ours), shared, "{theirs} and {ours}");
        }
    }

    #[test]
    fn an_error_names_the_file_the_version_found_and_those_that_are_read() {
        let other = Foreign::check_version(3, Versions::up_to(2)).unwrap_err().of("/data/MARK");
        assert_eq!(other.to_string(), "format_version: expected 1-2, which this binary reads, /data/MARK has 3");
        assert_eq!(Foreign::check_version(1, Versions::up_to(2)), Ok(()));
        let level = Foreign::Level { found: 2, knows: 1 }.to_string();
        assert_eq!(level, "feature_level: expected at most 1, which this binary knows, found 2");
    }

    #[test]
    fn a_range_is_read_as_it_is_written() {
        for range in [Versions::up_to(1), Versions::up_to(2), Versions::up_to(9)] {
            assert_eq!(range.to_string().parse(), Ok(range));
        }
        assert_eq!(Versions::up_to(1).to_string(), "1");
        assert_eq!(Versions::up_to(3).to_string(), "2-3");
        for text in ["", "x", "1-", "-1", "2-1", "1-2-3", "none"] {
            assert!(text.parse::<Versions>().is_err(), "{text}");
        }
    }
}
