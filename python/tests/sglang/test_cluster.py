"""The backend on a real cluster: SGLang's own pools, the native client, agents that are killed, put to sleep and
started again."""

from __future__ import annotations

import ctypes
import random
import signal
import threading
import time
from dataclasses import replace

import pytest
import support
from pages import EXTRA, keys_of, tail, transfer
from real_sglang import LAYOUTS, host_pool, indices
from test_identity import CASES, KEY, attached

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def servers():
    try:
        support.binary()
    except RuntimeError as error:
        pytest.skip(str(error))
    servers = support.Cluster()
    yield servers
    servers.end()


@pytest.fixture(scope="module")
def agent(servers):
    return servers.agent("calm")


@pytest.fixture
def mortal(servers):
    """An agent of this test's own."""
    agent = servers.agent(f"mortal-{len(servers.agents)}")
    yield agent
    agent.end()


@pytest.fixture
def attach(real, request):
    """Backends of a model of this test's own: `attach(agent, pool, …)`."""
    from foreword.sglang import ForewordStorage

    made = []

    def make(agent, pool, *, kind="mha", layout="page_first", extra=None, pools=None, **ranks):
        settings = {**EXTRA, "agent": agent.address("unix"), **(extra or {})}
        config = real.storage_config(kind, layout, extra=settings, model=request.node.name, **ranks)
        storage = ForewordStorage(config, {})
        made.append(storage)
        storage.register_mem_pool_host(pool)
        for name, other in (pools or {}).items():
            storage.register_mem_host_pool_v2(other, real.PoolName(name))
        storage.on_host_pools_registered()
        return storage

    yield make
    for storage in made:
        storage.close()


def content(pool, page):
    """The bytes of a page, in the order in which they are kept."""
    from foreword.sglang.places import map_pages, starts_of

    seen = []
    mapped = map_pages(pool, "kv")
    mapped.put(starts_of(indices(pool, page), 1, pool), lambda places: seen.extend(places.addresses()) or [])
    return b"".join(ctypes.string_at(address, size) for address, size in seen)


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)


ALL = [(kind, layout) for kind, layouts in LAYOUTS.items() for layout in layouts]


@pytest.mark.parametrize(("kind", "layout"), ALL)
def test_the_same_bytes_come_back(attach, agent, kind, layout):
    written, read = (host_pool(kind, layout) for _ in range(2))
    extra = {"dtype": "fp8_e4m3"}
    keys = keys_of(3)
    assert (
        attach(agent, written, layout=layout, extra=extra).batch_set_v1(keys, indices(written, 1, 6, 2)) == [True] * 3
    )
    storage = attach(agent, read, layout=layout, extra=extra)
    assert storage.batch_exists(keys_of(4)) == 3
    assert storage.batch_get_v1(keys_of(4), indices(read, 4, 0, 7, 5)) == [True, True, True, False]
    assert [content(read, page) for page in (4, 0, 7)] == [content(written, page) for page in (1, 6, 2)]


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_pages_cross_from_agent_to_agent(attach, agent, mortal, way):
    written, read = (host_pool("mha", "page_first") for _ in range(2))
    keys = keys_of(4)
    extra = {"agent": mortal.address(way)}
    assert attach(mortal, written, extra=extra).batch_set_v1(keys, indices(written, 0, 1, 2, 3)) == [True] * 4
    mortal.end()
    storage = attach(agent, read)
    until(lambda: storage.batch_exists(keys) == 4, "the other agent knows the pages")
    assert storage.batch_get_v1(keys, indices(read, 4, 5, 6, 7)) == [True] * 4
    assert [content(read, page + 4) for page in range(4)] == [content(written, page) for page in range(4)]


def test_ranks_are_gathered_into_one_page(attach, agent):
    pools = [host_pool("mha", "page_first") for _ in range(3)]
    storages = [attach(agent, pool, tp_rank=rank, tp_size=3) for rank, pool in enumerate(pools)]
    keys = keys_of(2)
    for rank in range(3):
        assert storages[rank].batch_exists(keys) == 0
        assert storages[rank].batch_set_v1(keys, indices(pools[rank], 0, 1)) == [True, True]
    assert [storage.batch_exists(keys) for storage in storages] == [2] * 3
    for rank in range(3):
        assert storages[rank].batch_get_v1(keys, indices(pools[rank], 5, 6)) == [True, True]
        assert content(pools[rank], 5) == content(pools[rank], 0)


def test_one_rank_writes_mla_and_a_rank_of_another_machine_reads_it(attach, agent, mortal):
    pools = [host_pool("mla", "page_first") for _ in range(2)]
    first = attach(agent, pools[0], kind="mla", tp_rank=0, tp_size=2, extra={"rank_group": 1})
    second = attach(mortal, pools[1], kind="mla", tp_rank=1, tp_size=2, extra={"rank_group": 1})
    keys = keys_of(2)
    assert first.batch_set_v1(keys, indices(pools[0], 0, 1)) == [True, True]
    until(lambda: second.batch_exists(keys) == 2, "the other agent knows the pages")
    assert second.batch_get_v1(keys, indices(pools[1], 5, 6)) == [True, True]
    assert content(pools[1], 6) == content(pools[0], 1)


