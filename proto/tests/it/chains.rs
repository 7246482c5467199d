//! Prefix chains against SGLang's own results, against frozen results of ours, and against their own definition.

use foreword_proto::chain::{Algorithm, Chain, Prompt, TokenIds, Unit, asked_keys, sglang_seed};
use foreword_proto::key::page_keys_to_wire;
use foreword_proto::limits::{KEYS_MAX, TOKEN_IDS_BYTES_MAX};
use foreword_proto::{BadInput, PageKey};
use proptest::prelude::*;
use serde::Deserialize;

/// One case of golden/sglang_sha256.json, written by golden/make_sglang_vectors.py from SGLang's own code.
#[derive(Deserialize)]
struct SglangCase {
    name: String,
    unit: String,
    extra_key: Option<String>,
    cache_salt: Option<String>,
    seed: Option<String>,
    page_tokens: u32,
    wide_buffer: bool,
    token_ids: Vec<u64>,
    pages: Vec<String>,
}

#[derive(Deserialize)]
struct SglangVectors {
    cases: Vec<SglangCase>,
}

fn hex(keys: &[PageKey]) -> Vec<String> {
    keys.iter().map(PageKey::to_string).collect()
}

fn narrow(ids: &[u64]) -> Option<TokenIds> {
    let ids: Result<Vec<u32>, _> = ids.iter().map(|id| u32::try_from(*id)).collect();
    ids.ok().map(TokenIds::Narrow)
}

#[test]
fn sha256_is_sglangs_in_all_its_forms() {
    let vectors: SglangVectors = serde_json::from_str(include_str!("../golden/sglang_sha256.json")).unwrap();
    let (mut bigrams, mut wide, mut seeded, mut pages) = (0, 0, 0, 0);
    for case in vectors.cases {
        let seed = sglang_seed(case.extra_key.as_deref(), case.cache_salt.as_deref());
        assert_eq!(seed.map(|seed| PageKey(seed).to_string()), case.seed, "{}: seed", case.name);
        let unit = if case.unit == "bigram" { Unit::Bigram } else { Unit::Token };
        let chain = Chain { algorithm: Algorithm::Sha256, unit, seed };
        let as_narrow = narrow(&case.token_ids);
        assert!(case.wide_buffer || as_narrow.is_some(), "{}: a u32 buffer holds u32", case.name);
        wide += usize::from(as_narrow.is_none());
        for tokens in as_narrow.into_iter().chain([TokenIds::Wide(case.token_ids)]) {
            assert_eq!(hex(&chain.page_keys(&tokens, case.page_tokens).unwrap()), case.pages, "{}", case.name);
        }
        bigrams += usize::from(unit == Unit::Bigram);
        seeded += usize::from(seed.is_some());
        pages += case.pages.len();
    }
    // The file really has all the forms.
    assert!(bigrams >= 40 && wide >= 20 && seeded >= 14 && pages >= 180, "{bigrams} {wide} {seeded} {pages}");
}

#[test]
fn blake3_stays_what_it_is() {
    let ids: Vec<u32> = (0..9).map(|i| i * 7919).collect();
    let wide = TokenIds::Wide(vec![1, 2, 3, 1 << 32, 5]);
    let keys = |unit, seed, tokens: &TokenIds| {
        hex(&Chain { algorithm: Algorithm::Blake3, unit, seed }.page_keys(tokens, 4).unwrap())
    };
    let narrow = TokenIds::Narrow(ids);
    assert_eq!(keys(Unit::Token, None, &narrow), BLAKE3_TOKEN);
    assert_eq!(keys(Unit::Bigram, None, &narrow), BLAKE3_BIGRAM);
    assert_eq!(keys(Unit::Token, Some([7; 32]), &narrow), BLAKE3_SEEDED);
    assert_eq!(keys(Unit::Token, None, &wide), BLAKE3_WIDE);
}

/// Frozen: what one version stores another must find.
const BLAKE3_TOKEN: [&str; 2] = [
    "3afba0eb221ec303d4dfad457219bb7aec1e8a9ccce25a5c504d76e07309794d",
    "da031293a80ee1bb949df30df7d1386d4eae5d8514d4dbf0b5ef3a4f24682041",
];
const BLAKE3_BIGRAM: [&str; 2] = [
    "1f14b6d15bea40ece5b56656fe1035058bb272c1164eb9ae5ae474c1849af6e5",
    "5ad99c4b7d08b196e8d1420c8d53e5bbdbf25de59f906c4701538a40952bdfaa",
];
const BLAKE3_SEEDED: [&str; 2] = [
    "d48b192dd11c9c117e587ee8e4f6f0e356f0c43a37da245dd53fcd80486740fa",
    "aecab81432f98fcbf69c84a7080faee22bd5fb6cd4362d837bf8de31780ceb6d",
];
const BLAKE3_WIDE: [&str; 1] = ["9b29a7562a8293f3d33dcb0a107a91a6f2d496a3da55a2baa6d953dc3e5eeec3"];

fn any_chain() -> impl Strategy<Value = Chain> {
    let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Blake3)];
    let unit = prop_oneof![Just(Unit::Token), Just(Unit::Bigram)];
    (algorithm, unit, any::<Option<[u8; 32]>>()).prop_map(|(algorithm, unit, seed)| Chain { algorithm, unit, seed })
}

/// Few different ids, some of them wide, so that prompts share prefixes often.
fn any_ids() -> impl Strategy<Value = Vec<u64>> {
    let id = prop_oneof![9 => 0u64..3, 1 => (1u64 << 32)..(1 << 32) + 2];
    prop::collection::vec(id, 0..40)
}

