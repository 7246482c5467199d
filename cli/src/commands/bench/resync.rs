//! How soon an agent that knows nothing has mirrored everything, and how long its other lookups take meanwhile.

use std::time::Duration;

use foreword_meta::generated::namespace;
use foreword_proto::wire::node as n;
use foreword_seams::Endpoint;
use tokio::time::{Instant, sleep};
use tonic::Request;

use super::Bench;
use super::figure::Figure;
use super::load::ms;
use super::lookup::batches;
use super::stage::Stage;
use crate::clients::{self, Agent, said_no};

pub(super) const NAMES: [&str; 2] = ["mirror_resync_5m_s", "lookup_agent_max_during_resync_ms"];

/// The agent that starts over.
const AGENT: usize = 1;
const KEYS: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two lookups.
const PAUSE: Duration = Duration::from_millis(1);

/// Restarts an agent, which saved no mirror, and has it open the smaller namespace and then the larger one.
pub(super) async fn measure(bench: &Bench, stage: &mut Stage) -> anyhow::Result<()> {
    bench.say("an agent mirrors everything anew");
    let (mut seconds, mut slowest) = (Vec::new(), Vec::new());
    for _ in 0..bench.runs {
        stage.cluster.kill_agent(AGENT)?;
        stage.cluster.restart_agent(AGENT).await?;
        let endpoint = stage.cluster.agent_endpoints()[AGENT].clone();
        let smaller = mirrored(&endpoint, 1).await?;
        let mut lookups = Lookups::of_smaller(stage, &endpoint);
        let larger = {
            let mut mirroring = std::pin::pin!(mirrored(&endpoint, 0));
            loop {
                tokio::select! {
                    biased;
                    took = &mut mirroring => break took?,
                    looked = lookups.one() => looked?,
                }
            }
        };
        seconds.push((smaller + larger).as_secs_f64());
        slowest.push(lookups.slowest_ms);
    }
    let [all, resynced] = [stage.scale.pages(), stage.scale.namespaces[0]];
    bench.print(&Figure::new(NAMES[0], "s", format!("{all} pages in two namespaces, from nothing"), seconds))?;
    let path = format!("{KEYS} keys of a namespace that is there, while one of {resynced} pages comes");
    bench.print(&Figure::new(NAMES[1], "ms", path, slowest))
}

/// Opens a generated namespace; how long its first sync took.
async fn mirrored(endpoint: &Endpoint, at: usize) -> anyhow::Result<Duration> {
    let mut request = Request::new(n::OpenNamespaceRequest { namespace: Some((&namespace(at)).into()) });
    request.set_timeout(PATIENCE);
    let from = Instant::now();
    let opened = clients::agent(endpoint).open_namespace(request).await;
    opened.map_err(|status| said_no("bench: an open", &status))?;
    Ok(from.elapsed())
}

/// Lookups in the smaller namespace, one after the other.
struct Lookups {
    agent: Agent,
    request: n::LocateRequest,
    slowest_ms: f64,
}

impl Lookups {
    fn of_smaller(stage: &Stage, endpoint: &Endpoint) -> Self {
        let keys = batches(stage, 1, KEYS, 1).pop().unwrap_or_default();
        let request = n::LocateRequest { namespace_id: stage.namespace_id(1), keys, ..Default::default() };
        Self { agent: clients::agent(endpoint), request, slowest_ms: 0.0 }
    }

    async fn one(&mut self) -> anyhow::Result<()> {
        let from = Instant::now();
        let located = self.agent.locate(self.request.clone()).await;
        located.map_err(|status| said_no("bench: a lookup", &status))?;
        self.slowest_ms = self.slowest_ms.max(ms(from.elapsed()));
        sleep(PAUSE).await;
        Ok(())
    }
}
