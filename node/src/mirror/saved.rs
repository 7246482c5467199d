//! A mirror saved on local disk: a restarted agent goes on from its revision instead of asking for everything.
//!
//! ```text
//! magic 8 | version u32 | cluster 16 | fingerprint 32 | namespace u32 | epoch u32 | shards u32 | revision u64
//! pages × (key 16 | location) | mixed until: revision u64 | pages u64 | xxh3-64 of all before
//! ```
//! All numbers little-endian. It is written a part at a time while events come ([`SavedTable`]); docs/adr/0020 says why
//! that is enough.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foreword_index::LocationRef;
use foreword_proto::limits::{ENTRY_KEY_BYTES, FORMAT_VERSION, FORMAT_VERSIONS};
use foreword_proto::records::Record;
use foreword_proto::versions::Foreign;
use foreword_proto::{ClusterId, EntryKey, Epoch, Fingerprint, Location, NamespaceId, Revision};
use foreword_seams::Files;
use xxhash_rust::xxh3::Xxh3;

use super::Mirror;
use super::table::Table;
use super::view::{SavedTable, View};

const MAGIC: &[u8; 8] = b"FWMIRROR";
const HEADER_BYTES: usize = 8 + 4 + 16 + 32 + 4 + 4 + 4 + 8;
const CHECKSUM_BYTES: usize = 8;
const TRAILER_BYTES: usize = 8 + 8 + CHECKSUM_BYTES;
/// Bytes written or read at once, about: some thousand pages, a millisecond of work.
const CHUNK_BYTES: usize = 256 << 10;
/// Parts of a table that are encoded in one go: 4,096 pages, about, for which a writer waits.
const PARTS_AT_ONCE: u32 = 16;

fn page_bytes(shards: usize) -> usize {
    ENTRY_KEY_BYTES + Location::bytes(shards)
}

/// Which mirror a file holds; anything else in it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedId {
    pub cluster: ClusterId,
    pub fingerprint: Fingerprint,
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub shards: usize,
}

/// A file that cannot be used; the agent syncs from the group instead.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the saved mirror is damaged")]
    Damaged,
    /// It is a cache: the next save replaces it.
    #[error("{0}")]
    OtherVersion(Foreign),
    #[error("the saved mirror is another cluster's, namespace's or epoch's")]
    Other,
}

/// The file of a namespace's mirror.
pub fn file_name(cluster: ClusterId, fingerprint: Fingerprint) -> String {
    format!("mirror-{cluster}-{fingerprint}")
}

/// A mirror being written.
struct Encoder {
    out: BytesMut,
    written: Xxh3,
    pages: u64,
}

