//! Engines that die, write rubbish, or do not let go: nobody else notices, and nothing stays held.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foreword_node::arena::MemfdRegions;
use foreword_node::serve;
use foreword_node::store::NoFaults;
use foreword_proto::{Namespace, PageKey};
use foreword_seams::{Entropy, OsEntropy};
use foreword_session::Session;
use foreword_session::wire::control::{CONTROL_BYTES, DONE};
use foreword_session::wire::handshake::{ANSWER_BYTES, Answer, Hello, MESSAGE_BYTES, Message, receive, send};
use foreword_session::wire::ops::{Op, PageRecord, set_taken, store_staged};
use foreword_session::wire::{Control, Mapping, SLOTS, VERSION};

use crate::harness::{Cluster, SOON, TestAgent, client, eventually, keys};

const BYTES: usize = 64 << 10;
const PAGES: u64 = 8;

fn namespace() -> Namespace {
    Namespace::simple("hostile", 64, vec![BYTES as u64])
}

/// An engine that speaks the session's protocol by hand, as badly as it likes.
struct RawEngine {
    socket: UnixStream,
    control: Control,
    _staging: Mapping,
    doorbell: OwnedFd,
}

impl RawEngine {
    fn connect(socket: &Path) -> UnixStream {
        let socket = UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    fn open(path: &Path) -> Self {
        let socket = Self::connect(path);
        let hello = Hello { version: VERSION, tenant: "default".into() }.encode();
        send(socket.as_fd(), &hello, &[]).unwrap();
        let mut answer = [0; ANSWER_BYTES];
        let (count, mut sent) = receive(socket.as_fd(), &mut answer).unwrap();
        assert_eq!((count, sent.len()), (ANSWER_BYTES, 3));
        let Some(Answer::Welcome { staging_bytes, .. }) = Answer::decode(&answer) else { panic!("refused") };
        let (doorbell, staging, control) = (sent.remove(2), sent.remove(1), sent.remove(0));
        Self {
            control: Control::open(Mapping::of_sent_writable(&control, CONTROL_BYTES).unwrap()).unwrap(),
            _staging: Mapping::of_sent_writable(&staging, staging_bytes as usize).unwrap(),
            socket,
            doorbell,
        }
    }

    fn ask(&self, slot: usize, op: u32, namespace: u32, keys: &[PageKey]) {
        let raw: Vec<[u8; 32]> = keys.iter().map(|key| key.0).collect();
        let shared = self.control.slot(slot);
        shared.set_keys(&raw);
        let head = shared.head();
        head.op.store(op, Ordering::Relaxed);
        head.namespace.store(namespace, Ordering::Relaxed);
        head.shard.store(0, Ordering::Relaxed);
        head.flags.store(0, Ordering::Relaxed);
        head.min_revision.store(0, Ordering::Relaxed);
        head.wait_us.store(5_000_000, Ordering::Relaxed);
        head.left.0.store(0, Ordering::Relaxed);
        head.progress.0.store(0, Ordering::Release);
    }

    fn submit(&self, slot: usize) {
        self.control.head().submitted.0.fetch_or(1 << slot, Ordering::SeqCst);
        self.ring();
    }

    fn release(&self, slot: usize) {
        self.control.head().released.0.fetch_or(1 << slot, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        rustix::io::write(&self.doorbell, &1u64.to_ne_bytes()).unwrap();
    }

    /// Until the call is done; false: the session ended before.
    fn done(&self, slot: usize) -> bool {
        let progress = &self.control.slot(slot).head().progress.0;
        while progress.load(Ordering::Acquire) & DONE == 0 {
            if self.is_over() {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    fn is_over(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&now)).unwrap();
        polled[0].revents().contains(PollFlags::HUP)
    }

    /// Maps the segment of a get's first page.
    fn map_first(&self, slot: usize) -> Mapping {
        let Some(PageRecord::Page { segment, .. }) = PageRecord::load(self.control.slot(slot).record(0)) else {
            panic!("a page was expected")
        };
        send(self.socket.as_fd(), &Message::Ask { segment }.encode(), &[]).unwrap();
        let mut bytes = [0; MESSAGE_BYTES];
        let (_, sent) = receive(self.socket.as_fd(), &mut bytes).unwrap();
        let Some(Message::Segment { region_bytes, .. }) = Message::decode(&bytes) else { panic!("no segment") };
        Mapping::of_sent(&sent[0], region_bytes as usize).unwrap()
    }
}

/// What an engine has done when it dies.
const STEPS: [&str; 12] = [
    "connected",
    "said half a hello",
    "opened",
    "wrote a get",
    "submitted a get",
    "was answered",
    "mapped a segment",
    "copied half",
    "submitted a get that waits",
    "wrote a put",
    "submitted a put",
    "left a put",
];

/// Does the steps up to `last`; what it holds is to be kept.
fn live_until(last: usize, socket: &Path, namespace: u32) -> Vec<Box<dyn std::any::Any>> {
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    if last <= 1 {
        let socket = RawEngine::connect(socket);
        if last == 1 {
            let hello = Hello { version: VERSION, tenant: "default".into() }.encode();
            send(socket.as_fd(), &hello[..hello.len() / 2], &[]).unwrap();
        }
        held.push(Box::new(socket));
        return held;
    }
    let engine = RawEngine::open(socket);
    let there = keys(0..PAGES);
    if last >= 3 {
        engine.ask(0, Op::Get as u32, namespace, &there);
    }
    if last >= 4 {
        engine.submit(0);
    }
    if last >= 5 {
        assert!(engine.done(0));
    }
    if last >= 6 {
        held.push(Box::new(engine.map_first(0)));
    }
    if last >= 7 {
        (0..PAGES as usize / 2).for_each(|page| set_taken(engine.control.slot(0).record(page)));
        engine.release(0);
    }
    if last >= 8 {
        // Of a revision that does not come.
        engine.ask(1, Op::Get as u32, namespace, &keys(100..104));
        engine.control.slot(1).head().min_revision.store(u64::MAX, Ordering::Relaxed);
        engine.submit(1);
    }
    let put = |slot, first| {
        engine.ask(slot, Op::Put as u32, namespace, &keys(first..first + 4));
        (0..4).for_each(|page| store_staged(engine.control.slot(slot).record(page), (page * BYTES) as u64));
    };
    if last >= 9 {
        put(2, 200);
    }
    if last >= 10 {
        engine.submit(2);
    }
    if last >= 11 {
        put(3, 300);
        engine.submit(3);
        engine.control.slot(3).head().left.0.store(1, Ordering::SeqCst);
        engine.release(3);
    }
    held.push(Box::new(engine));
    held
}

/// Not a test: the engine that is killed.
#[test]
#[ignore = "run by a_killed_engine_leaves_nothing_behind"]
fn an_engine_that_will_be_killed() {
    let told = |name: &str| std::env::var(name).unwrap();
    let (step, namespace) = (told("ENGINE_STEP").parse().unwrap(), told("ENGINE_NAMESPACE").parse().unwrap());
    let held = live_until(step, Path::new(&told("ENGINE_SOCKET")), namespace);
    println!("\nready to die");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(held);
}

fn spawn_engine(step: usize, socket: &Path, namespace: u32) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile_engine::an_engine_that_will_be_killed", "--ignored", "--nocapture"])
        .env("ENGINE_STEP", step.to_string())
        .env("ENGINE_SOCKET", socket)
        .env("ENGINE_NAMESPACE", namespace.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line == "ready to die"));
    assert!(ready, "the engine did not come to step {step}, {}", STEPS[step]);
    child
}

async fn agent(cluster: &Cluster, dir: &Path) -> (TestAgent, PathBuf, u32) {
    let socket = dir.join("node.sock");
    let mut config = cluster.config("a");
    (config.socket, config.arena_bytes, config.segment_bytes) = (Some(socket.clone()), 16 << 20, Some(1 << 20));
    config.gather_deadline_ms = 500;
    let mut deps = cluster.deps(Arc::new(NoFaults));
    deps.regions = Arc::new(MemfdRegions::default());
    let handle = serve(config, deps).await.unwrap();
    let client = client(handle.endpoint());
    let agent = TestAgent { handle, client };
    let ns = agent.open(&namespace()).await;
    agent.put(ns, &keys(0..PAGES), 1, BYTES).await;
    (agent, socket, ns)
}

/// What an engine writes into slot 0 before it submits it.
type Write = fn(&RawEngine);

/// Nothing is held for any engine.
async fn nothing_held(agent: &TestAgent, what: &str) {
    let free = || {
        let held = agent.handle.api().held();
        (held.get_room_used, held.put_room_used, held.pages_under_way) == (0, 0, 0) && held.frames_used == held.l1_pages
    };
    eventually(what, free).await;
}

/// Another engine still gets its pages.
async fn others_go_on(agent: &TestAgent, ns: u32) {
    let got = agent.get(ns, &keys(0..PAGES), |_| {}).await;
    assert!(got.iter().all(|page| page.hit), "{:?}", got.iter().map(|page| &page.reason).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_leaves_nothing_behind() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket, ns) = agent(&cluster, dir.path()).await;
    for (step, did) in STEPS.into_iter().enumerate() {
        let path = socket.clone();
        let mut child = tokio::task::spawn_blocking(move || spawn_engine(step, &path, ns)).await.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        nothing_held(&agent, &format!("nothing is held after the death of one that {did}")).await;
        others_go_on(&agent, ns).await;
    }
    // All of its memory can go to another tenant.
    let other = Namespace { tenant: "other".into(), ..namespace() };
    let other = agent.open(&other).await;
    let many = keys(1_000..1_240);
    let published = agent.put(other, &many, 1, BYTES).await;
    assert!(published.iter().all(|page| page.outcome() == foreword_proto::wire::node::PutOutcome::Published));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_writes_rubbish_loses_its_session_and_nobody_else_notices() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket, ns) = agent(&cluster, dir.path()).await;
    let rubbish: [(&str, Write); 3] = [
        ("an op that there is not", |engine| engine.ask(0, 77, 1, &[])),
        ("more keys than fit", |engine| {
            engine.ask(0, Op::Get as u32, 1, &[]);
            engine.control.slot(0).head().keys.store(u32::MAX, Ordering::Relaxed);
        }),
        ("a slot that is under way", |engine| {
            engine.ask(0, Op::Lookup as u32, 1, &[]);
            engine.control.slot(0).head().min_revision.store(u64::MAX, Ordering::Relaxed);
            engine.submit(0);
            while engine.control.head().submitted.0.load(Ordering::SeqCst) != 0 {
                std::thread::yield_now();
            }
        }),
    ];
    for (what, write) in rubbish {
        let path = socket.clone();
        let over = tokio::task::spawn_blocking(move || {
            let engine = RawEngine::open(&path);
            write(&engine);
            engine.submit(0);
            while !engine.is_over() {
                std::thread::yield_now();
            }
        });
        tokio::time::timeout(SOON, over).await.unwrap_or_else(|_| panic!("not closed: {what}")).unwrap();
        others_go_on(&agent, ns).await;
    }
    nothing_held(&agent, "nothing is held for who wrote rubbish").await;
}

