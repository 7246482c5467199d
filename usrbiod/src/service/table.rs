//! The links: by name, by id, by descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use foreword_usrbio::IovId;
use rustix::io::Errno;

use super::limits::LINKS_MAX;
use super::ring::Ring;
use super::transfer::Iov;

/// Who made a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// The process (thread group); 0: not known, and then its end is not noticed.
    pub pid: u32,
}

/// A link in `3fs-virt/iovs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The lowest number that was free when it was made.
    pub descriptor: u32,
    pub name: String,
    pub target: PathBuf,
    pub owner: Owner,
}

/// What a link stands for.
#[derive(Debug)]
pub(super) enum Memory {
    Data(Arc<Iov>),
    Ring(Arc<Ring>),
}

#[derive(Debug)]
struct Entry {
    link: Link,
    id: IovId,
    memory: Memory,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<u32, Entry>,
    free: BTreeSet<u32>,
    by_name: BTreeMap<String, u32>,
    by_id: BTreeMap<IovId, u32>,
}

impl Table {
    /// EEXIST for a name or an id that is known; EMFILE when there is no room.
    pub(super) fn check_new(&self, name: &str, id: IovId) -> Result<(), Errno> {
        if self.by_name.contains_key(name) || self.by_id.contains_key(&id) {
            return Err(Errno::EXIST);
        }
        if self.entries.len() >= LINKS_MAX { Err(Errno::MFILE) } else { Ok(()) }
    }

    /// Adds a link; errors as check_new.
    pub(super) fn insert(
        &mut self,
        name: &str,
        id: IovId,
        target: PathBuf,
        owner: Owner,
        memory: Memory,
    ) -> Result<Link, Errno> {
        self.check_new(name, id)?;
        // Without a free number the taken ones are 0 to len - 1.
        let descriptor = self.free.pop_first().unwrap_or(self.entries.len() as u32);
        let link = Link { descriptor, name: name.to_owned(), target, owner };
        self.by_name.insert(name.to_owned(), descriptor);
        self.by_id.insert(id, descriptor);
        self.entries.insert(descriptor, Entry { link: link.clone(), id, memory });
        Ok(link)
    }

    /// Takes a link away, if this user may.
    pub(super) fn remove(&mut self, name: &str, uid: u32) -> Result<Memory, Errno> {
        let descriptor = self.find(name, uid)?.link.descriptor;
        self.take(descriptor).ok_or(Errno::NOENT)
    }

    /// Takes all links of a process away.
    pub(super) fn remove_owner(&mut self, pid: u32) -> Vec<Memory> {
        let theirs = |entry: &&Entry| entry.link.owner.pid == pid;
        let gone: Vec<u32> = self.entries.values().filter(theirs).map(|entry| entry.link.descriptor).collect();
        gone.into_iter().filter_map(|descriptor| self.take(descriptor)).collect()
    }

    fn take(&mut self, descriptor: u32) -> Option<Memory> {
        let entry = self.entries.remove(&descriptor)?;
        self.free.insert(descriptor);
        self.by_name.remove(&entry.link.name);
        self.by_id.remove(&entry.id);
        Some(entry.memory)
    }

    pub(super) fn lookup(&self, name: &str, uid: u32) -> Result<Link, Errno> {
        self.find(name, uid).map(|entry| entry.link.clone())
    }

    pub(super) fn by_descriptor(&self, descriptor: u32, uid: u32) -> Result<Link, Errno> {
        allowed(self.entries.get(&descriptor), uid).map(|entry| entry.link.clone())
    }

    pub(super) fn list(&self, uid: u32) -> Vec<Link> {
        self.entries.values().filter(|entry| entry.link.owner.uid == uid).map(|entry| entry.link.clone()).collect()
    }

