"""Interface v1: the calls for KV pages, on SGLang's own host pools and over a cluster in memory."""

from __future__ import annotations

import fake_native
import pytest
from pages import content, keys_of
from real_sglang import host_pool, indices


def test_exists_counts_the_leading_pages(real, storage_of):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(5)
    assert storage.batch_exists(keys) == 0
    storage.batch_set_v1([keys[0], keys[1], keys[3]], indices(pool, 0, 1, 3))
    assert storage.batch_exists(keys) == 2
    assert storage.batch_exists(keys[3:]) == 1
    assert storage.batch_exists([]) == 0
    assert storage.exists(keys[3])
    assert not storage.exists(keys[2])


def test_exists_takes_all_keys_of_a_request_in_one_call(real, storage_of):
    storage = storage_of(host_pool("mha", "page_first"))
    storage.batch_exists(keys_of(2048))
    assert fake_native.CLUSTER.calls["lookup"] == 1


def test_a_get_needs_no_exists_before_it(real, storage_of):
    pool = host_pool("mha", "page_first")
    keys = keys_of(2)
    storage_of(pool).batch_set_v1(keys, indices(pool, 1, 2))
    other = host_pool("mha", "page_first")
    assert storage_of(other).batch_get_v1(keys, indices(other, 6, 5)) == [True, True]
    assert [content(other, page) for page in (6, 5)] == [content(pool, page) for page in (1, 2)]
    assert fake_native.CLUSTER.calls["lookup"] == 0


def test_a_get_stops_at_a_hole_and_shifts_nothing(real, storage_of):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(4)
    storage.batch_set_v1([keys[0], keys[1], keys[3]], indices(pool, 0, 1, 3))
    other = host_pool("mha", "page_first")
    untouched = [content(other, page) for page in (2, 3)]
    assert storage_of(other).batch_get_v1(keys, indices(other, 0, 1, 2, 3)) == [True, True, False, False]
    assert [content(other, page) for page in (0, 1)] == [content(pool, page) for page in (0, 1)]
    assert [content(other, page) for page in (2, 3)] == untouched


@pytest.mark.parametrize("call", ["batch_set_v1", "batch_get_v1"])
@pytest.mark.parametrize("size", [0, 1, 64, 127, 129, 192])
def test_indices_of_another_number_of_pages_are_answered_false(real, storage_of, call, size):
    import torch

    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(2)
    storage.batch_set_v1(keys, indices(pool, 0, 1))
    assert getattr(storage, call)(keys, torch.arange(size, dtype=torch.int64)) == [False, False]
    assert getattr(storage, call)(keys, None) == [False, False]
    assert getattr(storage, call)([], torch.arange(0)) == []


def test_indices_may_be_of_another_dtype_and_stride(real, storage_of):
    import torch

    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(2)
    spread = torch.stack([indices(pool, 2, 5)] * 2, dim=1)[:, 0]
    assert not spread.is_contiguous()
    assert storage.batch_set_v1(keys, spread.to(torch.int32)) == [True, True]
    assert storage.batch_get_v1(keys, torch.cat([indices(pool, 3), indices(pool, 4)])) == [True, True]
    assert content(pool, 4) == content(pool, 5)


def test_a_page_that_the_policy_does_not_want_is_answered_true(real, storage_of, cluster):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(3)
    cluster.decline = True
    assert storage.batch_set_v1(keys, indices(pool, 0, 1, 2)) == [True] * 3
    assert storage.batch_exists(keys) == 0


def test_a_page_for_which_there_is_no_room_is_answered_false(real, storage_of, cluster):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(3)
    cluster.refuse_keys = {keys[1]}
    assert storage.batch_set_v1(keys, indices(pool, 0, 1, 2)) == [True, False, True]


def test_a_page_that_is_there_already_is_answered_true(real, storage_of):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(2)
    first = content(pool, 0)
    storage.batch_set_v1(keys, indices(pool, 0, 1))
    assert storage.batch_set_v1(keys, indices(pool, 2, 3)) == [True, True]
    storage.batch_get_v1(keys[:1], indices(pool, 7))
    assert content(pool, 7) == first


@pytest.mark.parametrize(("before", "parent"), [(None, None), ([], None), (["a" * 64, "b" * 64], "b" * 64)])
def test_the_parent_is_the_last_of_the_keys_before(real, storage_of, cluster, before, parent):
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo

    pool = host_pool("mha", "page_first")
    storage_of(pool).batch_set_v1(keys_of(2), indices(pool, 0, 1), HiCacheStorageExtraInfo(prefix_keys=before))
    assert cluster.parents == [parent]
