//! What this process takes of its machine, for metrics and status only.

use std::path::Path;

/// Bytes of memory that are resident; None where the kernel does not say.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Bytes that are free to this process on the filesystem of a path; None where there is no such path.
pub fn disk_free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_takes_memory_and_has_a_disk() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(disk_free_bytes(Path::new("/")).is_some());
        assert_eq!(disk_free_bytes(Path::new("/nonexistent/there")), None);
    }
}
