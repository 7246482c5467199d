"""Pages of several ranks: gathered, shared, and kept apart."""

from __future__ import annotations

from pages import content, keys_of, transfer
from real_sglang import host_pool, indices


def ranks(real, storage_of, kind, count=2, **more):
    pools = [host_pool(kind, "page_first") for _ in range(count)]
    return pools, [storage_of(pool, kind=kind, tp_rank=rank, tp_size=count, **more) for rank, pool in enumerate(pools)]


def test_ranks_are_gathered_into_one_page(real, storage_of, cluster):
    pools, storages = ranks(real, storage_of, "mha")
    keys = keys_of(2)
    assert storages[0].batch_set_v1(keys, indices(pools[0], 0, 1)) == [True, True]
    assert [storage.batch_exists(keys) for storage in storages] == [0, 0]
    assert storages[1].batch_set_v1(keys, indices(pools[1], 4, 5)) == [True, True]
    assert [storage.batch_exists(keys) for storage in storages] == [2, 2]
    assert len(cluster.pages) == 1
    for rank, (pool, page) in enumerate(zip(pools, (0, 4), strict=True)):
        assert storages[rank].batch_get_v1(keys, indices(pool, 7, 6)) == [True, True]
        assert content(pool, 7) == content(pool, page)
    assert content(pools[0], 7) != content(pools[1], 7)


def test_ranks_of_two_machines_have_pages_of_their_own(real, storage_of, cluster):
    pools, storages = ranks(real, storage_of, "mha", 4, extra={"rank_group": 2})
    keys = keys_of(1)
    for storage, pool in list(zip(storages, pools, strict=True))[:2]:
        storage.batch_set_v1(keys, indices(pool, 0))
    assert [storage.batch_exists(keys) for storage in storages] == [1, 1, 0, 0]


def test_one_rank_writes_mla_and_all_read_it(real, storage_of, cluster):
    pools, storages = ranks(real, storage_of, "mla", 4)
    keys = keys_of(2)
    assert storages[1].batch_set_v1(keys, indices(pools[1], 0, 1)) == [True, True]
    assert cluster.calls["put"] == 0
    assert storages[0].batch_set_v1(keys, indices(pools[0], 0, 1)) == [True, True]
    assert [storage.batch_exists(keys) for storage in storages] == [2] * 4
    assert storages[3].batch_get_v1(keys, indices(pools[3], 5, 6)) == [True, True]
    assert content(pools[3], 5) == content(pools[0], 0)
    assert len(cluster.pages) == 1


def test_mla_is_shared_by_ranks_of_other_machines_too(real, storage_of):
    pools, storages = ranks(real, storage_of, "mla", 4, extra={"rank_group": 2})
    keys = keys_of(1)
    storages[0].batch_set_v1(keys, indices(pools[0], 0))
    assert [storage.batch_exists(keys) for storage in storages] == [1] * 4


def test_states_belong_to_a_rank_under_mla_too(real, storage_of):
    states = [host_pool("mamba", "page_first") for _ in range(2)]
    keys = keys_of(1)
    storages = [
        storage_of(host_pool("mla", "page_first"), kind="mla", tp_rank=rank, tp_size=2, pools={"mamba": states[rank]})
        for rank in range(2)
    ]
    for rank in range(2):
        assert storages[rank].batch_set_v2([transfer(real, "mamba", states[rank], (rank,), keys)]) == {"mamba": [True]}
    want = [content(states[rank], rank) for rank in range(2)]
    for rank in range(2):
        assert storages[rank].batch_get_v2([transfer(real, "mamba", states[rank], (7,), keys)]) == {"mamba": [True]}
        assert content(states[rank], 7) == want[rank]
    assert want[0] != want[1]


def test_a_draft_of_another_kind_beside_mla_is_the_first_rank_s_alone(real, storage_of):
    drafts = [host_pool("mha", "page_first") for _ in range(2)]
    keys, extra = keys_of(1), {"draft": "eagle@1"}
    storages = [
        storage_of(
            host_pool("mla", "page_first"),
            kind="mla",
            tp_rank=rank,
            tp_size=2,
            pools={"draft": drafts[rank]},
            extra=extra,
        )
        for rank in range(2)
    ]
    untouched = content(drafts[1], 3)
    assert storages[0].batch_set_v2([transfer(real, "draft", drafts[0], (0,), keys)]) == {"draft": [True]}
    assert storages[0].batch_get_v2([transfer(real, "draft", drafts[0], (3,), keys)]) == {"draft": [True]}
    assert content(drafts[0], 3) == content(drafts[0], 0)
    assert storages[1].batch_set_v2([transfer(real, "draft", drafts[1], (0,), keys)]) == {"draft": [True]}
    assert storages[1].batch_get_v2([transfer(real, "draft", drafts[1], (3,), keys)]) == {"draft": [False]}
    assert content(drafts[1], 3) == untouched
