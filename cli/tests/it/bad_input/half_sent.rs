//! Requests that are sent in part, and then nothing more: their connections end, those that work go on.

use std::time::Duration;

use foreword_seams::{Endpoint, Net, Stream, TokioNet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::live::{Live, spec};

/// What a machine that lost power in the middle of a request leaves behind, and for how long at most.
const GONE_AFTER: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 20;

async fn half_sent(endpoint: &Endpoint, bytes: &[u8]) -> Stream {
    let mut stream = TokioNet.connect(endpoint).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_request_never_comes_whole_ends() {
    let mut live = Live::start(spec(1, 1)).await;
    let replica = live.cluster.replica_announced(1).unwrap().clone();
    let agent = live.cluster.agent_announced(0).unwrap().clone();
    let http = b"GET /status HTTP/1.1\r\nHost: ";
    let grpc = b"PRI * HTTP/2.0\r\n\r\n";
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A frame of 32 bytes of headers, of which none comes.
    let headers = [&settings[..], b"\0\0\x20\x01\0\0\0\0\x01"].concat();
    let mut cases: Vec<(Endpoint, &[u8])> = Vec::new();
    for endpoint in [replica.http.unwrap(), agent.http.unwrap()] {
        cases.extend([&b""[..], http].map(|bytes| (endpoint.parse().unwrap(), bytes)));
    }
    let socket = format!("unix:{}", agent.socket.unwrap());
    for endpoint in [replica.grpc, agent.grpc, socket] {
        let kinds = [&b""[..], grpc, settings, &headers];
        cases.extend(kinds.map(|bytes| (endpoint.parse().unwrap(), bytes)));
    }
    let mut streams = Vec::new();
    for (endpoint, bytes) in &cases {
        for _ in 0..CONNECTIONS {
            streams.push((half_sent(endpoint, bytes).await, endpoint, bytes));
        }
    }
    live.works("half-sent requests are there").await;
    let gone = async {
        for (mut stream, endpoint, bytes) in streams {
            // What the server says before, its settings and pings, is not what matters; nor how it ends.
            let ended = timeout(GONE_AFTER, stream.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "{endpoint}: still open after {:?}", bytes.escape_ascii().to_string());
        }
    };
    timeout(GONE_AFTER, gone).await.expect("all of them within the time of one");
    live.works("half-sent requests are gone").await;
}
