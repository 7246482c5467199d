//! Sessions with engines in shared memory, over a real socket and real memfds.

use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use foreword_node::api::EngineApi;
use foreword_node::arena::MemfdRegions;
use foreword_node::serve;
use foreword_node::store::NoFaults;
use foreword_proto::{Namespace, PageKey};
use foreword_session::wire::ops::{MissCode, PutCode};
use foreword_session::{CallError, Get, PageMemory, Put, Session};

use crate::harness::{Cluster, SOON, TestAgent, client, eventually, keys, page_bytes};

const BYTES: usize = 200_000;

/// Pages one after the other, each in two parts.
struct Pages {
    bytes: Vec<u8>,
    page_bytes: usize,
}

// SAFETY: the vector is not touched while a call is given it, and its parts do not overlap.
unsafe impl PageMemory for Pages {
    fn parts(&self) -> usize {
        2
    }

    fn part(&self, page: usize, part: usize) -> (NonNull<u8>, usize) {
        let first = self.page_bytes / 3;
        let (at, bytes) = if part == 0 { (0, first) } else { (first, self.page_bytes - first) };
        let slice = &self.bytes[page * self.page_bytes + at..][..bytes];
        (NonNull::from(slice).cast(), bytes)
    }
}

impl Pages {
    fn of(keys: &[PageKey], shard: u32) -> Self {
        let bytes = keys.iter().flat_map(|key| page_bytes(key, shard, BYTES)).collect();
        Self { bytes, page_bytes: BYTES }
    }

    fn empty(pages: usize) -> Self {
        Self { bytes: vec![0xEE; pages * BYTES], page_bytes: BYTES }
    }

    fn page(&self, page: usize) -> &[u8] {
        &self.bytes[page * self.page_bytes..][..self.page_bytes]
    }
}

fn raw(keys: &[PageKey]) -> Vec<[u8; 32]> {
    keys.iter().map(|key| key.0).collect()
}

fn namespace() -> Namespace {
    Namespace::simple("engine", 64, vec![BYTES as u64])
}

/// An agent with a unix socket.
async fn agent(cluster: &Cluster, dir: &Path) -> (TestAgent, PathBuf) {
    let socket = dir.join("node.sock");
    let mut config = cluster.config("a");
    config.socket = Some(socket.clone());
    let mut deps = cluster.deps(Arc::new(NoFaults));
    deps.regions = Arc::new(MemfdRegions::default());
    let handle = serve(config, deps).await.unwrap();
    let client = client(handle.endpoint());
    (TestAgent { handle, client }, socket)
}

/// Calls block: they are an engine's thread's.
async fn on_a_thread<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.unwrap()
}

fn get<'a>(namespace: u32, keys: &'a [[u8; 32]]) -> Get<'a> {
    Get { namespace, shard: 0, keys, every_key: true, bypass_cache: false, min_revision: 0 }
}

