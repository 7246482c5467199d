"""Everything about a backend that moves no pages: refusals, clear, close, figures, and how SGLang loads it."""

from __future__ import annotations

import ctypes
import logging
import threading
from types import SimpleNamespace

import pytest
from pages import content, keys_of, tail, transfer
from real_sglang import host_pool, indices


def test_clear_raises_unless_the_configuration_allows_it(real, storage_of):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(1)
    storage.batch_set_v1(keys, indices(pool, 0))
    with pytest.raises(RuntimeError, match='clear is not allowed.*write "allow_clear": true'):
        storage.clear()
    assert storage.batch_exists(keys) == 1


def test_clear_takes_every_pool_s_pages_where_it_is_allowed(real, storage_of, cluster):
    pool, states = host_pool("mha", "page_first"), host_pool("mamba", "page_first")
    storage, keys = storage_of(pool, pools={"mamba": states}, extra={"allow_clear": True}), keys_of(1)
    storage.batch_set_v1(keys, indices(pool, 0))
    storage.batch_set_v2([transfer(real, "mamba", states, (0,), keys)])
    assert storage.clear()
    assert not any(cluster.pages.values())
    storage.clear()


def test_clear_says_why_the_agent_does_not(real, storage_of, cluster):
    cluster.clears_allowed = False
    storage = storage_of(host_pool("mha", "page_first"), extra={"allow_clear": True})
    with pytest.raises(RuntimeError, match="clear_tenants"):
        storage.clear()


def test_close_may_be_called_again_and_leaves_nothing_open(real, storage_of, cluster):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool, pools={"mamba": host_pool("mamba", "page_first")}), keys_of(1)
    storage.batch_set_v1(keys, indices(pool, 0))
    for _ in range(3):
        storage.close()
    assert cluster.open == []
    assert storage.batch_exists(keys) == 0
    assert storage.batch_get_v1(keys, indices(pool, 0)) == [False]
    assert storage.batch_set_v1(keys, indices(pool, 0)) == [False]
    assert storage.get_stats() is not None


def test_a_backend_that_registered_nothing_closes_and_answers(real, storage_of):
    storage = storage_of()
    assert storage.batch_exists(keys_of(1)) == 0
    assert storage.batch_get_v1(keys_of(1), None) == [False]
    storage.on_host_pools_registered()
    storage.close()


def test_stats_are_what_was_moved_since_the_last_time_and_ask_nobody(real, storage_of, cluster):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(3)
    storage.batch_set_v1(keys, indices(pool, 0, 1, 2))
    storage.batch_get_v1(keys[:2], indices(pool, 4, 5))
    asked = sum(cluster.calls.values())
    stats = storage.get_stats()
    assert (stats.backup_pgs, stats.prefetch_pgs) == ([3], [2])
    assert len(stats.backup_bandwidth) == len(stats.prefetch_bandwidth) == 1
    assert stats.backup_bandwidth[0] > 0
    assert storage.get_stats().backup_pgs == []
    assert sum(cluster.calls.values()) == asked


def test_what_nobody_drains_does_not_grow_without_end(real, storage_of):
    pool = host_pool("mha", "page_first")
    storage = storage_of(pool)
    for _ in range(5000):
        storage._reports.read(1, 1, 4096, 0.001)
    assert len(storage.get_stats().prefetch_pgs) == 4096


def test_a_line_a_minute_says_what_was_done(real, storage_of, caplog, monkeypatch):
    from foreword.sglang import reports

    now = [1000.0]
    monkeypatch.setattr(reports, "time", SimpleNamespace(monotonic=lambda: now[0]))
    caplog.set_level(logging.INFO, logger="foreword.sglang")
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(4)
    storage._reports._said = now[0]
    storage.batch_set_v1(keys[:3], indices(pool, 0, 1, 2))
    storage.batch_get_v1(keys, indices(pool, 0, 1, 2, 3))
    now[0] += 60
    storage.batch_exists(keys)
    assert "foreword: in 60 s asked for 4 pages, hit 3; read 3 (0.00 GiB), wrote 3 (0.00 GiB), failed 1" in caplog.text


def test_calls_without_interface_v1_find_and_keep_nothing(real, storage_of, caplog):
    storage, keys = storage_of(host_pool("mha", "page_first")), keys_of(2)
    assert storage.get(keys[0]) is None
    assert storage.batch_get(keys, [None, None]) == [None, None]
    assert storage.set(keys[0], object()) is False
    assert storage.batch_set(keys, [object()] * 2) is False
    assert 'write "interface_v1": 1' in caplog.text


def test_an_agent_over_tcp_is_used_with_one_warning(real, storage_of, caplog):
    pool = host_pool("mha", "page_first")
    storage = storage_of(pool, extra={"agent": "10.0.0.7:7500"})
    assert storage.batch_set_v1(keys_of(1), indices(pool, 0)) == [True]
    assert [record.getMessage() for record in caplog.records if "over TCP" in record.getMessage()] == [
        "foreword: pages go to the agent over TCP (10.0.0.7:7500); "
        "its unix socket is faster where it runs on this machine"
    ]


