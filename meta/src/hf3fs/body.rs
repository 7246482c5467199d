//! The body of a call, read in one pass: strings are hashed where they stand, nothing is copied.
//!
//! What is no JSON object, or names its pool wrongly, is an error at once. An error in another field waits until the
//! page file is known, because SGLang's server says of an unknown file first that it is unknown.

use std::fmt;

use foreword_proto::limits::{HF3FS_KEY_BYTES_MAX, HF3FS_KEYS_MAX, HF3FS_PAGES_MAX};
use foreword_proto::{BadInput, EntryKey};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Operation;
use crate::state::hf3fs::PageIndex;

/// The pool of a client that names none.
pub const POOL_DEFAULT: &str = "kv";
/// A page that no file has: a client's -1 and the like travel as this, and are counted and ignored where they are
/// applied.
pub const NO_SUCH_PAGE: PageIndex = PageIndex::MAX;

/// A body.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    /// SGLang's `namespace`.
    pub pool: String,
    /// The operation's own fields, or what is wrong with them.
    pub request: Result<Request, BadInput>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Initialize {
        pages: u32,
    },
    /// Of exists, reserve, delete and get.
    Keys(Vec<EntryKey>),
    Confirm {
        written: Vec<(EntryKey, PageIndex)>,
        released: Vec<PageIndex>,
    },
    Clear,
}

/// Reads the body of an operation.
///
/// Errors: `body`: no JSON object; `namespace`: no string.
pub fn parse(operation: Operation, body: &[u8]) -> Result<Body, BadInput> {
    let mut fields = Fields::default();
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = At(Root { operation, fields: &mut fields }).deserialize(&mut json).and_then(|read| {
        json.end()?;
        Ok(read)
    });
    let read = read.map_err(|error| BadInput::new("body", format!("{}: {error}", Root::EXPECTED)))?;
    read.map_err(|fault| fault.of("body"))?;
    let pool = fields.pool.unwrap_or_else(|| Ok(POOL_DEFAULT.to_owned()))?;
    let request = match operation {
        Operation::Clear => Ok(Request::Clear),
        Operation::Initialize => {
            let pages = fields.pages.unwrap_or_else(|| Err(missing("num_pages", Pages::EXPECTED)));
            pages.map(|pages| Request::Initialize { pages })
        }
        Operation::Confirm => {
            let written = fields.written.unwrap_or_else(|| Ok(Vec::new()));
            let released = fields.released.unwrap_or_else(|| Ok(Vec::new()));
            written.and_then(|written| Ok(Request::Confirm { written, released: released? }))
        }
        Operation::Exists | Operation::Reserve | Operation::Delete | Operation::Get => {
            fields.keys.unwrap_or_else(|| Err(missing("keys", "a list"))).map(Request::Keys)
        }
    };
    Ok(Body { pool, request })
}

fn missing(field: &str, expected: &str) -> BadInput {
    BadInput::new(field, format!("{expected}, it is missing"))
}

/// The fields that were there; of one that comes twice, the last.
#[derive(Default)]
struct Fields {
    pool: Option<Result<String, BadInput>>,
    pages: Option<Result<u32, BadInput>>,
    keys: Option<Result<Vec<EntryKey>, BadInput>>,
    written: Option<Result<Vec<(EntryKey, PageIndex)>, BadInput>>,
    released: Option<Result<Vec<PageIndex>, BadInput>>,
}

/// What is wrong with a value, and where in it: `[3][1]`.
#[derive(Debug)]
struct Fault {
    at: String,
    expected: String,
}

impl Fault {
    fn new(expected: &str, got: impl fmt::Display) -> Self {
        Self { at: String::new(), expected: format!("{expected}, got {got}") }
    }

    fn within(self, position: usize) -> Self {
        Self { at: format!("[{position}]{}", self.at), ..self }
    }

    fn of(self, field: &str) -> BadInput {
        BadInput::new(format!("{field}{}", self.at), self.expected)
    }
}

