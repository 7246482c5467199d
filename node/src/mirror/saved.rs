//! A mirror saved on local disk: a restarted agent goes on from its revision instead of asking for everything.
//!
//! ```text
//! magic 8 | version u32 | cluster 16 | fingerprint 32 | namespace u32 | epoch u32 | shards u32 | revision u64 | pages u64
//! pages × (key 16 | location) | xxh3-64 of all before
//! ```
//! All numbers little-endian.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foreword_proto::limits::{FORMAT_VERSION, FORMAT_VERSIONS};
use foreword_proto::records::Record;
use foreword_proto::versions::Foreign;
use foreword_proto::{ClusterId, EntryKey, Epoch, Fingerprint, Location, NamespaceId, Revision};
use foreword_seams::Files;
use xxhash_rust::xxh3::xxh3_64;

use super::table::Table;

const MAGIC: &[u8; 8] = b"FWMIRROR";
const HEADER_BYTES: usize = 8 + 4 + 16 + 32 + 4 + 4 + 4 + 8 + 8;
const CHECKSUM_BYTES: usize = 8;
/// Bytes written or read at once.
const CHUNK_BYTES: usize = 1 << 20;

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

/// Encodes a whole table.
pub fn encode(id: &SavedId, revision: Revision, table: &Table) -> Bytes {
    let page_bytes = 16 + Location::bytes(id.shards);
    let mut out = BytesMut::with_capacity(HEADER_BYTES + table.len() * page_bytes + CHECKSUM_BYTES);
    out.put_slice(MAGIC);
    out.put_u32_le(FORMAT_VERSION);
    out.put_slice(&id.cluster.0);
    out.put_slice(&id.fingerprint.0);
    out.put_u32_le(id.namespace);
    out.put_u32_le(id.epoch);
    out.put_u32_le(id.shards as u32);
    out.put_u64_le(revision);
    out.put_u64_le(table.len() as u64);
    for (key, location) in table.iter() {
        key.put(&mut out);
        location.put(&mut out);
    }
    let checksum = xxh3_64(&out);
    out.put_u64_le(checksum);
    out.freeze()
}

/// Decodes a file; it must be of exactly this mirror.
pub fn decode(id: &SavedId, bytes: &[u8]) -> Result<(Revision, Table), SavedError> {
    let body_bytes = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|body| *body >= HEADER_BYTES);
    let (body, mut checksum) = bytes.split_at(body_bytes.ok_or(SavedError::Damaged)?);
    let mut input = body;
    if &input.copy_to_bytes(MAGIC.len())[..] != MAGIC {
        return Err(SavedError::Damaged);
    }
    // The version before the checksum: another version may have another checksum.
    Foreign::check_version(input.get_u32_le(), FORMAT_VERSIONS).map_err(SavedError::OtherVersion)?;
    if checksum.get_u64_le() != xxh3_64(body) {
        return Err(SavedError::Damaged);
    }
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
    let (revision, pages) = (input.get_u64_le(), input.get_u64_le());
    let page_bytes = 16 + Location::bytes(id.shards);
    if pages.checked_mul(page_bytes as u64) != Some(input.len() as u64) {
        return Err(SavedError::Damaged);
    }
    let mut table = Table::new(id.shards, pages as usize);
    while !input.is_empty() {
        let key = EntryKey::take(&mut input, id.shards).ok_or(SavedError::Damaged)?;
        let location = Location::take(&mut input, id.shards).ok_or(SavedError::Damaged)?;
        table.insert(key, &location);
    }
    Ok((revision, table))
}

/// Writes an encoded mirror in place of the one before.
pub async fn save(files: &Arc<dyn Files>, id: &SavedId, mut encoded: Bytes) -> io::Result<()> {
    let mut writer = files.create(&file_name(id.cluster, id.fingerprint)).await?;
    while !encoded.is_empty() {
        let chunk = encoded.split_to(encoded.len().min(CHUNK_BYTES));
        writer.append(chunk).await?;
    }
    writer.seal().await
}

/// Reads the mirror saved last. None: there is none.
pub async fn load(files: &Arc<dyn Files>, id: &SavedId) -> Result<Option<(Revision, Table)>, SavedError> {
    let mut reader = match files.open(&file_name(id.cluster, id.fingerprint)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = BytesMut::with_capacity(reader.len() as usize);
    while (bytes.len() as u64) < reader.len() {
        let chunk = reader.read_at(bytes.len() as u64, CHUNK_BYTES).await?;
        if chunk.is_empty() {
            return Err(SavedError::Damaged);
        }
        bytes.extend_from_slice(&chunk);
    }
    decode(id, &bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use foreword_proto::SlotRef;
    use foreword_proto::location::Checksums;
    use proptest::prelude::*;

    use super::*;

    fn id() -> SavedId {
        let (cluster, fingerprint) = (ClusterId([1; 16]), Fingerprint([2; 32]));
        SavedId { cluster, fingerprint, namespace: 3, epoch: 4, shards: 2 }
    }

    fn table(pages: u8) -> Table {
        let mut table = Table::new(2, 0);
        for page in 0..pages {
            let slot = SlotRef { slab: 1, slot: u32::from(page), generation: 9 };
            let checksums = Checksums::new(&[u64::from(page), 7]);
            table.insert(EntryKey([page; 16]), &Location { slot, checksums });
        }
        table
    }

    #[test]
    fn it_reads_what_it_wrote() {
        for pages in [0, 1, 100] {
            let (revision, read) = decode(&id(), &encode(&id(), 77, &table(pages))).unwrap();
            assert_eq!(revision, 77);
            assert_eq!(read.iter().collect::<BTreeMap<_, _>>(), table(pages).iter().collect());
        }
    }

    #[test]
    fn another_mirrors_file_is_refused() {
        let bytes = encode(&id(), 77, &table(3));
        for other in [
            SavedId { cluster: ClusterId([9; 16]), ..id() },
            SavedId { fingerprint: Fingerprint([9; 32]), ..id() },
            SavedId { namespace: 9, ..id() },
            SavedId { epoch: 9, ..id() },
            SavedId { shards: 1, ..id() },
        ] {
            assert!(matches!(decode(&other, &bytes), Err(SavedError::Other)));
        }
        let mut newer = bytes.to_vec();
        newer[8] = FORMAT_VERSION as u8 + 1;
        let error = decode(&id(), &newer).unwrap_err().to_string();
        let named = [format!("expected {FORMAT_VERSIONS},"), format!("found {}", FORMAT_VERSION + 1)];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
    }

    proptest! {
        #[test]
        fn no_damage_passes(at in 0usize..500, bit in 0u8..8, cut in 0usize..500) {
            let bytes = encode(&id(), 77, &table(10)).to_vec();
            let mut flipped = bytes.clone();
            let at = at % bytes.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode(&id(), &flipped).is_err());
            prop_assert!(decode(&id(), &bytes[..cut % bytes.len()]).is_err());
        }
    }
}