/// Writes random slots; answers with how often the session was closed for it.
fn fuzz(socket: &Path, inputs: u64, namespaces: u32) -> u64 {
    let entropy = OsEntropy;
    let (mut engine, mut closed) = (RawEngine::open(socket), 0);
    for _ in 0..inputs {
        let (a, b, c) = (entropy.u64(), entropy.u64(), entropy.u64());
        let slot = (a % SLOTS as u64) as usize;
        let shared = engine.control.slot(slot);
        let head = shared.head();
        // Mostly nearly right: what is quite wrong ends the session at once.
        head.op.store(if b % 1000 == 0 { b as u32 } else { 1 + (b >> 10) as u32 % 6 }, Ordering::Relaxed);
        head.keys.store(if b % 1001 == 0 { c as u32 } else { (c % 64) as u32 }, Ordering::Relaxed);
        head.namespace.store((a >> 8) as u32 % (namespaces + 2), Ordering::Relaxed);
        head.shard.store((a >> 40) as u32 % 3, Ordering::Relaxed);
        head.flags.store((c >> 8) as u32, Ordering::Relaxed);
        head.wait_us.store((c >> 40) as u32 % 2_000, Ordering::Relaxed);
        head.min_revision.store(if a.is_multiple_of(5) { b } else { 0 }, Ordering::Relaxed);
        let record = shared.record((b % 64) as usize);
        record[(a % 4) as usize].store(c, Ordering::Relaxed);
        head.left.0.store((a >> 60) as u32 & 1, Ordering::Relaxed);
        if a.is_multiple_of(3) {
            engine.control.head().released.0.fetch_or(c, Ordering::SeqCst);
        }
        engine.submit(slot);
        if b % 64 == 0 && engine.is_over() {
            engine = RawEngine::open(socket);
            closed += 1;
        }
    }
    closed
}

