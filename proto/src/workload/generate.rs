//! A chat workload out of nothing: system prompts shared by many conversations, conversations that grow turn by turn.

use std::ops::RangeInclusive;

use super::splitmix::SplitMix;
use super::{Request, Trace};

/// Tokens of one block, as the generated lengths count them (the published traces use the same).
const BLOCK_TOKENS: u32 = 512;

/// The knobs of a generated chat workload. One set of knobs gives one trace, on every machine.
///
/// `conversations` are open at once. Each request is the next turn of one of them, drawn at random: it asks for the
/// system prompt, everything said before, and the turn's new blocks. After a turn the conversation goes on with
/// probability `turn_percent`, else a new one takes its place, with a system prompt drawn at random (low numbers more
/// often).
///
/// The defaults give about 20 blocks a request, and an infinite cache hits about half of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generator {
    pub seed: u64,
    /// Requests of the trace.
    pub requests: usize,
    /// Different system prompts, at least one.
    pub system_prompts: u32,
    /// Blocks of each system prompt.
    pub system_blocks: RangeInclusive<u32>,
    /// Conversations open at once, at least one: more of them means a longer time between two turns of one.
    pub conversations: u32,
    /// Blocks that open a conversation: a question, a document.
    pub opening_blocks: RangeInclusive<u32>,
    /// Blocks that each later turn adds: the answer before it and the next question.
    pub turn_blocks: RangeInclusive<u32>,
    /// Chance that a conversation has one more turn.
    pub turn_percent: u32,
    /// A conversation that reached so many blocks ends.
    pub blocks_max: usize,
    /// Time between two requests, on average.
    pub gap_ms_mean: u64,
}

impl Default for Generator {
    fn default() -> Self {
        Self {
            seed: 1,
            requests: 2000,
            system_prompts: 16,
            system_blocks: 3..=7,
            conversations: 64,
            opening_blocks: 4..=24,
            turn_blocks: 2..=6,
            turn_percent: 36,
            blocks_max: 96,
            gap_ms_mean: 50,
        }
    }
}

impl Generator {
    /// The default workload with this seed and number of requests.
    pub fn new(seed: u64, requests: usize) -> Self {
        Self { seed, requests, ..Self::default() }
    }

    /// The trace of these knobs.
    pub fn trace(&self) -> Trace {
        let mut chat = Chat::new(self);
        Trace { requests: (0..self.requests).map(|_| chat.next_request()).collect() }
    }
}

/// A generation under way.
struct Chat<'a> {
    knobs: &'a Generator,
    numbers: SplitMix,
    next_block: u64,
    now_ms: u64,
    system_prompts: Vec<Vec<u64>>,
    /// What each open conversation has said so far, from its system prompt on, and whether it has had a turn.
    open: Vec<(Vec<u64>, bool)>,
}

impl<'a> Chat<'a> {
    fn new(knobs: &'a Generator) -> Self {
        let numbers = SplitMix::new(knobs.seed);
        let mut chat = Self { knobs, numbers, next_block: 0, now_ms: 0, system_prompts: Vec::new(), open: Vec::new() };
        for _ in 0..knobs.system_prompts.max(1) {
            let mut prompt = Vec::new();
            chat.say(&mut prompt, &knobs.system_blocks);
            chat.system_prompts.push(prompt);
        }
        for _ in 0..knobs.conversations.max(1) {
            let opened = chat.conversation();
            chat.open.push(opened);
        }
        chat
    }

    fn next_request(&mut self) -> Request {
        let turn = self.numbers.below(self.open.len() as u64) as usize;
        let (mut blocks, begun) = std::mem::take(&mut self.open[turn]);
        let adds = if begun { &self.knobs.turn_blocks } else { &self.knobs.opening_blocks };
        self.say(&mut blocks, adds);
        let goes_on = self.numbers.percent(self.knobs.turn_percent) && blocks.len() < self.knobs.blocks_max;
        self.open[turn] = if goes_on { (blocks.clone(), true) } else { self.conversation() };

        let timestamp_ms = self.now_ms;
        self.now_ms += self.numbers.below(2 * self.knobs.gap_ms_mean + 1);
        let input_length = (blocks.len() as u32).saturating_mul(BLOCK_TOKENS);
        Request { timestamp_ms, input_length, output_length: self.numbers.within(&(1..=2 * BLOCK_TOKENS)), blocks }
    }

    fn conversation(&mut self) -> (Vec<u64>, bool) {
        // The smaller of two draws: the first system prompts have most of the users.
        let prompts = self.system_prompts.len() as u64;
        let prompt = self.numbers.below(prompts).min(self.numbers.below(prompts));
        (self.system_prompts[prompt as usize].clone(), false)
    }

    /// Appends blocks that nobody has said before.
    fn say(&mut self, blocks: &mut Vec<u64>, count: &RangeInclusive<u32>) {
        let count = u64::from(self.numbers.within(count));
        blocks.extend(self.next_block..self.next_block + count);
        self.next_block += count;
    }
}

#[cfg(test)]
mod tests {
    use super::super::ideal;
    use super::*;

    #[test]
    fn the_default_is_a_healthy_chat() {
        for seed in 1..=5 {
            let trace = Generator::new(seed, 2000).trace();
            let best = ideal(&trace);
            let blocks = best.blocks as f64 / 2000.0;
            assert!((17.0..23.0).contains(&blocks), "seed {seed}: {blocks} blocks a request");
            assert!((0.45..0.55).contains(&best.hit_ratio), "seed {seed}: {best:?}");
        }
    }

    #[test]
    fn a_seed_gives_one_trace() {
        let trace = Generator::new(7, 300).trace();
        assert_eq!(trace, Generator::new(7, 300).trace());
        assert_ne!(trace, Generator::new(8, 300).trace());
        // A longer run begins like a shorter one.
        assert_eq!(Generator::new(7, 900).trace().head(300), trace);
    }

    #[test]
    fn odd_knobs_do_no_harm() {
        #[allow(clippy::reversed_empty_ranges)]
        let odd = Generator {
            system_prompts: 0,
            conversations: 0,
            system_blocks: 0..=0,
            turn_blocks: 5..=2,
            ..Generator::new(1, 50)
        };
        assert_eq!(odd.trace().requests.len(), 50);
    }
}
