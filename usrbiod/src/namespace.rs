//! Mounts that only one process and its children see.

use std::io;
use std::path::Path;

use foreword_usrbio::SHM_DIR;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Gives the calling thread, and all that is started from it afterwards, a mount namespace whose mounts nobody else
/// sees and which ends with its last process. Call it before other threads are made: those that exist stay where they
/// are.
///
/// Errors: not root.
pub fn enter_private_mounts() -> io::Result<()> {
    // SAFETY: a mount namespace shares no descriptor table, the one thing unshare can break for code that holds
    // descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change(Path::new("/"), MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// After [`enter_private_mounts`]: puts an empty /dev/shm over the machine's, as large as half of its memory. A
/// container's own is often too small for an arena, and what is in this one ends with its last process.
pub fn mount_private_shm() -> io::Result<()> {
    mount("tmpfs", SHM_DIR, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777"))?;
    Ok(())
}
