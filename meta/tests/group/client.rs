//! A client of the hf3fs endpoints: one kept connection, plain HTTP/1.1.

use std::time::Duration;

use foreword_seams::Endpoint;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{Cluster, PATIENCE};

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

pub(crate) struct Client {
    endpoint: Endpoint,
    connection: Option<BufReader<TcpStream>>,
    /// `/0` or `/model/0`.
    pub(crate) base: String,
}

impl Client {
    pub(crate) fn new(cluster: &Cluster, replica: u64, base: &str) -> Self {
        let endpoint = cluster.running[&replica].hf3fs_endpoint().unwrap().clone();
        Self { endpoint, connection: None, base: base.into() }
    }

    /// Sends a request and reads its answer; a connection that was closed since is opened anew.
    pub(crate) async fn request(&mut self, method: &str, path: &str, body: &[u8]) -> Response {
        let exchange = async {
            if let Some(response) = self.try_request(method, path, body).await {
                return response;
            }
            self.connection = None;
            self.try_request(method, path, body).await.expect("an answer on a new connection")
        };
        timeout(PATIENCE, exchange).await.expect("an answer in time")
    }

    async fn try_request(&mut self, method: &str, path: &str, body: &[u8]) -> Option<Response> {
        if self.connection.is_none() {
            let Endpoint::Tcp(address) = &self.endpoint else { panic!("no address of TCP") };
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            self.connection = Some(BufReader::new(stream));
        }
        let connection = self.connection.as_mut()?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: meta\r\n").into_bytes();
        if !body.is_empty() {
            request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        connection.write_all(&request).await.ok()?;
        let status = line(connection).await?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        while let Some((name, value)) = line(connection).await?.split_once(": ") {
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let mut response = Response { status, headers, body: String::new() };
        let bytes = response.header("content-length").map_or(0, |bytes| bytes.parse().unwrap());
        if method != "HEAD" {
            let mut body = vec![0; bytes];
            connection.read_exact(&mut body).await.ok()?;
            response.body = String::from_utf8(body).unwrap();
        }
        Some(response)
    }

    /// Sends a request and leaves without waiting for the answer.
    pub(crate) async fn send_and_leave(&mut self, operation: &str, body: &Value) {
        let Endpoint::Tcp(address) = &self.endpoint else { panic!("no address of TCP") };
        let mut stream = TcpStream::connect(address).await.unwrap();
        let body = body.to_string();
        let head =
            format!("POST {}/{operation} HTTP/1.1\r\nHost: meta\r\nContent-Length: {}\r\n\r\n", self.base, body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }

    pub(crate) async fn post(&mut self, operation: &str, body: &Value) -> Response {
        let path = format!("{}/{operation}", self.base);
        self.request("POST", &path, body.to_string().as_bytes()).await
    }

    /// As SGLang's client does: 503 is tried again.
    pub(crate) async fn ok(&mut self, operation: &str, body: &Value) -> Value {
        for _ in 0..10 {
            let response = self.post(operation, body).await;
            match response.status {
                200 => return serde_json::from_str(&response.body).unwrap(),
                204 => return Value::Null,
                503 => tokio::time::sleep(Duration::from_millis(200)).await,
                _ => panic!("{operation}: {response:?}"),
            }
        }
        panic!("{operation}: never answered");
    }

    pub(crate) async fn initialize(&mut self, pages: u64) {
        self.ok("initialize", &json!({ "num_pages": pages })).await;
    }

    pub(crate) async fn exists(&mut self, keys: &[&str]) -> Vec<bool> {
        serde_json::from_value(self.ok("exists", &json!({ "keys": keys })).await["exists"].take()).unwrap()
    }

    pub(crate) async fn get(&mut self, keys: &[&str]) -> Vec<Option<u32>> {
        serde_json::from_value(self.ok("get_page_indices", &json!({ "keys": keys })).await["indices"].take()).unwrap()
    }

    /// Whether each key was there, and its page; -1: none.
    pub(crate) async fn reserve(&mut self, keys: &[&str]) -> Vec<(bool, i64)> {
        let keys: Vec<_> = keys.iter().map(|key| (key, "")).collect();
        let answer = self.ok("reserve_and_allocate_page_indices", &json!({ "keys": keys })).await;
        serde_json::from_value(answer["indices"].clone()).unwrap()
    }

    pub(crate) async fn confirm(&mut self, written: &[(&str, i64)], released: &[i64]) {
        let body = json!({ "written_keys_to_confirm": written, "pages_to_release": released });
        self.ok("confirm_write", &body).await;
    }

    /// Reserves and confirms; answers with the pages.
    pub(crate) async fn write(&mut self, keys: &[&str]) -> Vec<i64> {
        let pages: Vec<i64> = self.reserve(keys).await.into_iter().map(|(_, page)| page).collect();
        let written: Vec<_> = keys.iter().copied().zip(pages.iter().copied()).collect();
        self.confirm(&written, &[]).await;
        pages
    }
}

async fn line(connection: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let bytes = connection.read_line(&mut line).await.ok()?;
    (bytes > 0).then(|| line.trim_end().to_owned())
}
