//! Mounts that only one process and its children see.

use std::io;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;

/// Gives the calling thread, and all that is started from it afterwards, a mount namespace whose mounts nobody else sees and which
/// ends with its last process. Call it before other threads are made: those that exist stay where they are.
///
/// Errors: not root.
pub fn enter_private_mounts() -> io::Result<()> {
    // SAFETY: a mount namespace shares no descriptor table, the one thing unshare can break for code that holds descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change(Path::new("/"), MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}
