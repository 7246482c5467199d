//! The object that `foreword demo --json` and `foreword replay --json` print last: CONTRACTS' keys, in its order.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::audit::Findings;
use super::counts::Counts;
use crate::human::Size;

/// One run. A missing measurement is None, `null` in JSON, never 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub requests: u64,
    pub agents: u64,
    pub shards: u64,
    pub page_bytes: u64,
    pub pages_asked: u64,
    pub pages_hit: u64,
    pub hit_ratio: Option<f64>,
    pub ideal_hit_ratio: Option<f64>,
    pub l1_hits: u64,
    /// None: these agents have no L2.
    pub l2_hits: Option<u64>,
    pub l3_hits: u64,
    pub cross_node_hits: u64,
    pub wrong_bytes: u64,
    pub publishes_acked: u64,
    pub publishes_declined: u64,
    pub publishes_refused: u64,
    pub publishes_lost: Option<u64>,
    pub slots_reused: Option<u64>,
    pub outage_ms: Option<u64>,
    pub lookup_p50_us: Option<u64>,
    pub lookup_p99_us: Option<u64>,
    pub publish_pages_per_s: Option<f64>,
    pub wall_s: f64,
    /// Only of a demo through the stand-in for a 3FS mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usrbio: Option<UsrbioReport>,
}

/// What a demo through the stand-in adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsrbioReport {
    /// The stand-in's counters since its last start, one for each kind of fault among them.
    pub standin: serde_json::Value,
    /// Page bytes that the agents copied between buffers.
    pub agent_bytes_copied: u64,
    /// How often the agents reached L3 anew.
    pub l3_epochs: u64,
    /// None: the stand-in was not killed.
    pub l3_hits_after_restart: Option<u64>,
    /// Whether the agents are the processes they were before the kill.
    pub agents_lived_on: Option<bool>,
}

/// What a report is made of, beside the counts.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub requests: usize,
    pub agents: usize,
    pub shards: usize,
    pub page_bytes: u64,
    /// Hits of an infinite cache, over the pages asked.
    pub ideal_hit_ratio: f64,
    pub wall: Duration,
    pub slots_reused: Option<u64>,
    pub outage: Option<Duration>,
    /// None: no audit was made.
    pub findings: Option<Findings>,
}

impl Report {
    /// Puts counts and facts together.
    pub fn new(counts: &Counts, facts: &Facts) -> Self {
        let asked = counts.pages_asked;
        let wall_s = facts.wall.as_secs_f64();
        let acked = counts.publishes_acked();
        Self {
            requests: facts.requests as u64,
            agents: facts.agents as u64,
            shards: facts.shards as u64,
            page_bytes: facts.page_bytes,
            pages_asked: asked,
            pages_hit: counts.pages_hit(),
            hit_ratio: (asked > 0).then(|| rounded(counts.pages_hit() as f64 / asked as f64, 6)),
            ideal_hit_ratio: (asked > 0).then(|| rounded(facts.ideal_hit_ratio, 6)),
            l1_hits: counts.l1_hits,
            l2_hits: (counts.l2_hits > 0).then_some(counts.l2_hits),
            l3_hits: counts.l3_hits,
            cross_node_hits: counts.cross_node_hits(),
            wrong_bytes: counts.wrong_bytes,
            publishes_acked: acked,
            publishes_declined: counts.publishes_declined,
            publishes_refused: counts.publishes_refused,
            publishes_lost: facts.findings.map(|findings| findings.lost),
            slots_reused: facts.slots_reused,
            outage_ms: facts.outage.map(|outage| outage.as_millis() as u64),
            lookup_p50_us: counts.lookup_us(50),
            lookup_p99_us: counts.lookup_us(99),
            publish_pages_per_s: (wall_s > 0.0).then(|| rounded(acked as f64 / wall_s, 1)),
            wall_s: rounded(wall_s, 3),
            usrbio: None,
        }
    }

    /// Whether the run proves what it should: nothing wrong, nothing lost.
    pub fn passed(&self) -> bool {
        self.wrong_bytes == 0 && self.publishes_lost == Some(0)
    }

    /// The table for people.
    pub fn table(&self, findings: Option<Findings>) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<18} {value}");
        };
        let percent = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{:.2}%", ratio * 100.0));
        let l2 = self.l2_hits.map_or("no L2 yet".into(), |hits| hits.to_string());
        let tiers = format!("L1 {} | L2 {l2} | L3 {}", self.l1_hits, self.l3_hits);
        row("requests", format!("{} through {} agents, {:.1} s", self.requests, self.agents, self.wall_s));
        row("pages asked for", format!("{} of {}", self.pages_asked, Size(self.page_bytes)));
        row("pages hit", format!("{} = {tiers}", self.pages_hit));
        row("hit ratio", format!("{}, ideal {}", percent(self.hit_ratio), percent(self.ideal_hit_ratio)));
        row("from another node", format!("{} pages", self.cross_node_hits));
        let hit_bytes = self.pages_hit * self.page_bytes;
        row("bytes checked", format!("{:.1} MB, {} shards wrong", hit_bytes as f64 / 1e6, self.wrong_bytes));
        let outage =
            self.outage_ms.map_or("nobody was killed".into(), |ms| format!("publishes stood still for {ms} ms"));
        row("leader killed", outage);
        let lost = self.publishes_lost.map_or("not audited".into(), |lost| format!("{lost} lost"));
        row("publishes", format!("{} acknowledged, {lost}", self.publishes_acked));
        row("", format!("{} refused, {} declined", self.publishes_refused, self.publishes_declined));
        if let Some(found) = findings {
            row("audit", format!("{} read back from L3 and proven, {} evicted", found.proven, found.retired));
        }
        let us = |us: Option<u64>| us.map_or("-".into(), |us| format!("{us} us"));
        if let Some(usrbio) = &self.usrbio {
            row("stand-in", usrbio.standin.to_string());
            if let Some(hits) = usrbio.l3_hits_after_restart {
                row("", format!("killed and restarted: {hits} pages from L3 afterwards"));
            }
        }
        row("lookup", format!("p50 {}, p99 {}", us(self.lookup_p50_us), us(self.lookup_p99_us)));
        out
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_the_order_of_the_contract() {
        let facts = Facts {
            requests: 0,
            agents: 2,
            shards: 2,
            page_bytes: 4096,
            ideal_hit_ratio: 0.0,
            wall: Duration::ZERO,
            slots_reused: None,
            outage: None,
            findings: None,
        };
        let report = Report::new(&Counts::default(), &facts);
        let json = serde_json::to_string(&report).unwrap();
        let keys: Vec<&str> =
            json.trim_matches(['{', '}']).split(',').map(|pair| pair.split('"').nth(1).unwrap()).collect();
        let contract = "requests, agents, shards, page_bytes, pages_asked, pages_hit, hit_ratio, ideal_hit_ratio, l1_hits, \
                        l2_hits, l3_hits, cross_node_hits, wrong_bytes, publishes_acked, publishes_declined, \
                        publishes_refused, publishes_lost, slots_reused, outage_ms, lookup_p50_us, lookup_p99_us, \
                        publish_pages_per_s, wall_s";
        assert_eq!(keys, contract.split(", ").collect::<Vec<_>>());
        for missing in ["hit_ratio", "l2_hits", "publishes_lost", "outage_ms", "lookup_p50_us", "slots_reused"] {
            assert!(json.contains(&format!("\"{missing}\":null")), "{missing} in {json}");
        }
        assert!(!report.passed(), "what was not audited is not proven");
    }
}
