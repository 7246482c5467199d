//! The ioctls of a 3FS mount, type 'h', and the sizes of what they carry.

use std::os::fd::{AsFd, AsRawFd};

/// The mount's name: char[32].
pub const GET_MOUNT_NAME: u32 = 0x8020_6800;
/// Where the mount's root begins in a path: u32.
pub const GET_PATH_OFFSET: u32 = 0x8004_6801;
/// [`MAGIC`]: u32.
pub const GET_MAGIC: u32 = 0x8004_6802;
/// [`VERSION`]: u32.
pub const GET_VERSION: u32 = 0x8004_6803;
/// Writes a file's length through: u32.
pub const FSYNC: u32 = 0x8004_680b;
/// Links the file into a directory: u64 number of the directory, char[256] name.
pub const HARDLINK: u32 = 0x4108_680c;
/// Frees ranges of a file: i32 n at 0, u64 flags at 8, u64 starts[1000] at 16, u64 ends[1000] at 8016.
pub const PUNCH_HOLE: u32 = 0x7e90_680d;

/// What tells a 3FS file from others.
pub const MAGIC: u32 = 0x8f3f_5fff;
pub const VERSION: u32 = 1;
pub const MOUNT_NAME_BYTES: usize = 32;
pub const HARDLINK_BYTES: usize = 264;
pub const PUNCH_HOLE_BYTES: usize = 16_016;
pub const PUNCH_RANGES_MAX: usize = 1000;

/// True if the descriptor is of a file or directory on a 3FS mount, by its own word.
pub fn is_hf3fs(fd: impl AsFd) -> bool {
    let mut magic: u32 = 0;
    // SAFETY: the request's size field says that the kernel writes 4 bytes, which `magic` has; the descriptor is open
    // while borrowed.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::c_ulong::from(GET_MAGIC), &raw mut magic) };
    answer == 0 && magic == MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_not_3fs() {
        assert!(!is_hf3fs(std::fs::File::open("/").unwrap()));
        assert!(!is_hf3fs(std::fs::File::open("/dev/null").unwrap()));
    }

    #[test]
    fn numbers_carry_their_sizes() {
        let size = |number: u32| (number >> 16 & 0x3fff) as usize;
        assert_eq!(size(GET_MOUNT_NAME), MOUNT_NAME_BYTES);
        assert_eq!(size(HARDLINK), HARDLINK_BYTES);
        assert_eq!(size(PUNCH_HOLE), PUNCH_HOLE_BYTES);
        assert_eq!(16 + 2 * 8 * PUNCH_RANGES_MAX, PUNCH_HOLE_BYTES);
        assert!([GET_PATH_OFFSET, GET_MAGIC, GET_VERSION, FSYNC].into_iter().all(|number| size(number) == 4));
    }
}