    /// The memory an I/O names: EINVAL for an unknown id, EPERM for another user's, EACCES for a ring, whose memory is
    /// not registered for I/O.
    pub(super) fn iov(&self, id: IovId, uid: u32) -> Result<Arc<Iov>, Errno> {
        let entry = self.by_id.get(&id).and_then(|descriptor| self.entries.get(descriptor));
        match allowed(Some(entry.ok_or(Errno::INVAL)?), uid)?.memory {
            Memory::Data(ref iov) => Ok(Arc::clone(iov)),
            Memory::Ring(_) => Err(Errno::ACCESS),
        }
    }

    /// Links, and rings among them.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let rings = self.entries.values().filter(|entry| matches!(entry.memory, Memory::Ring(_))).count();
        (self.entries.len() as u64, rings as u64)
    }

    /// The rings, in the order of their descriptors.
    pub(super) fn rings(&self) -> impl Iterator<Item = &Arc<Ring>> {
        self.entries.values().filter_map(|entry| match &entry.memory {
            Memory::Ring(ring) => Some(ring),
            Memory::Data(_) => None,
        })
    }

    fn find(&self, name: &str, uid: u32) -> Result<&Entry, Errno> {
        let descriptor = self.by_name.get(name).ok_or(Errno::NOENT)?;
        allowed(self.entries.get(descriptor), uid)
    }
}

fn allowed(entry: Option<&Entry>, uid: u32) -> Result<&Entry, Errno> {
    let entry = entry.ok_or(Errno::NOENT)?;
    if entry.link.owner.uid == uid { Ok(entry) } else { Err(Errno::PERM) }
}

#[cfg(test)]
mod tests {
    use foreword_usrbio::ShmFile;

    use super::*;

    fn memory(name: &str) -> Memory {
        let name = format!("foreword-test-table-{name}-{}", std::process::id());
        let file = ShmFile::create(&name, 4096, 0o600, false).unwrap();
        Memory::Data(Arc::new(Iov { mapping: file.map(4096).unwrap(), block_bytes: 0 }))
    }

    #[test]
    fn links_are_their_owners() {
        let mut table = Table::default();
        let owner = |uid, pid| Owner { uid, gid: 9, pid };
        let mut add = |name: &str, id, owner| {
            table.insert(name, IovId([id; 16]), PathBuf::from("/dev/shm/x"), owner, memory(name))
        };
        assert_eq!(add("a", 1, owner(5, 50)).unwrap().descriptor, 0);
        assert_eq!(add("b", 2, owner(6, 60)).unwrap().descriptor, 1);
        assert_eq!(add("c", 3, owner(5, 50)).unwrap().descriptor, 2);
        assert_eq!(add("a", 4, owner(7, 70)).unwrap_err(), Errno::EXIST);
        assert_eq!(add("d", 1, owner(7, 70)).unwrap_err(), Errno::EXIST);
        assert_eq!(table.lookup("a", 6), Err(Errno::PERM));
        assert_eq!(table.lookup("z", 6), Err(Errno::NOENT));
        assert_eq!(table.by_descriptor(1, 6).unwrap().name, "b");
        assert_eq!(table.by_descriptor(1, 5), Err(Errno::PERM));
        assert_eq!(table.by_descriptor(7, 5), Err(Errno::NOENT));
        assert_eq!(table.list(5).iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(table.iov(IovId([1; 16]), 6).unwrap_err(), Errno::PERM);
        assert_eq!(table.iov(IovId([9; 16]), 6).unwrap_err(), Errno::INVAL);
        assert!(table.iov(IovId([2; 16]), 6).is_ok());
        assert_eq!(table.remove("a", 6).unwrap_err(), Errno::PERM);
        assert!(table.remove("b", 6).is_ok());
        assert_eq!(table.iov(IovId([2; 16]), 6).unwrap_err(), Errno::INVAL);
        let again = table.insert("b", IovId([2; 16]), PathBuf::new(), owner(6, 60), memory("again")).unwrap();
        assert_eq!(again.descriptor, 1, "the lowest free number");
        assert_eq!(table.remove_owner(50).len(), 2);
        assert_eq!((table.sizes(), table.list(5).len()), ((1, 0), 0));
        assert_eq!(table.remove("a", 5).unwrap_err(), Errno::NOENT);
    }
}
