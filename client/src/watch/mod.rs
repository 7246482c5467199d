//! Watch streams: one namespace or many, of one replica, for as long as it says something.

mod cursor;

use std::time::Duration;

use foreword_proto::NamespaceId;
use foreword_proto::wire::meta as wire;
use foreword_seams::rpc::BEAT;
use futures::stream::{self, Stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use wire::watch_request::Kind as Ask;
use wire::watch_response::Kind;

use crate::connection::Replica;

pub use cursor::Cursor;

/// How long a replica may take to answer a watch call with a stream.
const START: Duration = Duration::from_secs(5);
/// Requests that wait for the connection.
const ASKS_WAITING_MAX: usize = 8;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("{0}")]
    Status(#[from] Status),
    #[error("the replica closed the stream")]
    Closed,
    #[error("the replica said nothing for {0:?}")]
    Silent(Duration),
    #[error("kind: expected a known kind of watch message")]
    UnknownKind,
}

impl Ended {
    /// As the failure of a call.
    pub fn status(&self) -> Status {
        match self {
            Self::Status(status) => status.clone(),
            ended => Status::unavailable(ended.to_string()),
        }
    }
}

/// Who watches.
#[derive(Debug, Clone, Copy)]
pub struct Watcher<'a> {
    /// For the replica's log.
    pub node: &'a str,
    /// A replica that hears no quorum and no leader may serve, too.
    pub even_alone: bool,
}

/// A watch stream. It ends when it is dropped.
pub struct WatchStream {
    asks: mpsc::Sender<Ask>,
    messages: Streaming<wire::WatchResponse>,
}

impl WatchStream {
    /// Asks a replica for a stream.
    ///
    /// Errors: the replica's, and that it did not answer in time.
    pub async fn begin(replica: &mut Replica, who: Watcher<'_>) -> Result<Self, Ended> {
        let (asks, asked) = mpsc::channel(ASKS_WAITING_MAX);
        let first = wire::WatchRequest { kind: None, node: who.node.to_owned(), even_alone: who.even_alone };
        let calling = replica.watch(requests(asked, first));
        let began = timeout(START, calling).await.map_err(|_| Ended::Silent(START))?;
        Ok(Self { asks, messages: began?.into_inner() })
    }

    /// The same for one namespace, which a cursor goes on with.
    ///
    /// Errors: as above.
    pub async fn of(replica: &mut Replica, who: Watcher<'_>, cursor: &mut Cursor) -> Result<Self, Ended> {
        let stream = Self::begin(replica, who).await?;
        let open = Ask::Open(cursor.open());
        stream.asks.try_send(open).expect("a stream that has just begun has room for its first request");
        Ok(stream)
    }

    /// What is sent here is asked of the replica; nobody else needs to keep the stream alive.
    pub fn asks(&self) -> mpsc::Sender<Ask> {
        self.asks.clone()
    }

    /// The next message, and the namespace it is of (0: of all).
    ///
    /// Errors: how the stream ended.
    pub async fn next(&mut self) -> Result<(NamespaceId, Kind), Ended> {
        let message = self.messages.message().await?.ok_or(Ended::Closed)?;
        let kind = message.kind.ok_or(Ended::UnknownKind)?;
        Ok((message.namespace_id, kind))
    }

    /// The next message of a replica that may be silent for so long.
    ///
    /// Errors: how the stream ended.
    pub async fn next_within(&mut self, silence: Duration) -> Result<(NamespaceId, Kind), Ended> {
        timeout(silence, self.next()).await.unwrap_or(Err(Ended::Silent(silence)))
    }
}

/// What is asked, in order, with a word of nothing whenever that is due. It ends when nobody can ask any more. `first`
/// is what the first request says beside what it asks.
fn requests(
    asked: mpsc::Receiver<Ask>,
    first: wire::WatchRequest,
) -> impl Stream<Item = wire::WatchRequest> + Send + 'static {
    stream::unfold((asked, first), |(mut asked, said)| async move {
        let kind = match timeout(BEAT, asked.recv()).await {
            Ok(None) => return None,
            Ok(ask) => ask,
            Err(_) => None,
        };
        Some((wire::WatchRequest { kind, ..said }, (asked, wire::WatchRequest::default())))
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_go_on_until_nobody_can_ask() {
        let (asks, asked) = mpsc::channel(ASKS_WAITING_MAX);
        let said = wire::WatchRequest { kind: None, node: "me".to_owned(), even_alone: true };
        let mut requests = Box::pin(requests(asked, said));
        let need = Ask::Need(wire::WatchNeed { revision: 7 });
        asks.send(need.clone()).await.unwrap();
        let first = requests.next().await.unwrap();
        assert_eq!((first.kind, first.node.as_str(), first.even_alone), (Some(need), "me", true));
        let beat = requests.next().await.unwrap();
        assert_eq!((beat.kind, beat.node.as_str()), (None, ""), "a word, and the name only once");
        drop(asks);
        assert!(requests.next().await.is_none());
    }
}
