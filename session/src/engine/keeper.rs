//! The session's socket, and the thread that reads it: segments come and go by its messages, and its end is the
//! session's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::segments::Segments;
use super::slots::Slots;
use super::staging::Staging;
use super::{Deadline, Flag, OpenError, fork};
use crate::wire::control::CONTROL_BYTES;
use crate::wire::handshake::{
    ANSWER_BYTES, Answer, DESCRIPTORS_MAX, Hello, MESSAGE_BYTES, Message, TENANT_BYTES_MAX, receive, send,
};
use crate::wire::{Control, Mapping, VERSION};

/// How long a message may take to be sent: an agent that reads none is gone.
const SEND_WAIT: Duration = Duration::from_secs(2);

/// The socket of a session.
pub(super) struct Line {
    fd: RawFd,
    born: fork::Generation,
    ended: Flag,
    /// One message at a time.
    sending: Mutex<()>,
}

impl Line {
    fn new(socket: OwnedFd) -> Self {
        fork::note(socket.as_raw_fd());
        let fd = socket.into_raw_fd();
        Self { fd, born: fork::Generation::now(), ended: Flag::default(), sending: Mutex::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.ended.is_set()
    }

    /// Ends the session, for both sides.
    pub(super) fn close(&self) {
        self.ended.set();
        // Gone already: nothing to end.
        let _ = rustix::net::shutdown(self.socket(), Shutdown::Both);
    }

    /// False: it could not be sent; the session is over.
    pub(super) fn send(&self, message: Message) -> bool {
        let _one_at_a_time = self.sending.lock();
        let sent = send_all(self.socket(), &message.encode(), Deadline::after(SEND_WAIT));
        if sent.is_err() {
            self.close();
        }
        sent.is_ok()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: open until drop, in the process that opened it; in a child nobody gets here (Session::check,
        // Session::drop).
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A child's was closed when it was born, and the number may be another file's by now.
        if self.born.is_now() {
            fork::forget(self.fd);
            // SAFETY: the descriptor is ours alone, and nobody uses it any more.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// What an agent handed over.
pub(super) struct Welcome {
    control: OwnedFd,
    staging: OwnedFd,
    doorbell: OwnedFd,
    staging_bytes: u64,
}

impl Welcome {
    pub(super) fn map(self) -> io::Result<(Slots, Staging)> {
        let control = Control::open(Mapping::of_sent_writable(&self.control, CONTROL_BYTES)?)?;
        let bytes = usize::try_from(self.staging_bytes).map_err(io::Error::other)?;
        let staging = Mapping::of_sent_writable(&self.staging, bytes)?;
        Ok((Slots::new(control, self.doorbell), Staging::new(staging)))
    }
}

/// Says hello.
pub(super) fn connect(path: &Path, tenant: &str, deadline: Deadline) -> Result<(Line, Welcome), OpenError> {
    if tenant.len() > TENANT_BYTES_MAX {
        return Err(OpenError::Tenant { max: TENANT_BYTES_MAX, got: tenant.len() });
    }
    let shown = path.display().to_string();
    let connect_error = |error: io::Error| OpenError::Connect { path: shown.clone(), error };
    let protocol = |what: &str| OpenError::Protocol { path: shown.clone(), what: what.to_owned() };
    let socket = dial(path).map_err(connect_error)?;
    let hello = Hello { version: VERSION, tenant: tenant.to_owned() };
    send_all(socket.as_fd(), &hello.encode(), deadline).map_err(connect_error)?;
    let mut bytes = [0; ANSWER_BYTES];
    let mut descriptors = Vec::new();
    receive_all(socket.as_fd(), &mut bytes, &mut descriptors, Some(deadline)).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => protocol("it hung up on a session's hello"),
        _ => connect_error(error),
    })?;
    match Answer::decode(&bytes) {
        None => Err(protocol("it answered something else")),
        Some(Answer::Refused { version, .. } | Answer::Welcome { version, .. }) if version != VERSION => {
            Err(OpenError::Version { ours: VERSION, theirs: version })
        }
        Some(Answer::Refused { reason, .. }) => Err(OpenError::Refused { reason }),
        Some(Answer::Welcome { staging_bytes, .. }) => {
            let Ok([control, staging, doorbell]) = <[OwnedFd; DESCRIPTORS_MAX]>::try_from(descriptors) else {
                return Err(protocol("it sent no memory"));
            };
            Ok((Line::new(socket), Welcome { control, staging, doorbell, staging_bytes }))
        }
    }
}

/// Connects without waiting: an agent whose backlog is full is busy enough.
fn dial(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Reads the socket until it ends, on a thread of its own.
pub(super) fn keep(line: Arc<Line>, segments: Arc<Segments>) -> io::Result<()> {
    let keeper = std::thread::Builder::new().name("foreword-session".to_owned());
    keeper.spawn(move || {
        while let Some((message, descriptor)) = next_message(&line) {
            match (message, descriptor) {
                (Message::Segment { segment, region_bytes, frame_bytes, frames }, Some(descriptor)) => {
                    if !segments.came(segment, descriptor, region_bytes, frame_bytes, frames) {
                        line.send(Message::Unmapped { segment });
                    }
                }
                (Message::Gone { segment }, _) => segments.is_gone(segment),
                (Message::Retired { segment }, _) => {
                    segments.retire(segment);
                    line.send(Message::Unmapped { segment });
                }
                // An agent says nothing else.
                _ => break,
            }
        }
        line.ended.set();
        segments.end();
    })?;
    Ok(())
}

fn next_message(line: &Line) -> Option<(Message, Option<OwnedFd>)> {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut descriptors = Vec::new();
    receive_all(line.socket(), &mut bytes, &mut descriptors, None).ok()?;
    Some((Message::decode(&bytes)?, descriptors.pop()))
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, &[]) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) => wait_after(error, socket, PollFlags::OUT, Some(deadline))?,
        }
    }
    Ok(())
}

fn receive_all(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    deadline: Option<Deadline>,
) -> io::Result<()> {
    let mut have = 0;
    while have < bytes.len() {
        match receive(socket, &mut bytes[have..]) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((received, sent)) => {
                have += received;
                descriptors.extend(sent);
            }
            Err(error) => wait_after(error, socket, PollFlags::IN, deadline)?,
        }
    }
    Ok(())
}

/// Waits for the socket where that is all that was wrong.
fn wait_after(
    error: io::Error,
    socket: BorrowedFd<'_>,
    what_for: PollFlags,
    deadline: Option<Deadline>,
) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock => {}
        io::ErrorKind::Interrupted => return Ok(()),
        _ => return Err(error),
    }
    let left = deadline.map(|deadline| deadline.left().ok_or(io::ErrorKind::TimedOut)).transpose()?;
    let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ });
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(socket, what_for)], timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
