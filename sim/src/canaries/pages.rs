//! Men in the middle between engines of page files and the replicas that they ask over HTTP.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foreword_seams::{Endpoint, Incoming, Net, Stream};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;

use crate::cluster::PAGES_PORT;
use crate::workload::page_files::http::{Connection, Message};
use crate::world::context::{self, SimTime};

/// Bytes on their way between an engine and its man in the middle.
const PIPE_BYTES: usize = 64 << 10;
/// An answer is old after this.
const OLD: Duration = Duration::from_secs(2);

/// What becomes of an answer, given the question.
type Change = Box<dyn Fn(&Message, Message) -> Message + Send + Sync>;
/// An answer that is given without asking. None: the server is asked.
type Early = Box<dyn Fn(&Message) -> Option<Message> + Send + Sync>;

/// Lies about calls of page files.
pub(super) struct Liar {
    early: Early,
    change: Change,
}

/// A network with a liar in each connection to a replica's HTTP of page files.
pub(super) struct LyingNet {
    pub(super) inner: Arc<dyn Net>,
    pub(super) liar: Arc<Liar>,
}

impl Net for LyingNet {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        let connecting = self.inner.connect(endpoint);
        if !endpoint.to_string().ends_with(&format!(":{PAGES_PORT}")) {
            return connecting;
        }
        let liar = self.liar.clone();
        Box::pin(async move {
            let onward = Connection::new(connecting.await?);
            let (here, there) = tokio::io::duplex(PIPE_BYTES);
            tokio::spawn(pass(Connection::new(Stream::new(there)), onward, liar));
            Ok(Stream::new(here))
        })
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        self.inner.listen(endpoint)
    }
}

/// Passes messages on until either side ends.
async fn pass(mut engine: Connection, mut server: Connection, liar: Arc<Liar>) -> io::Result<()> {
    loop {
        let asked = engine.receive().await?;
        let answer = match (liar.early)(&asked) {
            Some(answer) => answer,
            None => {
                server.send(&asked).await?;
                let answer = server.receive().await?;
                (liar.change)(&asked, answer)
            }
        };
        engine.send(&answer).await?;
    }
}

/// Gets that find no page are answered with the one that the key had some time ago.
pub(super) fn old_pages() -> Liar {
    let told: Mutex<BTreeMap<String, (SimTime, Value)>> = Mutex::default();
    let change = move |asked: &Message, answer: Message| {
        if !asked.second_word().ends_with("/get_page_indices") || answer.second_word() != "200" {
            return answer;
        }
        let read = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap_or_default();
        let (asks, mut says) = (read(&asked.body), read(&answer.body));
        let (Some(keys), Some(pages)) = (asks["keys"].as_array(), says["indices"].as_array_mut()) else {
            return answer;
        };
        let (now, mut told) = (context::now(), told.lock());
        for (key, page) in keys.iter().zip(pages) {
            let name = format!("{} {} {key}", asked.second_word(), asks["namespace"]);
            match (page.is_null(), told.get(&name)) {
                (true, Some((at, old))) if *at + OLD < now => *page = old.clone(),
                (true, _) => {}
                (false, _) => drop(told.insert(name, (now, page.clone()))),
            }
        }
        Message::answer(Some(says.to_string().as_bytes()))
    };
    Liar { early: Box::new(|_| None), change: Box::new(change) }
}

/// One in so many confirms is answered and goes nowhere.
pub(super) fn swallow_confirms(every: u64) -> Liar {
    let count = AtomicU64::new(0);
    let early = move |asked: &Message| {
        let confirms = asked.second_word().ends_with("/confirm_write");
        let now = confirms && count.fetch_add(1, Ordering::Relaxed) % every == every - 1;
        now.then(|| Message::answer(None))
    };
    Liar { early: Box::new(early), change: Box::new(|_, answer| answer) }
}
