//! Namespaces: identity, validation, geometry.

use std::collections::BTreeSet;

use foreword_proto::Namespace;
use foreword_proto::limits::{
    NAMESPACE_TEXT_BYTES_MAX, PAGE_BYTES_MAX, PAGE_TOKENS_MAX, SHARD_ALIGN_BYTES, SHARDS_MAX,
};
use foreword_proto::namespace::Geometry;
use foreword_proto::wire::{common, namespace_from_wire};
use proptest::prelude::*;

type Change = fn(&mut Namespace);

fn base() -> Namespace {
    Namespace::simple("qwen3-32b", 64, vec![2 << 20, 2 << 20])
}

/// One change of each field, all of them valid together and alone.
const CHANGES: [(&str, Change); 22] = [
    ("tenant", |n| n.tenant = "acme".into()),
    ("model", |n| n.model = "qwen3-8b".into()),
    ("revision", |n| n.revision = "r2".into()),
    ("dtype", |n| n.dtype = "fp8_e4m3".into()),
    ("layout", |n| n.layout = "layer_first".into()),
    ("storage_format", |n| n.storage_format = "raw2".into()),
    ("page_tokens", |n| n.page_tokens = 32),
    ("layer_first", |n| n.layer_first = 1),
    ("layer_count", |n| n.layer_count = 2),
    ("cp_size", |n| n.cp_size = 2),
    ("cp_rank", |n| (n.cp_rank, n.cp_size) = (1, 2)),
    ("dcp_size", |n| n.dcp_size = 2),
    ("dcp_rank", |n| (n.dcp_rank, n.dcp_size) = (1, 2)),
    ("tp_first", |n| (n.tp_first, n.tp_size) = (1, 4)),
    ("tp_count", |n| n.tp_count = 1),
    ("tp_size", |n| n.tp_size = 4),
    ("head_split", |n| n.head_split = "none".into()),
    ("shard_bytes", |n| n.shard_bytes = vec![1 << 20, 3 << 20]),
    ("pool", |n| n.pool = "indexer".into()),
    ("draft_model", |n| (n.draft_model, n.draft_revision) = ("eagle".into(), "r1".into())),
    ("draft_revision", |n| (n.draft_model, n.draft_revision) = ("eagle".into(), "r2".into())),
    ("salt", |n| n.salt = vec![0]),
];

fn changed(change: Change) -> Namespace {
    let mut namespace = base();
    change(&mut namespace);
    namespace
}

#[test]
fn every_field_changes_the_fingerprint() {
    let serde_json::Value::Object(fields) = serde_json::to_value(base()).unwrap() else {
        panic!("a namespace is an object")
    };
    let covered: BTreeSet<&str> = CHANGES.iter().map(|(field, _)| *field).collect();
    assert_eq!(covered, fields.keys().map(String::as_str).collect(), "a new field needs a line in CHANGES");
    let mut seen = BTreeSet::from([base().fingerprint()]);
    for (field, change) in CHANGES {
        let namespace = changed(change);
        assert_eq!(namespace.validate(), Ok(()), "{field}");
        assert!(seen.insert(namespace.fingerprint()), "{field} does not change the fingerprint");
    }
}

#[test]
fn text_never_moves_between_fields() {
    let with = |tenant: &str, model: &str| Namespace { tenant: tenant.into(), ..Namespace::simple(model, 64, vec![1]) };
    assert_ne!(with("ab", "c").fingerprint(), with("a", "bc").fingerprint());
}

#[test]
fn the_fingerprint_stays_what_it_is() {
    assert_eq!(base().fingerprint().to_string(), FINGERPRINT);
}

/// Frozen: a registered namespace is found again by it.
const FINGERPRINT: &str = "6bfacab9ea6752788a4170cbd4c1045d3ac3b7e0479858bc132097df8b0c9a15";

#[test]
fn geometry_is_no_part_of_the_name() {
    for (field, change) in CHANGES {
        let same = changed(change).identity_without_geometry() == base().identity_without_geometry();
        assert_eq!(same, ["shard_bytes", "page_tokens"].contains(&field), "{field}");
    }
}

