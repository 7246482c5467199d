//! Bytes between a file and registered memory. The kernel moves them: memory that a client took away is an errno, not a
//! signal.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use foreword_usrbio::Mapping;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// Registered memory: what a data link stands for.
#[derive(Debug)]
pub(super) struct Iov {
    pub(super) mapping: Mapping,
    /// No I/O may cross a multiple of it; 0: no such limit.
    pub(super) block_bytes: u64,
}

impl Iov {
    /// Checks a range an I/O names: within the memory and within one block.
    pub(super) fn check(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).filter(|end| *end <= self.mapping.bytes() as u64).ok_or(Errno::INVAL)?;
        let crosses = |block: u64| len > 0 && offset / block != (end - 1) / block;
        if self.block_bytes != 0 && crosses(self.block_bytes) { Err(Errno::INVAL) } else { Ok(()) }
    }
}

/// One I/O, checked. It holds the memory and the file until it is done.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) iov: Arc<Iov>,
    pub(super) iov_offset: u64,
    pub(super) file: Arc<OwnedFd>,
    pub(super) file_offset: u64,
    pub(super) len: u64,
    pub(super) write: bool,
    /// A read that finds a hole before data fails.
    pub(super) holes_forbidden: bool,
}

impl Transfer {
    /// Moves the bytes; returns how many. As on a 3FS a read fills a hole with zeros only where data follows within it:
    /// what comes after the last data does not count, nor does anything where there is none.
    pub(super) fn run(&self) -> Result<u64, Errno> {
        // Checked when it was made; the pointer below depends on it.
        self.iov.check(self.iov_offset, self.len)?;
        let end = self.file_offset.checked_add(self.len);
        end.and_then(|end| i64::try_from(end).ok()).ok_or(Errno::INVAL)?;
        let (mut done, mut buffered) = (0, None);
        while done < self.len {
            match self.step(buffered.as_ref().unwrap_or(&self.file), done) {
                Ok(0) => break,
                Ok(moved) => done += moved,
                Err(Errno::INTR) => {}
                // With O_DIRECT a range that is not aligned, or the odd rest at the end of a file, cannot be asked for;
                // a 3FS takes both.
                Err(Errno::INVAL) if buffered.is_none() => buffered = Some(self.without_o_direct()?),
                Err(errno) => return Err(errno),
            }
        }
        if self.write {
            return Ok(done);
        }
        if self.holes_forbidden && self.has_hole(done) {
            return Err(Errno::NODATA);
        }
        Ok(self.up_to_last_data(done))
    }

    /// The same file, through the page cache.
    fn without_o_direct(&self) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let access = if self.write { OFlags::WRONLY } else { OFlags::RDONLY };
        rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
    }

    fn step(&self, file: &OwnedFd, done: u64) -> Result<u64, Errno> {
        let at = (self.file_offset + done) as i64;
        let (fd, len) = (file.as_raw_fd(), (self.len - done) as usize);
        // SAFETY: iov_offset + len lies within the mapping (run() checked it), which `iov` keeps; the kernel copies,
        // and answers EFAULT where there is no memory. No Rust reference to these bytes exists anywhere.
        let moved = unsafe {
            let memory = self.iov.mapping.base().as_ptr().add((self.iov_offset + done) as usize).cast();
            if self.write { libc::pwrite64(fd, memory, len, at) } else { libc::pread64(fd, memory, len, at) }
        };
        u64::try_from(moved).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }

    /// How much of the first `len` bytes there is, up to the last that are not of a hole.
    fn up_to_last_data(&self, len: u64) -> u64 {
        let (mut upto, end) = (self.file_offset, self.file_offset + len);
        // Most of what is read has no hole, or ends in one: a look or two.
        let mut data = rustix::fs::seek(&*self.file, SeekFrom::Data(upto));
        while let Ok(from) = data
            && from < end
        {
            upto = rustix::fs::seek(&*self.file, SeekFrom::Hole(from)).unwrap_or(end).min(end);
            data = rustix::fs::seek(&*self.file, SeekFrom::Data(upto));
        }
        upto - self.file_offset
    }

    /// True if data follows a hole within the first `len` bytes.
    fn has_hole(&self, len: u64) -> bool {
        let end = self.file_offset + len;
        let hole = rustix::fs::seek(&*self.file, SeekFrom::Hole(self.file_offset)).unwrap_or(u64::MAX);
        hole < end && rustix::fs::seek(&*self.file, SeekFrom::Data(hole)).is_ok_and(|data| data < end)
    }
}

