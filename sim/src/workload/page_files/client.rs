//! SGLang's client of a page file's metadata, as far as what it sends and when: one connection, kept alive, and each
//! call tried again up to three times when the connection breaks or the server says that it cannot.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use foreword_meta::state::hf3fs::{FileName, PageIndex};
use foreword_seams::{Endpoint, Entropy, SeededEntropy};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::http::{Connection, Message};
use crate::history::{PageAnswer, PageAsk, PageCall, PageName};
use crate::workload::ClientParts;
use crate::world::context::{self, SimTime};

/// Tries after the first, each after this.
const BACKOFF: [Duration; 3] = [Duration::ZERO, Duration::from_millis(600), Duration::from_millis(1_200)];
/// What SGLang's client tries again for.
const TRIED_AGAIN: [u16; 4] = [500, 502, 503, 504];
/// SGLang's client waits for ever; here a machine that lost its power says nothing, ever, so that a client must give
/// up.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// One engine's connection to the group.
pub struct PageClient {
    number: u32,
    parts: ClientParts,
    random: SeededEntropy,
    /// Where the next connection goes: whatever a balancer says.
    server: usize,
    /// Stays at one server.
    pinned: bool,
    connection: Option<Connection>,
}

/// What came of one request.
enum Tried {
    Answered(PageAnswer),
    /// The connection broke, or could not be made.
    Broken,
    /// Nothing came for a long time.
    Silent,
}

impl PageClient {
    /// A client whose random numbers follow from the seed and its own number.
    pub fn new(number: u32, parts: ClientParts) -> Self {
        let random = SeededEntropy::new(xxh3_64_with_seed(&number.to_le_bytes(), parts.seed));
        let server = random.below(parts.page_servers.len() as u64) as usize;
        Self { number, parts, random, server, pinned: false, connection: None }
    }

    /// A client of one server.
    pub fn pinned(number: u32, parts: ClientParts, server: usize) -> Self {
        Self { server, pinned: true, ..Self::new(number, parts) }
    }

    /// Its own random numbers.
    pub fn random(&self) -> &SeededEntropy {
        &self.random
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What it shares with the other clients.
    pub fn parts(&self) -> &ClientParts {
        &self.parts
    }

    /// Ends its connection, as a process that dies does.
    pub fn disconnect(&mut self) {
        self.connection = None;
        if !self.pinned {
            self.server = self.random.below(self.parts.page_servers.len() as u64) as usize;
        }
    }

    /// Asks, and tries again as SGLang's client does. Answers with the time at which the request that was answered was
    /// sent, too.
    pub async fn call(&mut self, file: &Arc<FileName>, asked: PageAsk) -> (SimTime, PageAnswer) {
        let id = self.parts.history.lock().begin_page_call(self.number, file, &asked);
        let invoked = context::now();
        let (path, body) = request(file, &asked);
        let mut tries = 0;
        let (sent, server, answer) = loop {
            let (sent, server) = (context::now(), self.server);
            let answer = match self.attempt(&path, &body, &asked).await {
                Tried::Answered(PageAnswer::Failed(status, why)) => {
                    if !TRIED_AGAIN.contains(&status) || tries == BACKOFF.len() {
                        break (sent, server, PageAnswer::Failed(status, why));
                    }
                    PageAnswer::Failed(status, why)
                }
                Tried::Answered(answer) => break (sent, server, answer),
                Tried::Silent => {
                    self.disconnect();
                    break (sent, server, PageAnswer::Unknown);
                }
                Tried::Broken => {
                    self.disconnect();
                    PageAnswer::Unknown
                }
            };
            if tries == BACKOFF.len() {
                break (sent, server, answer);
            }
            context::aside(|| format!("#{id} again: {answer}"));
            sleep(BACKOFF[tries]).await;
            tries += 1;
        };
        let returned = context::now();
        let call = PageCall {
            client: self.number,
            server,
            file: file.clone(),
            invoked,
            sent,
            returned,
            asked,
            answer: answer.clone(),
        };
        self.parts.history.lock().end_page_call(id, call);
        (sent, answer)
    }

    async fn attempt(&mut self, path: &str, body: &[u8], asked: &PageAsk) -> Tried {
        let asking = async {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => Connection::new(self.parts.net.connect(&self.parts.page_servers[self.server]).await?),
            };
            let host = match &self.parts.page_servers[self.server] {
                Endpoint::Tcp(address) => address.as_str(),
                Endpoint::Unix(_) => "localhost",
            };
            connection.send(&Message::post(host, path, body)).await?;
            let answer = connection.receive().await?;
            if !answer.closes() {
                self.connection = Some(connection);
            }
            Ok::<_, io::Error>(answer)
        };
        match timeout(ANSWER_WAIT, asking).await {
            Ok(Ok(message)) => Tried::Answered(read_answer(asked, &message)),
            Ok(Err(_)) => Tried::Broken,
            Err(_) => Tried::Silent,
        }
    }
}

