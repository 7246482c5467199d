//! Room in /dev/shm that is promised to the arena: an unlinked file that holds it until regions take it.

use std::io;

use foreword_usrbio::ShmFile;
use rustix::fs::FallocateFlags;

use super::shm;

/// The memory that regions will still ask for.
#[derive(Default)]
pub(super) struct Reserve {
    file: Option<ShmFile>,
    wanted_bytes: u64,
    held_bytes: u64,
}

impl Reserve {
    /// Takes `bytes` more from /dev/shm. Errors: /dev/shm has no room, with what was asked and what is free.
    pub(super) fn add(&mut self, bytes: u64) -> io::Result<()> {
        let wanted = self.wanted_bytes + bytes;
        match &self.file {
            Some(file) => allocate(file, wanted)?,
            None => {
                let mut file = shm::create(wanted)?;
                file.unlink();
                self.file = Some(file);
            }
        }
        (self.wanted_bytes, self.held_bytes) = (wanted, wanted);
        Ok(())
    }

    /// Gives up to `bytes` back to /dev/shm, for a region to take; gives what is to be handed to [`Self::give_back`]
    /// later.
    pub(super) fn lend(&mut self, bytes: u64) -> u64 {
        let lent = bytes.min(self.wanted_bytes);
        self.wanted_bytes -= lent;
        if self.held_bytes > self.wanted_bytes
            && let Some(file) = &self.file
            && rustix::fs::ftruncate(file, self.wanted_bytes).is_ok()
        {
            self.held_bytes = self.wanted_bytes;
        }
        lent
    }

    /// A region is gone: its room is wanted again. [`Self::refill`] takes it.
    pub(super) fn give_back(&mut self, lent_bytes: u64) {
        self.wanted_bytes += lent_bytes;
    }

    /// Takes what is wanted and not held, if it is free now.
    pub(super) fn refill(&mut self) {
        let missing = self.wanted_bytes - self.held_bytes;
        let Some(file) = &self.file else { return };
        if missing > 0
            && shm::free_bytes().is_ok_and(|free| free >= missing)
            && allocate(file, self.wanted_bytes).is_ok()
        {
            self.held_bytes = self.wanted_bytes;
        }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }
}

fn allocate(file: &ShmFile, bytes: u64) -> io::Result<()> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes).map_err(|error| shm::no_room(bytes, &error.into()))
}
