//! Snapshot files: a header that says whose and of what, frames of bytes, a footer that counts them; each part
//! checksummed.
//!
//! All numbers are little-endian.
//! ```text
//! header   magic (8), format version (u32), length of the JSON (u32), JSON {cluster_id, meta}, crc32 of all that (u32)
//! frame    1 (u8), length (u32), crc32 of the frame's bytes (u32), bytes
//! footer   2 (u8), number of frames (u64), bytes in them (u64), crc32 of these 17 bytes (u32)
//! ```
//! A follower gets the file as it is, in ranges of bytes, and checks it while it arrives. Every version keeps the
//! header's shape: its checksum tells another version from damage.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foreword_proto::ClusterId;
use foreword_proto::limits::{FORMAT_VERSIONS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_FRAME_BYTES_MAX};
use foreword_proto::versions::{Foreign, OtherVersion};
use foreword_seams::{FileReader, FileWriter, Files};
use serde::{Deserialize, Serialize};

use crate::consensus::types::SnapshotMeta;

/// Bytes of the header's JSON, at most: a membership of a few replicas.
const HEADER_JSON_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"FWSNAP\r\n";
const PREFIX_BYTES: usize = 8 + 4 + 4;
const CRC_BYTES: usize = 4;
const FRAME_TAG: u8 = 1;
const FRAME_PREFIX_BYTES: usize = 1 + 4 + 4;
const FOOTER_TAG: u8 = 2;
const FOOTER_BYTES: usize = 1 + 8 + 8 + CRC_BYTES;

/// Whose snapshot it is and what it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    pub cluster_id: ClusterId,
    pub meta: SnapshotMeta,
}

/// A snapshot that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {name}: {what}")]
pub struct SnapshotError {
    /// The file's name.
    pub name: String,
    pub what: SnapshotFault,
}

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    #[error("expected a snapshot, the magic number differs")]
    NoSnapshot,
    /// Whole, and another version's.
    #[error("{0}")]
    Foreign(Foreign),
    #[error("cluster_id: expected {expected}, found {found}")]
    OtherCluster { found: ClusterId, expected: ClusterId },
    #[error("header: {0}")]
    BadHeader(String),
    #[error("frame {frame}: {what}")]
    BadFrame { frame: u64, what: String },
    #[error("footer: {0}")]
    BadFooter(String),
    #[error("it ends after {frames} frames without a footer")]
    Truncated { frames: u64 },
    #[error("bytes follow its footer")]
    Trailing,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl SnapshotError {
    /// The error of a snapshot that is another version's; None when it is damaged, or another cluster's.
    pub fn other_version(&self) -> Option<OtherVersion> {
        match &self.what {
            SnapshotFault::Foreign(what) => Some(what.clone().of(format!("snapshots/{}", self.name))),
            _ => None,
        }
    }
}

impl SnapshotFault {
    fn of(self, name: &str) -> SnapshotError {
        SnapshotError { name: name.to_owned(), what: self }
    }
}

fn encode_header(version: u32, header: &SnapshotHeader) -> Result<Bytes, SnapshotFault> {
    let json = serde_json::to_vec(header).map_err(|error| SnapshotFault::BadHeader(error.to_string()))?;
    if json.len() > HEADER_JSON_BYTES_MAX {
        return Err(SnapshotFault::BadHeader(format!("{} bytes, at most {HEADER_JSON_BYTES_MAX}", json.len())));
    }
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + json.len() + CRC_BYTES);
    out.put_slice(&MAGIC);
    out.put_u32_le(version);
    out.put_u32_le(json.len() as u32);
    out.put_slice(&json);
    out.put_u32_le(crc32fast::hash(&out));
    Ok(out.freeze())
}

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Header(Box<SnapshotHeader>),
    Frame(Bytes),
    Footer,
}

/// Reads a snapshot from bytes as they come; pure.
#[derive(Debug, Default)]
struct Parser {
    buffer: BytesMut,
    header_read: bool,
    footer_read: bool,
    frames: u64,
    frame_bytes: u64,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole part; None when more bytes are needed for one.
    fn next(&mut self) -> Result<Option<Part>, SnapshotFault> {
        if !self.header_read {
            return self.header();
        }
        match self.buffer.first() {
            None => Ok(None),
            Some(_) if self.footer_read => Err(SnapshotFault::Trailing),
            Some(&FRAME_TAG) => self.frame(),
            Some(&FOOTER_TAG) => self.footer(),
            Some(tag) => Err(self.bad_frame(format!("kind {tag} is unknown"))),
        }
    }

    /// Checks that everything has been read.
    fn end(&self) -> Result<(), SnapshotFault> {
        if self.footer_read { Ok(()) } else { Err(SnapshotFault::Truncated { frames: self.frames }) }
    }

