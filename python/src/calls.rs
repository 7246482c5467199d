//! The calls of one namespace: over whatever line it is open on, with one deadline each, in as many pieces as the
//! transport needs. What fails is a miss, and is told by [`Calls::error`].

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_proto::wire::common;
use foreword_proto::{Fingerprint, Namespace, PageKey};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::counters::{Counters, Seconds, Sum};
use crate::fork::PerProcess;
use crate::keys::Keys;
use crate::link::{Link, Opened, Opening};
use crate::places::Places;
use crate::transport::{Failure, Freshness, Outcome, Shards};

/// How long a call waits for a namespace that its agent had closed for lack of use: opening it again is cheap.
const REOPEN_WAIT: Duration = Duration::from_secs(1);

/// What a failure was about: the next success of any kind ends it.
#[derive(Clone, Copy)]
enum Kind {
    Lookup,
    Get,
    Put,
}

/// One namespace of a connection.
pub(crate) struct Calls {
    link: Arc<Link>,
    namespace: Namespace,
    message: common::Namespace,
    here: PerProcess<Arc<Here>>,
    closed: AtomicBool,
    pub(crate) counters: Counters,
}

/// One process's part: locks are not inherited.
struct Here {
    /// None: the connection was closed first.
    opening: Option<Arc<Opening>>,
    /// Why the last call of each kind failed, if it did.
    failed: Mutex<[Option<String>; 3]>,
}

impl Calls {
    /// Begins to open it, and waits for nothing.
    pub(crate) fn open(link: Arc<Link>, namespace: Namespace) -> Self {
        let message = common::Namespace::from(&namespace);
        let (here, closed, counters) = (PerProcess::new(), AtomicBool::new(false), Counters::default());
        let calls = Self { link, namespace, message, here, closed, counters };
        calls.here();
        calls
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.namespace.fingerprint()
    }

    pub(crate) fn page_tokens(&self) -> u32 {
        self.namespace.page_tokens
    }

    /// It, where it is open.
    pub(crate) fn opened(&self) -> Option<Arc<Opened>> {
        self.here().opening.as_ref()?.current()
    }

    /// Why it is not open, or else why the last call of some kind failed.
    pub(crate) fn error(&self) -> Option<String> {
        let here = self.here();
        let Some(opening) = &here.opening else { return Some("the connection is closed".to_owned()) };
        opening.error().or_else(|| here.failed.lock().iter().flatten().next().cloned())
    }

    /// Waits until it is open; false if it is not by then.
    pub(crate) fn wait_open(&self, time: Duration) -> bool {
        self.here().opening.as_ref().is_some_and(|opening| opening.wait(time).is_some())
    }

    /// Leading pages that the agent could deliver now; 0 when it cannot be told.
    pub(crate) fn lookup(&self, keys: &Keys, fresh: Freshness, timeout: Duration) -> u32 {
        let timed = Timed::start(&self.counters.lookups, &self.counters.lookup_seconds);
        self.counters.lookup_keys.add(keys.len());
        let (deadline, mut pages) = (timed.began + timeout, 0);
        if keys.len() == 0 {
            return 0;
        }
        self.over(Kind::Lookup, deadline, |opened| {
            let transport = opened.transport();
            for range in pieces(pages as usize, keys.len(), transport.keys_max()) {
                let asked = range.len() as u32;
                let found = transport.lookup(opened.id, &keys.range(range), fresh, deadline)?.min(asked);
                pages += found;
                if found < asked {
                    break;
                }
            }
            Ok(())
        });
        self.counters.lookup_pages.add(pages as usize);
        pages
    }

