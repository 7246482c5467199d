//! An engine of page files: asks which pages its prompt has, reads them, computes the others, reserves pages for them,
//! writes them and says so. Some engines die in the middle, some are late.

use std::time::Duration;

use foreword_meta::state::hf3fs::PageIndex;
use foreword_seams::Entropy;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::bytes::PIECES;
use super::client::PageClient;
use super::{BATCH_MAX, PROMPT_PAGES, PROTECTION_MS, PageBytes, PageFile, RESERVATION_MS, page_name, surely_until};
use crate::history::{PageAnswer, PageAsk, PageName, WrongPage};
use crate::workload::{ClientParts, stopped};
use crate::world::context::{self, SimTime};

/// Between two steps.
const THINK_MS: (u64, u64) = (10, 160);
/// Steps in a file that is not the engine's own.
const AWAY_PERCENT: u64 = 25;
/// Steps with one of the few prompts that everybody asks for.
const HOT_PERCENT: u64 = 50;
const HOT_PROMPTS: u64 = 2;
/// Gets after an `exists`, as SGLang asks first.
const EXISTS_PERCENT: u64 = 40;
/// Readers that begin when their protection is nearly over.
const SLOW_READER_PERCENT: u64 = 25;
const SLOW_READER_LEFT_MS: u64 = 120;
/// Of writers: those that die, those that confirm when their reservation has ended, and pages whose write fails.
const DIES_PERCENT: u64 = 6;
const LATE_PERCENT: u64 = 6;
const UNWRITTEN_PERCENT: u64 = 3;
/// Writers whose writes take long.
const SLOW_WRITER_PERCENT: u64 = 12;
/// Steps that delete some of the prompt's keys; of a thousand, those that clear the file.
const DELETE_PERCENT: u64 = 4;
const CLEAR_PER_MILLE: u64 = 4;

/// One engine.
pub struct PageEngine {
    client: PageClient,
    files: Vec<PageFile>,
    bytes: PageBytes,
    /// Whose rank it is.
    home: usize,
    writes: u64,
}

/// What will become of a batch of writes, drawn ahead of it.
#[derive(Debug, Clone, Copy)]
struct Writing {
    /// It stops before this page.
    dies_at: Option<u64>,
    /// The confirm comes so long after the last write.
    late: Duration,
    page_ms_max: u64,
}

impl PageEngine {
    /// An engine of this number.
    pub fn new(number: u32, parts: ClientParts, files: Vec<PageFile>, bytes: PageBytes) -> Self {
        let home = number as usize % files.len();
        Self { client: PageClient::new(number, parts), files, bytes, home, writes: 0 }
    }

