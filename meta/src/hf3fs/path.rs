//! The URL of a call: `/{rank}/{operation}` or `/{deployment}/{rank}/{operation}`, as FastAPI and pydantic read it.

use foreword_proto::BadInput;
use foreword_proto::limits::HF3FS_DEPLOYMENT_BYTES_MAX;

use super::{Answer, Operation};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) deployment: String,
    /// As it is written.
    pub(super) rank: String,
    pub(super) operation: Operation,
}

/// Digits after which Python, and so pydantic, refuses a number.
const RANK_CHARACTERS_MAX: usize = 4300;

/// The target of a path; None: nothing is served there.
pub(super) fn target_of(path: &str) -> Option<Target> {
    // Decoded first and split then, as SGLang's server does: `%2F` parts too.
    let path = percent_decoded(path);
    let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (deployment, rank, operation) = match parts[..] {
        [rank, operation] => ("", rank, operation),
        ["", ..] => return None,
        [deployment, rank, operation] => (deployment, rank, operation),
        _ => return None,
    };
    if rank.is_empty() {
        return None;
    }
    let operation = Operation::named(operation)?;
    Some(Target { deployment: deployment.to_owned(), rank: rank.to_owned(), operation })
}

impl Target {
    /// The rank, once deployment and rank are what they must be; else the answer.
    pub(super) fn check(&self) -> Result<i64, Answer> {
        check_deployment(&self.deployment).map_err(|error| Answer::unprocessable(&error))?;
        rank_of(&self.rank)
    }
}

fn check_deployment(deployment: &str) -> Result<(), BadInput> {
    let plain = deployment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if plain && deployment.len() <= HF3FS_DEPLOYMENT_BYTES_MAX && !matches!(deployment, "." | "..") {
        return Ok(());
    }
    let expected = format!("1 to {HF3FS_DEPLOYMENT_BYTES_MAX} of A-Z a-z 0-9 . _ -, not . or .., got {deployment:?}");
    Err(BadInput::new("deployment", expected))
}

/// A whole number as pydantic reads one: blanks around it, a sign, single underscores between digits, and `.0` behind
/// it. Beyond 64 bits is beyond what a rank can be here.
fn rank_of(input: &str) -> Result<i64, Answer> {
    let text = input.trim();
    if text.len() > RANK_CHARACTERS_MAX {
        return Err(too_large(input));
    }
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let whole = match unsigned.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return Err(not_a_number(input)),
        None => unsigned,
    };
    let groups_are_digits =
        whole.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    if !groups_are_digits {
        return Err(not_a_number(input));
    }
    let mut value: i64 = 0;
    for digit in whole.bytes().filter(u8::is_ascii_digit) {
        let digit = i64::from(digit - b'0') * if negative { -1 } else { 1 };
        value = value.checked_mul(10).and_then(|value| value.checked_add(digit)).ok_or_else(|| too_large(input))?;
    }
    Ok(value)
}

fn not_a_number(input: &str) -> Answer {
    Answer::bad_rank("int_parsing", "Input should be a valid integer, unable to parse string as an integer", input)
}

fn too_large(input: &str) -> Answer {
    Answer::bad_rank("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size", input)
}

/// `%41` and the like as what they stand for; what is no escape stays, what is no UTF-8 is replaced.
fn percent_decoded(path: &str) -> String {
    let hex = |byte: Option<&u8>| (*byte? as char).to_digit(16);
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each was sent to SGLang's server.
    #[test]
    fn ranks_are_read_as_pydantic_reads_them() {
        for (text, rank) in [
            ("0", 0),
            ("007", 7),
            ("+1", 1),
            (" 1", 1),
            ("1 ", 1),
            ("\t\u{b}1\u{c}", 1),
            ("\u{a0}1", 1),
            ("\u{3000}1", 1),
            ("1.0", 1),
            ("1.00", 1),
            ("0.0", 0),
            ("-1.0", -1),
            ("1_0", 10),
            ("+1_0", 10),
            ("1_0.0", 10),
            ("0_1", 1),
            ("01.0", 1),
            ("-0", 0),
            ("-007", -7),
            ("1\u{85}", 1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(rank_of(text).unwrap(), rank, "{text:?}");
        }
        for text in [
            "abc", "1e0", "0x1", "+-1", "--1", "-+1", "1.", "1.5", ".0", "1__0", "_1", "1_", "+_1", "+", "-", "- 1",
            "1.0_0", "true", "1\0", "\u{661}", "\u{fffd}", "%1", "\"", "", " ", "1.0.0", "1.0e0",
        ] {
            let body = rank_of(text).unwrap_err().body;
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (&body["detail"][0]["type"], &body["detail"][0]["input"]),
                (&"int_parsing".into(), &text.into())
            );
        }
        for text in ["9223372036854775808".to_owned(), "1".repeat(4301), "x".repeat(4301)] {
            let body = rank_of(&text).unwrap_err().body;
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["detail"][0]["type"], "int_parsing_size");
        }
    }

    #[test]
    fn paths_name_a_rank_and_an_operation_behind_a_deployment() {
        let target = |deployment: &str, rank: &str, operation| {
            Some(Target { deployment: deployment.into(), rank: rank.into(), operation })
        };
        assert_eq!(target_of("/0/exists"), target("", "0", Operation::Exists));
        assert_eq!(target_of("/m-1/%2B7/clear"), target("m-1", "+7", Operation::Clear));
        assert_eq!(target_of("/0%2Fexi%73ts"), target("", "0", Operation::Exists));
        assert_eq!(target_of("/%1/exists"), target("", "%1", Operation::Exists));
        assert_eq!(target_of("/%ff/exists"), target("", "\u{fffd}", Operation::Exists));
        for path in [
            "",
            "/",
            "/0",
            "/0/",
            "//exists",
            "//0/exists",
            "/m//exists",
            "/a/b/0/exists",
            "/0/EXISTS",
            "/0/exists/",
            "/1%2F2/3/clear",
        ] {
            assert_eq!(target_of(path), None, "{path}");
        }
    }

    #[test]
    fn a_deployment_is_a_plain_word() {
        for deployment in ["", "m", "A-1._", "...", &"x".repeat(64)] {
            check_deployment(deployment).unwrap();
        }
        for deployment in [".", "..", "a b", "é", "a:b", &"x".repeat(65)] {
            assert_eq!(check_deployment(deployment).unwrap_err().field, "deployment", "{deployment:?}");
        }
    }
}