    /// Where each page is; 0 when it cannot be told.
    pub(crate) fn locate(&self, keys: &Keys, timeout: Duration) -> Vec<u8> {
        let timed = Timed::start(&self.counters.lookups, &self.counters.lookup_seconds);
        self.counters.lookup_keys.add(keys.len());
        let (deadline, mut tiers) = (timed.began + timeout, Vec::with_capacity(keys.len()));
        self.over(Kind::Lookup, deadline, |opened| {
            let transport = opened.transport();
            for range in pieces(tiers.len(), keys.len(), transport.keys_max()) {
                tiers.extend(transport.locate(opened.id, &keys.range(range), deadline)?);
            }
            Ok(())
        });
        tiers.resize(keys.len(), 0);
        tiers
    }

    /// Copies pages of a shard to their places; which are there whole, one answer a key.
    pub(crate) fn get(
        &self,
        keys: &Keys,
        shard: u32,
        places: &Places,
        every_key: bool,
        timeout: Duration,
    ) -> Vec<bool> {
        let timed = Timed::start(&self.counters.gets, &self.counters.get_seconds);
        let (deadline, mut hits, mut next) = (timed.began + timeout, vec![false; keys.len()], 0);
        let shard_bytes = self.fitting(Kind::Get, keys, shard, places, true);
        if let Some(shard_bytes) = shard_bytes.filter(|_| keys.len() > 0) {
            self.over(Kind::Get, deadline, |opened| {
                let transport = opened.transport();
                for range in pieces(next, keys.len(), transport.keys_max()) {
                    let (keys, hits) = (keys.range(range.clone()), &mut hits[range.clone()]);
                    hits.fill(false);
                    let shards = Shards { shard, shard_bytes, keys: &keys, places, first: range.start };
                    transport.get(opened.id, shards, every_key, deadline, hits)?;
                    next = range.end;
                    if !every_key && hits.contains(&false) {
                        break;
                    }
                }
                Ok(())
            });
        }
        if !every_key && let Some(miss) = hits.iter().position(|hit| !hit) {
            hits[miss..].fill(false);
        }
        let count = hits.iter().filter(|hit| **hit).count();
        self.counters.hits.add(count);
        self.counters.misses.add(hits.len() - count);
        self.counters.bytes_got.add(count * shard_bytes.unwrap_or(0));
        hits
    }