#[test]
fn a_bad_field_is_named() {
    fn long() -> String {
        "x".repeat(NAMESPACE_TEXT_BYTES_MAX + 1)
    }
    let cases: [(&str, Change); 21] = [
        ("tenant", |n| n.tenant.clear()),
        ("model", |n| n.model = long()),
        ("revision", |n| n.revision.clear()),
        ("dtype", |n| n.dtype.clear()),
        ("layout", |n| n.layout.clear()),
        ("storage_format", |n| n.storage_format.clear()),
        ("head_split", |n| n.head_split.clear()),
        ("pool", |n| n.pool = long()),
        ("draft_model", |n| n.draft_model = long()),
        ("draft_revision", |n| n.draft_revision = "r1".into()),
        ("salt", |n| n.salt = vec![0; NAMESPACE_TEXT_BYTES_MAX + 1]),
        ("page_tokens", |n| n.page_tokens = 0),
        ("page_tokens", |n| n.page_tokens = PAGE_TOKENS_MAX + 1),
        ("layer_count", |n| n.layer_count = 0),
        ("cp_rank", |n| n.cp_rank = 1),
        ("dcp_rank", |n| n.dcp_size = 0),
        ("tp_count", |n| (n.tp_first, n.tp_count) = (u32::MAX, u32::MAX)),
        ("shard_bytes", |n| n.shard_bytes.clear()),
        ("shard_bytes", |n| n.shard_bytes = vec![1; SHARDS_MAX + 1]),
        ("shard_bytes", |n| n.shard_bytes = vec![1, 0]),
        ("shard_bytes", |n| n.shard_bytes = vec![u64::MAX, 2]),
    ];
    for (field, change) in cases {
        let mut namespace = base();
        change(&mut namespace);
        assert_eq!(namespace.validate().unwrap_err().field, field);
        let over_the_wire = namespace_from_wire(Some(common::Namespace::from(&namespace))).unwrap_err();
        assert_eq!(over_the_wire.field, format!("namespace.{field}"));
    }
    assert_eq!(namespace_from_wire(None).unwrap_err().field, "namespace");
}

#[test]
fn wire_and_json_carry_every_field() {
    let mut all = base();
    for (_, change) in CHANGES {
        change(&mut all);
    }
    all.tp_first = 2;
    for namespace in CHANGES.map(|(_, change)| changed(change)).into_iter().chain([all]) {
        assert_eq!(namespace_from_wire(Some((&namespace).into())), Ok(namespace.clone()));
        let json = serde_json::to_string(&namespace).unwrap();
        assert_eq!(serde_json::from_str::<Namespace>(&json).unwrap(), namespace);
    }
    let unknown = serde_json::to_string(&base()).unwrap().replace("\"pool\"", "\"pond\"");
    assert!(serde_json::from_str::<Namespace>(&unknown).unwrap_err().to_string().contains("pond"));
}

proptest! {
    #[test]
    fn shards_lie_apart_and_within_their_slot(
        sizes in prop::collection::vec(1u64..3 << 20, 1..SHARDS_MAX),
        chunk_bytes in prop::sample::select(vec![4096u32, 65_536, 1 << 20]),
    ) {
        prop_assert!(Namespace::simple("m", 64, sizes.clone()).validate().is_ok());
        let geometry = Geometry::new(&sizes);
        let mut end = 0;
        for (shard, bytes) in sizes.iter().enumerate() {
            let range = geometry.shard_range(shard);
            prop_assert!(range.start as u64 >= end && (range.start as u64).is_multiple_of(SHARD_ALIGN_BYTES));
            prop_assert_eq!(range.len() as u64, *bytes);
            end = range.end as u64;
        }
        prop_assert!(end <= geometry.frame_bytes && geometry.frame_bytes < end + SHARD_ALIGN_BYTES);
        let slot_bytes = geometry.slot_bytes(chunk_bytes);
        prop_assert!(slot_bytes.is_multiple_of(u64::from(chunk_bytes)) && slot_bytes >= geometry.frame_bytes);
        prop_assert!(slot_bytes < geometry.frame_bytes + u64::from(chunk_bytes));
        // RegisterNamespaceResponse carries it as u32.
        prop_assert!(slot_bytes <= u64::from(u32::MAX));
    }
}

#[test]
fn a_page_has_a_largest_size() {
    let page = |bytes| Namespace::simple("m", 64, vec![bytes]).validate().is_ok();
    assert!(page(PAGE_BYTES_MAX) && !page(PAGE_BYTES_MAX + 1));
}
