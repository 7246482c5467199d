//! The trace as the driver works on it: pages numbered in the order in which they first come.

use std::collections::HashMap;

use foreword_proto::PageKey;
use foreword_proto::workload::{Trace, chain_keys};

/// Number of a page of the trace. A page is a block with everything before it.
pub type PageIndex = u32;

/// A trace with its page keys.
#[derive(Debug)]
pub struct Plan {
    /// Every distinct page's key.
    pub keys: Vec<PageKey>,
    pub requests: Vec<PlannedRequest>,
}

/// One request of the plan.
#[derive(Debug)]
pub struct PlannedRequest {
    pub timestamp_ms: u64,
    /// Its pages in order.
    pub pages: Vec<PageIndex>,
}

impl Plan {
    /// Numbers the pages of a trace.
    pub fn new(trace: &Trace) -> Self {
        let mut numbers = HashMap::new();
        let mut keys = Vec::new();
        let requests = trace.requests.iter().map(|request| {
            let pages = chain_keys(&request.blocks).into_iter().map(|key| {
                *numbers.entry(key).or_insert_with(|| {
                    keys.push(key);
                    keys.len() as PageIndex - 1
                })
            });
            PlannedRequest { timestamp_ms: request.timestamp_ms, pages: pages.collect() }
        });
        let requests = requests.collect();
        Self { keys, requests }
    }

    /// The key of a page.
    pub fn key(&self, page: PageIndex) -> &PageKey {
        &self.keys[page as usize]
    }

    /// The keys of pages, as one wire field.
    pub fn wire_keys(&self, pages: &[PageIndex]) -> bytes::Bytes {
        let keys: Vec<PageKey> = pages.iter().map(|page| *self.key(*page)).collect();
        foreword_proto::key::page_keys_to_wire(&keys)
    }
}

#[cfg(test)]
mod tests {
    use foreword_proto::workload::Request;

    use super::*;

    #[test]
    fn a_page_is_a_block_with_what_comes_before() {
        let request =
            |blocks: &[u64]| Request { timestamp_ms: 0, input_length: 0, output_length: 0, blocks: blocks.to_vec() };
        let plan = Plan::new(&Trace { requests: vec![request(&[1, 2]), request(&[1, 3]), request(&[2, 3])] });
        let pages: Vec<&[PageIndex]> = plan.requests.iter().map(|request| request.pages.as_slice()).collect();
        assert_eq!(pages, [&[0, 1][..], &[0, 2], &[3, 4]]);
        assert_eq!(plan.wire_keys(&[1]).as_ref(), plan.key(1).0);
    }
}
