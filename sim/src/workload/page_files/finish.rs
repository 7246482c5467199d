//! After the world has healed: each page file takes a fresh batch, and every replica is asked what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::PageClient;
use super::{PageFile, page_files};
use crate::history::{PageAnswer, PageAsk, PageName};
use crate::workload::{ClientParts, FINAL_READER, PROBER};

/// Pages of the batch, and keys of one question.
const PROBE_KEYS: u64 = 8;
const EXISTS_KEYS: usize = 64;
/// Tries of a question, and the pause between two tries of anything.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);
/// In this time every replica has applied what was committed before, and the checks have seen it.
const APPLIED: Duration = Duration::from_millis(600);

/// Writes a fresh batch to each page file, trying again for as long as `within`; then asks every replica for every key
/// whose confirm was ever acknowledged.
pub async fn finish(parts: ClientParts, within: Duration) {
    let mut probed = Ok(());
    let mut prober = PageClient::new(PROBER, parts.clone());
    for file in page_files() {
        let deadline = Instant::now() + within;
        let mut attempt = 0;
        while let Err(what) = probe(&mut prober, &file, attempt).await {
            attempt += 1;
            if Instant::now() >= deadline {
                probed = probed.and(Err(format!("{:?}, after {attempt} tries: {what}", file.name)));
                break;
            }
            sleep(PAUSE).await;
        }
    }
    parts.history.lock().page_files.probed = Some(probed);
    sleep(APPLIED).await;
    for (file, keys) in confirmed(&parts) {
        let file = &page_files()[file];
        for server in 0..parts.page_servers.len() {
            let mut client = PageClient::pinned(FINAL_READER, parts.clone(), server);
            for keys in keys.chunks(EXISTS_KEYS) {
                ask(&mut client, file, keys).await;
            }
        }
    }
}

/// Keys whose confirm was acknowledged, by the place of their file.
fn confirmed(parts: &ClientParts) -> BTreeMap<usize, Vec<PageName>> {
    let files = page_files();
    let history = parts.history.lock();
    let mut keys: BTreeMap<usize, BTreeSet<PageName>> = BTreeMap::new();
    for call in &history.page_files.calls {
        if let (PageAsk::Confirm { written, .. }, PageAnswer::Done) = (&call.asked, &call.answer)
            && let Some(file) = files.iter().find(|file| file.name == call.file)
        {
            keys.entry(file.number).or_default().extend(written.iter().map(|(key, _)| key.clone()));
        }
    }
    keys.into_iter().map(|(file, keys)| (file, keys.into_iter().collect())).collect()
}

async fn ask(client: &mut PageClient, file: &PageFile, keys: &[PageName]) {
    for _ in 0..TRIES {
        let (_, answer) = client.call(&file.name, PageAsk::Exists { keys: keys.to_vec() }).await;
        if matches!(answer, PageAnswer::Exists(_)) {
            return;
        }
        sleep(PAUSE).await;
    }
}

async fn probe(client: &mut PageClient, file: &PageFile, attempt: u32) -> Result<(), String> {
    let done = |answer: PageAnswer| match answer {
        PageAnswer::Done => Ok(()),
        other => Err(other.to_string()),
    };
    done(client.call(&file.name, PageAsk::Initialize { pages: file.pages }).await.1)?;
    let keys: Vec<PageName> = (0..PROBE_KEYS).map(|page| PageName::new(&format!("probe{attempt}/{page}"))).collect();
    let (_, answer) = client.call(&file.name, PageAsk::Reserve { keys: keys.clone() }).await;
    let PageAnswer::Reserved(pages) = &answer else { return Err(answer.to_string()) };
    let written = keys.iter().zip(pages).filter_map(|(key, (_, page))| Some((key.clone(), (*page)?)));
    let written: Vec<_> = written.collect();
    let got = written.len();
    if !written.is_empty() {
        done(client.call(&file.name, PageAsk::Confirm { written, released: Vec::new() }).await.1)?;
    }
    if got < keys.len() { Err(format!("{got} pages for {} keys: {answer}", keys.len())) } else { Ok(()) }
}