def test_exists_meets_all_pools(real, attach, agent):
    kv, states = host_pool("mha", "page_first"), host_pool("mamba", "page_first")
    storage, keys = attach(agent, kv, pools={"mamba": states}), keys_of(5)
    storage.batch_set_v2([transfer(real, "mamba", states, (1, 2), [keys[1], keys[3]])])
    storage.batch_set_v1(keys, indices(kv, 0, 1, 2, 3, 4))
    result = storage.batch_exists_v2(keys, [tail(real, "mamba")])
    assert (result.kv_hit_pages, result.restorable_prefix_pages) == (4, [2, 4])
    assert result.extra_pool_hit_pages == {"kv": 5, "mamba": 4}


def test_more_keys_than_a_call_of_the_agent_takes_are_answered(attach, agent):
    states = host_pool("mamba", "page_first", pages=3000, temporal=(2,), conv=((1, 3),))
    storage = attach(agent, host_pool("mha", "page_first"), pools={"mamba": states})
    from sglang.srt.mem_cache.hicache_storage import PoolTransfer

    keys = keys_of(3000)
    wanted = [PoolTransfer("mamba", host_indices=indices(states, *range(3000)), keys=keys)]
    until(lambda: all(storage.batch_set_v2(wanted)["mamba"]), "3,000 states are written")
    assert storage._lookup(storage._pools.get("mamba"), keys_of(20_000), deadline(5000)) == 3000


def deadline(timeout_ms):
    from foreword.sglang.deadline import Deadline

    return Deadline(timeout_ms)


@pytest.mark.parametrize("case", CASES)
def test_two_values_never_share_a_page_and_equal_ones_have_one_name(real, agent, case):
    """By the fingerprint that the cluster knows, and by a get that must miss."""
    ours = {"salt": case, "agent": agent.address("unix")}
    one, other = (replace(engine, extra={**ours, **engine.extra}) for engine in CASES[case])
    with attached(real, one) as (storage, name, pool):
        assert storage.batch_set_v2([transfer(real, name, pool, (2,), [KEY])]) == {name: [True]}
        fingerprint = storage._pools.get(name).namespace.fingerprint
    with attached(real, other) as (storage, name, pool):
        assert storage._pools.get(name).namespace.fingerprint != fingerprint
        assert storage.batch_get_v2([transfer(real, name, pool, (3,), [KEY])]) == {name: [False]}
    with attached(real, one) as (storage, name, pool):
        assert storage._pools.get(name).namespace.fingerprint == fingerprint


def test_an_attach_before_the_agent_is_there_finds_nothing_quickly_and_connects_later(attach, servers):
    agent = servers.agent(f"late-{len(servers.agents)}")
    agent.end()
    pool = host_pool("mha", "page_first")
    began = time.monotonic()
    storage, keys = attach(agent, pool), keys_of(2)
    assert storage.batch_exists(keys) == 0
    assert storage.batch_set_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert storage.batch_get_v1(keys, indices(pool, 0, 1)) == [False, False]
    assert time.monotonic() - began < 15
    agent.start()

    def stored():
        # A page that an agent took before it had its lease may be dropped: it is written again.
        return storage.batch_set_v1(keys, indices(pool, 0, 1)) == [True, True] and storage.batch_exists(keys) == 2

    until(stored, "it connects by itself")
    agent.end()