fn put<'a>(namespace: u32, keys: &'a [[u8; 32]]) -> Put<'a> {
    Put { namespace, shard: 0, keys, parent: None, wait_published: true }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_one_session_puts_come_out_of_another_byte_by_byte() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket) = agent(&cluster, dir.path()).await;
    let ns = agent.open(&namespace()).await;
    let (asked, path) = (keys(0..60), socket.clone());
    let answers = on_a_thread({
        let asked = asked.clone();
        move || {
            let session = Session::open(&path, "default", SOON).unwrap();
            let pages = Pages::of(&asked[..50], 0);
            let answers = session.put(&put(ns, &raw(&asked[..50])), &pages, SOON).unwrap();
            assert!(answers.iter().all(|page| page.code == PutCode::Published), "{answers:?}");
            let again = session.put(&put(ns, &raw(&asked[..50])), &pages, SOON).unwrap();
            assert!(again.iter().all(|page| page.code == PutCode::Exists), "{again:?}");
            assert_eq!(session.lookup(ns, &raw(&asked), 0, false, SOON).unwrap().pages, 50);
            answers
        }
    })
    .await;
    let copied = agent.counters().bytes_copied;
    on_a_thread(move || {
        let session = Session::open(&socket, "default", SOON).unwrap();
        let found = session.lookup(ns, &raw(&asked), answers[49].revision, false, SOON).unwrap();
        assert_eq!((found.pages, found.l1_pages), (50, 50));
        assert_eq!(session.locate(ns, &raw(&asked), 0, SOON).unwrap().tiers[49..51], [5, 0]);
        for bypass_cache in [false, true] {
            let into = Pages::empty(60);
            let got = session.get(&Get { bypass_cache, ..get(ns, &raw(&asked)) }, &into, SOON).unwrap();
            let tier = if bypass_cache { 3 } else { 1 };
            assert!(got[..50].iter().all(|page| *page == Ok(tier)), "{got:?}");
            assert!(got[50..].iter().all(|page| *page == Err(MissCode::Absent)), "{got:?}");
            for (index, key) in asked[..50].iter().enumerate() {
                assert!(into.page(index) == page_bytes(key, 0, BYTES), "page {index}");
            }
            assert!(into.bytes[50 * BYTES..].iter().all(|byte| *byte == 0xEE));
        }
    })
    .await;
    assert_eq!(agent.counters().bytes_copied, copied);
    eventually("what was got is held no more", || agent.handle.api().held().get_room_used == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_ends_at_the_first_miss_unless_every_key_is_wanted() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket) = agent(&cluster, dir.path()).await;
    let ns = agent.open(&namespace()).await;
    on_a_thread(move || {
        let session = Session::open(&socket, "default", SOON).unwrap();
        let asked = keys(0..6);
        let there = [asked[0], asked[1], asked[3], asked[5]];
        session.put(&put(ns, &raw(&there)), &Pages::of(&there, 0), SOON).unwrap();
        let got = session.get(&get(ns, &raw(&asked)), &Pages::empty(6), SOON).unwrap();
        assert_eq!(got.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, false, true]);
        let got = session.get(&Get { every_key: false, ..get(ns, &raw(&asked)) }, &Pages::empty(6), SOON).unwrap();
        assert_eq!(got.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false, false, false]);
        assert_eq!(session.lookup(ns, &raw(&asked), 0, false, SOON).unwrap().pages, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_the_field_and_the_session_goes_on() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket) = agent(&cluster, dir.path()).await;
    let ns = agent.open(&namespace()).await;
    let others = agent.open(&Namespace { tenant: "others".into(), ..namespace() }).await;
    on_a_thread(move || {
        let session = Session::open(&socket, "default", SOON).unwrap();
        let asked = raw(&keys(0..2));
        let refused = |error: Option<CallError>| error.expect("it is refused").to_string();
        let unknown = refused(session.lookup(999, &asked, 0, false, SOON).err());
        assert_eq!(unknown, "namespace_id: expected a namespace opened on this agent, 999 is not one");
        let other = refused(session.lookup(others, &asked, 0, false, SOON).err());
        assert_eq!(other, "namespace_id: expected one of the session's tenant \"default\"");
        let shard = refused(session.get(&Get { shard: 1, ..get(ns, &asked) }, &Pages::empty(2), SOON).err());
        assert_eq!(shard, "shard: expected one below 1, got 1");
        let behind = session.lookup(ns, &asked, u64::MAX, false, Duration::from_millis(50)).err();
        assert!(behind.is_some(), "a revision that is not there");
        // Pages of another size are not given.
        session.put(&put(ns, &asked), &Pages::of(&keys(0..2), 0), SOON).unwrap();
        let wrong = Pages { bytes: vec![0; 2 * (BYTES - 1)], page_bytes: BYTES - 1 };
        assert_eq!(session.get(&get(ns, &asked), &wrong, SOON).unwrap(), [Err(MissCode::Gone); 2]);
        assert_eq!(session.lookup(ns, &asked, 0, false, SOON).unwrap().pages, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_ask_at_once_and_each_gets_its_own_answer() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket) = agent(&cluster, dir.path()).await;
    let ns = agent.open(&namespace()).await;
    on_a_thread(move || {
        let session = Session::open(&socket, "default", SOON).unwrap();
        let asked = keys(0..40);
        session.put(&put(ns, &raw(&asked)), &Pages::of(&asked, 0), SOON).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..80 {
                let (session, asked) = (&session, &asked);
                scope.spawn(move || {
                    for round in 0..20 {
                        let first = (thread * 7 + round * 3) % 38;
                        let mine = &asked[first..first + 2];
                        assert_eq!(session.lookup(ns, &raw(mine), 0, false, SOON).unwrap().pages, 2);
                        let into = Pages::empty(2);
                        assert_eq!(session.get(&get(ns, &raw(mine)), &into, SOON).unwrap(), [Ok(1); 2]);
                        assert!((0..2).all(|page| into.page(page) == page_bytes(&mine[page], 0, BYTES)));
                    }
                });
            }
        });
    })
    .await;
    eventually("nothing is held", || agent.handle.api().held().get_room_used == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_ends_its_sessions_and_their_calls() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket) = agent(&cluster, dir.path()).await;
    let ns = agent.open(&namespace()).await;
    let session = Arc::new(on_a_thread(move || Session::open(&socket, "default", SOON).unwrap()).await);
    let waiting = session.clone();
    let call = tokio::task::spawn_blocking(move || waiting.lookup(ns, &raw(&keys(0..1)), u64::MAX, false, 4 * SOON));
    agent.handle.shutdown().await;
    assert!(tokio::time::timeout(SOON, call).await.unwrap().unwrap().is_err());
    eventually("the session has ended", || !session.is_alive()).await;
    assert_eq!(session.lookup(ns, &[], 0, false, SOON), Err(CallError::Ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_as_many_as_may_be_and_a_closed_one_makes_place() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let socket = dir.path().join("node.sock");
    let mut config = cluster.config("a");
    (config.socket, config.engine_sessions_max) = (Some(socket.clone()), 2);
    let agent = cluster.agent_with(config, Arc::new(NoFaults)).await;
    on_a_thread(move || {
        let open = || Session::open(&socket, "default", SOON);
        let (first, _second) = (open().unwrap(), open().unwrap());
        let refused = open().err().expect("it is refused").to_string();
        assert_eq!(refused, "the agent refused a session: engine_sessions_max: expected at most 2 sessions at once");
        drop(first);
        let mut again = open();
        while again.is_err() {
            std::thread::yield_now();
            again = open();
        }
    })
    .await;
    assert!(agent.handle.api().stats().ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_leave_the_arena_are_unmapped_by_engines_that_ask_for_nothing() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let socket = dir.path().join("node.sock");
    let mut config = cluster.config("a");
    (config.socket, config.arena_bytes, config.segment_bytes) = (Some(socket.clone()), 4 << 20, Some(1 << 20));
    let mut deps = cluster.deps(Arc::new(NoFaults));
    deps.regions = Arc::new(MemfdRegions::default());
    let handle = serve(config, deps).await.unwrap();
    let client = client(handle.endpoint());
    let agent = TestAgent { handle, client };
    let ns = agent.open(&namespace()).await;
    let session = on_a_thread(move || {
        let session = Session::open(&socket, "default", SOON).unwrap();
        let asked = keys(0..8);
        session.put(&put(ns, &raw(&asked)), &Pages::of(&asked, 0), SOON).unwrap();
        let got = session.get(&get(ns, &raw(&asked)), &Pages::empty(8), SOON).unwrap();
        assert!(got.iter().all(Result::is_ok), "{got:?}");
        session
    })
    .await;
    let mapped = session.segments_mapped();
    assert!(mapped > 0);
    // Another tenant takes the whole arena.
    let other = agent.open(&Namespace { tenant: "other".into(), ..namespace() }).await;
    agent.put(other, &keys(0..60), 1, BYTES).await;
    eventually("what left the arena is unmapped", || session.segments_mapped() < mapped).await;
    assert!(session.is_alive());
}

/// What goes through a session is a use like any other: the namespace was closed under an engine that used it all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_a_session_uses_is_not_idle() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let socket = dir.path().join("node.sock");
    let mut config = cluster.config("a");
    (config.socket, config.namespace_idle_ms, config.gather_deadline_ms) = (Some(socket.clone()), 8_000, 500);
    let agent = cluster.agent_with(config, Arc::new(NoFaults)).await;
    let ns = agent.open(&namespace()).await;
    on_a_thread(move || {
        let session = Session::open(&socket, "default", SOON).unwrap();
        let (_sender, pause) = std::sync::mpsc::channel::<()>();
        for _ in 0..100 {
            assert!(session.lookup(ns, &[], 0, false, SOON).is_ok(), "it is open");
            let _ = pause.recv_timeout(Duration::from_millis(100));
        }
    })
    .await;
}