/// A value, or what is wrong with it.
type Taken<T> = Result<T, Fault>;

/// Takes a value of one type where one of any type may stand. A wrong one is no error of the reader: what follows it is
/// read on.
trait Place<'de>: Sized {
    const EXPECTED: &'static str;
    type Value;

    fn text(self, _text: &str) -> Result<Self::Value, Fault> {
        Err(Fault::new(Self::EXPECTED, "a string"))
    }

    fn integer(self, number: i128) -> Result<Self::Value, Fault> {
        Err(Fault::new(Self::EXPECTED, number))
    }

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Result<Self::Value, Fault>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err(Fault::new(Self::EXPECTED, "a list")))
    }

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Result<Self::Value, Fault>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Err(Fault::new(Self::EXPECTED, "an object")))
    }
}

struct At<P>(P);

impl<'de, P: Place<'de>> DeserializeSeed<'de> for At<P> {
    type Value = Result<P::Value, Fault>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, P: Place<'de>> Visitor<'de> for At<P> {
    type Value = Result<P::Value, Fault>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(P::EXPECTED)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.text(text))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.0.integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(self.0.integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Err(Fault::new(P::EXPECTED, number)))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Err(Fault::new(P::EXPECTED, truth)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Err(Fault::new(P::EXPECTED, "null")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        self.0.object(object)
    }
}

/// The whole body.
struct Root<'a> {
    operation: Operation,
    fields: &'a mut Fields,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Pool,
    Pages,
    Keys,
    KeysWithPrefix,
    Written,
    Released,
    Other,
}

struct FieldName(Operation);

impl Place<'_> for FieldName {
    const EXPECTED: &'static str = "a field's name";
    type Value = Field;

    fn text(self, name: &str) -> Result<Field, Fault> {
        Ok(match (name, self.0) {
            (POOL, _) => Field::Pool,
            (PAGES, Operation::Initialize) => Field::Pages,
            (WRITTEN, Operation::Confirm) => Field::Written,
            (RELEASED, Operation::Confirm) => Field::Released,
            (KEYS, Operation::Reserve) => Field::KeysWithPrefix,
            (KEYS, Operation::Exists | Operation::Delete | Operation::Get) => Field::Keys,
            _ => Field::Other,
        })
    }
}

const POOL: &str = "namespace";
const PAGES: &str = "num_pages";
const KEYS: &str = "keys";
const WRITTEN: &str = "written_keys_to_confirm";
const RELEASED: &str = "pages_to_release";

impl<'de> Place<'de> for Root<'_> {
    const EXPECTED: &'static str = "a JSON object";
    type Value = ();

    fn object<A: MapAccess<'de>>(self, mut object: A) -> Result<Result<(), Fault>, A::Error> {
        let fields = self.fields;
        while let Some(field) = object.next_key_seed(At(FieldName(self.operation)))? {
            match field.unwrap_or(Field::Other) {
                Field::Pool => fields.pool = Some(take(&mut object, POOL, Pool)?),
                Field::Pages => fields.pages = Some(take(&mut object, PAGES, Pages)?),
                Field::Keys => fields.keys = Some(take(&mut object, KEYS, List(Key))?),
                Field::KeysWithPrefix => fields.keys = Some(take(&mut object, KEYS, List(KeyAndPrefix))?),
                Field::Written => fields.written = Some(take(&mut object, WRITTEN, List(KeyAndPage))?),
                Field::Released => fields.released = Some(take(&mut object, RELEASED, List(Page))?),
                Field::Other => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Ok(()))
    }
}

fn take<'de, P: Place<'de>, A: MapAccess<'de>>(
    object: &mut A,
    field: &str,
    place: P,
) -> Result<Result<P::Value, BadInput>, A::Error> {
    Ok(object.next_value_seed(At(place))?.map_err(|fault| fault.of(field)))
}

