//! A session from its hello to its end, as its socket sees it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use foreword_seams::connection::HEAD_DEADLINE;
use foreword_session::wire::VERSION;
use foreword_session::wire::handshake::{Answer, HELLO_BYTES, Hello, MESSAGE_BYTES, Message, receive, send};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, MissedTickBehavior};

use super::Engines;
use super::attached::{Attached, Handover};

/// How often it is looked whether segments have left the arena, and whether pages were not copied in time.
const LOOK: Duration = Duration::from_secs(1);
/// An engine that takes no message for so long is gone.
const SEND_WAIT: Duration = Duration::from_secs(5);

/// One session, from the hello to its end.
pub(super) async fn session(engines: Arc<Engines>, socket: UnixStream) {
    let Ok(session) = engines.welcome(&socket).await else {
        engines.counts.refused.increment(1);
        return;
    };
    engines.counts.sessions.increment(1.0);
    let stopped = engines.stop.cancelled();
    tokio::select! {
        ended = converse(&session, &socket) => {
            if let Err(error) = ended {
                engines.closed(&session.tenant, &error.to_string());
            }
        }
        () = session.ended.cancelled() => {}
        () = stopped => engines.host.wake(),
    }
    session.ended.cancel();
    engines.host.remove(&session);
    session.let_go_of_everything();
    engines.counts.sessions.decrement(1.0);
}

impl Engines {
    async fn welcome(self: &Arc<Self>, socket: &UnixStream) -> io::Result<Arc<Attached>> {
        let mut hello = [0; HELLO_BYTES];
        // Of the hello alone: a session that has begun is not to be forgotten half-way.
        tokio::time::timeout(HEAD_DEADLINE, read(socket, &mut hello)).await??;
        let hello = match Hello::decode(&hello) {
            Some(hello) if hello.version == VERSION => hello,
            Some(hello) => {
                let reason = format!("expected version {VERSION}, got {}", hello.version);
                return self.refuse(socket, reason).await;
            }
            None => return self.refuse(socket, "expected a hello".to_owned()).await,
        };
        if self.host.sessions() >= self.sessions_max {
            let reason = format!("engine_sessions_max: expected at most {} sessions at once", self.sessions_max);
            return self.refuse(socket, reason).await;
        }
        let (attached, handover) = Attached::new(hello.tenant, self.staging_bytes)?;
        let session = Arc::new(attached);
        self.host.add(self, session.clone())?;
        let Handover { control, staging, doorbell } = handover;
        let answer = Answer::Welcome { version: VERSION, staging_bytes: staging.bytes() as u64 };
        let descriptors = [control.fd(), staging.fd(), doorbell.as_fd()];
        if let Err(error) = write(socket, &answer.encode(), &descriptors).await {
            self.host.remove(&session);
            return Err(error);
        }
        Ok(session)
    }

    async fn refuse(&self, socket: &UnixStream, reason: String) -> io::Result<Arc<Attached>> {
        if let Some(left_out) = self.lines.lock().refused.due() {
            tracing::warn!(reason, left_out, "an engine was refused a session");
        }
        let answer = Answer::Refused { version: VERSION, reason: reason.clone() };
        write(socket, &answer.encode(), &[]).await?;
        Err(io::Error::other(reason))
    }
}

/// Talks about segments until the engine is gone. Errors: it said what makes no sense, or did not let go of a segment.
async fn converse(session: &Attached, socket: &UnixStream) -> io::Result<()> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut bytes = [0; MESSAGE_BYTES];
    let mut have = 0;
    loop {
        tokio::select! {
            count = read_some(socket, &mut bytes[have..]) => {
                match count {
                    Ok(0) => return Ok(()),
                    Ok(count) => have += count,
                    // It is gone, or going.
                    Err(_) => return Ok(()),
                }
                if have == MESSAGE_BYTES {
                    have = 0;
                    answer(session, socket, &bytes).await?;
                }
            }
            _ = look.tick() => {
                let now = Instant::now();
                session.let_go_late(now);
                let late = || io::Error::other("expected it to let go of a segment that was replaced");
                for segment in session.retired(now).ok_or_else(late)? {
                    write(socket, &Message::Retired { segment }.encode(), &[]).await?;
                }
            }
        }
    }
}

async fn answer(session: &Attached, socket: &UnixStream, bytes: &[u8; MESSAGE_BYTES]) -> io::Result<()> {
    match Message::decode(bytes) {
        Some(Message::Ask { segment }) => match session.share(segment) {
            Some(share) => {
                let message = Message::Segment {
                    segment,
                    region_bytes: share.region_bytes,
                    frame_bytes: share.frame_bytes,
                    frames: share.frames,
                };
                write(socket, &message.encode(), &[share.descriptor.as_fd()]).await
            }
            None => write(socket, &Message::Gone { segment }.encode(), &[]).await,
        },
        Some(Message::Unmapped { segment }) => {
            session.unmapped(segment);
            Ok(())
        }
        _ => Err(io::Error::other("expected a message of an engine")),
    }
}

async fn read(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut have = 0;
    while have < bytes.len() {
        match read_some(socket, &mut bytes[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
    }
    Ok(())
}

/// Descriptors that an engine sends are closed at once.
async fn read_some(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    socket.async_io(Interest::READABLE, || receive(socket.as_fd(), bytes).map(|(count, _)| count)).await
}

async fn write(socket: &UnixStream, bytes: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let descriptors = if sent == 0 { descriptors } else { &[] };
        let send = socket.async_io(Interest::WRITABLE, || send(socket.as_fd(), &bytes[sent..], descriptors));
        sent += tokio::time::timeout(SEND_WAIT, send).await??;
    }
    Ok(())
}