fn texts(keys: &[PageName]) -> Vec<&str> {
    keys.iter().map(|key| &*key.text).collect()
}

/// The path and the body of a request.
fn request(file: &FileName, asked: &PageAsk) -> (String, Vec<u8>) {
    let pool = &file.pool;
    let (name, body) = match asked {
        PageAsk::Initialize { pages } => ("initialize", json!({"num_pages": pages, "namespace": pool})),
        PageAsk::Exists { keys } => ("exists", json!({"keys": texts(keys), "namespace": pool})),
        PageAsk::Reserve { keys } => {
            let keys: Vec<(&str, &str)> = keys.iter().map(|key| (&*key.text, "")).collect();
            ("reserve_and_allocate_page_indices", json!({"keys": keys, "namespace": pool}))
        }
        PageAsk::Confirm { written, released } => {
            let written: Vec<(&str, PageIndex)> = written.iter().map(|(key, page)| (&*key.text, *page)).collect();
            let body = json!({"written_keys_to_confirm": written, "pages_to_release": released, "namespace": pool});
            ("confirm_write", body)
        }
        PageAsk::Delete { keys } => ("delete_keys", json!({"keys": texts(keys), "namespace": pool})),
        PageAsk::Clear => ("clear", json!({"namespace": pool})),
        PageAsk::Get { keys } => ("get_page_indices", json!({"keys": texts(keys), "namespace": pool})),
    };
    let deployment = if file.deployment.is_empty() { String::new() } else { format!("/{}", file.deployment) };
    (format!("{deployment}/{}/{name}", file.rank), body.to_string().into_bytes())
}

/// What an answer says; one that is not what the call's answers are is a failure by its own status.
fn read_answer(asked: &PageAsk, message: &Message) -> PageAnswer {
    let status = message.second_word().parse().unwrap_or(0);
    let failed = || PageAnswer::Failed(status, String::from_utf8_lossy(&message.body).into_owned());
    if status == 204 {
        return PageAnswer::Done;
    }
    if status != 200 {
        return failed();
    }
    let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
    let read = match asked {
        PageAsk::Exists { .. } => serde_json::from_value(body["exists"].clone()).ok().map(PageAnswer::Exists),
        PageAsk::Get { .. } => serde_json::from_value(body["indices"].clone()).ok().map(PageAnswer::Indices),
        PageAsk::Reserve { .. } => {
            let pages: Option<Vec<(bool, i64)>> = serde_json::from_value(body["indices"].clone()).ok();
            let page = |(written, page)| (written, PageIndex::try_from(page).ok());
            pages.map(|pages| PageAnswer::Reserved(pages.into_iter().map(page).collect()))
        }
        _ => None,
    };
    read.unwrap_or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_sglangs() {
        let key = PageName::new("p/1");
        let file = FileName { deployment: "llama".into(), rank: 3, pool: "kv".into() };
        let (path, body) = request(&file, &PageAsk::Reserve { keys: vec![key.clone()] });
        assert_eq!(path, "/llama/3/reserve_and_allocate_page_indices");
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({"keys": [["p/1", ""]], "namespace": "kv"}));
        let bare = FileName { deployment: String::new(), ..file };
        let asked = PageAsk::Confirm { written: vec![(key.clone(), 7)], released: vec![2] };
        let (path, body) = request(&bare, &asked);
        assert_eq!(path, "/3/confirm_write");
        let expected = json!({"written_keys_to_confirm": [["p/1", 7]], "pages_to_release": [2], "namespace": "kv"});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        assert_eq!(read_answer(&asked, &Message::answer(None)), PageAnswer::Done);
        let reserve = PageAsk::Reserve { keys: vec![key.clone(); 3] };
        let said = Message::answer(Some(br#"{"indices":[[false,7],[true,3],[false,-1]]}"#));
        let expected = PageAnswer::Reserved(vec![(false, Some(7)), (true, Some(3)), (false, None)]);
        assert_eq!(read_answer(&reserve, &said), expected);
        assert!(matches!(read_answer(&PageAsk::Get { keys: vec![key] }, &said), PageAnswer::Failed(200, _)));
    }
}