impl Encoder {
    fn new(id: &SavedId, revision: Revision) -> Self {
        let mut out = BytesMut::with_capacity(CHUNK_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_slice(&id.cluster.0);
        out.put_slice(&id.fingerprint.0);
        out.put_u32_le(id.namespace);
        out.put_u32_le(id.epoch);
        out.put_u32_le(id.shards as u32);
        out.put_u64_le(revision);
        Self { out, written: Xxh3::new(), pages: 0 }
    }

    fn page(&mut self, key: &EntryKey, location: &LocationRef<'_>) {
        key.put(&mut self.out);
        location.put(&mut self.out);
        self.pages += 1;
    }

    /// What is ready to be written.
    fn take(&mut self) -> Bytes {
        self.written.update(&self.out);
        std::mem::replace(&mut self.out, BytesMut::with_capacity(CHUNK_BYTES)).freeze()
    }

    fn end(mut self, mixed_until: Revision) -> Bytes {
        self.out.put_u64_le(mixed_until);
        self.out.put_u64_le(self.pages);
        self.written.update(&self.out);
        self.out.put_u64_le(self.written.digest());
        self.out.freeze()
    }
}

/// Writes a mirror in place of the one before, a part at a time while it goes on; the revision from which it is
/// resumed, or None if it cannot be resumed now.
pub async fn save(files: &Arc<dyn Files>, id: &SavedId, mirror: &Mirror) -> io::Result<Option<Revision>> {
    // Of another epoch, or in a resync, it is no continuation of what was written before.
    let resumable = |view: &View| (view.epoch() == id.epoch && view.resume_from() > 0).then(|| view.resume_from());
    let Some(revision) = mirror.read(resumable) else { return Ok(None) };
    let mut encoder = Encoder::new(id, revision);
    let mut writer = files.create(&file_name(id.cluster, id.fingerprint)).await?;
    let mut parts = 0;
    loop {
        let taken = mirror.read(|view| {
            let until = (parts + PARTS_AT_ONCE).min(view.table().parts());
            for (key, location) in (parts..until).flat_map(|part| view.table().part(part)) {
                encoder.page(&key, &location);
            }
            parts = until;
            Some((resumable(view)?, until == view.table().parts()))
        });
        let Some((mixed_until, is_last)) = taken else { return Ok(None) };
        if is_last {
            writer.append(encoder.end(mixed_until)).await?;
            writer.seal().await?;
            return Ok(Some(revision));
        }
        if encoder.out.len() >= CHUNK_BYTES {
            writer.append(encoder.take()).await?;
        }
        tokio::task::yield_now().await;
    }
}

/// A file being read: its size is known, and each page has the same.
struct Decoder {
    shards: usize,
    pages_left: u64,
    pages: u64,
    read: Xxh3,
    saved: SavedTable,
}

impl Decoder {
    /// From the file's first bytes and its length; it must be of exactly this mirror.
    fn new(id: &SavedId, header: &[u8], file_bytes: u64) -> Result<Self, SavedError> {
        let mut input = header;
        if input.len() < HEADER_BYTES || &input.copy_to_bytes(MAGIC.len())[..] != MAGIC {
            return Err(SavedError::Damaged);
        }
        Foreign::check_version(input.get_u32_le(), FORMAT_VERSIONS).map_err(SavedError::OtherVersion)?;
        let (mut cluster, mut fingerprint) = ([0; 16], [0; 32]);
        input.copy_to_slice(&mut cluster);
        input.copy_to_slice(&mut fingerprint);
        let saved = SavedId {
            cluster: ClusterId(cluster),
            fingerprint: Fingerprint(fingerprint),
            namespace: input.get_u32_le(),
            epoch: input.get_u32_le(),
            shards: input.get_u32_le() as usize,
        };
        if saved != *id {
            return Err(SavedError::Other);
        }
        let pages_bytes = file_bytes.checked_sub((HEADER_BYTES + TRAILER_BYTES) as u64).ok_or(SavedError::Damaged)?;
        let page_bytes = page_bytes(id.shards) as u64;
        if !pages_bytes.is_multiple_of(page_bytes) {
            return Err(SavedError::Damaged);
        }
        let pages = pages_bytes / page_bytes;
        let mut read = Xxh3::new();
        read.update(header);
        let table = Table::new(id.shards, pages);
        let saved = SavedTable { revision: input.get_u64_le(), mixed_until: 0, table };
        Ok(Self { shards: id.shards, pages_left: pages, pages, read, saved })
    }

    /// Bytes of the next pages, as many as are read at once; 0: there is none left.
    fn next_bytes(&self) -> usize {
        let page_bytes = page_bytes(self.shards);
        (self.pages_left as usize).min(CHUNK_BYTES / page_bytes) * page_bytes
    }

    fn pages(&mut self, bytes: &[u8]) -> Result<(), SavedError> {
        self.read.update(bytes);
        let mut input = bytes;
        while !input.is_empty() {
            let key = EntryKey::take(&mut input, self.shards).ok_or(SavedError::Damaged)?;
            let location = Location::take(&mut input, self.shards).ok_or(SavedError::Damaged)?;
            self.pages_left = self.pages_left.checked_sub(1).ok_or(SavedError::Damaged)?;
            // One that a growing table moved between two parts was written twice; the later one is the newer.
            self.saved.table.insert(key, &location);
        }
        Ok(())
    }

