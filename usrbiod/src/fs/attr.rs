//! What the kernel is told of a file: the backing's answer to fstat in fuser's words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::{Stat, Timespec, UTIME_NOW, UTIME_OMIT};

/// Attributes and names are never cached by the kernel: posix sees at once what USRBIO wrote.
pub(super) const NOT_CACHED: Duration = Duration::ZERO;

/// The type in a mode; None: a type that no Linux filesystem has.
pub(super) fn kind_of(mode: u32) -> Option<FileType> {
    Some(match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::RegularFile => FileType::RegularFile,
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::Unknown => return None,
    })
}

/// Attributes of a backing file, shown under the number `ino`, with the chunk size as its block size.
pub(super) fn of_backing(ino: u64, kind: FileType, stat: &Stat, chunk_bytes: u32) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: system_time(stat.st_atime, stat.st_atime_nsec),
        mtime: system_time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: system_time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind,
        perm: permissions(stat.st_mode),
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
        blksize: chunk_bytes,
        flags: 0,
    }
}

/// The twelve permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// A time a caller sets, as utimensat takes it; None leaves it as it is.
pub(super) fn timespec(time: Option<TimeOrNow>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timespec { tv_sec: seconds(after), tv_nsec: i64::from(after.subsec_nanos()) },
            // fuser 0.18 takes the nanoseconds of a time before 1970 off it, where they count upwards: what it makes of
            // (-s, n) is s seconds and n nanoseconds before the epoch.
            Err(before) => {
                let before = before.duration();
                Timespec { tv_sec: -seconds(before), tv_nsec: i64::from(before.subsec_nanos()) }
            }
        },
    }
}

fn seconds(since: Duration) -> i64 {
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn system_time(seconds: i64, nanos: i64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos.unsigned_abs());
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|time| time.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let before = system_time(-2, 250_000_000);
        assert_eq!(UNIX_EPOCH.duration_since(before).unwrap(), Duration::from_millis(1750));
        let as_fuser_gives_it = UNIX_EPOCH - Duration::new(2, 250_000_000);
        let spec = timespec(Some(TimeOrNow::SpecificTime(as_fuser_gives_it)));
        assert_eq!((spec.tv_sec, spec.tv_nsec), (-2, 250_000_000));
        let whole = timespec(Some(TimeOrNow::SpecificTime(system_time(-7, 0))));
        assert_eq!((whole.tv_sec, whole.tv_nsec), (-7, 0));
    }

    #[test]
    fn a_time_that_is_not_set_is_left_alone() {
        assert_eq!(timespec(None).tv_nsec, UTIME_OMIT);
        assert_eq!(timespec(Some(TimeOrNow::Now)).tv_nsec, UTIME_NOW);
    }
}