@pytest.mark.parametrize("tls", [{"token_file": "/t"}, {"ca": "/ca"}, {"cert": "/c", "key": "/k"}])
def test_what_is_configured_for_tls_is_refused_over_tcp_and_not_used_on_a_unix_socket(real, storage_of, tls):
    pool = host_pool("mha", "page_first")
    assert storage_of(pool, extra=tls).batch_set_v1(keys_of(1), indices(pool, 0)) == [True]
    with pytest.raises(ValueError, match="^(token_file|ca|cert): agents of this release have neither TLS nor tokens"):
        storage_of(pool, extra={**tls, "agent": "10.0.0.7:7500"})


def test_a_configuration_is_refused_before_anything_is_opened(real, cluster):
    from foreword.sglang import ForewordStorage

    for extra in ({}, {"agent": "unix:/x"}, {"agent": "unix:/x", "interface_v1": 1, "agnt": 1}):
        with pytest.raises(ValueError, match="interface_v1|agnt"):
            ForewordStorage(real.storage_config("mha", "page_first", extra=extra), {})
    assert cluster.open == []


@pytest.mark.parametrize("rank", range(4))
def test_a_refusal_is_the_same_on_every_rank(real, storage_of, rank):
    from foreword.sglang.config import ConfigError

    with pytest.raises(ConfigError, match='^draft: the draft pool holds KV of a draft model, .* write "draft"'):
        storage_of(
            host_pool("mla", "page_first"),
            kind="mla",
            tp_rank=rank,
            tp_size=4,
            pools={"draft": host_pool("mla", "page_first")},
        )


def created(real, extra=None):
    from pages import EXTRA
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    config = real.storage_config("mha", "page_first", extra={**EXTRA, **(extra or {})})
    return StorageBackendFactory.create_backend("dynamic", config, None)


def test_sglang_s_factory_makes_it(real):
    storage = created(real)
    assert type(storage).__name__ == "ForewordStorage"
    storage.close()


def test_it_is_known_as_a_dynamic_backend_by_its_module(real):
    import foreword.sglang

    assert foreword.sglang.__all__ == ["ForewordStorage"]
    with pytest.raises(AttributeError, match="has no attribute 'ForewordStore'"):
        _ = foreword.sglang.ForewordStore


def test_it_survives_sglang_s_failure_injector(real, monkeypatch):
    """Every call may fail before it reaches the backend; what does reach it must still be answered rightly."""
    from sglang.srt.environ import envs

    with (
        envs.SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE.override(0.3),
        envs.SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY.override(0.001),
    ):
        storage = created(real)
    assert type(storage).__name__ == "HiCacheStorageFailureInjector"
    pool, states = host_pool("mha", "page_first"), host_pool("mamba", "page_first")
    storage.register_mem_pool_host(pool)
    storage.register_mem_host_pool_v2(states, real.PoolName.MAMBA)
    storage.on_host_pools_registered()
    wanted = [content(pool, page) for page in range(4)]
    hits = misses = 0
    for turn in range(100):
        keys = keys_of(4, f"turn{turn}")
        put = storage.batch_set_v1(keys, indices(pool, 0, 1, 2, 3))
        storage.batch_set_v2([transfer(real, "mamba", states, (0,), keys[3:])])
        assert put in ([True] * 4, [False] * 4)
        assert storage.batch_exists(keys) in (0, 4 if all(put) else 0)
        result = storage.batch_exists_v2(keys, [tail(real, "mamba")])
        assert result.kv_hit_pages in (0, 4)
        got = storage.batch_get_v1(keys, indices(pool, 4, 5, 6, 7))
        if got == [True] * 4:
            assert [content(pool, page) for page in range(4, 8)] == wanted
            hits += 1
        else:
            assert got == [False] * 4
            misses += 1
    assert hits > 10
    assert misses > 10
    assert storage.get_stats() is not None
    storage.close()


def test_many_threads_at_once_each_get_their_own_bytes(real, storage_of):
    pool = host_pool("mha", "page_first", pages=64)
    storage = storage_of(pool)
    wrong = []

    def work(number):
        mine = [number * 8 + i for i in range(4)]
        wanted = [content(pool, page) for page in mine]
        for turn in range(20):
            keys = keys_of(4, f"{number}/{turn}/")
            ok = storage.batch_set_v1(keys, indices(pool, *mine)) == [True] * 4
            ok &= storage.batch_exists(keys) == 4
            there = [page + 4 for page in mine]
            ok &= storage.batch_get_v1(keys, indices(pool, *there)) == [True] * 4
            ok &= [content(pool, page) for page in there] == wanted
            if not ok:
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_memory_of_a_page_is_left_alone_after_a_get_has_returned(real, storage_of):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(2)
    storage.batch_set_v1(keys, indices(pool, 0, 1))
    storage.batch_get_v1(keys, indices(pool, 2, 3))
    base, size = pool.kv_buffer.data_ptr(), pool.kv_buffer.numel() * pool.kv_buffer.element_size()
    ctypes.memset(base, 0xA5, size)
    storage.batch_exists(keys)
    assert ctypes.string_at(base, size) == b"\xa5" * size
