//! What engines are asked to complete: chains of page keys that share prefixes.

use std::collections::VecDeque;

use foreword_meta::generated::CHAIN_PAGES;
use foreword_proto::PageKey;
use foreword_proto::workload::chain_keys;
use foreword_seams::Entropy;
use serde::{Deserialize, Serialize};

use crate::generated;

/// How an engine's prompts come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompts {
    /// System prompts of unequal popularity, each with tails of users; some conversations go on, longer each time.
    SharedPrefixes {
        /// Distinct system prompts.
        roots: u32,
        /// Distinct blocks that a tail draws from: few, so that tails meet.
        tails: u32,
    },
    /// All engines ask for one prompt at the same moment, and then for the next.
    Herd {
        /// How long one prompt is asked for.
        round_ms: u64,
    },
    /// Mostly prompts that were never seen, and again some of the last few.
    Churn {
        /// Of a hundred prompts, those that were asked for before.
        again_percent: u32,
    },
    /// Prompts that were never seen, all of one length.
    Fresh { pages: u32 },
    /// The beginnings of chains that the group has from before the run, and what conversations that go on from there
    /// add to them.
    Generated {
        /// Of a hundred prompts, those that begin otherwise: as with `Churn`, half of them again.
        fresh_percent: u32,
    },
}

/// Pages of a prompt.
pub const PAGES_MIN: u64 = 4;
pub const PAGES_MAX: u64 = 12;
/// Prompts of its own that an engine remembers.
const REMEMBERED: usize = 6;
/// Beside generated chains, prompts that were asked for before, of a hundred.
const AGAIN_PERCENT: u32 = 50;
/// What follows on a generated chain is one of so many blocks: few, so that conversations meet.
const NEXT_BLOCKS: u64 = 4;

/// The prompts of one engine.
pub(super) struct Source {
    prompts: Prompts,
    remembered: VecDeque<Vec<u64>>,
}

impl Source {
    pub(super) fn new(prompts: Prompts) -> Self {
        Self { prompts, remembered: VecDeque::new() }
    }

    /// The next prompt's keys, in this namespace of the load. `now_ms`: the engine's clock, for those that ask
    /// together.
    pub(super) fn next(&mut self, random: &dyn Entropy, space: u16, now_ms: u64) -> Vec<PageKey> {
        let blocks = match self.prompts {
            Prompts::Generated { fresh_percent } if random.below(100) >= u64::from(fresh_percent) => {
                return goes_on(random, space);
            }
            Prompts::Generated { .. } => self.churn(random, AGAIN_PERCENT),
            Prompts::SharedPrefixes { roots, tails } => self.shared(random, roots, tails),
            Prompts::Herd { round_ms } => herd(now_ms / round_ms.max(1)),
            Prompts::Churn { again_percent } => self.churn(random, again_percent),
            Prompts::Fresh { pages } => (0..pages).map(|_| random.u64() | FRESH).collect(),
        };
        chain_keys(&blocks)
    }

    fn shared(&mut self, random: &dyn Entropy, roots: u32, tails: u32) -> Vec<u64> {
        let tail = |random: &dyn Entropy| TAIL + random.below(u64::from(tails.max(1)));
        let goes_on = random.below(100) < 40;
        if goes_on && let Some(mut blocks) = self.recall(random) {
            let grows = 1 + random.below(3);
            blocks.extend((0..grows).map(|_| tail(random)));
            blocks.truncate(PAGES_MAX as usize);
            return self.remember(blocks);
        }
        let root = popular(random, roots);
        let prefix = PAGES_MIN - 1 + root % 3;
        let mut blocks: Vec<u64> = (0..prefix).map(|at| root << 8 | at).collect();
        let tail_pages = 1 + random.below(4);
        blocks.extend((0..tail_pages).map(|_| tail(random)));
        self.remember(blocks)
    }

    fn churn(&mut self, random: &dyn Entropy, again_percent: u32) -> Vec<u64> {
        let again = random.below(100) < u64::from(again_percent);
        if again && let Some(blocks) = self.recall(random) {
            return blocks;
        }
        let pages = PAGES_MIN + random.below(PAGES_MAX - PAGES_MIN + 1);
        let fresh = (0..pages).map(|_| random.u64() | FRESH).collect();
        self.remember(fresh)
    }

    fn recall(&self, random: &dyn Entropy) -> Option<Vec<u64>> {
        let count = self.remembered.len() as u64;
        (count > 0).then(|| self.remembered[random.below(count) as usize].clone())
    }

    fn remember(&mut self, blocks: Vec<u64>) -> Vec<u64> {
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(blocks.clone());
        blocks
    }
}

/// Where the blocks of tails, of herds and of fresh prompts begin: no root's block is among them.
const TAIL: u64 = 1 << 32;
const HERD: u64 = 1 << 40;
const FRESH: u64 = 1 << 63;

/// A generated chain's beginning, and some pages behind it that a key before them and a block make.
fn goes_on(random: &dyn Entropy, space: u16) -> Vec<PageKey> {
    let chain = random.below(generated::CHAINS_WRITTEN) * CHAIN_PAGES;
    let (known, more) = (1 + random.below(PAGES_MAX - PAGES_MIN), random.below(PAGES_MIN));
    let keys = generated::keys(usize::from(space));
    let mut prompt: Vec<PageKey> = (chain..chain + known).map(|number| keys.page(number)).collect();
    for _ in 0..more {
        let before = prompt.last().map_or([0; 32], |key| key.0);
        prompt.push(PageKey::opaque(&[&before[..], &random.below(NEXT_BLOCKS).to_le_bytes()].concat()));
    }
    prompt
}

/// Every fourth round asks again for the prompt of two rounds before.
fn herd(round: u64) -> Vec<u64> {
    let prompt = if round % 4 == 3 { round - 2 } else { round };
    let pages = PAGES_MIN + prompt % (PAGES_MAX - PAGES_MIN + 1);
    (0..pages).map(|at| HERD | prompt << 8 | at).collect()
}

/// A number in `0..roots` by Zipf's law: the i-th is half, a third, ... as likely as the first.
fn popular(random: &dyn Entropy, roots: u32) -> u64 {
    /// Shares are counted in parts of this many.
    const WHOLE: u64 = 27_720;
    let roots = u64::from(roots.max(1));
    let sum: u64 = (1..=roots).map(|rank| WHOLE / rank).sum();
    let mut drawn = random.below(sum);
    for rank in 1..=roots {
        match drawn.checked_sub(WHOLE / rank) {
            Some(rest) => drawn = rest,
            None => return rank - 1,
        }
    }
    roots - 1
}
