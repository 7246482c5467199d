//! What the driver counts, and what it must remember of each page to count it.

use std::collections::{BTreeMap, HashSet};

use foreword_proto::Tier;

use super::plan::PageIndex;

/// Everything a run counted.
#[derive(Debug, Default)]
pub struct Counts {
    pub pages_asked: u64,
    pub l1_hits: u64,
    pub l2_hits: u64,
    pub l3_hits: u64,
    /// Shards of pages that an agent called a hit and whose bytes were not the page's.
    pub wrong_bytes: u64,
    pub publishes_declined: u64,
    pub publishes_refused: u64,
    /// Why pages were refused, and how many for each reason.
    pub refused_for: BTreeMap<String, u64>,
    /// Pages put, over all requests.
    pub pages_put: u64,
    /// Calls that failed: each costs hits or publishes, and shows there.
    pub calls_failed: u64,
    /// Of each page, the largest revision at which an agent said `published`; 0: never.
    pub acked_revision: Vec<u64>,
    /// Of each page, one more than the agent it was last published through; 0: none.
    published_by: Vec<u32>,
    crossed: HashSet<(PageIndex, u32)>,
    lookups_us: Vec<u32>,
}

impl Counts {
    /// For a plan of so many distinct pages.
    pub fn new(pages: usize) -> Self {
        Self { acked_revision: vec![0; pages], published_by: vec![0; pages], ..Self::default() }
    }

    /// Pages hit: the sum over the tiers.
    pub fn pages_hit(&self) -> u64 {
        self.l1_hits + self.l2_hits + self.l3_hits
    }

    /// One lookup took so long.
    pub fn lookup(&mut self, us: u128) {
        self.lookups_us.push(u32::try_from(us).unwrap_or(u32::MAX));
    }

    /// A page's every shard came through `agent` and was right; `tier` is the farthest of its shards'.
    pub fn hit(&mut self, page: PageIndex, agent: u32, tier: Tier) {
        match tier {
            Tier::L1 => self.l1_hits += 1,
            Tier::L2 => self.l2_hits += 1,
            Tier::L3 => self.l3_hits += 1,
        }
        let publisher = self.published_by[page as usize];
        if publisher != 0 && publisher != agent + 1 {
            self.crossed.insert((page, agent));
        }
    }

    /// A page put through `agent` was published.
    pub fn published(&mut self, page: PageIndex, agent: u32, revision: u64) {
        let acked = &mut self.acked_revision[page as usize];
        *acked = (*acked).max(revision);
        self.published_by[page as usize] = agent + 1;
    }

    /// A page was refused, for this reason.
    pub fn refused(&mut self, reason: &str) {
        self.publishes_refused += 1;
        *self.refused_for.entry(reason.to_owned()).or_default() += 1;
    }

    /// (page, agent) pairs put through another agent and got through this one.
    pub fn cross_node_hits(&self) -> u64 {
        self.crossed.len() as u64
    }

    /// Distinct pages some agent got `published` for.
    pub fn publishes_acked(&self) -> u64 {
        self.acked_revision.iter().filter(|revision| **revision > 0).count() as u64
    }

    /// The lookup time that `percent` of the lookups stay at or below; None without lookups.
    pub fn lookup_us(&self, percent: usize) -> Option<u64> {
        let mut sorted = self.lookups_us.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map(|us| u64::from(*us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crossing_counts_once_and_needs_another_publisher() {
        let mut counts = Counts::new(2);
        counts.published(0, 0, 5);
        counts.hit(0, 0, Tier::L1);
        assert_eq!(counts.cross_node_hits(), 0);
        counts.hit(0, 1, Tier::L3);
        counts.hit(0, 1, Tier::L1);
        counts.hit(1, 1, Tier::L1);
        assert_eq!((counts.cross_node_hits(), counts.pages_hit(), counts.publishes_acked()), (1, 4, 1));
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let mut counts = Counts::new(0);
        assert_eq!(counts.lookup_us(50), None);
        (1..=100).rev().for_each(|us| counts.lookup(us));
        assert_eq!((counts.lookup_us(50), counts.lookup_us(99)), (Some(50), Some(99)));
    }
}
