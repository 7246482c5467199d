//! A host's plain files, in memory, surviving its processes: snapshots and saved mirrors.
//!
//! A file is sealed or it is not there. Sealing and removing are the steps that a crash can meet in the middle: then
//! they have happened or not. As on a real file system, one whose caller left goes on and is done soon after.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foreword_proto::limits::SNAPSHOT_CHUNK_BYTES;
use foreword_seams::{FileReader, FileWriter, Files};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::context::{self, Kind};
use super::disk::{DiskFault, crashed, flip_bit, pause};

/// How files behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilesWeather {
    /// Each operation takes a time drawn from here, in microseconds.
    pub op_us_min: u64,
    pub op_us_max: u64,
    pub fault: Option<DiskFault>,
}

/// What happened to files so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilesCounts {
    pub sealed: u64,
    pub io_errors: u64,
    pub no_space: u64,
    /// Files that were never sealed: their writers were dropped, or a crash came while they were being sealed.
    pub unsealed_lost: u64,
    pub rotten: u64,
    /// Files of more than [`LARGE_BYTES`] that were given another name: what another host sent, once it is used.
    pub large_adopted: u64,
}

/// More than is read or sent at once.
const LARGE_BYTES: usize = SNAPSHOT_CHUNK_BYTES;

#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Op {
    Create = 1,
    Append = 2,
    SealBegins = 3,
    Sealed = 4,
    Open = 5,
    Read = 6,
    List = 7,
    RemoveBegins = 8,
    Removed = 9,
    Fault = 10,
    RenameBegins = 11,
    Renamed = 12,
}

/// A step on its way.
struct Step {
    change: Change,
    /// Its caller left.
    left: bool,
}

/// What a crash can meet in the middle.
#[derive(Clone)]
enum Change {
    Seal { name: String, file: Bytes },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl Change {
    /// How it begins and ends in the trace, the file's name there, and its bytes.
    fn traced(&self) -> (Op, Op, String, u64) {
        match self {
            Self::Seal { name, file } => (Op::SealBegins, Op::Sealed, name.clone(), file.len() as u64),
            Self::Remove { name } => (Op::RemoveBegins, Op::Removed, name.clone(), 0),
            Self::Rename { from, to } => (Op::RenameBegins, Op::Renamed, format!("{from} {to}"), 0),
        }
    }
}

#[derive(Default)]
struct Dir {
    host: u32,
    sealed: BTreeMap<String, Bytes>,
    steps: BTreeMap<u64, Step>,
    steps_ever: u64,
    weather: FilesWeather,
    counts: FilesCounts,
    /// Counts the crashes: what an earlier process holds fails.
    process: u64,
}

impl Dir {
    fn finish(&mut self, step: u64) {
        match self.steps.remove(&step).map(|step| step.change) {
            Some(Change::Seal { name, file }) => {
                self.counts.sealed += 1;
                self.sealed.insert(name, file);
            }
            Some(Change::Remove { name }) => _ = self.sealed.remove(&name),
            Some(Change::Rename { from, to }) => {
                if let Some(file) = self.sealed.remove(&from) {
                    self.counts.large_adopted += u64::from(file.len() > LARGE_BYTES);
                    self.sealed.insert(to, file);
                }
            }
            None => {}
        }
    }

    fn finish_left(&mut self) {
        let left = Vec::from_iter(self.steps.iter().filter(|(_, step)| step.left).map(|(id, _)| *id));
        left.into_iter().for_each(|step| self.finish(step));
    }

    fn digest(&self, op: Op, name: &str, words: [u64; 2]) {
        context::digest(Kind::File, &[u64::from(self.host), op as u64, words[0], words[1]], name.as_bytes());
    }