    fn header(&mut self) -> Result<Option<Part>, SnapshotFault> {
        let Some(mut prefix) = self.buffer.get(..PREFIX_BYTES) else { return Ok(None) };
        if prefix[..8] != MAGIC {
            return Err(SnapshotFault::NoSnapshot);
        }
        prefix.advance(8);
        let (version, json_bytes) = (prefix.get_u32_le(), prefix.get_u32_le() as usize);
        if json_bytes > HEADER_JSON_BYTES_MAX {
            return Err(SnapshotFault::BadHeader(format!("{json_bytes} bytes, at most {HEADER_JSON_BYTES_MAX}")));
        }
        let crc_at = PREFIX_BYTES + json_bytes;
        let Some(mut crc) = self.buffer.get(crc_at..crc_at + CRC_BYTES) else { return Ok(None) };
        if crc.get_u32_le() != crc32fast::hash(&self.buffer[..crc_at]) {
            return Err(SnapshotFault::BadHeader("its checksum differs".to_owned()));
        }
        Foreign::check_version(version, FORMAT_VERSIONS).map_err(SnapshotFault::Foreign)?;
        let header = serde_json::from_slice(&self.buffer[PREFIX_BYTES..crc_at])
            .map_err(|error| SnapshotFault::BadHeader(error.to_string()))?;
        self.buffer.advance(crc_at + CRC_BYTES);
        self.header_read = true;
        Ok(Some(Part::Header(Box::new(header))))
    }

    fn frame(&mut self) -> Result<Option<Part>, SnapshotFault> {
        let Some(mut prefix) = self.buffer.get(1..FRAME_PREFIX_BYTES) else { return Ok(None) };
        let (bytes, crc) = (prefix.get_u32_le() as usize, prefix.get_u32_le());
        if bytes > SNAPSHOT_FRAME_BYTES_MAX {
            return Err(self.bad_frame(format!("{bytes} bytes, at most {SNAPSHOT_FRAME_BYTES_MAX}")));
        }
        if self.buffer.len() < FRAME_PREFIX_BYTES + bytes {
            return Ok(None);
        }
        self.buffer.advance(FRAME_PREFIX_BYTES);
        let frame = self.buffer.split_to(bytes).freeze();
        if crc32fast::hash(&frame) != crc {
            return Err(self.bad_frame("its checksum differs".to_owned()));
        }
        self.frames += 1;
        self.frame_bytes += bytes as u64;
        Ok(Some(Part::Frame(frame)))
    }

    fn footer(&mut self) -> Result<Option<Part>, SnapshotFault> {
        let Some(footer) = self.buffer.get(..FOOTER_BYTES) else { return Ok(None) };
        let (record, mut crc) = footer.split_at(FOOTER_BYTES - CRC_BYTES);
        if crc32fast::hash(record) != crc.get_u32_le() {
            return Err(SnapshotFault::BadFooter("its checksum differs".to_owned()));
        }
        let mut record = &record[1..];
        let (frames, bytes) = (record.get_u64_le(), record.get_u64_le());
        if (frames, bytes) != (self.frames, self.frame_bytes) {
            let read = format!("found {} frames of {} bytes", self.frames, self.frame_bytes);
            return Err(SnapshotFault::BadFooter(format!("expected {frames} frames of {bytes} bytes, {read}")));
        }
        self.buffer.advance(FOOTER_BYTES);
        self.footer_read = true;
        Ok(Some(Part::Footer))
    }

    fn bad_frame(&self, what: String) -> SnapshotFault {
        SnapshotFault::BadFrame { frame: self.frames, what }
    }
}

/// A snapshot being written; nothing of it is visible before [`SnapshotWriter::seal`].
pub struct SnapshotWriter {
    name: String,
    file: Box<dyn FileWriter>,
    bytes: u64,
    frames: u64,
    frame_bytes: u64,
}

impl SnapshotWriter {
    /// Starts the file in a format version and writes its header.
    pub async fn create(
        files: &dyn Files,
        name: &str,
        version: u32,
        header: &SnapshotHeader,
    ) -> Result<Self, SnapshotError> {
        let encoded = encode_header(version, header).map_err(|fault| fault.of(name))?;
        let file = files.create(name).await.map_err(|error| SnapshotFault::from(error).of(name))?;
        let mut writer = Self { name: name.to_owned(), file, bytes: 0, frames: 0, frame_bytes: 0 };
        writer.write(encoded).await?;
        Ok(writer)
    }

    /// Appends one frame of at most [`SNAPSHOT_FRAME_BYTES_MAX`].
    pub async fn append(&mut self, frame: Bytes) -> Result<(), SnapshotError> {
        if frame.len() > SNAPSHOT_FRAME_BYTES_MAX {
            let what = format!("{} bytes, at most {SNAPSHOT_FRAME_BYTES_MAX}", frame.len());
            return Err(SnapshotFault::BadFrame { frame: self.frames, what }.of(&self.name));
        }
        let mut prefix = BytesMut::with_capacity(FRAME_PREFIX_BYTES);
        prefix.put_u8(FRAME_TAG);
        prefix.put_u32_le(frame.len() as u32);
        prefix.put_u32_le(crc32fast::hash(&frame));
        self.frames += 1;
        self.frame_bytes += frame.len() as u64;
        self.write(prefix.freeze()).await?;
        self.write(frame).await
    }

