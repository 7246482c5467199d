"""Which prefixes can be restored, by the policies of each pool; against SGLang's own file backend, page for page."""

from __future__ import annotations

import random

import pytest

from foreword.sglang.hits import Asked, Hits, Policy, hits

ALL, TAIL, BLOCKS = Policy.ALL_PAGES, Policy.TRAILING_PAGES, Policy.BLOCK_GROUPS


def there(text):
    return [letter == "x" for letter in text]


def test_without_other_pools_every_prefix_of_the_kv_run_can_be_restored():
    assert hits("kv", 3, []) == Hits(3, {"kv": 3}, [1, 2, 3])


def test_a_pool_that_is_needed_whole_ends_the_prefix_at_its_first_hole():
    assert hits("kv", 5, [Asked("indexer", ALL, there("xx.xx"))]) == Hits(2, {"kv": 5, "indexer": 2}, [1, 2])


def test_a_state_leaves_holes_among_the_restorable_prefixes():
    assert hits("kv", 6, [Asked("mamba", TAIL, there(".x..x."))]) == Hits(5, {"kv": 6, "mamba": 5}, [2, 5])


def test_a_window_must_be_whole_but_for_the_chain_s_beginning():
    found = hits("kv", 7, [Asked("swa", TAIL, there("x.xxx.x"), trailing=3)])
    assert found == Hits(5, {"kv": 7, "swa": 5}, [1, 5])


def test_pools_are_met_together_and_keep_their_own_boundaries():
    found = hits("kv", 6, [Asked("mamba", TAIL, there("..x..x")), Asked("indexer", ALL, there("xxxx.."))])
    assert found == Hits(3, {"kv": 6, "mamba": 6, "indexer": 4}, [3])


def test_a_pool_without_a_page_is_reported_as_0_and_so_is_an_empty_run():
    assert hits("kv", 2, [Asked("mamba", TAIL, there(".."))]) == Hits(0, {"kv": 2, "mamba": 0}, [])
    assert hits("kv", 0, [Asked("mamba", TAIL, [])]) == Hits(0, {"kv": 0, "mamba": 0}, [])


def test_groups_of_blocks_have_a_boundary_and_take_nothing_away():
    blocks = Asked("c4", BLOCKS, there("...x...x...."), block_pages=4, group_pages=1)
    assert hits("kv", 12, [blocks]) == Hits(12, {"kv": 12, "c4": 8}, list(range(1, 13)))


def test_a_group_that_is_not_whole_ends_the_blocks():
    blocks = Asked("c4", BLOCKS, there("..xx..x."), block_pages=4, group_pages=2)
    assert hits("kv", 8, [blocks]).boundaries == {"kv": 8, "c4": 4}


@pytest.mark.parametrize(("block", "group"), [(0, 0), (4, 0), (0, 1), (2, 3)])
def test_blocks_without_a_geometry_cover_nothing(block, group):
    blocks = Asked("c4", BLOCKS, there("xxxx"), block_pages=block, group_pages=group)
    assert hits("kv", 4, [blocks]).boundaries == {"kv": 4, "c4": 0}


def test_thousands_of_random_prompts_are_answered_as_by_sglangs_file_backend(real, tmp_path, monkeypatch):
    """Of the pools that it reports: it leaves a pool out that has nothing, or that comes after one without which
    nothing can be restored."""
    from sglang.srt.mem_cache.hicache_storage import HiCacheFile, PoolHitPolicy, PoolName, PoolTransfer

    theirs = HiCacheFile(real.storage_config("mha", "page_first"), str(tmp_path / "file"))
    draw = random.Random(14)
    for _ in range(2000):
        count = draw.randint(0, 8)
        keys = [f"k{i}" for i in range(count)]
        pools = [
            (PoolName.MAMBA, draw.choice([ALL, TAIL]), draw.randint(1, 3)),
            (PoolName.SWA, draw.choice([ALL, TAIL]), draw.randint(1, 4)),
        ]
        present = {name: [draw.random() < 0.7 for _ in keys] for name in ("kv", PoolName.MAMBA, PoolName.SWA)}
        files = {f"{theirs._get_component_key(key)}.bin" for i, key in enumerate(keys) if present["kv"][i]}
        files |= {
            f"{theirs._get_component_key(key, name)}.bin"
            for name, _, _ in pools
            for i, key in enumerate(keys)
            if present[name][i]
        }
        monkeypatch.setattr(theirs, "_collect_existing_component_keys", lambda *_: files)
        transfers = [
            PoolTransfer(name, keys=["__placeholder__"] * n, hit_policy=PoolHitPolicy(policy.value))
            for name, policy, n in pools
        ]
        want = theirs.batch_exists_v2(keys, transfers)
        run = next((i for i, is_there in enumerate(present["kv"]) if not is_there), count)
        got = hits("kv", run, [Asked(name, policy, present[name], trailing=n) for name, policy, n in pools])
        assert (got.pages, got.restorable) == (want.kv_hit_pages, want.restorable_prefix_pages)
        assert {name: got.boundaries[name] for name in want.extra_pool_hit_pages} == want.extra_pool_hit_pages
