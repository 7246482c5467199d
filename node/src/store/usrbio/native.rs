//! A ring driven by ourselves, in its shared memory.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use foreword_usrbio::{Cursor, IoArgs, LinkKind, LinkName, RingLayout, RingMemory, RingName, Sqe};
use rustix::fs::{AtFlags, StatxFlags};

use super::attachment::{Attachment, priority};
use super::client::{JOB_IOS_MAX, Port, Prepared, Reaped, Refused};
use super::shm;
use super::slots::Slots;

/// How the daemon names an open file. Asks the kernel only, not the daemon.
pub(super) fn inode_number(fd: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(fd, "", flags, StatxFlags::INO)?.stx_ino)
}

/// The four cursors as the client uses them: its own two are kept here, because the daemon could change those in
/// memory.
pub(super) struct NativeRing {
    memory: RingMemory,
    sqe_head: AtomicU32,
    cqe_tail: AtomicU32,
    link: LinkName,
    for_read: bool,
    attachment: Arc<Attachment>,
}

impl NativeRing {
    /// Makes the memory and has the daemon map it. On the registrar only.
    pub(super) fn make(attachment: &Arc<Attachment>, for_read: bool, entries: u32) -> io::Result<Self> {
        let layout = RingLayout::with_entries(entries).ok_or(io::ErrorKind::InvalidInput)?;
        let mut file = shm::create(layout.bytes())?;
        let mapping = file.map(layout.bytes() as usize)?;
        let memory = RingMemory::new(mapping).ok_or(io::ErrorKind::InvalidInput)?;
        let name = RingName { for_read, io_depth: -JOB_IOS_MAX, priority: priority(for_read), timeout_ms: 0, flags: 0 };
        let link = LinkName { id: shm::random_id(), kind: LinkKind::Ring(name) };
        attachment.link(&link, &file.path())?;
        // The daemon has mapped it: nobody else needs the name.
        file.unlink();
        Ok(Self::over(memory, link, attachment))
    }

    /// A ring in fresh memory that the daemon has mapped by this link.
    pub(super) fn over(memory: RingMemory, link: LinkName, attachment: &Arc<Attachment>) -> Self {
        let (sqe_head, cqe_tail) = (AtomicU32::new(0), AtomicU32::new(0));
        let for_read = matches!(link.kind, LinkKind::Ring(name) if name.for_read);
        Self { memory, sqe_head, cqe_tail, link, for_read, attachment: attachment.clone() }
    }

    /// A cursor of the daemon's; None if it points outside.
    fn daemons(&self, cursor: Cursor) -> Option<u32> {
        u32::try_from(self.memory.load(cursor)).ok().filter(|at| *at < self.memory.layout().cells())
    }

    fn take_finished(&self, finished: &mut Vec<Reaped>) {
        let layout = self.memory.layout();
        let Some(head) = self.daemons(Cursor::CqeHead) else { return };
        let mut tail = self.cqe_tail.load(Ordering::Relaxed);
        while tail != head {
            let cqe = self.memory.cqe(tail);
            // A completion whose two names differ is nobody's: 0 is no I/O's userdata.
            let slot = Slots::<(), ()>::slot_of(cqe.userdata);
            let userdata = if i64::from(cqe.index) == i64::from(slot) { cqe.userdata } else { 0 };
            finished.push(Reaped { userdata, result: cqe.result });
            tail = layout.next(tail);
            self.memory.store(Cursor::CqeTail, tail as i32);
        }
        self.cqe_tail.store(tail, Ordering::Relaxed);
    }
}

impl Port for NativeRing {
    fn prepare(&self, io: &Prepared<'_>) -> Result<(), Refused> {
        let (layout, head) = (self.memory.layout(), self.sqe_head.load(Ordering::Relaxed));
        let next = layout.next(head);
        // A cursor outside of the ring is treated as full: the ring is replaced when its I/Os are given up.
        if self.daemons(Cursor::SqeTail).is_none_or(|tail| tail == next) {
            return Err(Refused::Full);
        }
        let slot = Slots::<(), ()>::slot_of(io.userdata);
        let args = IoArgs {
            iov: io.region.id,
            iov_offset: io.region_offset,
            file: io.file.ino,
            file_offset: io.file_offset,
            len: io.len,
            userdata: io.userdata,
        };
        self.memory.set_args(slot, &args);
        self.memory.set_sqe(head, &Sqe { index: slot as i32, userdata: io.userdata });
        self.memory.store(Cursor::SqeHead, next as i32);
        self.sqe_head.store(next, Ordering::Relaxed);
        Ok(())
    }

    fn submit(&self) {
        self.attachment.submit(self.for_read);
    }

    fn reap(&self, timeout: Duration, finished: &mut Vec<Reaped>) {
        self.take_finished(finished);
        if finished.is_empty() && self.memory.wait(timeout) {
            self.take_finished(finished);
        }
    }

    fn wake(&self) {
        self.memory.post();
    }
}

impl Drop for NativeRing {
    fn drop(&mut self) {
        self.attachment.unlink_later(self.link);
    }
}
