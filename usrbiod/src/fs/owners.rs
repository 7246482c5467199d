//! Who is alive: which processes hold `3fs-virt/iovs` open.
//!
//! A client keeps that directory open for as long as it lives; the kernel releases the handle when the last descriptor
//! of it is closed, at the latest with the process. A process may open the directory more than once (each listing
//! does): only the last handle counts.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Handles of `3fs-virt/iovs` by the process that opened them.
#[derive(Debug, Default)]
pub(super) struct Owners {
    handles: Mutex<HashMap<u32, u64>>,
}

impl Owners {
    /// `process` opened the directory.
    pub(super) fn opened(&self, process: u32) {
        *self.handles.lock().entry(process).or_default() += 1;
    }

    /// A handle that `process` had opened was released. True: it was the last one.
    pub(super) fn released(&self, process: u32) -> bool {
        let mut handles = self.handles.lock();
        let Some(count) = handles.get_mut(&process) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            handles.remove(&process);
        }
        last
    }
}

/// The process (thread group) of the thread `thread`, which is what a FUSE request names.
///
/// 0 for a thread outside of our pid namespace, or one that has ended.
pub(super) fn process_of(thread: u32) -> u32 {
    if thread == 0 {
        return 0;
    }
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => thread_group(&status).unwrap_or(0),
        Err(_) => 0,
    }
}

fn thread_group(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_handle_of_a_process_counts() {
        let owners = Owners::default();
        owners.opened(7);
        owners.opened(7);
        owners.opened(8);
        assert!(!owners.released(7));
        assert!(owners.released(8));
        assert!(owners.released(7));
        assert!(!owners.released(7), "nothing is left to release");
    }

    #[test]
    fn a_thread_is_traced_to_its_process() {
        let process = std::process::id();
        assert_eq!(process_of(process), process);
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get() as u32);
        let other = std::thread::spawn(|| {
            let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            (thread, process_of(thread))
        });
        let (id, found) = other.join().unwrap();
        assert_ne!(id, process);
        assert_eq!(found, process);
        thread.join().unwrap();
        assert_eq!(process_of(0), 0);
        assert_eq!(thread_group("Name:\tx\nTgid:\t41\nPid:\t42\n"), Some(41));
        assert_eq!(thread_group("Name:\tx\n"), None);
    }
}