/// A pool; whether its name will do is for the state to say.
struct Pool;

impl Place<'_> for Pool {
    const EXPECTED: &'static str = "a string";
    type Value = String;

    fn text(self, text: &str) -> Result<String, Fault> {
        Ok(text.to_owned())
    }
}

struct Pages;

impl Place<'_> for Pages {
    const EXPECTED: &'static str = "a number of pages";
    type Value = u32;

    fn integer(self, number: i128) -> Result<u32, Fault> {
        let pages = u32::try_from(number).ok().filter(|pages| (1..=HF3FS_PAGES_MAX).contains(pages));
        pages.ok_or_else(|| Fault::new(&format!("1 to {HF3FS_PAGES_MAX} pages"), number))
    }
}

#[derive(Clone, Copy)]
struct Key;

impl Place<'_> for Key {
    const EXPECTED: &'static str = "a string";
    type Value = EntryKey;

    fn text(self, text: &str) -> Result<EntryKey, Fault> {
        if text.len() > HF3FS_KEY_BYTES_MAX {
            let expected = format!("a string of at most {HF3FS_KEY_BYTES_MAX} bytes");
            return Err(Fault::new(&expected, text.len()));
        }
        Ok(EntryKey::named(text.as_bytes()))
    }
}

#[derive(Clone, Copy)]
struct Page;

impl Place<'_> for Page {
    const EXPECTED: &'static str = "a whole number";
    type Value = PageIndex;

    fn integer(self, number: i128) -> Result<PageIndex, Fault> {
        Ok(PageIndex::try_from(number).unwrap_or(NO_SUCH_PAGE))
    }
}

/// A list of what one place takes.
struct List<P>(P);

impl<'de, P: Place<'de> + Copy> Place<'de> for List<P> {
    const EXPECTED: &'static str = "a list";
    type Value = Vec<P::Value>;

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Result<Self::Value, Fault>, A::Error> {
        let mut values = Vec::new();
        let mut fault = None;
        while fault.is_none() {
            match list.next_element_seed(At(self.0))? {
                None => return Ok(Ok(values)),
                Some(_) if values.len() == HF3FS_KEYS_MAX => {
                    fault = Some(Fault::new(&format!("a list of at most {HF3FS_KEYS_MAX}"), "more"));
                }
                Some(Ok(value)) => values.push(value),
                Some(Err(wrong)) => fault = Some(wrong.within(values.len())),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err(fault.unwrap_or_else(|| Fault::new(Self::EXPECTED, "another"))))
    }
}

/// `[key, prefix_key]`; what the prefix is, nobody asks.
#[derive(Clone, Copy)]
struct KeyAndPrefix;

impl<'de> Place<'de> for KeyAndPrefix {
    const EXPECTED: &'static str = "[key, prefix_key]";
    type Value = EntryKey;

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<Result<EntryKey, Fault>, A::Error> {
        pair(list, Key, Self::EXPECTED, |list| Ok(list.next_element::<IgnoredAny>()?.map(|_| Ok(()))))
            .map(|pair| pair.map(|(key, ())| key))
    }
}

/// `[key, page]`
#[derive(Clone, Copy)]
struct KeyAndPage;

impl<'de> Place<'de> for KeyAndPage {
    const EXPECTED: &'static str = "[key, page]";
    type Value = (EntryKey, PageIndex);

    fn list<A: SeqAccess<'de>>(self, list: A) -> Result<Result<Self::Value, Fault>, A::Error> {
        pair(list, Key, Self::EXPECTED, |list| list.next_element_seed(At(Page)))
    }
}

type Element<T> = Option<Taken<T>>;

