"""Pages go out and come back, whatever the way to the agent."""

from __future__ import annotations

import array
import hashlib

import pytest
from support import PAGE_BYTES, Cluster, names, opened, pages, put, spec, until

from foreword import _native
from foreword._native import Places


def test_a_unix_socket_leads_to_a_session_and_a_port_to_grpc(connection: _native.Connection, way: str) -> None:
    until(lambda: connection.state()["connected"], "an agent has answered")
    transport = "session" if way == "unix" else "grpc"
    assert connection.state() == {"connected": True, "transport": transport, "error": None}


@pytest.mark.parametrize(("count", "page_bytes"), [(1, 1), (300, 4096), (3, (5 << 19) + 7), (40, 1 << 20)])
def test_the_same_bytes_come_back(connection: _native.Connection, model: str, count: int, page_bytes: int) -> None:
    namespace = opened(connection, model, [page_bytes])
    keys, content = names("page", count), pages(model, count, page_bytes)
    put(namespace, keys, content)
    got = bytearray(len(content))
    assert namespace.get(keys, 0, Places.buffer(got, page_bytes)) == [True] * count
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    assert namespace.state()["error"] is None


def test_pages_in_parts_lie_where_the_places_say(connection: _native.Connection, model: str) -> None:
    """Three layers, two pages whose order in memory is not their order in the call."""
    namespace = opened(connection, model, [3 * 512])
    content = pages(model, 2, 3 * 512)
    put(namespace, ["a", "b"], content)
    memory = bytearray(3 * 4 * 512)
    base = Places.buffer(memory, len(memory)).addresses()[0][0]
    starts = array.array("q", [3, 1])
    places = Places.strided([base + layer * 4 * 512 for layer in range(3)], [512] * 3, [512] * 3, starts, 1)
    assert namespace.get(["a", "b"], 0, places) == [True, True]
    for page, slot in ((0, 3), (1, 1)):
        for layer in range(3):
            at, expected = (layer * 4 + slot) * 512, (page * 3 + layer) * 512
            assert memory[at : at + 512] == content[expected : expected + 512], (page, layer)
    for slot in (0, 2):
        for layer in range(3):
            at = (layer * 4 + slot) * 512
            assert not any(memory[at : at + 512]), "nobody asked for it"


def test_pages_are_put_from_parts(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model, [1000 + 24])
    memory = pages(model, 1, 2048)
    base = Places.buffer(memory, 2048).addresses()[0][0]
    places = Places.explicit([base + 1024, base], [1000, 24], 2)
    assert namespace.put(["a"], 0, places, wait=True) == [_native.OUT_PUBLISHED], namespace.state()
    got = bytearray(1024)
    assert namespace.get(["a"], 0, Places.buffer(got, 1024)) == [True]
    assert got == memory[1024:2024] + memory[:24]


