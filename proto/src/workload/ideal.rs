//! What caches would have answered, from a trace alone.

use std::collections::{BTreeMap, HashMap};

use super::Trace;

/// An infinite cache, shared by all agents, with requests in file order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ideal {
    /// Pages asked for, over all requests.
    pub blocks: u64,
    /// Pages that differ.
    pub distinct: u64,
    /// Leading pages of a request that an earlier request held.
    pub hits: u64,
    /// hits / blocks; 0 for an empty trace.
    pub hit_ratio: f64,
}

/// What an infinite shared cache answers.
pub fn ideal(trace: &Trace) -> Ideal {
    let pages = Pages::of(trace);
    let mut known = 0;
    let mut hits = 0;
    for request in &pages.requests {
        // Pages are numbered as they come: what an earlier request held is what has a number below the count so far.
        hits += request.iter().take_while(|page| **page < known).count() as u64;
        known = request.iter().map(|page| page + 1).fold(known, u32::max);
    }
    let blocks = trace.blocks();
    Ideal { blocks, distinct: u64::from(pages.distinct), hits, hit_ratio: ratio(hits, blocks) }
}

/// Pages that cross from one agent to another under the infinite cache: (page, agent) pairs, each once, where the page
/// was put through another agent and got through this one. Request i goes to agent i mod `agents`; a page is put by the
/// agent of the first request that holds it. 0 for fewer than two agents.
pub fn ideal_cross_node_hits(trace: &Trace, agents: usize) -> u64 {
    let agents = agents.max(1);
    let pages = Pages::of(trace);
    let mut putter = Vec::new();
    let mut crossed = vec![false; pages.distinct as usize * agents];
    for (index, request) in pages.requests.iter().enumerate() {
        let agent = index % agents;
        for page in request {
            let page = *page as usize;
            match putter.get(page) {
                Some(other) if *other != agent => crossed[page * agents + agent] = true,
                Some(_) => {}
                None => putter.push(agent),
            }
        }
    }
    crossed.into_iter().filter(|pair| *pair).count() as u64
}

/// Hit ratio of leaf-first LRU in strict order with room for `pages_max` pages: every request is answered, touches its
/// pages and evicts before the next one comes; the victim is always the least recently used page without a child.
pub fn strict_lru(trace: &Trace, pages_max: u64) -> f64 {
    let pages = Pages::of(trace);
    let mut lru = Lru { stamps: vec![None; pages.distinct as usize], by_stamp: BTreeMap::new(), next_stamp: 0 };
    let mut hits = 0;
    for request in &pages.requests {
        hits += request.iter().take_while(|page| lru.holds(**page)).count() as u64;
        // From the last page to the first: a parent is then always younger than its children, and the oldest page of
        // all is a leaf.
        for page in request.iter().rev() {
            lru.touch(*page);
            lru.shrink_to(pages_max);
        }
    }
    ratio(hits, trace.blocks())
}

/// Pages by age.
struct Lru {
    /// When each page was last touched; None: not held.
    stamps: Vec<Option<u64>>,
    by_stamp: BTreeMap<u64, u32>,
    next_stamp: u64,
}

impl Lru {
    fn holds(&self, page: u32) -> bool {
        self.stamps[page as usize].is_some()
    }

    fn touch(&mut self, page: u32) {
        if let Some(before) = self.stamps[page as usize].replace(self.next_stamp) {
            self.by_stamp.remove(&before);
        }
        self.by_stamp.insert(self.next_stamp, page);
        self.next_stamp += 1;
    }

    fn shrink_to(&mut self, pages_max: u64) {
        while self.by_stamp.len() as u64 > pages_max {
            if let Some((_, page)) = self.by_stamp.pop_first() {
                self.stamps[page as usize] = None;
            }
        }
    }
}

/// A trace with its pages numbered from 0 in the order in which they first come. A page is a block with all before it.
struct Pages {
    requests: Vec<Vec<u32>>,
    distinct: u32,
}

impl Pages {
    fn of(trace: &Trace) -> Self {
        let mut numbers: HashMap<(Option<u32>, u64), u32> = HashMap::new();
        let mut number = |parent, block: u64| {
            let next = numbers.len() as u32;
            *numbers.entry((parent, block)).or_insert(next)
        };
        let requests = trace.requests.iter().map(|request| {
            let mut parent = None;
            let numbered = request.blocks.iter().map(|block| {
                let page = number(parent, *block);
                parent = Some(page);
                page
            });
            numbered.collect()
        });
        let requests = requests.collect();
        Self { requests, distinct: numbers.len() as u32 }
    }
}

