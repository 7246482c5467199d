//! What engines that write and read page files themselves asked the group, and what they found in the pages.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use foreword_meta::state::hf3fs::{FileName, PageIndex};
use foreword_proto::EntryKey;

use super::{History, Outcome};
use crate::workload::FINAL_READER;
use crate::world::context::{self, Kind, SimTime};

/// A key as an engine names it, and as the group's state does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageName {
    pub text: Arc<str>,
    pub entry: EntryKey,
}

impl PageName {
    /// The key of this text.
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), entry: EntryKey::named(text.as_bytes()) }
    }
}

/// One answered call about a page file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCall {
    pub client: u32,
    /// The replica that answered, by its place in the clients' list.
    pub server: usize,
    pub file: Arc<FileName>,
    /// The first request of the call was sent.
    pub invoked: SimTime,
    /// The request that was answered was sent.
    pub sent: SimTime,
    pub returned: SimTime,
    pub asked: PageAsk,
    pub answer: PageAnswer,
}

impl PageCall {
    /// One of the questions after the world has healed.
    pub fn is_final(&self) -> bool {
        self.client == FINAL_READER
    }
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageAsk {
    Initialize { pages: u32 },
    Exists { keys: Vec<PageName> },
    Reserve { keys: Vec<PageName> },
    Confirm { written: Vec<(PageName, PageIndex)>, released: Vec<PageIndex> },
    Delete { keys: Vec<PageName> },
    Clear,
    Get { keys: Vec<PageName> },
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageAnswer {
    /// No answer came: it may have happened, and may still.
    Unknown,
    /// An error: its status and its words.
    Failed(u16, String),
    Done,
    Exists(Vec<bool>),
    /// One a key: whether the page is written, and which it is; None: no page.
    Reserved(Vec<(bool, Option<PageIndex>)>),
    Indices(Vec<Option<PageIndex>>),
}

/// A reader found something else than the page that it was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongPage {
    pub client: u32,
    pub file: Arc<FileName>,
    pub page: PageIndex,
    pub key: PageName,
    /// The request that told of the page was sent.
    pub sent: SimTime,
    pub read: SimTime,
    pub found: String,
}

/// Everything about page files in a history.
#[derive(Debug, Default)]
pub struct PageHistory {
    /// Answered calls, in the order of their answers.
    pub calls: Vec<PageCall>,
    /// Pages that readers read whole.
    pub reads: u64,
    pub wrong: Vec<WrongPage>,
    /// Whether a fresh batch could be written to each page file after the world had healed.
    pub probed: Option<Result<(), String>>,
    /// Answered reserves that were tried more than once.
    pub reserves_retried: u64,
    /// Pages that were given to a writer while another writes them for the same key.
    pub reservations_shared: u64,
    /// Pages that were given and of which no confirm is known: to whom, by file.
    pub(crate) writing: BTreeMap<(Arc<FileName>, PageIndex), (EntryKey, u32)>,
}

impl PageHistory {
    /// Counts what a call shows of rare paths.
    fn count(&mut self, call: &PageCall) {
        match (&call.asked, &call.answer) {
            (PageAsk::Reserve { keys }, PageAnswer::Reserved(pages)) => {
                self.reserves_retried += u64::from(call.sent > call.invoked);
                let mine = keys.iter().zip(pages).filter(|(_, (written, _))| !written);
                for (key, page) in mine.filter_map(|(key, (_, page))| Some((key, (*page)?))) {
                    let was = self.writing.insert((call.file.clone(), page), (key.entry, call.client));
                    let shared = was.is_some_and(|(of, by)| of == key.entry && by != call.client);
                    self.reservations_shared += u64::from(shared);
                }
            }
            (PageAsk::Confirm { written, released }, PageAnswer::Done) => {
                for page in written.iter().map(|(_, page)| page).chain(released) {
                    self.writing.remove(&(call.file.clone(), *page));
                }
            }
            _ => {}
        }
    }
}

impl History {
    /// A call about a page file begins.
    pub fn begin_page_call(&mut self, client: u32, file: &FileName, asked: &PageAsk) -> u64 {
        self.begun += 1;
        self.totals.attempted += 1;
        context::event(Kind::Client, || format!("#{} client {client} {} {asked}", self.begun, Shown(file)));
        self.begun
    }

    /// It is over.
    pub fn end_page_call(&mut self, id: u64, call: PageCall) {
        context::event(Kind::Client, || format!("#{id} -> {} from server {}", call.answer, call.server));
        match &call.answer {
            PageAnswer::Unknown => return self.totals.result(&Outcome::Unknown),
            PageAnswer::Failed(status, _) => {
                *self.totals.misses.entry(format!("page file: {status}")).or_default() += 1;
                self.totals.failed += 1;
            }
            _ => self.totals.acknowledged += 1,
        }
        self.page_files.count(&call);
        self.page_files.calls.push(call);
    }

    /// A reader read a whole page.
    pub fn page_was_read(&mut self) {
        self.page_files.reads += 1;
    }

    /// A reader found something else.
    pub fn page_was_wrong(&mut self, wrong: WrongPage) {
        context::event(Kind::Client, || {
            let WrongPage { client, file, page, key, found, .. } = &wrong;
            format!("client {client} reads page {page} of {} for {}: {found}", Shown(file), key.text)
        });
        self.totals.wrong += 1;
        self.page_files.wrong.push(wrong);
    }
}

/// A page file as a line shows it.
pub struct Shown<'a>(pub &'a FileName);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.0.deployment, self.0.rank, self.0.pool)
    }
}

/// "12 keys p3/0..p3/11"
struct Names<'a>(&'a [PageName]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no keys"),
            [key] => write!(f, "key {}", key.text),
            [first, .., last] => write!(f, "{} keys {}..{}", self.0.len(), first.text, last.text),
        }
    }
}

impl fmt::Display for PageAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialize { pages } => write!(f, "initialize {pages} pages"),
            Self::Exists { keys } => write!(f, "exists {}", Names(keys)),
            Self::Reserve { keys } => write!(f, "reserve {}", Names(keys)),
            Self::Confirm { written, released } => {
                f.write_str("confirm")?;
                written.iter().try_for_each(|(key, page)| write!(f, " {}={page}", key.text))?;
                write!(f, " release {released:?}")
            }
            Self::Delete { keys } => write!(f, "delete {}", Names(keys)),
            Self::Clear => f.write_str("clear pages"),
            Self::Get { keys } => write!(f, "get pages of {}", Names(keys)),
        }
    }
}

impl fmt::Display for PageAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Failed(status, why) => write!(f, "failed: {status} {why}"),
            Self::Done => f.write_str("done"),
            Self::Exists(found) => found.iter().try_for_each(|there| f.write_str(if *there { "+" } else { "-" })),
            Self::Reserved(pages) => pages.iter().try_for_each(|(written, page)| match (written, page) {
                (true, Some(page)) => write!(f, "={page} "),
                (false, Some(page)) => write!(f, "{page} "),
                (_, None) => f.write_str("none "),
            }),
            Self::Indices(pages) => pages.iter().try_for_each(|page| match page {
                Some(page) => write!(f, "{page} "),
                None => f.write_str("- "),
            }),
        }
    }
}
