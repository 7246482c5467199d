//! The JSON file that SGLang's metadata server saves: what each rank and pool has, and which of it can be believed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;

use foreword_proto::limits::{HF3FS_KEY_BYTES_MAX, HF3FS_PAGES_MAX};
use foreword_proto::{BadInput, EntryKey};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// The pool of a file that names none: what the server takes it for.
const POOL: &str = "kv";

/// One rank's pages of one pool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SavedFile {
    pub(super) rank: i64,
    pub(super) pool: String,
    pub(super) pages: u32,
    /// Pages whose key is beyond doubt, the least recently used first.
    pub(super) entries: Vec<(EntryKey, u32)>,
    /// Keys left out: another key claims their page, or the server had it among the free ones too.
    pub(super) doubtful: u64,
    /// Pages that have no key and were not free either: the server had lost them.
    pub(super) leaked: u64,
}

#[derive(Deserialize)]
struct Raw {
    num_pages: i64,
    free_pages: Vec<i64>,
    key_to_index: Pairs,
}

/// `[[key, index], …]`, or an object: the server reads both.
struct Pairs(Vec<(EntryKey, i64)>);

struct PairsVisitor;

fn key_of<E: serde::de::Error>(key: &str) -> Result<EntryKey, E> {
    if key.len() > HF3FS_KEY_BYTES_MAX {
        return Err(E::custom(format!("expected a key of at most {HF3FS_KEY_BYTES_MAX} bytes, got {}", key.len())));
    }
    Ok(EntryKey::named(key.as_bytes()))
}

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of [key, index]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, index)) = list.next_element::<(String, i64)>()? {
            pairs.push((key_of(&key)?, index));
        }
        Ok(Pairs(pairs))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, index)) = map.next_entry::<String, i64>()? {
            pairs.push((key_of(&key)?, index));
        }
        Ok(Pairs(pairs))
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PairsVisitor)
    }
}

/// Reads and checks a whole file, before anything of it is sent.
///
/// Errors: not JSON, not of the server's form, or an index beyond its file's pages; with the place.
pub(super) fn read(input: impl Read) -> Result<Vec<SavedFile>, BadInput> {
    let raw: BTreeMap<String, Raw> = serde_json::from_reader(input)
        .map_err(|error| BadInput::new("FILE", format!("what SGLang's metadata server saved: {error}")))?;
    raw.into_iter().map(|(name, raw)| check(&name, raw)).collect()
}

fn check(name: &str, raw: Raw) -> Result<SavedFile, BadInput> {
    let (rank, pool) = name.split_once(':').unwrap_or((name, POOL));
    let rank = rank.parse().map_err(|_| BadInput::new(name, "a rank, or a rank:namespace, as its name"))?;
    let pages = u32::try_from(raw.num_pages).ok().filter(|pages| (1..=HF3FS_PAGES_MAX).contains(pages));
    let pages = pages.ok_or_else(|| {
        BadInput::new(format!("{name}.num_pages"), format!("1 to {HF3FS_PAGES_MAX}, got {}", raw.num_pages))
    })?;
    let index = |field: &str, at: usize, index: i64| {
        u32::try_from(index).ok().filter(|index| *index < pages).ok_or_else(|| {
            BadInput::new(format!("{name}.{field}[{at}]"), format!("a page below num_pages ({pages}), got {index}"))
        })
    };
    let mut uses = Uses::new(pages);
    for (at, free) in raw.free_pages.iter().enumerate() {
        uses.count(index("free_pages", at, *free)?);
    }
    let mut entries = Vec::with_capacity(raw.key_to_index.0.len());
    for (at, (key, page)) in raw.key_to_index.0.into_iter().enumerate() {
        let page = index("key_to_index", at, page)?;
        uses.count(page);
        entries.push((key, page));
    }
    let claimed = entries.len();
    let mut keys = HashSet::with_capacity(entries.len());
    // Of two pages of one key, which the server's own file never has, the later would be the one it served.
    entries.reverse();
    entries.retain(|(key, page)| uses.once(*page) && keys.insert(*key));
    entries.reverse();
    let doubtful = (claimed - entries.len()) as u64;
    Ok(SavedFile { rank, pool: pool.into(), pages, entries, doubtful, leaked: uses.unused() })
}

/// How often each page is claimed: never, once, more often.
struct Uses(Vec<u8>);

impl Uses {
    fn new(pages: u32) -> Self {
        Self(vec![0; pages as usize])
    }

    fn count(&mut self, page: u32) {
        let uses = &mut self.0[page as usize];
        *uses = uses.saturating_add(1);
    }

    fn once(&self, page: u32) -> bool {
        self.0[page as usize] == 1
    }

    fn unused(&self) -> u64 {
        self.0.iter().filter(|uses| **uses == 0).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> EntryKey {
        EntryKey::named(name.as_bytes())
    }

    #[test]
    fn a_saved_file_is_read_in_lru_order_and_a_rank_alone_is_its_kv() {
        let text = r#"{"1": {"num_pages": 4, "free_pages": [0], "key_to_index": [["a", 3], ["b", 1]]},
                       "0:mamba": {"key_to_index": {"c": 0}, "free_pages": [], "num_pages": 1}}"#;
        let files = read(text.as_bytes()).unwrap();
        let mamba =
            SavedFile { rank: 0, pool: "mamba".into(), pages: 1, entries: vec![(key("c"), 0)], doubtful: 0, leaked: 0 };
        let kv = SavedFile {
            rank: 1,
            pool: "kv".into(),
            pages: 4,
            entries: vec![(key("a"), 3), (key("b"), 1)],
            doubtful: 0,
            leaked: 1,
        };
        assert_eq!(files, [mamba, kv]);
    }

    #[test]
    fn a_page_that_two_claim_is_nobodys() {
        let text = r#"{"0:kv": {"num_pages": 4, "free_pages": [2], "key_to_index": [["a", 3], ["b", 1], ["c", 3], ["d", 2]]}}"#;
        let files = read(text.as_bytes()).unwrap();
        assert_eq!(files[0].entries, [(key("b"), 1)]);
        assert_eq!((files[0].doubtful, files[0].leaked), (3, 1));
    }

    #[test]
    fn what_cannot_be_names_its_place() {
        let cases = [
            ("{", "FILE", "line 1"),
            (r#"{"0:kv": {"num_pages": 4, "free_pages": []}}"#, "FILE", "key_to_index"),
            (r#"{"x:kv": {"num_pages": 4, "free_pages": [], "key_to_index": []}}"#, "x:kv", "rank"),
            (r#"{"0:kv": {"num_pages": 0, "free_pages": [], "key_to_index": []}}"#, "0:kv.num_pages", "got 0"),
            (r#"{"0:kv": {"num_pages": 4, "free_pages": [1, 4], "key_to_index": []}}"#, "0:kv.free_pages[1]", "got 4"),
            (
                r#"{"0:kv": {"num_pages": 4, "free_pages": [], "key_to_index": [["a", -1]]}}"#,
                "0:kv.key_to_index[0]",
                "-1",
            ),
        ];
        for (text, field, says) in cases {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{text}");
            assert!(error.expected.contains(says), "{text}: {}", error.expected);
        }
    }
}