def test_a_lookup_counts_the_leading_pages(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    keys = names("page", 8)
    put(namespace, keys[:5], pages(model, 5))
    assert [namespace.lookup(keys[:length]) for length in (0, 1, 5, 8)] == [0, 1, 5, 5]
    assert namespace.lookup(keys[1:]) == 4
    assert namespace.lookup([*keys[5:], *keys[:5]]) == 0
    assert namespace.lookup(keys, linearizable=True) == 5
    assert [bool(tiers) for tiers in namespace.locate(keys)] == [True] * 5 + [False] * 3


def test_more_keys_than_one_call_takes_are_asked_for_in_pieces(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    put(namespace, ["there"], pages(model, 1))
    keys = ["there"] * 20_000 + names("not there", 20_000)
    assert namespace.lookup(keys) == 20_000
    tiers = namespace.locate(keys)
    assert len(tiers) == 40_000 and all(tiers[:20_000]) and not any(tiers[20_000:])


def test_a_hole_ends_a_get_unless_every_key_is_asked_for(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    keys, content = names("page", 6), pages(model, 6)
    there = [0, 1, 3, 5]
    for page in there:
        put(namespace, [keys[page]], content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
    got = bytearray(len(content))
    assert namespace.get(keys, 0, Places.buffer(got, PAGE_BYTES)) == [True, True] + [False] * 4
    assert got[: 2 * PAGE_BYTES] == content[: 2 * PAGE_BYTES]
    got = bytearray(len(content))
    hits = namespace.get(keys, 0, Places.buffer(got, PAGE_BYTES), every_key=True)
    assert [page for page, hit in enumerate(hits) if hit] == there
    for page in range(6):
        expected = content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] if page in there else bytearray(PAGE_BYTES)
        assert got[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] == expected, page


def test_a_page_is_there_when_all_its_shards_are(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model, [4096, 1024])
    first, second = pages("first", 1), pages("second", 1, 1024)
    assert namespace.put(["page"], 0, Places.buffer(first, 4096)) == [_native.OUT_TAKEN]
    assert namespace.lookup(["page"]) == 0
    assert namespace.put(["page"], 1, Places.buffer(second, 1024), wait=True) == [_native.OUT_PUBLISHED]
    assert namespace.lookup(["page"]) == 1
    for shard, content in enumerate((first, second)):
        got = bytearray(len(content))
        assert namespace.get(["page"], shard, Places.buffer(got, len(content))) == [True]
        assert got == content


def test_only_pages_that_are_wanted_are_sent(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    keys, content = names("page", 6), pages(model, 6)
    put(namespace, keys[2:4], content[2 * PAGE_BYTES : 4 * PAGE_BYTES])
    before = namespace.counters()["bytes_put"]
    outcomes = namespace.put(keys, 0, Places.buffer(content, PAGE_BYTES), parent="the page before", wait=True)
    taken, there = _native.OUT_PUBLISHED, _native.OUT_EXISTS
    assert outcomes == [taken, taken, there, there, taken, taken]
    assert namespace.counters()["bytes_put"] - before == 4 * PAGE_BYTES
    outcomes = namespace.put(keys, 0, Places.buffer(content, PAGE_BYTES))
    assert outcomes == [there] * 6
    got = bytearray(len(content))
    assert all(namespace.get(keys, 0, Places.buffer(got, PAGE_BYTES))) and got == content


def test_who_waits_for_a_page_that_is_on_its_way_waits_until_it_is_published(
    connection: _native.Connection, model: str
) -> None:
    namespace = opened(connection, model)
    for number in range(20):
        keys, content = names(f"page {number}", 32), pages((model, number), 32)
        places = Places.buffer(content, PAGE_BYTES)
        namespace.put(keys, 0, places)
        outcomes = namespace.put(keys, 0, places, wait=True)
        assert set(outcomes) <= {_native.OUT_PUBLISHED, _native.OUT_EXISTS}, outcomes
        assert namespace.lookup(keys) == 32


def test_a_page_may_be_larger_than_what_a_session_hands_over(cluster: Cluster, way: str, model: str) -> None:
    """One of 4 MiB, for an agent that gives a session 1 MiB of memory for its puts."""
    agent = cluster.agent(f"staging-{way}", engine_staging_bytes=1 << 20)
    connection = _native.Connection(agent.address(way), timeout_ms=30_000)
    namespace = opened(connection, model, [4 << 20])
    keys, content = names("page", 3), pages(model, 3, 4 << 20)
    put(namespace, keys, content)
    got = bytearray(len(content))
    assert namespace.get(keys, 0, Places.buffer(got, 4 << 20)) == [True] * 3, namespace.state()
    assert got == content
    connection.close()
    agent.end()


def test_namespaces_that_differ_in_a_field_share_nothing(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    put(namespace, ["page"], pages(model, 1))
    same, other = connection.namespace(spec(model)), connection.namespace(spec(model, salt=b"other"))
    assert same.wait_open(30) and other.wait_open(30)
    assert same.fingerprint == namespace.fingerprint != other.fingerprint
    assert (same.lookup(["page"]), other.lookup(["page"])) == (1, 0)


@pytest.mark.parametrize("place", ["too small", "too large", "too few", "read-only", "another shard"])
def test_places_that_do_not_fit_are_misses_and_are_said(connection: _native.Connection, model: str, place: str) -> None:
    namespace = opened(connection, model)
    keys = names("page", 4)
    put(namespace, keys, pages(model, 4))
    shard, memory = 0, bytearray(4 * PAGE_BYTES)
    places = {
        "too small": Places.buffer(memory, PAGE_BYTES // 2),
        "too large": Places.explicit([Places.buffer(memory, 1).addresses()[0][0]] * 8, [PAGE_BYTES] * 8, 2),
        "too few": Places.buffer(memory[: 3 * PAGE_BYTES], PAGE_BYTES),
        "read-only": Places.buffer(bytes(memory), PAGE_BYTES),
        "another shard": Places.buffer(memory, PAGE_BYTES),
    }[place]
    if place == "another shard":
        shard = 1
    failures = namespace.counters()["failures"]
    assert namespace.get(keys, shard, places) == [False] * 4
    assert not any(memory)
    error = namespace.state()["error"]
    assert error is not None and "expected" in error, error
    if place != "read-only":
        assert namespace.put(names("new", 4), shard, places) == [_native.OUT_FAILED] * 4
        assert namespace.lookup(names("new", 4)) == 0
    assert namespace.counters()["failures"] > failures
    put(namespace, keys, pages(model, 4))
    assert all(namespace.get(keys, 0, Places.buffer(memory, PAGE_BYTES)))
    assert namespace.state()["error"] is None, "what went well since"


def test_another_geometry_under_the_same_name_is_told_in_the_agents_words(
    connection: _native.Connection, model: str
) -> None:
    opened(connection, model)
    other = connection.namespace(spec(model, [PAGE_BYTES * 2]))
    assert not other.wait_open(1)
    error = other.state()["error"]
    assert error is not None and "shard_bytes" in error, error
    assert other.lookup(["page"]) == 0
    assert other.put(["page"], 0, Places.buffer(bytearray(PAGE_BYTES * 2), PAGE_BYTES * 2)) == [_native.OUT_FAILED]


def test_a_clear_that_the_agent_does_not_allow_raises_its_words(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    with pytest.raises(RuntimeError, match="clear_tenants"):
        namespace.clear()


def test_a_clear_takes_all_pages(cluster: Cluster, way: str, model: str) -> None:
    agent = cluster.agent(f"clearing-{way}", clear_tenants=["default"])
    connection = _native.Connection(agent.address(way), timeout_ms=30_000)
    namespace = opened(connection, model)
    put(namespace, ["page"], pages(model, 1))
    revision = namespace.clear()
    assert revision > 0
    assert namespace.lookup(["page"], min_revision=revision) == 0
    connection.close()
    agent.end()


def test_counters_say_what_calls_amounted_to(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    keys, content = names("page", 3), pages(model, 3)
    put(namespace, keys, content)
    namespace.lookup([*keys, "other"])
    namespace.get([*keys, "other"], 0, Places.buffer(bytearray(4 * PAGE_BYTES), PAGE_BYTES))
    counters = namespace.counters()
    seconds = [counters.pop(name) for name in ("lookup_seconds", "get_seconds", "put_seconds")]
    assert all(second > 0 for second in seconds)
    assert counters == {
        "lookups": 1,
        "lookup_keys": 4,
        "lookup_pages": 3,
        "gets": 1,
        "hits": 3,
        "misses": 1,
        "bytes_got": 3 * PAGE_BYTES,
        "puts": 1,
        "pages_put": 3,
        "pages_not_put": 0,
        "bytes_put": 3 * PAGE_BYTES,
        "failures": 0,
    }
