//! Links, rings and their I/Os.
//!
//! A table of links without memory behind them: enough to build the filesystem against, until the rings come.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use foreword_usrbio::Priority;
use parking_lot::Mutex;
use rustix::io::Errno;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// Process (thread group) id, 0 if outside of our pid namespace.
    pub pid: u32,
}

#[derive(Debug, Clone)]
pub struct Link {
    pub descriptor: u32,
    pub name: String,
    pub target: PathBuf,
    pub owner: Owner,
}

pub trait BackingFiles: Send + Sync {
    /// A descriptor for I/O on a known, open-able regular file by the inode number the mount shows.
    fn open(&self, ino: u64, write: bool) -> Result<Arc<OwnedFd>, Errno>;
}

#[derive(Debug, Clone, Default)]
pub struct FaultPlan {}

impl FromStr for FaultPlan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!("no faults yet, got {text:?}"))
    }
}

pub struct ServiceSettings {
    pub threads: usize,
    pub faults: FaultPlan,
    pub seed: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Counters {
    pub links: u64,
}

pub struct Service {
    links: Mutex<Vec<Option<Link>>>,
}

impl Service {
    pub fn start(_settings: ServiceSettings, _files: Arc<dyn BackingFiles>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { links: Mutex::default() }))
    }

    pub fn submit_target(&self, priority: Priority) -> PathBuf {
        format!("/dev/shm/sem.none-{priority:?}").into()
    }

    pub fn link(&self, name: &str, target: &Path, owner: Owner) -> Result<Link, Errno> {
        let mut links = self.links.lock();
        if links.iter().flatten().any(|link| link.name == name) {
            return Err(Errno::EXIST);
        }
        let link = Link { descriptor: links.len() as u32, name: name.into(), target: target.into(), owner };
        links.push(Some(link.clone()));
        Ok(link)
    }

    pub fn unlink(&self, name: &str, uid: u32) -> Result<(), Errno> {
        let found = self.lookup(name, uid)?;
        self.links.lock()[found.descriptor as usize] = None;
        Ok(())
    }

    pub fn lookup(&self, name: &str, uid: u32) -> Result<Link, Errno> {
        let links = self.links.lock();
        let link = links.iter().flatten().find(|link| link.name == name).ok_or(Errno::NOENT)?;
        if link.owner.uid == uid { Ok(link.clone()) } else { Err(Errno::PERM) }
    }

    pub fn by_descriptor(&self, descriptor: u32, uid: u32) -> Result<Link, Errno> {
        let name = self.links.lock().get(descriptor as usize).cloned().flatten().ok_or(Errno::NOENT)?.name;
        self.lookup(&name, uid)
    }

    pub fn list(&self, uid: u32) -> Vec<Link> {
        self.links.lock().iter().flatten().filter(|link| link.owner.uid == uid).cloned().collect()
    }

    pub fn owner_gone(&self, pid: u32) {
        for link in self.links.lock().iter_mut() {
            if link.as_ref().is_some_and(|link| link.owner.pid == pid) {
                *link = None;
            }
        }
    }

    pub fn counters(&self) -> Counters {
        Counters { links: self.links.lock().iter().flatten().count() as u64 }
    }

    pub fn stop(&self) {}
}
