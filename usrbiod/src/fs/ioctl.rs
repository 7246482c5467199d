//! The ioctls of a 3FS mount: numbers and sizes are in foreword-usrbio.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use foreword_usrbio::{
    FSYNC, GET_MAGIC, GET_MOUNT_NAME, GET_PATH_OFFSET, GET_VERSION, HARDLINK, HARDLINK_BYTES, MAGIC, PUNCH_HOLE,
    PUNCH_HOLE_BYTES, PUNCH_RANGES_MAX, VERSION,
};
use fuser::{FileHandle, FileType, Request};
use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, fallocate, fsync, linkat};
use rustix::io::{Errno, Result};

use super::names::may;
use super::{Filesystem3fs, Node};

/// Where the ranges of a punched hole begin and end in its argument.
const STARTS_AT: usize = 16;
const ENDS_AT: usize = STARTS_AT + 8 * PUNCH_RANGES_MAX;
const HARDLINK_NAME_AT: usize = 8;
const _: () = assert!(ENDS_AT + 8 * PUNCH_RANGES_MAX == PUNCH_HOLE_BYTES);

impl Filesystem3fs {
    /// Answers one ioctl; what it returns goes to the caller.
    ///
    /// Errors: EINVAL for one that a 3FS mount has not, or for an argument of another size.
    pub(super) fn control(
        &self,
        request: &Request,
        number: u64,
        handle: FileHandle,
        command: u32,
        argument: &[u8],
    ) -> Result<Vec<u8>> {
        match command {
            GET_MOUNT_NAME => Ok(self.mount_name.to_vec()),
            GET_PATH_OFFSET => Ok(self.path_offset.to_ne_bytes().to_vec()),
            GET_MAGIC => Ok(MAGIC.to_ne_bytes().to_vec()),
            GET_VERSION => Ok(VERSION.to_ne_bytes().to_vec()),
            FSYNC => self.sync_inode(number).map(|()| Vec::new()),
            HARDLINK => self.hard_link_into(request, number, argument).map(|()| Vec::new()),
            PUNCH_HOLE => self.punch(handle, argument).map(|()| Vec::new()),
            _ => Err(Errno::INVAL),
        }
    }

    fn sync_inode(&self, number: u64) -> Result<()> {
        match self.node(number)? {
            Node::Backing(inode) if inode.kind == FileType::RegularFile => fsync(inode.reopen(OFlags::RDONLY)?),
            _ => Ok(()),
        }
    }

    /// Links the file into a directory by the directory's number: u64 at 0, the name at 8, ended by a zero.
    fn hard_link_into(&self, request: &Request, number: u64, argument: &[u8]) -> Result<()> {
        let Node::Backing(inode) = self.node(number)? else { return Err(Errno::PERM) };
        if inode.kind != FileType::RegularFile {
            return Err(Errno::PERM);
        }
        let (dir, name) = parse_hard_link(argument)?;
        let dir = self.dir_for_change(dir, name)?;
        if dir.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        // Other than for link(2), the kernel has not asked whether the caller may.
        may(request, &dir.stat()?, 3)?;
        if request.uid() != inode.stat()?.st_uid {
            may(request, &inode.stat()?, 6)?;
        }
        linkat(CWD, inode.magic_path(), &dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Frees whole chunks. All ranges are checked before the first is freed.
    fn punch(&self, handle: FileHandle, argument: &[u8]) -> Result<()> {
        let file = self.files.get(handle)?;
        let fd = file.writable_fd()?;
        for (start, end) in parse_ranges(argument, u64::from(self.chunk_bytes))? {
            fallocate(fd, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, end - start)?;
        }
        Ok(())
    }
}

fn parse_hard_link(argument: &[u8]) -> Result<(u64, &OsStr)> {
    if argument.len() != HARDLINK_BYTES {
        return Err(Errno::INVAL);
    }
    let name = &argument[HARDLINK_NAME_AT..];
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok((u64_at(argument, 0), OsStr::from_bytes(&name[..end])))
}

/// The ranges of a punched hole, as (start, end) in bytes.
///
/// Errors: EINVAL for more than 1,000 of them or fewer than none, an empty or reversed one, one that is not whole
/// chunks or lies beyond what a file can have.
fn parse_ranges(argument: &[u8], chunk_bytes: u64) -> Result<Vec<(u64, u64)>> {
    if argument.len() != PUNCH_HOLE_BYTES {
        return Err(Errno::INVAL);
    }
    let count = i32::from_ne_bytes(argument[..4].try_into().expect("four bytes"));
    let count = usize::try_from(count).ok().filter(|count| *count <= PUNCH_RANGES_MAX).ok_or(Errno::INVAL)?;
    let ranges =
        (0..count).map(|index| (u64_at(argument, STARTS_AT + 8 * index), u64_at(argument, ENDS_AT + 8 * index)));
    let whole = |(start, end): &(u64, u64)| {
        start < end && *end <= i64::MAX as u64 && start % chunk_bytes == 0 && end % chunk_bytes == 0
    };
    ranges.map(|range| if whole(&range) { Ok(range) } else { Err(Errno::INVAL) }).collect()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK_BYTES: u64 = 4096;

    fn argument(count: i32, ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 16_016];
        bytes[..4].copy_from_slice(&count.to_ne_bytes());
        for (index, (start, end)) in ranges.iter().enumerate() {
            bytes[16 + 8 * index..][..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8016 + 8 * index..][..8].copy_from_slice(&end.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn ranges_are_whole_chunks_and_at_most_a_thousand() {
        let parsed = |count, ranges: &[(u64, u64)]| parse_ranges(&argument(count, ranges), CHUNK_BYTES);
        assert_eq!(parsed(0, &[]), Ok(vec![]));
        assert_eq!(parsed(2, &[(0, 4096), (8192, 16_384)]), Ok(vec![(0, 4096), (8192, 16_384)]));
        let many: Vec<_> = (0..1000).map(|index| (index * 8192, index * 8192 + 4096)).collect();
        assert_eq!(parsed(1000, &many).unwrap().len(), 1000);
        for count in [1001, -1, i32::MIN, i32::MAX] {
            assert_eq!(parsed(count, &many), Err(Errno::INVAL), "{count}");
        }
        for range in [(0, 0), (4096, 0), (1, 4096), (0, 4097), (0, 1 << 63)] {
            assert_eq!(parsed(1, &[range]), Err(Errno::INVAL), "{range:?}");
        }
        assert_eq!(parse_ranges(&argument(0, &[])[1..], CHUNK_BYTES), Err(Errno::INVAL));
    }

    #[test]
    fn a_hard_links_name_ends_at_a_zero_or_with_the_argument() {
        let mut bytes = vec![0; 264];
        bytes[..8].copy_from_slice(&77_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(b"name");
        assert_eq!(parse_hard_link(&bytes), Ok((77, OsStr::new("name"))));
        bytes[8..].fill(b'x');
        assert_eq!(parse_hard_link(&bytes).unwrap().1.len(), 256, "too long for a name, which is said later");
        assert_eq!(parse_hard_link(&bytes[..263]), Err(Errno::INVAL));
    }

    proptest! {
        #[test]
        fn no_argument_panics(head in proptest::collection::vec(any::<u8>(), 16_016), chunk in 12_u32..27) {
            if let Ok(ranges) = parse_ranges(&head, 1 << chunk) {
                prop_assert!(ranges.iter().all(|(start, end)| start < end));
            }
            let _ = parse_hard_link(&head[..264]);
        }
    }
}
