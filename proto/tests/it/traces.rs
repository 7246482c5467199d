//! The published traces against the values that CONTRACTS.md knows of them.

use std::collections::BTreeMap;
use std::path::Path;

use foreword_proto::workload::{Trace, ideal, ideal_cross_node_hits, parse, strict_lru};

fn published(name: &str) -> Option<Trace> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(parse(&bytes).expect("a published trace parses")),
        Err(error) => {
            println!("skipped: {}: {error}", path.display());
            None
        }
    }
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 10_000.0).round() / 10_000.0
}

#[test]
fn conversation_has_its_known_values() {
    let Some(trace) = published("conversation.jsonl.gz") else { return };
    let best = ideal(&trace);
    assert_eq!(trace.requests.len(), 12_031);
    assert_eq!((best.blocks, best.distinct, best.hits), (288_500, 182_790, 105_710));
    assert_eq!(rounded(best.hit_ratio), 0.3664);
    assert_eq!(ideal_cross_node_hits(&trace, 2), 27_634);
    assert_eq!(rounded(strict_lru(&trace, 18_279)), 0.2789);
    assert_ids_name_their_prefix(&trace);
}

#[test]
fn synthetic_has_its_known_values() {
    let Some(trace) = published("synthetic.jsonl.gz") else { return };
    let best = ideal(&trace);
    assert_eq!(trace.requests.len(), 3_993);
    assert_eq!((best.blocks, best.distinct), (121_877, 43_924));
    assert_eq!(rounded(best.hit_ratio), 0.6396);
    assert_eq!(rounded(strict_lru(&trace, 4_392)), 0.2623);
    assert_ids_name_their_prefix(&trace);
}

/// What the workload's documentation says of these files: an id always has the same predecessor.
fn assert_ids_name_their_prefix(trace: &Trace) {
    let mut before: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    for request in &trace.requests {
        let mut parent = None;
        for block in &request.blocks {
            assert_eq!(*before.entry(*block).or_insert(parent), parent, "block {block}");
            parent = Some(*block);
        }
    }
}