def test_an_agent_that_is_killed_and_started_again_under_load_costs_misses_and_nothing_else(attach, mortal):
    pool = host_pool("mha", "page_first", pages=64)
    storage = attach(mortal, pool, extra={"timeout_ms": 2000})
    stop, wrong, longest, hits = threading.Event(), [], [0.0], [0]

    def work(number):
        draw = random.Random(number)
        mine = [number * 16 + i for i in range(4)]
        there = [page + 8 for page in mine]
        wanted = [content(pool, page) for page in mine]
        while not stop.is_set():
            keys = keys_of(4, f"{number}/{draw.randrange(1000)}/")
            for call in (
                lambda keys=keys: storage.batch_set_v1(keys, indices(pool, *mine)),
                lambda keys=keys: storage.batch_exists(keys),
                lambda keys=keys: storage.batch_get_v1(keys, indices(pool, *there)),
            ):
                began = time.monotonic()
                answer = call()
                longest[0] = max(longest[0], time.monotonic() - began)
            for i, hit in enumerate(answer):
                if hit and content(pool, there[i]) != wanted[i]:
                    wrong.append(keys[i])
            hits[0] += sum(answer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = hits[0]
            until(lambda before=before: hits[0] > before + 40, "pages are hit")
            mortal.end(signal.SIGKILL)
            mortal.start()
        before = hits[0]
        until(lambda: hits[0] > before + 40, "pages are hit again")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert longest[0] < 10


@pytest.mark.parametrize("call", ["batch_get_v1", "batch_set_v1", "batch_exists"])
def test_the_memory_of_pages_is_left_alone_after_a_call_that_ran_out_of_time(attach, mortal, call):
    """An agent that sleeps through a call, and then goes on with it, finds nobody's memory."""
    pool = host_pool("mha", "page_first", pages=128, heads=8, head_dim=64)
    storage, keys = attach(mortal, pool, extra={"timeout_ms": 500}), keys_of(64)
    until(lambda: all(storage.batch_set_v1(keys, indices(pool, *range(64)))), "the pages are written")
    until(lambda: storage.batch_exists(keys) == 64, "the pages are there")
    buffer = pool.kv_buffer
    base, size = buffer.data_ptr(), buffer.numel() * buffer.element_size()
    mortal.sleep()
    began = time.monotonic()
    if call == "batch_exists":
        assert storage.batch_exists(keys) == 0
    else:
        asked = keys if call == "batch_get_v1" else keys_of(64, "new")
        assert getattr(storage, call)(asked, indices(pool, *range(64))) == [False] * 64
    assert time.monotonic() - began < 10
    ctypes.memset(base, 0xA5, size)
    mortal.wake()
    until(lambda: storage.batch_exists(keys) == 64, "the agent answers again")
    assert ctypes.string_at(base, size) == b"\xa5" * size
    assert storage.batch_exists(keys_of(64, "new")) == 0


def test_the_memory_of_pages_is_left_alone_after_a_close_that_ended_a_call(attach, mortal):
    pool = host_pool("mha", "page_first", pages=128, heads=8, head_dim=64)
    storage, keys = attach(mortal, pool, extra={"timeout_ms": 9000}), keys_of(64)
    until(lambda: all(storage.batch_set_v1(keys, indices(pool, *range(64)))), "the pages are written")
    until(lambda: storage.batch_exists(keys) == 64, "the pages are there")
    base, size = pool.kv_buffer.data_ptr(), pool.kv_buffer.numel() * pool.kv_buffer.element_size()
    mortal.sleep()
    answers, began = [], threading.Event()

    def read():
        began.set()
        answers.append(storage.batch_get_v1(keys_of(64, "new") + keys, indices(pool, *range(128))))

    reader = threading.Thread(target=read)
    reader.start()
    began.wait()
    ended = time.monotonic()
    storage.close()
    reader.join()
    assert time.monotonic() - ended < 15
    assert answers == [[False] * 128]
    ctypes.memset(base, 0xA5, size)
    mortal.wake()
    other = attach(mortal, host_pool("mha", "page_first", heads=8, head_dim=64))
    until(lambda: other.batch_exists(keys) == 64, "the agent answers again")
    assert ctypes.string_at(base, size) == b"\xa5" * size


def test_new_weights_are_other_pages(attach, agent):
    from sglang.srt.runtime_context import get_context

    with get_context().override_server_args(weight_version="1"):
        pool = host_pool("mha", "page_first")
        storage, keys = attach(agent, pool), keys_of(1)
        assert storage.batch_set_v1(keys, indices(pool, 0)) == [True]
        get_context().override("scheduler.weight_version", weight_version="2")
        assert storage.batch_exists(keys) == 0
        assert storage.batch_set_v1(keys, indices(pool, 1)) == [True]
        assert storage.batch_exists(keys) == 1
        get_context().override("scheduler.weight_version", weight_version="1")
        assert storage.batch_get_v1(keys, indices(pool, 5)) == [True]
        assert content(pool, 5) == content(pool, 0)


def test_clear_is_the_agent_s_to_allow(attach, agent, servers):
    pool = host_pool("mha", "page_first")
    storage, keys = attach(agent, pool, extra={"allow_clear": True}), keys_of(1)
    assert storage.batch_set_v1(keys, indices(pool, 0)) == [True]
    with pytest.raises(RuntimeError, match="clear_tenants"):
        storage.clear()
    assert storage.batch_exists(keys) == 1
    allowed = servers.agent("clears", clear_tenants=["default"])
    storage = attach(allowed, pool, extra={"allow_clear": True})
    until(lambda: storage.batch_exists(keys) == 1, "the other agent knows the page")
    assert storage.clear()
    assert storage.batch_exists(keys) == 0


def test_a_pool_of_another_geometry_under_the_same_name_degrades(attach, agent, caplog):
    """The group knows one size of page for a name: here the second engine's pages are larger, for a reason that no
    field tells."""
    pool = host_pool("mha", "page_first")
    keys = keys_of(1)
    assert attach(agent, pool).batch_set_v1(keys, indices(pool, 0)) == [True]
    odd = host_pool("mha", "page_first", page=32)
    storage = attach(agent, odd)
    assert storage.batch_exists(keys) == 0
    assert storage.batch_set_v1(keys, indices(odd, 0)) == [False]
    assert "page_tokens" in caplog.text