#[cfg(test)]
mod tests {
    use foreword_usrbio::ShmFile;
    use proptest::prelude::*;

    use super::*;

    fn iov(bytes: usize, block_bytes: u64) -> Iov {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("foreword-test-transfer-{}-{number}", std::process::id());
        let file = ShmFile::create(&name, bytes as u64, 0o600, false).unwrap();
        Iov { mapping: file.map(bytes).unwrap(), block_bytes }
    }

    #[test]
    fn ranges_stay_within_memory_and_block() {
        let whole = iov(16_384, 0);
        for (offset, len) in [(0, 16_384), (16_384, 0), (16_383, 1), (0, 0)] {
            assert_eq!(whole.check(offset, len), Ok(()));
        }
        for (offset, len) in [(0, 16_385), (16_384, 1), (u64::MAX, 2), (1, u64::MAX)] {
            assert_eq!(whole.check(offset, len), Err(Errno::INVAL));
        }
        let blocks = iov(16_384, 4096);
        assert_eq!(blocks.check(4096, 4096), Ok(()));
        assert_eq!(blocks.check(4095, 2), Err(Errno::INVAL));
        assert_eq!(blocks.check(0, 8192), Err(Errno::INVAL));
    }

    #[test]
    fn holes_are_zeros_unless_they_are_forbidden() {
        let file = tempfile::tempfile().unwrap();
        let iov = Arc::new(iov(4 << 20, 0));
        rustix::io::pwrite(&file, &[7; 4096], 2 << 20).unwrap();
        let file = Arc::new(OwnedFd::from(file));
        let mut read =
            Transfer { iov, iov_offset: 0, file, file_offset: 0, len: 4 << 20, write: false, holes_forbidden: false };
        assert_eq!(read.run(), Ok((2 << 20) + 4096));
        read.holes_forbidden = true;
        assert_eq!(read.run(), Err(Errno::NODATA));
        read.len = 1 << 20;
        assert_eq!(read.run(), Ok(0), "no data after it in the range");
        (read.file_offset, read.len) = (2 << 20, 8192);
        assert_eq!(read.run(), Ok(4096));
    }

    #[test]
    fn with_o_direct_any_range_can_be_asked_for() {
        // Where tests keep their files O_DIRECT may be unknown (tmpfs): then there is nothing to show.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, (0..10_000u32).map(|at| at as u8).collect::<Vec<_>>()).unwrap();
        let open = |access| rustix::fs::open(&path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty());
        let (Ok(file), iov) = (open(OFlags::RDWR), Arc::new(iov(16_384, 0))) else { return };
        let file = Arc::new(file);
        for (iov_offset, file_offset, len, write) in [(0, 0, 16_384, false), (5, 7, 100, true), (3, 4099, 2000, false)]
        {
            let (iov, file) = (iov.clone(), file.clone());
            let transfer = Transfer { iov, iov_offset, file, file_offset, len, write, holes_forbidden: false };
            assert_eq!(transfer.run(), Ok(len.min(10_000 - file_offset)), "{file_offset} {len}");
        }
    }

    #[test]
    fn a_hole_that_no_data_follows_is_not_there() {
        let file = tempfile::tempfile().unwrap();
        let iov = Arc::new(iov(4 << 20, 0));
        rustix::io::pwrite(&file, &[7; 4096], 1 << 20).unwrap();
        file.set_len(16 << 20).unwrap();
        let file = Arc::new(OwnedFd::from(file));
        let mut read =
            Transfer { iov, iov_offset: 0, file, file_offset: 0, len: 4 << 20, write: false, holes_forbidden: false };
        assert_eq!(read.run(), Ok((1 << 20) + 4096), "zeros before the data, and none after it");
        (read.file_offset, read.len) = (1 << 20, 4096);
        assert_eq!(read.run(), Ok(4096));
        read.file_offset = 8 << 20;
        assert_eq!(read.run(), Ok(0), "nothing was ever written there, below the end of the file as it is");
    }

    proptest! {
        #[test]
        fn what_passes_lies_inside(offset: u64, len: u64, near in 0u64..20_000, short in 0u64..20_000, block in 1u64..20_000) {
            let iov = Iov { block_bytes: block, ..iov(16_384, 0) };
            for (offset, len) in [(offset, len), (near, short), (near, len), (offset, short)] {
                if iov.check(offset, len).is_ok() {
                    prop_assert!(u128::from(offset) + u128::from(len) <= 16_384);
                    prop_assert!(len == 0 || offset / block == (offset + len - 1) / block);
                }
            }
        }
    }
}
