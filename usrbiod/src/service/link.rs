//! The symlink handler: from a link's name and target to mapped memory.

use std::path::Path;
use std::sync::Arc;

use foreword_usrbio::{LinkKind, LinkName, Mapping, ShmFile, shm_name_of};
use rustix::fs::Stat;
use rustix::io::Errno;

use super::Shared;
use super::limits::LINK_BYTES_MAX;
use super::ring::Ring;
use super::table::{Link, Memory, Owner};
use super::transfer::Iov;

impl Shared {
    /// Makes a link: see [`super::Service::link`].
    pub(super) fn link(&self, name: &str, target: &Path, owner: Owner) -> Result<Link, Errno> {
        let parsed: LinkName = name.parse().map_err(|_| Errno::INVAL)?;
        self.table.read().check_new(name, parsed.id)?;
        let mapping = map(target, owner, parsed.kind)?;
        let memory = match parsed.kind {
            LinkKind::Data { block_bytes } => Memory::Data(Arc::new(Iov { mapping, block_bytes })),
            LinkKind::Ring(ring) => Memory::Ring(Arc::new(Ring::new(mapping, ring, owner.uid)?)),
        };
        let mut table = self.table.write();
        let link = table.insert(name, parsed.id, target.to_owned(), owner, memory)?;
        self.set_rings(&table);
        Ok(link)
    }
}

/// Maps all of the target's memory. Errors: EINVAL for what is no regular file directly in /dev/shm, empty, or smaller
/// than a block; EFBIG for too much; EACCES for what its owner may not read and write, or what cannot be mapped.
fn map(target: &Path, owner: Owner, kind: LinkKind) -> Result<Mapping, Errno> {
    let file = ShmFile::open(shm_name_of(target).ok_or(Errno::INVAL)?).map_err(|_| Errno::INVAL)?;
    let stat = rustix::fs::fstat(&file)?;
    if !may_use(&stat, owner) {
        return Err(Errno::ACCESS);
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    let block_bytes = match kind {
        LinkKind::Data { block_bytes } => block_bytes,
        LinkKind::Ring(_) => 0,
    };
    if bytes == 0 || block_bytes > bytes {
        return Err(Errno::INVAL);
    }
    if bytes > LINK_BYTES_MAX {
        return Err(Errno::FBIG);
    }
    file.map(bytes as usize).map_err(|_| Errno::ACCESS)
}

/// True if this user could open the file to read and write. We can open any: nobody shall reach another's memory
/// through us.
fn may_use(stat: &Stat, owner: Owner) -> bool {
    let needed = match (owner.uid == stat.st_uid, owner.gid == stat.st_gid) {
        (true, _) => 0o600,
        (false, true) => 0o060,
        (false, false) => 0o006,
    };
    owner.uid == 0 || stat.st_mode & needed == needed
}
