//! Answers, byte for byte as SGLang's server writes them (orjson: no blanks).

use bytes::Bytes;
use foreword_proto::{BadInput, Revision};

use crate::state::hf3fs::{PageIndex, Reserved};

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// JSON, or nothing with 204.
    pub body: Bytes,
    /// What a replica must have applied so that its next answer is not older than this one.
    pub revision: Revision,
}

impl Answer {
    /// 204: done, nothing to say.
    pub fn done(revision: Revision) -> Self {
        Self { status: 204, body: Bytes::new(), revision }
    }

    /// 200 with a body.
    pub fn ok(body: Vec<u8>, revision: Revision) -> Self {
        Self { status: 200, body: body.into(), revision }
    }

    /// An error with a sentence.
    pub fn detail(status: u16, detail: &str) -> Self {
        let mut body = br#"{"detail":"#.to_vec();
        put_text(&mut body, detail);
        body.push(b'}');
        Self { status, body: body.into(), revision: 0 }
    }

    /// 422: the caller can mend it.
    pub fn unprocessable(error: &BadInput) -> Self {
        Self::detail(422, &error.to_string())
    }

    /// 404: no such page file.
    pub fn no_file(deployment: &str, rank: i64, pool: &str, revision: Revision) -> Self {
        let path = if deployment.is_empty() { String::new() } else { format!("{deployment}/") };
        let detail =
            format!("Rank {rank} namespace '{pool}' not initialized. Please call /{path}{rank}/initialize first.");
        Self { revision, ..Self::detail(404, &detail) }
    }

    /// 422 as FastAPI says it of a rank: pydantic's `kind` and `message`.
    pub fn bad_rank(kind: &str, message: &str, input: &str) -> Self {
        let mut body = Vec::new();
        for (before, text) in
            [(r#"{"detail":[{"type":"#, kind), (r#","loc":["path","rank"],"msg":"#, message), (r#","input":"#, input)]
        {
            body.extend_from_slice(before.as_bytes());
            put_text(&mut body, text);
        }
        body.extend_from_slice(b"}]}");
        Self { status: 422, body: body.into(), revision: 0 }
    }
}

/// `{"exists":[true,false]}`
pub fn exists_body(found: impl ExactSizeIterator<Item = bool>) -> Vec<u8> {
    list("exists", 6, found, |out, found| out.extend_from_slice(if found { b"true" } else { b"false" }))
}

/// `{"indices":[7,null]}`
pub fn indices_body(pages: &[Option<PageIndex>]) -> Vec<u8> {
    list("indices", 11, pages.iter(), |out, page| match page {
        Some(page) => put_number(out, *page),
        None => out.extend_from_slice(b"null"),
    })
}

/// `{"indices":[[false,7],[true,3]]}`; -1 is the client's word for "no page".
pub fn reserved_body(pages: &[Reserved]) -> Vec<u8> {
    list("indices", 19, pages.iter(), |out, page| {
        match page {
            Reserved::Existing(page) => {
                out.extend_from_slice(b"[true,");
                put_number(out, *page);
            }
            Reserved::Page(page) => {
                out.extend_from_slice(b"[false,");
                put_number(out, *page);
            }
            Reserved::NoPage => out.extend_from_slice(b"[false,-1"),
        }
        out.push(b']');
    })
}

fn list<T>(
    name: &str,
    item_bytes: usize,
    items: impl ExactSizeIterator<Item = T>,
    mut put: impl FnMut(&mut Vec<u8>, T),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + items.len() * item_bytes);
    out.extend_from_slice(format!("{{\"{name}\":[").as_bytes());
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put(&mut out, item);
    }
    out.extend_from_slice(b"]}");
    out
}

fn put_number(out: &mut Vec<u8>, number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // A string is always written; the error is for values that have no JSON.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_what_orjson_writes() {
        let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
        assert_eq!(text(exists_body([true, false].into_iter())), r#"{"exists":[true,false]}"#);
        assert_eq!(text(exists_body(std::iter::empty::<bool>().collect::<Vec<_>>().into_iter())), r#"{"exists":[]}"#);
        assert_eq!(
            text(indices_body(&[Some(7), None, Some(0), Some(u32::MAX)])),
            r#"{"indices":[7,null,0,4294967295]}"#
        );
        let reserved = [Reserved::Page(7), Reserved::Existing(3), Reserved::NoPage];
        assert_eq!(text(reserved_body(&reserved)), r#"{"indices":[[false,7],[true,3],[false,-1]]}"#);
    }

    #[test]
    fn errors_are_what_fastapi_writes() {
        let answer = Answer::no_file("", -7, "k\"v", 5);
        let expected = r#"{"detail":"Rank -7 namespace 'k\"v' not initialized. Please call /-7/initialize first."}"#;
        assert_eq!((answer.status, answer.body.as_ref(), answer.revision), (404, expected.as_bytes(), 5));
        let answer = Answer::no_file("llama", 0, "kv", 0);
        assert!(std::str::from_utf8(&answer.body).unwrap().contains("Please call /llama/0/initialize first."));
        let answer = Answer::bad_rank("int_parsing", "Input should be", "1\u{0}\u{7f}é");
        let expected = "{\"detail\":[{\"type\":\"int_parsing\",\"loc\":[\"path\",\"rank\"],\"msg\":\"Input should be\",\
                        \"input\":\"1\\u0000\u{7f}é\"}]}";
        assert_eq!((answer.status, answer.body.as_ref()), (422, expected.as_bytes()));
    }
}
