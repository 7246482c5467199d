//! The driver can fail: against agents that lie it says so.

use std::sync::Arc;
use std::time::Duration;

use foreword_cli::clients;
use foreword_cli::driver::audit::{Audit, Findings};
use foreword_cli::driver::recorder::Recorder;
use foreword_cli::driver::run::{Agents, Play, play};
use foreword_cli::driver::{Counts, Plan};
use foreword_proto::Namespace;
use foreword_proto::workload::{Generator, Trace, ideal, ideal_cross_node_hits};
use tokio::sync::watch;

use crate::fakes::{FakeAgent, FakeMeta, Fault, Pages, serve_agent, serve_meta};

fn namespace() -> Namespace {
    Namespace::simple("m", 1, vec![40, 40])
}

fn trace() -> Trace {
    Generator::new(3, 120).trace()
}

/// Two agents with one fault that share their pages.
struct Stage {
    dir: tempfile::TempDir,
    plan: Arc<Plan>,
    agents: Arc<Agents>,
}

impl Stage {
    async fn new(fault: Fault) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pages = Arc::new(Pages::default());
        let mut endpoints = Vec::new();
        for name in ["a", "b"] {
            let agent = FakeAgent { pages: pages.clone(), fault };
            endpoints.push(serve_agent(dir.path(), name, agent).await);
        }
        let agents = Arc::new(Agents::open(&endpoints, &namespace()).await.unwrap());
        Self { dir, plan: Arc::new(Plan::new(&trace())), agents }
    }

    async fn play(&self) -> Counts {
        let how = Play { namespace: namespace(), concurrency: 8, paced: false, seed: 1 };
        let (submitted, following) = watch::channel(0);
        let (counts, _) = play(self.plan.clone(), self.agents.clone(), how, &submitted, |_| {}).await;
        assert_eq!(*following.borrow(), self.plan.requests.len());
        assert_eq!(counts.pages_asked, trace().blocks());
        assert_eq!(counts.calls_failed, 0);
        counts
    }

    async fn audit(&self, counts: &Counts, meta: FakeMeta) -> Findings {
        let meta = serve_meta(self.dir.path(), "meta", meta).await;
        let group = clients::group(&[meta]).unwrap();
        let recorder = Recorder::start(group.clone(), 1, 2).await.unwrap();
        let audit = Audit {
            plan: &self.plan,
            namespace: &namespace(),
            agents: self.agents.clone(),
            group: &group,
            recorder: &recorder,
            acked_revision: &counts.acked_revision,
            record_patience: Duration::from_millis(500),
        };
        audit.run(|_| {}).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_agents_reach_the_ideal() {
    let stage = Stage::new(Fault::None).await;
    let counts = stage.play().await;
    let best = ideal(&trace());
    assert_eq!(counts.pages_hit(), best.hits);
    assert_eq!(counts.l3_hits, best.hits, "the fakes say L3");
    assert_eq!(counts.cross_node_hits(), ideal_cross_node_hits(&trace(), 2));
    assert_eq!(counts.publishes_acked(), best.distinct);
    assert_eq!((counts.wrong_bytes, counts.publishes_refused, counts.publishes_declined), (0, 0, 0));
    let findings = stage.audit(&counts, FakeMeta::default()).await;
    assert_eq!(findings, Findings { lost: 0, proven: best.distinct, retired: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_looks_up_nothing_gives_a_hit_ratio_of_0() {
    let counts = Stage::new(Fault::LooksUpNothing).await.play().await;
    assert_eq!((counts.pages_hit(), counts.cross_node_hits(), counts.wrong_bytes), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_flips_a_byte_is_found_out() {
    let stage = Stage::new(Fault::FlipsAByte).await;
    let counts = stage.play().await;
    assert!(counts.wrong_bytes > 0);
    assert!(counts.pages_hit() < ideal(&trace()).hits, "what is wrong is no hit");
    let findings = stage.audit(&counts, FakeMeta::default()).await;
    assert!(findings.lost > 0, "acknowledged pages whose bytes do not verify are lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lookup_promised_and_a_get_refused_is_no_hit() {
    let counts = Stage::new(Fault::PromisesOnly).await.play().await;
    assert_eq!((counts.pages_hit(), counts.wrong_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_cut_short_is_wrong() {
    let counts = Stage::new(Fault::CutsShort).await.play().await;
    assert_eq!(counts.pages_hit(), 0);
    assert!(counts.wrong_bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_a_lost_page_unless_a_later_retire_explains_it() {
    let stage = Stage::new(Fault::None).await;
    let counts = stage.play().await;
    let entry = |page: u32| stage.plan.key(page).entry();
    let acked = |page: u32| counts.acked_revision[page as usize];
    let meta = FakeMeta {
        absent: [entry(0), entry(1), entry(2)].into(),
        retired: vec![(entry(0), acked(0) + 1), (entry(1), acked(1)), (entry(3), acked(3) + 1)],
    };
    let findings = stage.audit(&counts, meta).await;
    assert_eq!(findings.retired, 1, "page 0, retired after it was acknowledged");
    assert_eq!(findings.lost, 2, "page 1, retired before; page 2, never");
    assert_eq!(findings.proven, counts.publishes_acked() - 3);
}