    fn fault(&mut self, op: Op, needs_space: bool) -> io::Result<()> {
        let Some(fault) = self.weather.fault.filter(|fault| needs_space || *fault == DiskFault::Io) else {
            return Ok(());
        };
        match fault {
            DiskFault::Io => self.counts.io_errors += 1,
            DiskFault::NoSpace => self.counts.no_space += 1,
        }
        self.digest(Op::Fault, "", [op as u64, fault as u64]);
        Err(fault.error())
    }
}

/// One directory of a host, as one process holds it; clones are the same one.
#[derive(Clone)]
pub struct SimFiles {
    dir: Arc<Mutex<Dir>>,
    process: u64,
}

impl SimFiles {
    /// An empty directory. `host` names it in the trace.
    pub fn new(host: u32) -> Self {
        Self { dir: Arc::new(Mutex::new(Dir { host, ..Dir::default() })), process: 0 }
    }

    /// The directory for a new process. What was opened before a crash fails; what controls the directory works on any
    /// handle.
    pub fn open_dir(&self) -> Self {
        let mut dir = self.dir.lock();
        dir.finish_left();
        Self { dir: self.dir.clone(), process: dir.process }
    }

    /// Power is gone: sealed files stay, others vanish, and a seal or a removal on its way has happened or not.
    pub fn crash(&self) {
        let mut dir = self.dir.lock();
        for step in Vec::from_iter(dir.steps.keys().copied()) {
            if context::random_below(2) == 0 {
                dir.finish(step);
            } else if dir.steps.remove(&step).is_some_and(|step| matches!(step.change, Change::Seal { .. })) {
                dir.counts.unsealed_lost += 1;
            }
        }
        dir.process += 1;
        let (host, files) = (dir.host, dir.sealed.len());
        context::event(Kind::File, || format!("h{host} files crashed: {files} sealed ones stay"));
    }

    /// Removes every file: the host is replaced, or its files are set aside. What is open goes on.
    pub fn wipe(&self) {
        let mut dir = self.dir.lock();
        dir.sealed.clear();
        dir.steps.clear();
        let host = dir.host;
        context::event(Kind::File, || format!("h{host} files removed"));
    }

    /// How files behave from now on.
    pub fn set_weather(&self, weather: FilesWeather) {
        self.dir.lock().weather = weather;
    }

    /// What happened so far.
    pub fn counts(&self) -> FilesCounts {
        self.dir.lock().counts
    }

    /// Names of the sealed files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.dir.lock().sealed.keys().cloned().collect()
    }

    /// Flips one bit of one sealed file, as rot does. The file's name; None when no file has bytes.
    pub fn rot(&self) -> Option<String> {
        let mut dir = self.dir.lock();
        let names =
            Vec::from_iter(dir.sealed.iter().filter(|(_, file)| !file.is_empty()).map(|(name, _)| name.clone()));
        let name = names.get(context::random_below(names.len().max(1) as u64) as usize)?.clone();
        let file = dir.sealed.get_mut(&name)?;
        let mut bytes = file.to_vec();
        flip_bit(&mut bytes);
        *file = bytes.into();
        dir.counts.rotten += 1;
        let host = dir.host;
        context::event(Kind::File, || format!("h{host} a bit of {name} rots"));
        Some(name)
    }

    /// Does something to the directory as it is now, if this process still lives.
    fn with<T>(&self, work: impl FnOnce(&mut Dir) -> io::Result<T>) -> io::Result<T> {
        let mut dir = self.dir.lock();
        if dir.process != self.process {
            return Err(crashed());
        }
        dir.finish_left();
        work(&mut dir)
    }

    /// The time an operation takes.
    fn draw_time(&self) -> Duration {
        let FilesWeather { op_us_min, op_us_max, .. } = self.dir.lock().weather;
        let spread = op_us_max.saturating_sub(op_us_min);
        Duration::from_micros(op_us_min + if spread == 0 { 0 } else { context::random_below(spread + 1) })
    }

    /// One operation: its digest, its time, its fault.
    async fn operate<T>(
        &self,
        op: Op,
        name: &str,
        words: [u64; 2],
        work: impl FnOnce(&mut Dir) -> io::Result<T>,
    ) -> io::Result<T> {
        self.with(|dir| {
            dir.digest(op, name, words);
            Ok(())
        })?;
        pause(self.draw_time()).await;
        self.with(|dir| {
            dir.fault(op, matches!(op, Op::Create | Op::Append))?;
            work(dir)
        })
    }

