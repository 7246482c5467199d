//! Bytes that are no request at all, on every port: the servers live on.

use foreword_proto::PageKey;
use foreword_proto::workload::page;
use foreword_seams::{Endpoint, Net, TokioNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::live::{Live, spec};
use super::run::{PATIENCE, http_status};

/// The preface of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    page::fill(&mut noise, &PageKey::opaque(b"noise"), 0, 3);
    noise
}

/// What no server can make sense of.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing", Vec::new()),
        ("noise", noise(1 << 16)),
        ("a long line", vec![b'A'; 1 << 20]),
        ("a TLS hello", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(500)].concat()),
        ("a preface, then noise", [PREFACE, &noise(1 << 16)].concat()),
        ("a frame of 16 MiB", [PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        // SETTINGS with a length that is no multiple of six.
        ("broken settings", [PREFACE, &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat()),
        ("a zero byte", vec![0]),
    ]
}

async fn send(endpoint: &Endpoint, what: &str, bytes: &[u8]) {
    let mut stream = TokioNet.connect(endpoint).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "{endpoint}: after {what} the connection stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_outlive_garbage() {
    let mut live = Live::start(spec(1, 1)).await;
    let replica = live.cluster.replica_announced(1).unwrap().clone();
    let agent = live.cluster.agent_announced(0).unwrap().clone();
    let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
    let https = [endpoint(replica.http.as_ref().unwrap()), endpoint(agent.http.as_ref().unwrap())];
    let mut grpcs = vec![endpoint(&replica.grpc), endpoint(&agent.grpc)];
    grpcs.extend(live.cluster.agent_endpoints());
    for at in grpcs.iter().chain(&https) {
        // Left open, and silent, while the others come.
        let silent = TokioNet.connect(at).await.unwrap();
        for (what, bytes) in garbage() {
            send(at, what, &bytes).await;
        }
        live.works(&format!("garbage at {at}")).await;
        drop(silent);
    }
    for http in &https {
        assert_eq!(http_status(http, &noise(100)).await, Some(400), "{http}");
        assert_eq!(http_status(http, b"GET /nothing HTTP/1.1").await, Some(404), "{http}");
        assert_eq!(http_status(http, b"DELETE /status HTTP/1.1").await, Some(405), "{http}");
        assert_eq!(
            http_status(http, &[b"GET /", &[b'a'; 1 << 17][..], b" HTTP/1.1"].concat()).await,
            Some(414),
            "{http}"
        );
        assert_eq!(http_status(http, b"GET /readyz HTTP/1.1").await, Some(200), "{http}");
    }
    live.cluster.check().unwrap();
}
