"""What depends on the agent fails softly: at attach, and in every call."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import fake_native
import pytest
from pages import keys_of, tail, transfer
from real_sglang import host_pool, indices


def test_an_attach_while_the_agent_is_away_succeeds_at_once_and_finds_nothing(real, storage_of, cluster, caplog):
    cluster.away = True
    pool = host_pool("mha", "page_first")
    began = time.monotonic()
    storage, keys = storage_of(pool, pools={"mamba": host_pool("mamba", "page_first")}), keys_of(2)
    assert storage.batch_exists(keys) == 0
    assert storage.batch_set_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert storage.batch_get_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert storage.batch_exists_v2(keys, [tail(real, "mamba")]).kv_hit_pages == 0
    assert storage.get_stats().prefetch_pgs == []
    assert time.monotonic() - began < 15
    cluster.away = False
    assert storage.batch_set_v1(keys, indices(pool, 0, 1)) == [True, True]
    assert storage.batch_exists(keys) == 2


def test_an_agent_that_is_away_is_reported_once_a_minute(real, storage_of, cluster, caplog, monkeypatch):
    from foreword.sglang import reports

    now = [1000.0]
    monkeypatch.setattr(reports, "time", SimpleNamespace(monotonic=lambda: now[0]))
    cluster.away = True
    storage = storage_of(host_pool("mha", "page_first"))
    for _ in range(50):
        storage.batch_exists(keys_of(2))
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert (
        "no agent at unix:/run/foreword/node.sock: connection refused; every page is a miss until it is back"
        in said[0].getMessage()
    )
    now[0] += 61
    storage.batch_exists(keys_of(2))
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2


def test_an_exception_below_is_a_miss(real, storage_of, monkeypatch, caplog):
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(2)

    def fail(*_, **__):
        raise RuntimeError("broken")

    for name in ("lookup", "locate", "get", "put"):
        monkeypatch.setattr(fake_native.Namespace, name, fail)
    assert storage.batch_exists(keys) == 0
    assert not storage.exists(keys[0])
    assert storage.batch_get_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert storage.batch_set_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert storage.batch_exists_v2(keys, [tail(real, "mamba")]).extra_pool_hit_pages == {"kv": 0, "mamba": 0}
    assert storage.batch_get_v2([transfer(real, "kv", pool, (0, 1), keys)]) == {"kv": [False, False]}
    assert "a call failed, and was answered with a miss: RuntimeError('broken')" in caplog.text


def test_a_call_has_one_deadline_however_many_batches_it_takes(real, storage_of, monkeypatch):
    from foreword.sglang import deadline

    now = [1000.0]
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now[0]))
    allowed = []

    def slow(self, keys, shard, places, *, parent=None, wait=False, timeout_ms=None):
        allowed.append(timeout_ms)
        now[0] += 2.0
        return [fake_native.OUT_PUBLISHED] * len(keys)

    monkeypatch.setattr(fake_native.Namespace, "put", slow)
    states = host_pool("mamba", "page_first", pages=1000)
    storage = storage_of(host_pool("mha", "page_first"), pools={"mamba": states})
    answers = storage.batch_set_v2([transfer(real, "mamba", states, range(1000), keys_of(1000))])["mamba"]
    assert allowed == [5000, 3000, 1000]
    assert answers == [True] * 384 + [False] * 616


def test_a_namespace_that_is_about_to_open_is_waited_for(real, storage_of, cluster):
    pool = host_pool("mha", "page_first")
    cluster.opening = 5
    storage, keys = storage_of(pool), keys_of(2)
    assert storage.batch_set_v1(keys, indices(pool, 0, 1)) == [True, True]
    assert storage.batch_exists(keys) == 2


def test_a_namespace_that_does_not_open_is_waited_for_once(real, storage_of, cluster, monkeypatch):
    from foreword.sglang import pools

    now, waits = [1000.0], []

    def wait_open(self, timeout_s):
        waits.append(timeout_s)
        now[0] += timeout_s
        return False

    monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(fake_native.Namespace, "wait_open", wait_open)
    cluster.opening = 1
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(2)
    assert storage.batch_exists(keys) == 0
    assert sum(waits) == pytest.approx(2.0)
    waits.clear()
    assert storage.batch_set_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert storage.batch_exists(keys) == 0
    assert waits == []


def test_after_a_call_that_nobody_answered_the_next_ones_are_short(real, storage_of, monkeypatch):
    """SGLang reads KV pages and those of other pools before it looks whether it is to stop, and waits 10 s for that."""
    from foreword.sglang import deadline

    now, allowed = [1000.0], []

    def asleep(self, keys, *_, timeout_ms, **__):
        allowed.append(timeout_ms)
        now[0] += timeout_ms / 1000
        return [False] * len(keys)

    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now[0]))
    answers = fake_native.Namespace.get
    monkeypatch.setattr(fake_native.Namespace, "get", asleep)
    pool = host_pool("mha", "page_first")
    storage, keys = storage_of(pool), keys_of(1)
    for _ in range(3):
        assert storage.batch_get_v1(keys, indices(pool, 0)) == [False]
    assert allowed == [5000, 500, 500]
    now[0] += 10
    storage.batch_get_v1(keys, indices(pool, 0))
    assert allowed[-1] == 5000
    storage.batch_get_v1(keys, indices(pool, 0))
    assert allowed[-1] == 500
    monkeypatch.setattr(fake_native.Namespace, "get", answers)
    assert storage.batch_get_v1(keys, indices(pool, 0)) == [False]
    monkeypatch.setattr(fake_native.Namespace, "get", asleep)
    storage.batch_get_v1(keys, indices(pool, 0))
    assert allowed[-1] == 5000


def test_pages_that_do_not_appear_are_waited_for_a_few_times_and_then_briefly(real, storage_of, monkeypatch):
    """Those that lack another rank's part five times, since it may be a moment late; others once: the group is away."""
    from foreword.sglang import transfer

    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(transfer, "time", clock)
    monkeypatch.setattr(fake_native.Namespace, "locate", lambda self, keys, **_: bytes(len(keys)))

    def waits(storage, pool, turns):
        took = []
        for turn in range(turns):
            began = now[0]
            assert storage.batch_set_v1(keys_of(1, f"turn{turn}"), indices(pool, 0)) == [True]
            took.append(round(now[0] - began, 1))
        return took

    pool = host_pool("mha", "page_first")
    assert waits(storage_of(pool, tp_rank=0, tp_size=2), pool, 8) == [1.0] * 5 + [0.1] * 3
    assert waits(storage_of(pool), pool, 3) == [2.0, 0.1, 0.1]


def test_a_lookup_that_nobody_answers_keeps_the_scheduler_for_a_second_and_then_for_less(real, storage_of, monkeypatch):
    from foreword.sglang import deadline

    now, allowed = [1000.0], []

    def asleep(self, keys, *, timeout_ms):
        allowed.append(timeout_ms)
        now[0] += timeout_ms / 1000
        return 0

    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(fake_native.Namespace, "lookup", asleep)
    storage = storage_of(host_pool("mha", "page_first"))
    assert [storage.batch_exists(keys_of(2)) for _ in range(3)] == [0, 0, 0]
    assert allowed == [1000, 500, 500]
