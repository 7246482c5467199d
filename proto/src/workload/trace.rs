//! Traces: JSON lines as Mooncake publishes them, plain or gzip.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::BadInput;
use crate::limits::KEYS_MAX;

/// Largest trace, unpacked: a file that unpacks to more is refused before it fills the memory.
pub const TRACE_BYTES_MAX: u64 = 2 << 30;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Requests in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    pub requests: Vec<Request>,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Since the start of the trace.
    pub timestamp_ms: u64,
    /// Tokens of the prompt and of its answer, as the trace has them; nothing here depends on them.
    pub input_length: u32,
    pub output_length: u32,
    /// The prompt's blocks, in order: at most [`KEYS_MAX`].
    pub blocks: Vec<u64>,
}

impl Trace {
    /// Blocks of all requests together: the pages that a replay asks for.
    pub fn blocks(&self) -> u64 {
        self.requests.iter().map(|request| request.blocks.len() as u64).sum()
    }

    /// The first `requests` requests.
    #[must_use]
    pub fn head(mut self, requests: usize) -> Self {
        self.requests.truncate(requests);
        self
    }
}

/// Parses a trace, unpacking it first when it begins like gzip. Blank lines are skipped, unknown fields ignored.
///
/// Errors: gzip that does not unpack or unpacks to more than [`TRACE_BYTES_MAX`]; a line that is no JSON object, that
/// lacks one of `timestamp`, `input_length`, `output_length`, `hash_ids`, or has another type there: the error's field
/// is `line <number from 1>: <field>`.
pub fn parse(bytes: &[u8]) -> Result<Trace, BadInput> {
    if bytes.starts_with(&GZIP_MAGIC) { parse_lines(&gunzip(bytes, TRACE_BYTES_MAX)?) } else { parse_lines(bytes) }
}

fn gunzip(bytes: &[u8], bytes_max: u64) -> Result<Vec<u8>, BadInput> {
    let mut plain = Vec::new();
    let unpacked = MultiGzDecoder::new(bytes).take(bytes_max + 1).read_to_end(&mut plain);
    unpacked.map_err(|error| BadInput::new("trace", format!("a whole gzip file, got {error}")))?;
    if plain.len() as u64 > bytes_max {
        return Err(BadInput::new("trace", format!("at most {bytes_max} bytes unpacked, got more")));
    }
    Ok(plain)
}

fn parse_lines(bytes: &[u8]) -> Result<Trace, BadInput> {
    let mut requests = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let named = |error: BadInput| BadInput::new(format!("line {}: {}", index + 1, error.field), error.expected);
        requests.push(parse_request(line).map_err(named)?);
    }
    Ok(Trace { requests })
}

fn parse_request(line: &[u8]) -> Result<Request, BadInput> {
    let object: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| BadInput::new("request", format!("one JSON object, got {error}")))?;
    Ok(Request {
        timestamp_ms: number(&object, "timestamp")?,
        input_length: length(&object, "input_length")?,
        output_length: length(&object, "output_length")?,
        blocks: blocks(&object)?,
    })
}

fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Value, BadInput> {
    object.get(name).ok_or_else(|| BadInput::new(name, "a value, got none"))
}

fn number(object: &Map<String, Value>, name: &str) -> Result<u64, BadInput> {
    let value = field(object, name)?;
    value.as_u64().ok_or_else(|| BadInput::new(name, format!("a whole number from 0, got {}", shown(value))))
}

fn length(object: &Map<String, Value>, name: &str) -> Result<u32, BadInput> {
    let tokens = number(object, name)?;
    u32::try_from(tokens).map_err(|_| BadInput::new(name, format!("at most {}, got {tokens}", u32::MAX)))
}

fn blocks(object: &Map<String, Value>) -> Result<Vec<u64>, BadInput> {
    const NAME: &str = "hash_ids";
    let value = field(object, NAME)?;
    let list =
        value.as_array().ok_or_else(|| BadInput::new(NAME, format!("a list of numbers, got {}", shown(value))))?;
    if list.len() > KEYS_MAX {
        return Err(BadInput::new(NAME, format!("at most {KEYS_MAX} blocks, got {}", list.len())));
    }
    list.iter()
        .map(|id| id.as_u64().ok_or_else(|| BadInput::new(NAME, format!("whole numbers from 0, got {}", shown(id)))))
        .collect()
}

/// The value as an error message shows it: short, whatever it is.
fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    const TWO: &str = concat!(
        r#"{"timestamp": 0, "input_length": 700, "output_length": 3, "hash_ids": [0, 1]}"#,
        "\r\n\n",
        r#"{"timestamp": 27, "input_length": 512, "output_length": 9, "hash_ids": [0], "chat_id": "x"}"#,
    );

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn plain_and_gzip_give_the_same_requests() {
        let trace = parse(TWO.as_bytes()).unwrap();
        assert_eq!(trace.requests.len(), 2);
        assert_eq!(
            trace.requests[1],
            Request { timestamp_ms: 27, input_length: 512, output_length: 9, blocks: vec![0] }
        );
        assert_eq!(trace.blocks(), 3);
        assert_eq!(parse(&packed(TWO.as_bytes())), Ok(trace));
        assert_eq!(parse(b""), Ok(Trace::default()));
    }

    #[test]
    fn a_bad_line_is_named_with_its_field() {
        let good = r#"{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}"#;
        let cases = [
            ("{", "line 2: request"),
            ("[1]", "line 2: request"),
            (r#"{"input_length": 1, "output_length": 1, "hash_ids": []}"#, "line 2: timestamp"),
            (r#"{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": []}"#, "line 2: timestamp"),
            (
                r#"{"timestamp": 0, "input_length": 4294967296, "output_length": 1, "hash_ids": []}"#,
                "line 2: input_length",
            ),
            (r#"{"timestamp": 0, "input_length": 1, "output_length": "é", "hash_ids": []}"#, "line 2: output_length"),
            (r#"{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": 7}"#, "line 2: hash_ids"),
            (r#"{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1.5]}"#, "line 2: hash_ids"),
            (r#"{"timestamp": 0, "input_length": 1, "output_length": 1}"#, "line 2: hash_ids"),
        ];
        for (line, field) in cases {
            let error = parse(format!("{good}\n{line}\n").as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn bad_gzip_is_an_error() {
        let whole = packed(TWO.as_bytes());
        assert_eq!(parse(&whole[..whole.len() - 9]).unwrap_err().field, "trace");
        assert_eq!(parse(&[0x1f, 0x8b, 0]).unwrap_err().field, "trace");
        assert_eq!(gunzip(&whole, 10).unwrap_err().field, "trace");
    }

    #[test]
    fn too_many_blocks_are_refused() {
        let ids = vec!["1"; KEYS_MAX + 1].join(",");
        let line = format!(r#"{{"timestamp":0,"input_length":1,"output_length":1,"hash_ids":[{ids}]}}"#);
        assert_eq!(parse(line.as_bytes()).unwrap_err().field, "line 1: hash_ids");
    }

    proptest! {
        #[test]
        fn a_damaged_trace_is_an_error_and_no_panic(at: prop::sample::Index, flip in 1u8.., zip: bool) {
            let mut bytes = if zip { packed(TWO.as_bytes()) } else { TWO.as_bytes().to_vec() };
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Err(error) = parse(&bytes) {
                prop_assert!(error.field == "trace" || error.field.starts_with("line "), "{error}");
            }
        }
    }
}