async fn survives_fuzzing(inputs: u64) {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (agent, socket, ns) = agent(&cluster, dir.path()).await;
    let fuzzing = tokio::task::spawn_blocking(move || fuzz(&socket, inputs, ns + 1));
    while !fuzzing.is_finished() {
        others_go_on(&agent, ns).await;
    }
    let closed = fuzzing.await.unwrap();
    assert!(closed > 0, "rubbish closed no session in {inputs} inputs");
    nothing_held(&agent, "nothing is held after the fuzzing").await;
    others_go_on(&agent, ns).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_slots_harm_nobody() {
    survives_fuzzing(100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten million inputs: some minutes"]
async fn ten_million_random_slots_harm_nobody() {
    survives_fuzzing(10_000_000).await;
}

/// The agent's end of a doorbell is the engine's too: it was made to block, and read while it was rung, and the agent's
/// thread read it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_takes_its_own_doorbell_keeps_nobody_waiting() {
    let (cluster, dir) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let (_agent, socket, ns) = agent(&cluster, dir.path()).await;
    let calls = tokio::task::spawn_blocking(move || {
        let engine = RawEngine::open(&socket);
        rustix::fs::fcntl_setfl(&engine.doorbell, rustix::fs::OFlags::RDWR).unwrap();
        let session = Session::open(&socket, "default", SOON).unwrap();
        let raw: Vec<[u8; 32]> = keys(0..PAGES).iter().map(|key| key.0).collect();
        let over = AtomicBool::new(false);
        let (engine, over) = (&engine, &over);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                (0..20_000).for_each(|_| {
                    rustix::io::read(&engine.doorbell, &mut [0; 8]).unwrap();
                });
                over.store(true, Ordering::SeqCst);
            });
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    engine.ring();
                }
            });
            (0..500).map(|_| session.lookup(ns, &raw, 0, false, SOON).unwrap().pages).collect::<Vec<_>>()
        })
    });
    let found = tokio::time::timeout(2 * SOON, calls).await.expect("nobody hangs").unwrap();
    assert!(found.iter().all(|pages| *pages == PAGES as usize));
}
