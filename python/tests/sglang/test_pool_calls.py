"""Interface v2: the calls for several pools at once, pools without bytes, and weights that change."""

from __future__ import annotations

from types import SimpleNamespace

import fake_native
import pytest
from pages import content, keys_of, tail, transfer
from real_sglang import host_pool, indices


@pytest.fixture
def hybrid(real, storage_of):
    """A backend with KV, the states of a hybrid model and an indexer."""
    made = SimpleNamespace(
        kv=host_pool("mha", "page_first"),
        mamba=host_pool("mamba", "page_first"),
        indexer=host_pool("indexer", "page_first"),
    )
    made.storage = storage_of(made.kv, pools={"mamba": made.mamba, "indexer": made.indexer})
    return made


def test_exists_meets_all_pools_and_reports_each(real, hybrid):
    keys = keys_of(6)
    hybrid.storage.batch_set_v1(keys[:5], indices(hybrid.kv, 0, 1, 2, 3, 4))
    hybrid.storage.batch_set_v2(
        [
            transfer(real, "indexer", hybrid.indexer, (0, 1, 2, 3), keys[:4]),
            transfer(real, "mamba", hybrid.mamba, (1, 2), [keys[1], keys[4]]),
        ]
    )
    result = hybrid.storage.batch_exists_v2(
        keys, [tail(real, "mamba"), transfer(real, "indexer", hybrid.indexer, (), None)]
    )
    assert result.kv_hit_pages == 2
    assert result.restorable_prefix_pages == [2]
    assert result.extra_pool_hit_pages == {"kv": 5, "mamba": 5, "indexer": 4}


def test_exists_reports_every_pool_where_nothing_is_there(real, hybrid):
    result = hybrid.storage.batch_exists_v2(keys_of(3), [tail(real, "mamba"), tail(real, "swa", 2)])
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (0, [])
    assert result.extra_pool_hit_pages == {"kv": 0, "mamba": 0, "swa": 0}


def test_exists_without_other_pools_is_the_kv_run(real, hybrid):
    keys = keys_of(4)
    hybrid.storage.batch_set_v1(keys[:3], indices(hybrid.kv, 0, 1, 2))
    for transfers in (None, []):
        result = hybrid.storage.batch_exists_v2(keys, transfers)
        assert (result.kv_hit_pages, result.extra_pool_hit_pages) == (3, {"kv": 3})


def test_a_policy_of_another_sglang_is_a_miss(real, hybrid):
    keys = keys_of(1)
    hybrid.storage.batch_set_v1(keys, indices(hybrid.kv, 0))
    odd = transfer(real, "indexer", hybrid.indexer, (), None, hit_policy="every_other_page")
    assert hybrid.storage.batch_exists_v2(keys, [odd]).kv_hit_pages == 0


def test_sidecars_alone_may_be_written_and_read(real, hybrid):
    """Tails are published before the KV pages of the same prefix."""
    keys = keys_of(3)
    assert hybrid.storage.batch_set_v2([transfer(real, "mamba", hybrid.mamba, (2,), keys[2:])]) == {"mamba": [True]}
    assert hybrid.storage.batch_get_v2([transfer(real, "mamba", hybrid.mamba, (5,), keys[2:])]) == {"mamba": [True]}
    assert content(hybrid.mamba, 5) == content(hybrid.mamba, 2)


def test_a_read_of_several_pages_answers_for_each(real, hybrid):
    keys = keys_of(3)
    hybrid.storage.batch_set_v2([transfer(real, "indexer", hybrid.indexer, (0, 2), [keys[0], keys[2]])])
    got = hybrid.storage.batch_get_v2([transfer(real, "indexer", hybrid.indexer, (4, 5, 6), keys)])
    assert got == {"indexer": [True, False, True]}
    assert content(hybrid.indexer, 6) == content(hybrid.indexer, 2)


@pytest.mark.parametrize("call", ["batch_set_v2", "batch_get_v2"])
def test_odd_transfers_are_answered_one_word_a_key(real, hybrid, call):
    keys = keys_of(2)
    odd = [
        transfer(real, "mamba", hybrid.mamba, (), None),
        transfer(real, "indexer", hybrid.indexer, (1,), keys),
        transfer(real, "swa", hybrid.kv, (1, 2), keys),
        transfer(real, "kv", hybrid.kv, (), keys),
    ]
    assert getattr(hybrid.storage, call)(odd) == {
        "mamba": [],
        "indexer": [False, False],
        "swa": [False, False],
        "kv": [False, False],
    }
    assert getattr(hybrid.storage, call)([]) == {}


def test_a_whole_backup_at_once_goes_in_batches_with_the_page_before_as_parent(real, storage_of, cluster):
    states = host_pool("mamba", "page_first", pages=400)
    storage = storage_of(host_pool("mha", "page_first"), pools={"mamba": states})
    keys = keys_of(300)
    assert storage.batch_set_v2([transfer(real, "mamba", states, range(300), keys)]) == {"mamba": [True] * 300}
    assert cluster.parents == [None, keys[127], keys[255]]
    assert storage.batch_get_v2([transfer(real, "mamba", states, range(100, 400), keys)]) == {"mamba": [True] * 300}


def test_the_kv_pool_may_come_by_v2_as_well(real, hybrid):
    keys = keys_of(1)
    assert hybrid.storage.batch_set_v2([transfer(real, "kv", hybrid.kv, (1,), keys)]) == {"kv": [True]}
    assert hybrid.storage.batch_get_v1(keys, indices(hybrid.kv, 2)) == [True]
    assert content(hybrid.kv, 2) == content(hybrid.kv, 1)