    /// Writes the footer and makes the file durable and visible. Returns the file's bytes.
    pub async fn seal(mut self) -> Result<u64, SnapshotError> {
        let mut footer = BytesMut::with_capacity(FOOTER_BYTES);
        footer.put_u8(FOOTER_TAG);
        footer.put_u64_le(self.frames);
        footer.put_u64_le(self.frame_bytes);
        footer.put_u32_le(crc32fast::hash(&footer));
        self.write(footer.freeze()).await?;
        let Self { name, file, bytes, .. } = self;
        file.seal().await.map_err(|error| SnapshotFault::from(error).of(&name))?;
        Ok(bytes)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        self.bytes += bytes.len() as u64;
        self.file.append(bytes).await.map_err(|error| SnapshotFault::from(error).of(&self.name))
    }
}

/// A sealed snapshot being read, each part checked as it comes.
pub struct SnapshotReader {
    name: String,
    file: Box<dyn FileReader>,
    offset: u64,
    parser: Parser,
    header: SnapshotHeader,
}

impl SnapshotReader {
    /// Opens the file and reads its header. `cluster_id`: whose it must be.
    pub async fn open(files: &dyn Files, name: &str, cluster_id: ClusterId) -> Result<Self, SnapshotError> {
        let file = files.open(name).await.map_err(|error| SnapshotFault::from(error).of(name))?;
        let header = SnapshotHeader { cluster_id, meta: SnapshotMeta::default() };
        let mut reader = Self { name: name.to_owned(), file, offset: 0, parser: Parser::default(), header };
        match reader.part().await {
            Ok(Part::Header(header)) => reader.header = *header,
            Ok(_) => return Err(SnapshotFault::BadHeader("missing".to_owned()).of(name)),
            Err(fault) => return Err(fault.of(name)),
        }
        check_cluster(&reader.header, cluster_id).map_err(|fault| fault.of(name))?;
        Ok(reader)
    }

    /// What the snapshot covers.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.header.meta
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len()
    }

    /// The next frame; None after the last, when the footer agrees and nothing follows.
    pub async fn next_frame(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.parser.footer_read {
            return Ok(None);
        }
        match self.part().await {
            Ok(Part::Frame(frame)) => Ok(Some(frame)),
            Ok(_) => {
                let trailing = self.offset < self.file.len() || !self.parser.buffer.is_empty();
                if trailing { Err(SnapshotFault::Trailing.of(&self.name)) } else { Ok(None) }
            }
            Err(fault) => Err(fault.of(&self.name)),
        }
    }

    async fn part(&mut self) -> Result<Part, SnapshotFault> {
        loop {
            if let Some(part) = self.parser.next()? {
                return Ok(part);
            }
            let bytes = self.file.read_at(self.offset, SNAPSHOT_CHUNK_BYTES).await?;
            if bytes.is_empty() {
                self.parser.end()?;
            }
            self.offset += bytes.len() as u64;
            self.parser.push(&bytes);
        }
    }
}

fn check_cluster(header: &SnapshotHeader, expected: ClusterId) -> Result<(), SnapshotFault> {
    let found = header.cluster_id;
    if found == expected { Ok(()) } else { Err(SnapshotFault::OtherCluster { found, expected }) }
}

/// A snapshot arriving from another replica. It is checked while it arrives, and visible only when it is whole.
pub struct SnapshotReceiver {
    name: String,
    file: Box<dyn FileWriter>,
    cluster_id: ClusterId,
    parser: Parser,
    header: Option<SnapshotHeader>,
}

impl SnapshotReceiver {
    /// Starts the file.
    pub async fn create(files: &dyn Files, name: &str, cluster_id: ClusterId) -> Result<Self, SnapshotError> {
        let file = files.create(name).await.map_err(|error| SnapshotFault::from(error).of(name))?;
        Ok(Self { name: name.to_owned(), file, cluster_id, parser: Parser::default(), header: None })
    }

    /// Takes the next bytes of the file, in order. Returns the frames of which they are the end.
    pub async fn chunk(&mut self, bytes: Bytes) -> Result<Vec<Bytes>, SnapshotError> {
        let frames = self.check(&bytes).map_err(|fault| fault.of(&self.name))?;
        self.file.append(bytes).await.map_err(|error| SnapshotFault::from(error).of(&self.name))?;
        Ok(frames)
    }

    fn check(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, SnapshotFault> {
        let mut frames = Vec::new();
        self.parser.push(bytes);
        while let Some(part) = self.parser.next()? {
            match part {
                Part::Header(header) => {
                    check_cluster(&header, self.cluster_id)?;
                    self.header = Some(*header);
                }
                Part::Frame(frame) => frames.push(frame),
                Part::Footer => {}
            }
        }
        Ok(frames)
    }

    /// Seals the file when all of it has come; else nothing of it stays.
    pub async fn finish(self) -> Result<SnapshotMeta, SnapshotError> {
        let Self { name, file, parser, header, .. } = self;
        parser.end().map_err(|fault| fault.of(&name))?;
        let header = header.ok_or_else(|| SnapshotFault::Truncated { frames: 0 }.of(&name))?;
        file.seal().await.map_err(|error| SnapshotFault::from(error).of(&name))?;
        Ok(header.meta)
    }
}