    /// Offers pages of a shard, and sends those that are wanted; what became of each.
    pub(crate) fn put(
        &self,
        keys: &Keys,
        shard: u32,
        places: &Places,
        parent: Option<PageKey>,
        wait_published: bool,
        timeout: Duration,
    ) -> Vec<Outcome> {
        let timed = Timed::start(&self.counters.puts, &self.counters.put_seconds);
        let (deadline, mut outcomes, mut next) = (timed.began + timeout, vec![Outcome::Failed; keys.len()], 0);
        let mut refused = None;
        let shard_bytes = self.fitting(Kind::Put, keys, shard, places, false);
        if let Some(shard_bytes) = shard_bytes.filter(|_| keys.len() > 0) {
            self.over(Kind::Put, deadline, |opened| {
                let transport = opened.transport();
                for range in pieces(next, keys.len(), transport.keys_max()) {
                    let parent = range.start.checked_sub(1).map(|before| keys.key(before)).or(parent);
                    let (keys, outcomes) = (keys.range(range.clone()), &mut outcomes[range.clone()]);
                    let shards = Shards { shard, shard_bytes, keys: &keys, places, first: range.start };
                    let why = transport.put(opened.id, shards, parent, wait_published, deadline, outcomes)?;
                    refused = refused.take().or(why);
                    next = range.end;
                }
                Ok(())
            });
        }
        if let Some(why) = refused {
            self.here().failed.lock()[Kind::Put as usize] = Some(format!("the agent refused pages: {why}"));
        }
        let count = |those: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| those(outcome)).count();
        let sent = count(|outcome| matches!(outcome, Outcome::Taken | Outcome::Published));
        let put = sent + count(|outcome| *outcome == Outcome::Exists);
        self.counters.pages_put.add(put);
        self.counters.pages_not_put.add(outcomes.len() - put);
        self.counters.bytes_put.add(sent * shard_bytes.unwrap_or(0));
        outcomes
    }

    /// Takes all pages out of the index, for every agent; the revision. The error is for people.
    pub(crate) fn clear(&self, timeout: Duration) -> Result<u64, String> {
        let opened = self.opened().ok_or_else(|| self.error().unwrap_or_else(|| "not open yet".to_owned()))?;
        self.link.clear(&opened, Instant::now() + timeout)
    }

    /// Ends it here, and tells the agent in the background.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(opening) = self.here.peek().and_then(|here| here.opening.clone()) {
            opening.end();
        }
    }

    fn here(&self) -> Arc<Here> {
        self.here.get(|| {
            let opening = self.link.open(&self.message).ok();
            if let Some(opening) = opening.as_ref().filter(|_| self.closed.load(Ordering::Relaxed)) {
                opening.end();
            }
            Arc::new(Here { opening, failed: Mutex::default() })
        })
    }

    /// Makes a call where the namespace is open, once more if the agent had closed it, and notes a failure.
    fn over(&self, kind: Kind, deadline: Instant, mut call: impl FnMut(&Opened) -> Result<(), Failure>) {
        let here = self.here();
        let made = self.link.within(|| {
            let opening = here.opening.as_ref().ok_or(Failure::Closed)?;
            let opened = opening.current().ok_or(Failure::NotOpen)?;
            match call(&opened) {
                Err(Failure::NotOpen) => {
                    opening.forgotten(&opened);
                    let left = deadline.saturating_duration_since(Instant::now());
                    call(&*opening.wait(left.min(REOPEN_WAIT)).ok_or(Failure::NotOpen)?)
                }
                other => other,
            }
        });
        if made.is_err() {
            self.counters.failures.add(1);
        }
        let mut failed = here.failed.lock();
        failed[kind as usize] = match made {
            // The agent answers: what other calls met is over.
            Ok(()) => return *failed = Default::default(),
            // While it is not open, the opening says why.
            Err(Failure::NotOpen) => None,
            Err(Failure::Closed) => Some("the connection is closed".to_owned()),
            Err(Failure::Late) => Some("no answer in time".to_owned()),
            Err(Failure::Said(words)) => Some(words),
        };
    }

    /// Bytes of the shard, if there are as many places as keys and each is as large; else it is noted why not.
    fn fitting(&self, kind: Kind, keys: &Keys, shard: u32, places: &Places, written: bool) -> Option<usize> {
        let sizes = &self.namespace.shard_bytes;
        let pages = keys.len();
        let misfit = match sizes.get(shard as usize).map(|bytes| *bytes as usize) {
            None => format!("shard: expected one below {}, got {shard}", sizes.len()),
            Some(_) if places.count() < pages => {
                format!("places: expected one for each of {pages} keys, got {}", places.count())
            }
            Some(_) if written && !places.writable() => "places: expected writable memory".to_owned(),
            Some(bytes) => match places.misfit(pages, bytes) {
                None => return Some(bytes),
                Some(page) => {
                    let got = places.bytes_of(page);
                    format!("places: expected pages of shard_bytes {bytes}, got {got} bytes for page {page}")
                }
            },
        };
        self.counters.failures.add(1);
        self.here().failed.lock()[kind as usize] = Some(misfit);
        None
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.close();
    }
}

/// The ranges of at most `most` from `begin` to `end`.
fn pieces(begin: usize, end: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (begin..end).step_by(most).map(move |start| start..(start + most).min(end))
}

/// One call that is counted, and its time when it is over.
struct Timed<'a> {
    began: Instant,
    seconds: &'a Seconds,
}

impl<'a> Timed<'a> {
    fn start(count: &Sum, seconds: &'a Seconds) -> Self {
        count.add(1);
        Self { began: Instant::now(), seconds }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.seconds.add(self.began.elapsed());
    }
}