    /// Steps until it is told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        for file in self.files.clone() {
            self.initialize(&file).await;
        }
        loop {
            let think = Duration::from_millis(THINK_MS.0 + self.below(THINK_MS.1 - THINK_MS.0));
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = sleep(think) => {}
            }
            // One that is told to stop in the middle leaves what it reserved, as one that is killed does.
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return,
                () = self.step() => {}
            }
        }
    }

    fn below(&self, below: u64) -> u64 {
        self.client.random().below(below)
    }

    fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    async fn initialize(&mut self, file: &PageFile) {
        self.client.call(&file.name, PageAsk::Initialize { pages: file.pages }).await;
    }

    /// One prompt's pages. The draws come first: what the cluster answers changes nothing of what is asked next.
    async fn step(&mut self) {
        let at = if self.percent(AWAY_PERCENT) { self.below(self.files.len() as u64) as usize } else { self.home };
        let file = self.files[at].clone();
        let prompt = self.below(if self.percent(HOT_PERCENT) { HOT_PROMPTS } else { file.prompts });
        let length = 1 + self.below(BATCH_MAX);
        let first = self.below(PROMPT_PAGES - length + 1);
        let keys: Vec<PageName> = (first..first + length).map(|page| page_name(prompt, page)).collect();
        let (asks_first, slow) = (self.percent(EXISTS_PERCENT), self.percent(SLOW_READER_PERCENT));
        let writing = self.writing(length);
        let (deletes, clears) = (self.percent(DELETE_PERCENT), self.below(1_000) < CLEAR_PER_MILLE);

        if asks_first {
            self.client.call(&file.name, PageAsk::Exists { keys: keys.clone() }).await;
        }
        let Some(hits) = self.get(&file, &keys, slow).await else { return };
        {
            let totals = &mut self.client.parts().history.lock().totals;
            totals.keys_asked += keys.len() as u64;
            totals.keys_hit += hits as u64;
        }
        if hits < keys.len() {
            self.put(&file, &keys[hits..], writing).await;
        }
        if deletes {
            let some = keys[..keys.len().min(4)].to_vec();
            self.client.call(&file.name, PageAsk::Delete { keys: some }).await;
        }
        if clears {
            self.client.call(&file.name, PageAsk::Clear).await;
        }
    }

    fn writing(&self, length: u64) -> Writing {
        let (dies, late, slow) =
            (self.percent(DIES_PERCENT), self.percent(LATE_PERCENT), self.percent(SLOW_WRITER_PERCENT));
        let (dies_at, late_ms) = (self.below(length + 1), 200 + self.below(3 * RESERVATION_MS));
        Writing {
            dies_at: dies.then_some(dies_at),
            late: Duration::from_millis(if late { late_ms } else { 0 }),
            page_ms_max: if slow { 300 } else { 30 },
        }
    }

    /// The leading keys whose pages were read. None: the group did not say.
    async fn get(&mut self, file: &PageFile, keys: &[PageName], slow: bool) -> Option<usize> {
        let (sent, answer) = self.client.call(&file.name, PageAsk::Get { keys: keys.to_vec() }).await;
        let pages = match answer {
            PageAnswer::Indices(pages) => pages,
            PageAnswer::Failed(404, _) => {
                self.initialize(file).await;
                return None;
            }
            _ => return None,
        };
        let until = surely_until(sent, PROTECTION_MS);
        if slow {
            let left = Duration::from_nanos(until.nanos().saturating_sub(context::now().nanos()));
            sleep(left.saturating_sub(Duration::from_millis(SLOW_READER_LEFT_MS))).await;
        }
        let mut hits = 0;
        // SGLang's client shifts what follows a hole: it is given a prefix, and reads no further.
        for (key, page) in keys.iter().zip(pages).map_while(|(key, page)| Some((key, page?))) {
            let told = Told { sent, until, slow };
            if !self.read(file, key, page, told).await {
                break;
            }
            hits += 1;
        }
        Some(hits)
    }

    /// Reads a page piece by piece, as long as it is surely protected.
    async fn read(&mut self, file: &PageFile, key: &PageName, page: PageIndex, told: Told) -> bool {
        let piece_ms = self.below(if told.slow { 2 } else { 8 });
        for piece in 0..PIECES {
            if piece_ms > 0 {
                sleep(Duration::from_millis(piece_ms)).await;
            }
            let read = context::now();
            if read > told.until {
                return false;
            }
            if let Err(found) = self.bytes.read(file.number, page, piece, key) {
                let (client, file, key) = (self.client.number(), file.name.clone(), key.clone());
                let wrong = WrongPage { client, file, page, key, sent: told.sent, read, found };
                self.client.parts().history.lock().page_was_wrong(wrong);
                return false;
            }
        }
        self.client.parts().history.lock().page_was_read();
        true
    }

    async fn put(&mut self, file: &PageFile, keys: &[PageName], writing: Writing) {
        let (sent, answer) = self.client.call(&file.name, PageAsk::Reserve { keys: keys.to_vec() }).await;
        let pages = match answer {
            PageAnswer::Reserved(pages) if pages.len() == keys.len() => pages,
            PageAnswer::Failed(404, _) => return self.initialize(file).await,
            _ => return,
        };
        let mine = keys.iter().zip(pages).filter_map(|(key, (written, page))| match (written, page) {
            (false, Some(page)) => Some((key.clone(), page)),
            _ => None,
        });
        let (mut written, mut released) = (Vec::new(), Vec::new());
        for (at, (key, page)) in mine.enumerate() {
            if writing.dies_at.is_some_and(|dies_at| dies_at <= at as u64) {
                // In the middle of the page.
                self.write(file, &key, page, (sent, writing.page_ms_max, PIECES / 2)).await;
                return self.die().await;
            }
            let fails = self.percent(UNWRITTEN_PERCENT);
            let pieces = if fails { 1 } else { PIECES };
            if self.write(file, &key, page, (sent, writing.page_ms_max, pieces)).await && !fails {
                written.push((key, page));
            } else {
                released.push(page);
            }
        }
        if written.is_empty() && released.is_empty() {
            return;
        }
        if writing.dies_at.is_some() {
            return self.die().await;
        }
        sleep(writing.late).await;
        self.client.call(&file.name, PageAsk::Confirm { written, released }).await;
    }

    /// Writes the first pieces of a page, as long as nothing can have been given to another since `sent`.
    async fn write(
        &mut self,
        file: &PageFile,
        key: &PageName,
        page: PageIndex,
        (sent, ms_max, pieces): (SimTime, u64, usize),
    ) -> bool {
        self.writes += 1;
        let nonce = u64::from(self.client.number()) << 32 | self.writes;
        let piece_us = self.below(ms_max * 1_000) / PIECES as u64;
        let until = surely_until(sent, PROTECTION_MS);
        for piece in 0..pieces {
            sleep(Duration::from_micros(piece_us)).await;
            if context::now() > until {
                return false;
            }
            self.bytes.write(file.number, page, piece, key, nonce);
        }
        true
    }

    /// The process is gone, and another comes.
    async fn die(&mut self) {
        context::event(context::Kind::Client, || format!("client {} dies", self.client.number()));
        self.client.disconnect();
        let begun = Instant::now();
        sleep(Duration::from_millis(100 + self.below(900))).await;
        for file in self.files.clone() {
            self.initialize(&file).await;
        }
        let took = begun.elapsed();
        context::aside(|| format!("client {} is back after {took:?}", self.client.number()));
    }
}

/// What a reader was promised.
#[derive(Debug, Clone, Copy)]
struct Told {
    sent: SimTime,
    until: SimTime,
    slow: bool,
}
