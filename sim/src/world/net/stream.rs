//! One end of a simulated connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{End, EndState, Inner, Network, PARCEL_BYTES_MAX, Parcel, Side, WINDOW_BYTES};

pub(super) struct SimStream {
    network: Network,
    connection: u64,
    side: Side,
    shut: bool,
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl SimStream {
    pub(super) fn new(network: Network, connection: u64, side: Side) -> Self {
        Self { network, connection, side, shut: false }
    }

    fn end<'a>(&self, inner: &'a mut Inner) -> Option<&'a mut End> {
        let ends = inner.connections.get_mut(&self.connection)?;
        let end = &mut ends[self.side];
        (end.state != EndState::Gone).then_some(end)
    }

    /// Waits until the other side has accepted.
    pub(super) async fn opened(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut inner = self.network.0.lock();
            let Some(end) = self.end(&mut inner) else { return Poll::Ready(Err(gone())) };
            match end.state {
                _ if end.reset => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                EndState::Opening => {
                    end.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(Ok(())),
            }
        })
        .await
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.network.0.lock();
        let Some(end) = self.end(&mut inner) else { return Poll::Ready(Err(gone())) };
        if end.reset {
            return Poll::Ready(Err(gone()));
        }
        let mut read = 0;
        while buf.remaining() > 0 {
            let Some(front) = end.inbox.front_mut() else { break };
            let bytes = front.len().min(buf.remaining());
            buf.put_slice(&front[..bytes]);
            front.advance(bytes);
            read += bytes;
            if front.is_empty() {
                end.inbox.pop_front();
            }
        }
        if read == 0 && !end.finished {
            end.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let writer = inner.connections.get_mut(&self.connection).and_then(|ends| {
            let other = &mut ends[1 - self.side];
            other.unread = other.unread.saturating_sub(read);
            other.writer.take()
        });
        drop(inner);
        if let Some(writer) = writer {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.network.0.lock();
        let Some(end) = self.end(&mut inner) else { return Poll::Ready(Err(gone())) };
        if end.reset || self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(end.unread);
        let bytes = buf.len().min(room).min(PARCEL_BYTES_MAX);
        if bytes == 0 && !buf.is_empty() {
            end.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        end.unread += bytes;
        inner.send(self.connection, self.side, Parcel::Data(Bytes::copy_from_slice(&buf[..bytes])));
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            self.shut = true;
            let mut inner = self.network.0.lock();
            if self.end(&mut inner).is_some() {
                inner.send(self.connection, self.side, Parcel::Fin);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut inner = self.network.0.lock();
        // A process that is gone says nothing: the world has marked its ends already.
        if self.end(&mut inner).is_none() {
            return;
        }
        if !self.shut {
            inner.send(self.connection, self.side, Parcel::Fin);
        }
        let Some(end) = self.end(&mut inner) else { return };
        end.state = EndState::Gone;
        let (reader, writer) = (end.reader.take(), end.writer.take());
        inner.forget_if_over(self.connection);
        drop(inner);
        drop((reader, writer));
    }
}
