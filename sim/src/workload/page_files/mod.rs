//! Engines that keep their pages in page files of their own, as SGLang's hf3fs backend does: the group only tells them
//! which page of a file a key has. What protects a page is time and ownership, so the times are here.

mod bytes;
mod client;
mod engine;
mod finish;
pub mod http;

use std::sync::Arc;

use foreword_meta::state::hf3fs::FileName;

pub use bytes::PageBytes;
pub use client::PageClient;
pub use engine::PageEngine;
pub use finish::finish;

use crate::history::PageName;
use crate::world::context::SimTime;

/// No page is given to another writer for so long after a reader was told of it, and a reservation of which nothing is
/// heard ends.
pub const PROTECTION_MS: u64 = 1_500;
pub const RESERVATION_MS: u64 = 2_000;
/// Of a time that a replica measures, what has passed everywhere when it says that all of it has: clocks drift by up to
/// 2%, and know whole quanta.
const SURE_PERCENT: u64 = 97;

/// Pages of the longest batch, and of a prompt.
const BATCH_MAX: u64 = 32;
const PROMPT_PAGES: u64 = 48;

/// A page file of the load.
#[derive(Debug, Clone)]
pub struct PageFile {
    /// Its place among the files.
    pub number: usize,
    pub name: Arc<FileName>,
    pub pages: u32,
    /// Prompts that its engines know: several times as many pages as the file has.
    pub prompts: u64,
}

/// The page files of the load: so few pages that something is evicted all the time.
pub fn page_files() -> Vec<PageFile> {
    let files = [("", 0, "kv", 64, 5), ("llama-70b", 0, "kv", 128, 8), ("llama-70b", 1, "indexer", 320, 20)];
    let file = |(number, (deployment, rank, pool, pages, prompts)): (usize, (&str, i64, &str, u32, u64))| PageFile {
        number,
        name: Arc::new(FileName { deployment: deployment.into(), rank, pool: pool.into() }),
        pages,
        prompts,
    };
    files.into_iter().enumerate().map(file).collect()
}

/// When something that a replica promised for `promised_ms`, when it was asked at `sent` or later, may have ended.
pub fn surely_until(sent: SimTime, promised_ms: u64) -> SimTime {
    SimTime(sent.nanos() + promised_ms * 1_000_000 / 100 * SURE_PERCENT)
}

/// The key of a page of a prompt.
pub fn page_name(prompt: u64, page: u64) -> PageName {
    PageName::new(&format!("p{prompt}/{page}"))
}
