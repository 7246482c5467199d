//! A plain keep-alive HTTP/1.1 client: it sends bytes made before and reads the answer, so that the server is what is
//! measured.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection.
pub struct Plain {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A whole request as it goes over the wire.
pub fn request(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: meta\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Plain {
    /// Connects to `host:port`.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(1 << 17) })
    }

    /// Sends a request and reads its answer's body.
    ///
    /// Errors: a status other than 200 and 204, with what the server said.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<&[u8]> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the server closed the connection");
            let Some(head) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let (status, length) = head_of(&self.buffer[..head])?;
            let start = head + 4;
            while self.buffer.len() < start + length {
                ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the answer's body ends early");
            }
            let body = &self.buffer[start..start + length];
            if status != 200 && status != 204 {
                bail!("status {status}: {}", String::from_utf8_lossy(body));
            }
            return Ok(body);
        }
    }
}

fn head_of(head: &[u8]) -> anyhow::Result<(u16, usize)> {
    let head = std::str::from_utf8(head)?;
    let status = head.split(' ').nth(1).context("a status line")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
    });
    Ok((status, length.unwrap_or(0)))
}
