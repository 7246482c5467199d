//! As much of HTTP/1.1 as a client with one connection needs: a message is a head and as many bytes as its head says.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use foreword_seams::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HEAD_END: &[u8] = b"\r\n\r\n";
const HEAD_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 1 << 20;

/// A request or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its first line and its headers, with the empty line behind them.
    pub head: Bytes,
    pub body: Bytes,
}

/// An end of a connection that carries messages.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    read: BytesMut,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The value of a header, if there is one.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line =
        head.lines().skip(1).filter_map(|line| line.split_once(':')).find(|(of, _)| of.eq_ignore_ascii_case(name));
    line.map(|(_, value)| value.trim())
}

impl Message {
    /// A request with a JSON body.
    pub fn post(host: &str, path: &str, body: &[u8]) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self { head: head.into(), body: Bytes::copy_from_slice(body) }
    }

    /// An answer with a JSON body; none: 204.
    pub fn answer(body: Option<&[u8]>) -> Self {
        let Some(body) = body else {
            return Self { head: Bytes::from_static(b"HTTP/1.1 204 No Content\r\n\r\n"), body: Bytes::new() };
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        Self { head: head.into(), body: Bytes::copy_from_slice(body) }
    }

    /// The second word of the first line: a request's path, an answer's status.
    pub fn second_word(&self) -> &str {
        let line = std::str::from_utf8(&self.head).unwrap_or_default().lines().next().unwrap_or_default();
        line.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether the other side ends the connection behind this message.
    pub fn closes(&self) -> bool {
        let head = std::str::from_utf8(&self.head).unwrap_or_default();
        header(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Connection {
    /// A connection on which nothing was read yet.
    pub fn new(stream: Stream) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut whole = BytesMut::from(&message.head[..]);
        whole.extend_from_slice(&message.body);
        self.stream.write_all(&whole).await?;
        self.stream.flush().await
    }

    /// Waits for the next message.
    ///
    /// Errors: the connection ended, or what came is not what this client reads.
    pub async fn receive(&mut self) -> io::Result<Message> {
        let head_bytes = loop {
            if let Some(at) = self.read.windows(HEAD_END.len()).position(|window| window == HEAD_END) {
                break at + HEAD_END.len();
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err(bad("a head without an end"));
            }
            self.more().await?;
        };
        let head = self.read.split_to(head_bytes).freeze();
        let text = std::str::from_utf8(&head).map_err(|_| bad("a head that is no text"))?;
        if header(text, "transfer-encoding").is_some() {
            return Err(bad("a body in chunks"));
        }
        let length = header(text, "content-length").map_or(Ok(0), str::parse::<usize>);
        let length = length.ok().filter(|length| *length <= BODY_BYTES_MAX).ok_or_else(|| bad("a length"))?;
        while self.read.remaining() < length {
            self.more().await?;
        }
        let body = self.read.split_to(length).freeze();
        Ok(Message { head, body })
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_however_they_are_cut() {
        let (here, there) = tokio::io::duplex(7);
        let (mut client, mut server) = (Connection::new(Stream::new(here)), Connection::new(Stream::new(there)));
        let asked =
            [Message::post("meta-1", "/0/clear", b"{}"), Message::post("meta-1", "/x/1/exists", b"{\"keys\":[]}")];
        let sent = asked.clone();
        let sending = tokio::spawn(async move {
            for message in &sent {
                client.send(message).await.unwrap();
            }
            client
        });
        for message in &asked {
            assert_eq!(server.receive().await.unwrap(), *message);
        }
        assert_eq!((asked[1].second_word(), asked[1].closes()), ("/x/1/exists", false));
        let mut client = sending.await.unwrap();
        let answering = tokio::spawn(async move {
            server.send(&Message::answer(None)).await.unwrap();
            server.send(&Message::answer(Some(b"[1]"))).await.unwrap();
        });
        assert_eq!(client.receive().await.unwrap().second_word(), "204");
        let second = client.receive().await.unwrap();
        assert_eq!((second.second_word(), &second.body[..]), ("200", &b"[1]"[..]));
        answering.await.unwrap();
        assert!(client.receive().await.is_err(), "the other side is gone");
    }
}