/// Two elements and no more.
fn pair<'de, A: SeqAccess<'de>, P: Place<'de>, T>(
    mut list: A,
    first: P,
    expected: &str,
    second: impl FnOnce(&mut A) -> Result<Element<T>, A::Error>,
) -> Result<Taken<(P::Value, T)>, A::Error> {
    let Some(first) = list.next_element_seed(At(first))? else { return Ok(Err(Fault::new(expected, "[]"))) };
    let Some(second) = second(&mut list)? else { return Ok(Err(Fault::new(expected, "one element"))) };
    let mut count = 2;
    while list.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    if count > 2 {
        return Ok(Err(Fault::new(expected, format!("{count} elements"))));
    }
    Ok(match (first, second) {
        (Ok(first), Ok(second)) => Ok((first, second)),
        (Err(fault), _) => Err(fault.within(0)),
        (_, Err(fault)) => Err(fault.within(1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> EntryKey {
        EntryKey::named(text.as_bytes())
    }

    fn keys(operation: Operation, body: &str) -> Vec<EntryKey> {
        match parse(operation, body.as_bytes()).unwrap().request.unwrap() {
            Request::Keys(keys) => keys,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies_of_the_client_are_read() {
        let body = parse(Operation::Exists, br#"{"keys":["a","\u00e9\n",""],"namespace":"mamba"}"#).unwrap();
        assert_eq!(body.pool, "mamba");
        assert_eq!(body.request, Ok(Request::Keys(vec![key("a"), key("é\n"), key("")])));
        let body = parse(Operation::Initialize, br#" {"num_pages": 5, "later": {"x": [1, {}]}} "#).unwrap();
        assert_eq!((body.pool.as_str(), body.request), ("kv", Ok(Request::Initialize { pages: 5 })));
        assert_eq!(
            keys(Operation::Reserve, r#"{"keys":[["a",""],["b",null],["c",5]]}"#),
            [key("a"), key("b"), key("c")]
        );
        let confirm =
            br#"{"written_keys_to_confirm":[["a",3],["b",-1]],"pages_to_release":[0,18446744073709551615,-9]}"#;
        let written = vec![(key("a"), 3), (key("b"), NO_SUCH_PAGE)];
        let released = vec![0, NO_SUCH_PAGE, NO_SUCH_PAGE];
        assert_eq!(parse(Operation::Confirm, confirm).unwrap().request, Ok(Request::Confirm { written, released }));
        let nothing = Request::Confirm { written: vec![], released: vec![] };
        assert_eq!(parse(Operation::Confirm, b"{}").unwrap().request, Ok(nothing));
        assert_eq!(parse(Operation::Clear, br#"{"keys":5}"#).unwrap().request, Ok(Request::Clear));
        assert_eq!(keys(Operation::Get, r#"{"keys":["x"],"keys":["y"]}"#), [key("y")], "the last of two");
        assert_eq!(keys(Operation::Get, r#"{"keys":[5],"keys":["y"]}"#), [key("y")]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (operation, body, says) in [
            (Operation::Exists, r#"{"keys":["a","b",null,7]}"#, "keys[2]: expected a string, got null"),
            (Operation::Exists, r#"{"keys":["a",1.5]}"#, "keys[1]: expected a string, got 1.5"),
            (Operation::Delete, r#"{"keys":"abc"}"#, "keys: expected a list, got a string"),
            (Operation::Get, r#"{"keys":{"a":{"b":[]}}}"#, "keys: expected a list, got an object"),
            (Operation::Get, "{}", "keys: expected a list, it is missing"),
            (Operation::Reserve, r#"{"keys":["ab"]}"#, "keys[0]: expected [key, prefix_key], got a string"),
            (
                Operation::Reserve,
                r#"{"keys":[["a",""],["a"]]}"#,
                "keys[1]: expected [key, prefix_key], got one element",
            ),
            (Operation::Reserve, r#"{"keys":[[]]}"#, "keys[0]: expected [key, prefix_key], got []"),
            (Operation::Reserve, r#"{"keys":[["a","","c"]]}"#, "keys[0]: expected [key, prefix_key], got 3 elements"),
            (Operation::Reserve, r#"{"keys":[[true,""]]}"#, "keys[0][0]: expected a string, got true"),
            (Operation::Initialize, r#"{"num_pages":"5"}"#, "num_pages: expected a number of pages, got a string"),
            (Operation::Initialize, r#"{"num_pages":5.0}"#, "num_pages: expected a number of pages, got 5"),
            (Operation::Initialize, r#"{"num_pages":0}"#, "num_pages: expected 1 to 268435456 pages, got 0"),
            (Operation::Initialize, r#"{"num_pages":-5}"#, "num_pages: expected 1 to 268435456 pages, got -5"),
            (
                Operation::Initialize,
                r#"{"num_pages":268435457}"#,
                "num_pages: expected 1 to 268435456 pages, got 268435457",
            ),
            (Operation::Initialize, "{}", "num_pages: expected a number of pages, it is missing"),
            (
                Operation::Confirm,
                r#"{"written_keys_to_confirm":[["a",1],["b",true]]}"#,
                "written_keys_to_confirm[1][1]: expected a whole number, got true",
            ),
            (
                Operation::Confirm,
                r#"{"pages_to_release":[1,"x"],"written_keys_to_confirm":[]}"#,
                "pages_to_release[1]: expected a whole number, got a string",
            ),
            (
                Operation::Confirm,
                r#"{"pages_to_release":[18446744073709551616]}"#,
                "pages_to_release[0]: expected a whole number, got 18446744073709552000",
            ),
            (Operation::Confirm, r#"{"pages_to_release":null}"#, "pages_to_release: expected a list, got null"),
        ] {
            let body = parse(operation, body.as_bytes()).unwrap();
            assert_eq!(body.pool, "kv");
            assert_eq!(body.request.unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn what_is_no_object_of_a_known_pool_is_an_error_at_once() {
        for (body, field) in [
            (&b""[..], "body"),
            (b"nope", "body"),
            (b"[]", "body"),
            (b"5", "body"),
            (b"\"x\"", "body"),
            (b"null", "body"),
            (b"{\"keys\":[\"a\",]}", "body"),
            (b"{\"keys\":[\"\\ud800\"]}", "body"),
            (b"{\"keys\":[\"\xff\"]}", "body"),
            (b"\xef\xbb\xbf{\"keys\":[]}", "body"),
            (b"{\"keys\":[]} {}", "body"),
            (b"{\"keys\":[5,", "body"),
            (b"{\"namespace\":null,\"keys\":[]}", "namespace"),
            (b"{\"namespace\":5,\"keys\":[]}", "namespace"),
        ] {
            assert_eq!(parse(Operation::Exists, body).unwrap_err().field, field, "{}", body.escape_ascii());
        }
        let deep = format!("{{\"x\":{}", "[".repeat(1 << 20));
        assert_eq!(parse(Operation::Exists, deep.as_bytes()).unwrap_err().field, "body");
    }

    #[test]
    fn keys_have_limits() {
        let body = |keys: &[String]| serde_json::json!({ "keys": keys }).to_string();
        let fits = parse(Operation::Exists, body(&["x".repeat(HF3FS_KEY_BYTES_MAX)]).as_bytes()).unwrap();
        fits.request.unwrap();
        let long = body(&["x".into(), "x".repeat(HF3FS_KEY_BYTES_MAX + 1)]);
        let error = parse(Operation::Exists, long.as_bytes()).unwrap().request.unwrap_err();
        assert_eq!(error.to_string(), "keys[1]: expected a string of at most 1024 bytes, got 1025");
        let most = vec![String::new(); HF3FS_KEYS_MAX];
        parse(Operation::Exists, body(&most).as_bytes()).unwrap().request.unwrap();
        let more = vec![String::new(); HF3FS_KEYS_MAX + 1];
        let error = parse(Operation::Exists, body(&more).as_bytes()).unwrap().request.unwrap_err();
        assert_eq!(error.to_string(), "keys: expected a list of at most 65536, got more");
    }
}