def test_a_pool_may_come_late(real, storage_of):
    pool, late = host_pool("mha", "page_first"), host_pool("mha", "page_first")
    storage = storage_of(pool, extra={"draft": "eagle@1"})
    keys = keys_of(1)
    assert storage.batch_set_v2([transfer(real, "draft", late, (1,), keys)]) == {"draft": [False]}
    storage.register_mem_host_pool_v2(late, real.PoolName.DRAFT)
    assert storage.batch_set_v2([transfer(real, "draft", late, (1,), keys)]) == {"draft": [True]}


def test_a_pool_that_comes_again_takes_the_place_of_the_former(real, storage_of, cluster):
    storage = storage_of(host_pool("mha", "page_first"), pools={"mamba": host_pool("mamba", "page_first")})
    before = len(cluster.open)
    other = host_pool("mamba", "page_first", layers=5)
    storage.register_mem_host_pool_v2(other, "mamba")
    assert len(cluster.open) == before
    assert storage.batch_set_v2([transfer(real, "mamba", other, (1,), keys_of(1))]) == {"mamba": [True]}


@pytest.fixture
def counting(real, storage_of):
    """DeepSeek-V4's kind: an anchor that only counts, and the bytes in pools beside it."""
    from sglang.srt.mem_cache.memory_pool_host import LogicalHostPool

    made = SimpleNamespace(anchor=LogicalHostPool(512, 64, "page_first"), c4=host_pool("paged", "page_first"))
    made.storage = storage_of(made.anchor, kind="mla", pools={"deepseek_v4_c4": made.c4}, extra={"dtype": "fp8_e4m3"})
    return made


def test_an_anchor_without_bytes_says_yes_and_the_pools_beside_it_decide(real, counting):
    keys, all_pages = keys_of(4), transfer(real, "deepseek_v4_c4", counting.c4, (), None)
    assert counting.storage.batch_set_v1(keys, indices(counting.c4, 0, 1, 2, 3)) == [True] * 4
    assert counting.storage.batch_get_v1(keys, indices(counting.c4, 0, 1, 2, 3)) == [True] * 4
    assert counting.storage.batch_exists_v2(keys, [all_pages]).kv_hit_pages == 0
    counting.storage.batch_set_v2([transfer(real, "deepseek_v4_c4", counting.c4, (0, 1), keys[:2])])
    result = counting.storage.batch_exists_v2(keys, [all_pages])
    assert (result.kv_hit_pages, result.extra_pool_hit_pages) == (2, {"kv": 4, "deepseek_v4_c4": 2})
    assert counting.storage.batch_exists(keys) == 2


def test_a_rank_whose_pages_another_rank_keeps_looks_them_up_and_moves_nothing(real, storage_of):
    """SGLang keeps one host copy of MLA on a machine: the other ranks' pools have no memory."""
    import torch
    from sglang.srt.mem_cache.pool_host.mla import MLAHostAllocation, MLATokenToKVPoolHost

    pool = host_pool("mla", "page_first")
    allocation = MLAHostAllocation(
        dtype=torch.bfloat16,
        kv_lora_rank=pool.kv_lora_rank,
        qk_rope_head_dim=pool.qk_rope_head_dim,
        kv_cache_dim=pool.kv_cache_dim,
        size_per_token=pool.size_per_token,
    )
    elsewhere = MLATokenToKVPoolHost(
        allocation,
        2.0,
        0,
        64,
        "page_first",
        device_capacity_tokens=512,
        start_layer=0,
        end_layer=pool.end_layer,
        target_layer_num=pool.layer_num,
        host_token_capacity=512,
    )
    first, second = (storage_of(one, kind="mla", tp_rank=rank, tp_size=2) for rank, one in enumerate((pool, elsewhere)))
    keys = keys_of(2)
    first.batch_set_v1(keys, indices(pool, 0, 1))
    assert second.batch_exists(keys) == 2
    assert second.batch_get_v1(keys, indices(pool, 0, 1)) == [True, True]
    assert fake_native.CLUSTER.calls["get"] == 0


def test_new_weights_open_a_new_namespace_and_close_the_old_one(real, storage_of, cluster):
    from sglang.srt.runtime_context import get_context

    with get_context().override_server_args(weight_version="1"):
        pool, states = host_pool("mha", "page_first"), host_pool("mamba", "page_first")
        storage, keys = storage_of(pool, pools={"mamba": states}), keys_of(1)
        storage.batch_set_v1(keys, indices(pool, 0))
        opened = list(cluster.open)
        get_context().override("scheduler.weight_version", weight_version="2")
        assert storage.batch_exists(keys) == 0
        assert len(cluster.open) == len(opened)
        assert not set(cluster.open) & set(opened)
        assert storage.batch_set_v1(keys, indices(pool, 1)) == [True]
        get_context().override("scheduler.weight_version", weight_version="1")
        assert storage.batch_get_v1(keys, indices(pool, 5)) == [True]
        assert content(pool, 5) == content(pool, 0)


def test_weights_whose_name_is_too_long_are_misses_and_no_error(real, storage_of, caplog):
    from sglang.srt.runtime_context import get_context

    with get_context().override_server_args(weight_version="1"):
        pool = host_pool("mha", "page_first")
        storage, keys = storage_of(pool), keys_of(1)
        get_context().override("scheduler.weight_version", weight_version="w" * 300)
        assert storage.batch_set_v1(keys, indices(pool, 0)) == [False]
        assert "has no namespace for the weights" in caplog.text