fn ratio(hits: u64, blocks: u64) -> f64 {
    if blocks == 0 { 0.0 } else { hits as f64 / blocks as f64 }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::Request;
    use super::*;

    fn trace(requests: &[&[u64]]) -> Trace {
        let request =
            |blocks: &&[u64]| Request { timestamp_ms: 0, input_length: 0, output_length: 0, blocks: blocks.to_vec() };
        Trace { requests: requests.iter().map(request).collect() }
    }

    #[test]
    fn a_block_after_another_prefix_is_another_page() {
        let got = ideal(&trace(&[&[1, 2, 3], &[1, 2, 4], &[9, 2], &[1, 2, 3]]));
        assert_eq!(got, Ideal { blocks: 11, distinct: 6, hits: 5, hit_ratio: 5.0 / 11.0 });
        assert_eq!(ideal(&Trace::default()), Ideal { blocks: 0, distinct: 0, hits: 0, hit_ratio: 0.0 });
    }

    #[test]
    fn a_crossing_counts_once() {
        // Agent 0 puts 1 and 2; agent 1 gets them twice, agent 0 gets them again.
        let requests: [&[u64]; 5] = [&[1, 2], &[1, 2, 3], &[1, 2], &[1, 2], &[1, 2, 3]];
        assert_eq!(ideal_cross_node_hits(&trace(&requests), 2), 3);
        assert_eq!(ideal_cross_node_hits(&trace(&requests), 1), 0);
    }

    #[test]
    fn the_victim_is_a_leaf() {
        // Room for 3: [1 2 3] then [1 4] evicts 3, the oldest leaf, though 1 came first.
        assert_eq!(strict_lru(&trace(&[&[1, 2, 3], &[1, 4], &[1, 2, 3]]), 3), 3.0 / 8.0);
        assert_eq!(strict_lru(&trace(&[&[1], &[1]]), 0), 0.0);
    }

    /// Leaf-first LRU said plainly: look at every page held, drop the one without a child that was used longest ago.
    fn plain_lru(trace: &Trace, pages_max: usize) -> u64 {
        let mut held: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
        let (mut hits, mut now) = (0, 0);
        for request in &trace.requests {
            let prefixes: Vec<Vec<u64>> = (1..=request.blocks.len()).map(|n| request.blocks[..n].to_vec()).collect();
            hits += prefixes.iter().take_while(|prefix| held.contains_key(*prefix)).count() as u64;
            for prefix in prefixes.iter().rev() {
                now += 1;
                held.insert(prefix.clone(), now);
            }
            while held.len() > pages_max {
                let parents: BTreeSet<Vec<u64>> = held.keys().map(|page| page[..page.len() - 1].to_vec()).collect();
                let leaves = held.iter().filter(|(page, _)| !parents.contains(*page));
                let victim = leaves.min_by_key(|(_, used)| **used).map(|(page, _)| page.clone()).unwrap();
                held.remove(&victim);
            }
        }
        hits
    }

    proptest! {
        #[test]
        fn strict_lru_is_plain_leaf_first_lru(
            requests in prop::collection::vec(prop::collection::vec(0u64..3, 0..5), 0..30),
            pages_max in 0u64..20,
        ) {
            let slices: Vec<&[u64]> = requests.iter().map(Vec::as_slice).collect();
            let trace = trace(&slices);
            let got = strict_lru(&trace, pages_max) * trace.blocks() as f64;
            prop_assert_eq!(got.round() as u64, plain_lru(&trace, pages_max as usize));
        }

        #[test]
        fn enough_room_is_the_ideal(requests in prop::collection::vec(prop::collection::vec(0u64..3, 0..6), 0..20)) {
            let slices: Vec<&[u64]> = requests.iter().map(Vec::as_slice).collect();
            let trace = trace(&slices);
            let best = ideal(&trace);
            prop_assert_eq!(strict_lru(&trace, best.distinct), best.hit_ratio);
            prop_assert!(ideal_cross_node_hits(&trace, 2) <= best.hits);
        }
    }
}