proptest! {
    #[test]
    fn a_chain_continued_is_the_chain_whole(chain in any_chain(), ids in any_ids(), page in 1u32..6, cut: prop::sample::Index) {
        let whole = chain.page_keys(&TokenIds::Wide(ids.clone()), page).unwrap();
        let cut = cut.index(whole.len() + 1);
        let at = cut * page as usize;
        let overlap = usize::from(chain.unit == Unit::Bigram && at < ids.len());
        let mut keys = chain.page_keys(&TokenIds::Wide(ids[..at + overlap].to_vec()), page).unwrap();
        prop_assert_eq!(keys.len(), cut);
        keys.extend(chain.page_keys_after(keys.last().copied(), &TokenIds::Wide(ids[at..].to_vec()), page).unwrap());
        prop_assert_eq!(keys, whole);
    }

    #[test]
    fn keys_are_equal_exactly_as_far_as_prompts_are(chain in any_chain(), a in any_ids(), b in any_ids(), page in 1u32..6) {
        let (keys_a, keys_b) = (
            chain.page_keys(&TokenIds::Wide(a.clone()), page).unwrap(),
            chain.page_keys(&TokenIds::Wide(b.clone()), page).unwrap(),
        );
        let overlap = usize::from(chain.unit == Unit::Bigram);
        prop_assert_eq!(keys_a.len(), a.len().saturating_sub(overlap) / page as usize);
        for i in 0..keys_a.len().min(keys_b.len()) {
            let end = (i + 1) * page as usize + overlap;
            prop_assert_eq!(keys_a[i] == keys_b[i], a[..end] == b[..end]);
        }
    }

    #[test]
    fn algorithm_unit_and_seed_keep_chains_apart(chain in any_chain(), other in any_chain(), ids in prop::collection::vec(0u32..9, 9..20)) {
        let tokens = TokenIds::Narrow(ids);
        let (keys, others) = (chain.page_keys(&tokens, 4).unwrap(), other.page_keys(&tokens, 4).unwrap());
        prop_assert_eq!(chain == other, keys == others);
    }

    #[test]
    fn the_wire_carries_a_prompt_unchanged(chain in any_chain(), ids in any_ids(), wide: bool) {
        let tokens = narrow(&ids).filter(|_| !wide).unwrap_or(TokenIds::Wide(ids));
        let prompt = Prompt { chain, tokens };
        prop_assert_eq!(Prompt::from_wire(&prompt.to_wire()), Ok(prompt));
    }
}

#[test]
fn a_bad_prompt_is_refused_with_its_field() {
    let good = Prompt { chain: Chain::SGLANG, tokens: TokenIds::Narrow(vec![1, 2, 3, 4]) }.to_wire();
    let field = |change: &dyn Fn(&mut foreword_proto::wire::common::Tokens)| {
        let mut message = good.clone();
        change(&mut message);
        Prompt::from_wire(&message).unwrap_err().field
    };
    assert_eq!(field(&|m| m.algorithm = 0), "tokens.algorithm");
    assert_eq!(field(&|m| m.algorithm = 99), "tokens.algorithm");
    assert_eq!(field(&|m| m.unit = 0), "tokens.unit");
    assert_eq!(field(&|m| m.unit = -1), "tokens.unit");
    assert_eq!(field(&|m| m.seed = vec![0; 31].into()), "tokens.seed");
    assert_eq!(field(&|m| m.token_ids = vec![0; 15].into()), "tokens.token_ids");
    assert_eq!(field(&|m| m.token_ids = vec![0; TOKEN_IDS_BYTES_MAX + 4].into()), "tokens.token_ids");
    // 12 bytes are three narrow ids, but no whole number of wide ones; and a wide id has 63 bits.
    let wide = |bytes: Vec<u8>| field(&move |m| (m.wide, m.token_ids) = (true, bytes.clone().into()));
    assert_eq!(wide(vec![0; 12]), "tokens.token_ids");
    assert_eq!(wide(vec![0xff; 8]), "tokens.token_ids");
}

#[test]
fn page_tokens_are_checked_and_pages_counted() {
    let tokens = TokenIds::Narrow(vec![0; KEYS_MAX + 1]);
    for page_tokens in [0, 8193] {
        assert_eq!(Chain::SGLANG.page_keys(&tokens, page_tokens).unwrap_err().field, "page_tokens");
    }
    let beyond = TokenIds::Wide(vec![0, 1 << 63]);
    assert_eq!(Chain::SGLANG.page_keys(&beyond, 1).unwrap_err().field, "token_ids");
    let prompt = Prompt { chain: Chain::SGLANG, tokens };
    assert_eq!(prompt.page_keys(1).unwrap_err().field, "tokens.token_ids");
    assert_eq!(prompt.page_keys(2).unwrap().len(), KEYS_MAX / 2);
}

#[test]
fn a_request_asks_by_keys_or_by_tokens() {
    let prompt = Prompt { chain: Chain::SGLANG, tokens: TokenIds::Narrow(vec![5; 10]) };
    let keys = prompt.page_keys(4).unwrap();
    assert_eq!(asked_keys(&[], Some(&prompt.to_wire()), 4), Ok(keys.clone()));
    let wire = page_keys_to_wire(&keys);
    assert_eq!(asked_keys(&wire, None, 4), Ok(keys));
    assert_eq!(asked_keys(&[], None, 4), Ok(Vec::new()));
    let field = |asked: Result<Vec<PageKey>, BadInput>| asked.unwrap_err().field;
    assert_eq!(field(asked_keys(&wire, Some(&prompt.to_wire()), 4)), "tokens");
    assert_eq!(field(asked_keys(&wire[1..], None, 4)), "keys");
}