    fn end(mut self, trailer: &[u8]) -> Result<SavedTable, SavedError> {
        let Some((counts, mut checksum)) = trailer.split_at_checked(TRAILER_BYTES - CHECKSUM_BYTES) else {
            return Err(SavedError::Damaged);
        };
        self.read.update(counts);
        let mut counts = counts;
        self.saved.mixed_until = counts.get_u64_le();
        let whole = counts.get_u64_le() == self.pages && self.pages_left == 0;
        if checksum.len() != CHECKSUM_BYTES || checksum.get_u64_le() != self.read.digest() || !whole {
            return Err(SavedError::Damaged);
        }
        Ok(self.saved)
    }
}

/// Reads the mirror saved last. None: there is none.
pub async fn load(files: &Arc<dyn Files>, id: &SavedId) -> Result<Option<SavedTable>, SavedError> {
    let mut reader = match files.open(&file_name(id.cluster, id.fingerprint)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut decoder = Decoder::new(id, &reader.read_at(0, HEADER_BYTES).await?, reader.len())?;
    let mut at = HEADER_BYTES;
    loop {
        let bytes = decoder.next_bytes();
        if bytes == 0 {
            return decoder.end(&reader.read_at(at as u64, TRAILER_BYTES).await?).map(Some);
        }
        let chunk = reader.read_at(at as u64, bytes).await?;
        if chunk.len() != bytes {
            return Err(SavedError::Damaged);
        }
        at += bytes;
        decoder.pages(&chunk)?;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foreword_proto::location::Checksums;
    use foreword_proto::records::{EntryEvents, NamespaceEvent};
    use foreword_proto::{RetireReason, SlotRef};
    use foreword_seams::LocalFiles;
    use proptest::prelude::*;

    use super::*;

    fn id() -> SavedId {
        let (cluster, fingerprint) = (ClusterId([1; 16]), Fingerprint([2; 32]));
        SavedId { cluster, fingerprint, namespace: 3, epoch: 4, shards: 2 }
    }

    fn location(number: u32) -> Location {
        let slot = SlotRef { slab: 1, slot: number, generation: 9 };
        Location { slot, checksums: Checksums::new(&[u64::from(number), 7]) }
    }

    fn key(number: u32) -> EntryKey {
        EntryKey::named(&number.to_le_bytes())
    }

    fn table(pages: u32) -> Table {
        let mut table = Table::new(2, 0);
        (0..pages).for_each(|page| _ = table.insert(key(page), &location(page)));
        table
    }

    fn encode(table: &Table) -> Vec<u8> {
        let mut encoder = Encoder::new(&id(), 77);
        for (key, location) in (0..table.parts()).flat_map(|part| table.part(part)) {
            encoder.page(&key, &location);
        }
        let mut bytes = encoder.take().to_vec();
        bytes.extend_from_slice(&encoder.end(79));
        bytes
    }

    fn decode(id: &SavedId, bytes: &[u8]) -> Result<SavedTable, SavedError> {
        let (header, mut rest) = bytes.split_at(bytes.len().min(HEADER_BYTES));
        let mut decoder = Decoder::new(id, header, bytes.len() as u64)?;
        while decoder.next_bytes() > 0 {
            let (pages, after) = rest.split_at(decoder.next_bytes());
            decoder.pages(pages)?;
            rest = after;
        }
        decoder.end(rest)
    }

    #[test]
    fn it_reads_what_it_wrote() {
        for pages in [0, 1, 100, 20_000] {
            let read = decode(&id(), &encode(&table(pages))).unwrap();
            assert_eq!((read.revision, read.mixed_until), (77, 79));
            assert_eq!(read.table.iter().collect::<BTreeMap<_, _>>(), table(pages).iter().collect());
        }
    }

    #[test]
    fn another_mirrors_file_is_refused() {
        let bytes = encode(&table(3));
        for other in [
            SavedId { cluster: ClusterId([9; 16]), ..id() },
            SavedId { fingerprint: Fingerprint([9; 32]), ..id() },
            SavedId { namespace: 9, ..id() },
            SavedId { epoch: 9, ..id() },
            SavedId { shards: 1, ..id() },
        ] {
            assert!(matches!(decode(&other, &bytes), Err(SavedError::Other)));
        }
        let mut newer = bytes;
        newer[8] = FORMAT_VERSION as u8 + 1;
        let error = decode(&id(), &newer).unwrap_err().to_string();
        let named = [format!("expected {FORMAT_VERSIONS},"), format!("found {}", FORMAT_VERSION + 1)];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
    }

    fn published(number: u32, slot: u32) -> NamespaceEvent {
        NamespaceEvent::Published { key: key(number), parent: 0, location: location(slot) }
    }

    /// Revision 1 publishes so many pages; each later one retires some, and publishes others or the same elsewhere.
    fn log(pages: u32, entries: u32) -> Vec<EntryEvents> {
        let mut at: BTreeMap<u32, u32> = (0..pages).map(|number| (number, number)).collect();
        let mut log =
            vec![EntryEvents { revision: 1, events: at.iter().map(|(n, slot)| published(*n, *slot)).collect() }];
        for entry in 1..=entries {
            let numbers = (0..40).map(|i| (entry * 40 + i).wrapping_mul(2_654_435_761) % (2 * pages));
            let change = |number: u32| match at.remove(&number) {
                Some(slot) => {
                    let (slot, reason) = (location(slot).slot, RetireReason::Evicted);
                    NamespaceEvent::Retired { key: key(number), slot, reason }
                }
                None => {
                    let slot = pages * entry + number;
                    at.insert(number, slot);
                    published(number, slot)
                }
            };
            log.push(EntryEvents { revision: u64::from(entry) + 1, events: numbers.map(change).collect() });
        }
        log
    }

    #[tokio::test]
    async fn a_mirror_saved_while_events_come_is_whole_after_the_events_since() {
        let log = log(20_000, 1_000);
        let mirror = Mirror::new(2, 4, Arc::default());
        mirror.write(|view| {
            view.begin_resync(4, 0, 0).unwrap();
            view.end_resync(0).unwrap();
            view.apply(200, &log[..200]).unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(LocalFiles::new(dir.path()).unwrap());
        let id = id();
        let events = async {
            for entry in &log[200..] {
                mirror.write(|view| view.apply(entry.revision, std::slice::from_ref(entry)).unwrap());
                tokio::task::yield_now().await;
            }
        };
        let (saved, ()) = tokio::join!(save(&files, &id, &mirror), events);
        assert_eq!(saved.unwrap(), Some(200));
        let loaded = load(&files, &id).await.unwrap().unwrap();
        assert!(loaded.revision == 200 && loaded.mixed_until > 200, "events came between two parts");

        let mut view = View::new(2, 4);
        view.restore(4, loaded);
        assert!(!view.exact() && view.resume_from() == 200);
        for entry in &log[200..] {
            view.apply(entry.revision, std::slice::from_ref(entry)).unwrap();
        }
        let whole: BTreeMap<_, _> = mirror.read(|view| view.table().iter().collect());
        assert_eq!(view.table().iter().collect::<BTreeMap<_, _>>(), whole);
        assert!(view.exact());
    }

    #[tokio::test]
    async fn a_mirror_that_is_cleared_while_it_is_saved_leaves_the_file_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(LocalFiles::new(dir.path()).unwrap());
        let mirror = Mirror::new(2, 4, Arc::default());
        let id = id();
        mirror.write(|view| {
            view.begin_resync(4, 0, 0).unwrap();
            view.end_resync(0).unwrap();
            view.apply(1, &log(20_000, 0)).unwrap();
        });
        assert_eq!(save(&files, &id, &mirror).await.unwrap(), Some(1));
        let clear = async {
            tokio::task::yield_now().await;
            mirror.write(|view| view.begin_resync(5, 9, 0).map(drop)).unwrap();
        };
        assert_eq!(tokio::join!(save(&files, &id, &mirror), clear).0.unwrap(), None);
        assert_eq!(load(&files, &id).await.unwrap().map(|saved| saved.table.len()), Some(20_000));
    }

    proptest! {
        #[test]
        fn no_damage_passes(at in 0usize..700, bit in 0u8..8, cut in 0usize..700) {
            let bytes = encode(&table(10));
            let mut flipped = bytes.clone();
            let at = at % bytes.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode(&id(), &flipped).is_err());
            prop_assert!(decode(&id(), &bytes[..cut % bytes.len()]).is_err());
        }
    }
}
