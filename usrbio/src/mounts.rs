//! Which 3FS mount holds a path, by the mount table.

use std::io;
use std::path::{Path, PathBuf};

use crate::name::{FS_TYPE, VIRT_DIR};

/// The mount point of the 3FS that holds `path`; None if it is on none. Blocks.
///
/// Errors: the path does not exist, or the mount table cannot be read.
pub fn mount_point_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = path.canonicalize()?;
    // Of this thread, not of the process: threads may have mounts of their own.
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(mount_point_in(&table, &path, |mount| mount.join(VIRT_DIR).is_dir()))
}

/// The deepest 3FS mount above `path` (canonical, absolute) in a mount table.
///
/// A whole 3FS is a mount with `3fs-virt` in it, which `has_virt` says; where only directories of it are mounted,
/// `3fs-virt` is a mount of its own and its parent counts.
pub fn mount_point_in(table: &str, path: &Path, has_virt: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let candidates = table.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        if rest.split(' ').next()? != FS_TYPE {
            return None;
        }
        let point = unescaped(mount.split(' ').nth(4)?);
        if point.file_name().is_some_and(|name| name == VIRT_DIR) {
            return point.parent().map(|parent| (parent.to_owned(), true));
        }
        Some((point, false))
    });
    let above = candidates.filter(|(point, _)| path.starts_with(point));
    let holding = above.filter(|(point, known)| *known || has_virt(point));
    holding.max_by_key(|(point, _)| point.components().count()).map(|(point, _)| point)
}

/// Blanks, tabs, newlines and backslashes are octal in the table.
fn unescaped(point: &str) -> PathBuf {
    let mut plain = point.to_owned();
    for (octal, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(octal, character);
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw - ext4 /dev/vda rw
40 22 0:3 / /mnt/3\\040fs rw,x shared:1 - fuse.hf3fs hf3fs.a rw
41 22 0:4 / /mnt/3\\040fs/deep rw - fuse.hf3fs hf3fs.b rw
42 22 0:5 / /mnt/other rw - fuse.sshfs x rw
43 22 0:6 /data /parts/data rw - fuse.hf3fs hf3fs.c rw
44 22 0:6 /3fs-virt /parts/3fs-virt rw - fuse.hf3fs hf3fs.c rw
";

    #[test]
    fn the_deepest_mount_with_the_virtual_directory_holds_the_path() {
        let whole = |mount: &Path| mount != Path::new("/parts/data");
        let of = |path: &str| mount_point_in(TABLE, Path::new(path), whole);
        assert_eq!(of("/mnt/3 fs/x"), Some("/mnt/3 fs".into()));
        assert_eq!(of("/mnt/3 fs"), Some("/mnt/3 fs".into()));
        assert_eq!(of("/mnt/3 fs/deep/y"), Some("/mnt/3 fs/deep".into()));
        assert_eq!(of("/parts/data/z"), Some("/parts".into()));
        for elsewhere in ["/mnt/3 fsx", "/mnt/other/x", "/", "/home"] {
            assert_eq!(of(elsewhere), None, "{elsewhere}");
        }
        assert_eq!(mount_point_in(TABLE, Path::new("/mnt/3 fs/x"), |_| false), None);
    }

    #[test]
    fn this_machines_root_is_no_3fs() {
        assert_eq!(mount_point_of(Path::new("/")).unwrap(), None);
        assert!(mount_point_of(Path::new("/no/such/path")).is_err());
    }
}