    /// A step that a crash can meet in the middle.
    async fn step(&self, change: Change) -> io::Result<()> {
        let (begins, ended, name, bytes) = change.traced();
        let words = [bytes, 0];
        let id = self.with(|dir| {
            dir.digest(begins, &name, words);
            dir.fault(begins, matches!(change, Change::Seal { .. }))?;
            if let Change::Rename { from, .. } = &change
                && !dir.sealed.contains_key(from)
            {
                return Err(io::ErrorKind::NotFound.into());
            }
            dir.steps_ever += 1;
            let id = dir.steps_ever;
            dir.steps.insert(id, Step { change, left: false });
            Ok(id)
        })?;
        let under_way = UnderWay { files: self, id };
        pause(self.draw_time()).await;
        self.with(|dir| {
            dir.finish(under_way.id);
            dir.digest(ended, &name, words);
            Ok(())
        })
    }
}

/// Notes that a step's caller left.
struct UnderWay<'a> {
    files: &'a SimFiles,
    id: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.files.dir.lock().steps.get_mut(&self.id) {
            step.left = true;
        }
    }
}

fn plain(name: &str) -> io::Result<String> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no plain file name")));
    }
    Ok(name.to_owned())
}

impl Files for SimFiles {
    fn create(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileWriter>>> {
        let (files, name) = (self.clone(), plain(name));
        Box::pin(async move {
            let name = name?;
            files.operate(Op::Create, &name, [0; 2], |_| Ok(())).await?;
            Ok(Box::new(SimWriter { files, name, bytes: BytesMut::new(), sealing: false }) as Box<dyn FileWriter>)
        })
    }

    fn open(&self, name: &str) -> BoxFuture<'static, io::Result<Box<dyn FileReader>>> {
        let (files, name) = (self.clone(), plain(name));
        Box::pin(async move {
            let name = name?;
            let find = |dir: &mut Dir| dir.sealed.get(&name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
            let bytes = files.operate(Op::Open, &name, [0; 2], find).await?;
            Ok(Box::new(SimReader { files, name, bytes }) as Box<dyn FileReader>)
        })
    }

    fn list(&self) -> BoxFuture<'static, io::Result<Vec<String>>> {
        let files = self.clone();
        Box::pin(
            async move { files.operate(Op::List, "", [0; 2], |dir| Ok(dir.sealed.keys().cloned().collect())).await },
        )
    }

    fn remove(&self, name: &str) -> BoxFuture<'static, io::Result<()>> {
        let (files, name) = (self.clone(), plain(name));
        Box::pin(async move { files.step(Change::Remove { name: name? }).await })
    }

    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, io::Result<()>> {
        let (files, from, to) = (self.clone(), plain(from), plain(to));
        Box::pin(async move { files.step(Change::Rename { from: from?, to: to? }).await })
    }
}

struct SimWriter {
    files: SimFiles,
    name: String,
    bytes: BytesMut,
    sealing: bool,
}

impl FileWriter for SimWriter {
    fn append(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let words = [self.bytes.len() as u64, bytes.len() as u64];
            self.files.operate(Op::Append, &self.name, words, |_| Ok(())).await?;
            self.bytes.extend_from_slice(&bytes);
            Ok(())
        })
    }

    fn seal(mut self: Box<Self>) -> BoxFuture<'static, io::Result<()>> {
        let (files, name) = (self.files.clone(), self.name.clone());
        let bytes = std::mem::take(&mut self.bytes).freeze();
        Box::pin(async move {
            self.sealing = true;
            drop(self);
            files.step(Change::Seal { name, file: bytes }).await
        })
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        if !self.sealing {
            self.files.dir.lock().counts.unsealed_lost += 1;
        }
    }
}

struct SimReader {
    files: SimFiles,
    name: String,
    bytes: Bytes,
}

impl FileReader for SimReader {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&mut self, offset: u64, bytes: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let start = (offset as usize).min(self.bytes.len());
            let end = start.saturating_add(bytes).min(self.bytes.len());
            let piece = self.bytes.slice(start..end);
            self.files.operate(Op::Read, &self.name, [offset, piece.len() as u64], |_| Ok(piece)).await
        })
    }
}
