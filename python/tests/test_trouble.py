"""Agents that go, come back or never answer; closes, forks, and calls that end too soon."""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import threading
import time
from collections.abc import Callable

import pytest
from support import PAGE_BYTES, PATIENCE_S, Agent, names, opened, pages, put, spec, until

from foreword import _native
from foreword._native import Places

MIB = 1 << 20


def every_call(namespace: _native.Namespace, timeout_ms: int) -> list[Callable[[], object]]:
    """Each kind of call, and what it gives when the agent is away."""
    places = Places.buffer(bytearray(PAGE_BYTES), PAGE_BYTES)
    return [
        lambda: namespace.lookup(["key"], timeout_ms=timeout_ms) == 0,
        lambda: namespace.lookup_tokens([1, 2, 3], timeout_ms=timeout_ms) == 0,
        lambda: namespace.locate(["key"], timeout_ms=timeout_ms) == b"\0",
        lambda: namespace.get(["key"], 0, places, timeout_ms=timeout_ms) == [False],
        lambda: namespace.put(["key"], 0, places, timeout_ms=timeout_ms) == [_native.OUT_FAILED],
    ]


def test_without_an_agent_every_call_is_a_miss_at_once() -> None:
    connection = _native.Connection("unix:/nonexistent/socket", timeout_ms=600_000)
    namespace = connection.namespace(spec("model"))
    assert not namespace.wait_open(0.1)
    for call in every_call(namespace, 600_000):
        assert call()
    until(lambda: connection.state()["error"], "the reason is known")
    assert "No such file" in (connection.state()["error"] or "")
    assert "No such file" in (namespace.state()["error"] or "")
    assert namespace.state()["open"] is False and namespace.state()["namespace_id"] is None
    with pytest.raises(RuntimeError, match="No such file"):
        namespace.clear()
    connection.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_agent_that_was_started_again_is_used_again(
    mortal: Agent, way: str, model: str, how: signal.Signals
) -> None:
    connection = _native.Connection(mortal.address(way), timeout_ms=30_000)
    namespace = opened(connection, model)
    content, got = pages(model, 2), bytearray(2 * PAGE_BYTES)
    put(namespace, ["a", "b"], content)
    mortal.end(how)
    until(lambda: not connection.state()["connected"], "the loss is seen")
    assert not namespace.state()["open"]
    for call in every_call(namespace, 30_000):
        assert call()
    mortal.start()
    assert namespace.wait_open(PATIENCE_S), namespace.state()
    assert connection.state()["connected"] and connection.state()["error"] is None
    until(lambda: namespace.lookup(["a", "b"]) == 2, "its mirror is there again")
    assert namespace.get(["a", "b"], 0, Places.buffer(got, PAGE_BYTES)) == [True, True]
    assert got == content
    connection.close()


def test_an_agent_may_come_after_its_engine(mortal: Agent, way: str, model: str) -> None:
    mortal.end()
    connection = _native.Connection(mortal.address(way))
    namespace = connection.namespace(spec(model))
    assert not namespace.wait_open(0.1)
    mortal.start()
    assert namespace.wait_open(PATIENCE_S)
    connection.close()


def test_no_call_outlasts_its_timeout_while_the_agent_sleeps(mortal: Agent, way: str, model: str) -> None:
    """Before the connection is known to be dead, and after."""
    connection = _native.Connection(mortal.address(way))
    namespace = opened(connection, model)
    mortal.sleep()
    try:
        for round in range(2):
            for call in every_call(namespace, 200):
                began = time.monotonic()
                assert call()
                assert time.monotonic() - began < 15
            assert namespace.counters()["failures"] >= 5 * (round + 1)
            until(lambda: not connection.state()["connected"], "the connection is given up")
    finally:
        mortal.wake()
    assert namespace.wait_open(PATIENCE_S), (namespace.state(), connection.state())
    assert namespace.lookup(["key"], timeout_ms=30_000) == 0
    assert namespace.state()["error"] is None
    connection.close()


def test_a_close_takes_no_longer_than_it_may_while_the_agent_sleeps(mortal: Agent, way: str, model: str) -> None:
    connection = _native.Connection(mortal.address(way), timeout_ms=600_000)
    namespace = opened(connection, model)
    mortal.sleep()
    try:
        answers: list[int] = []
        waiting = threading.Thread(target=lambda: answers.append(namespace.lookup(["key"])))
        waiting.start()
        began = time.monotonic()
        connection.close()
        waiting.join(15)
        assert time.monotonic() - began < 15
        assert answers == [0], "the call of another thread came back"
    finally:
        mortal.wake()


def test_closes_may_be_repeated_and_end_everything(connection: _native.Connection, model: str) -> None:
    namespace, other = opened(connection, model), opened(connection, model)
    namespace.close()
    namespace.close()
    assert namespace.state() == {"open": False, "error": "closed", "namespace_id": None}
    assert not namespace.wait_open(0.01)
    put(other, ["page"], pages(model, 1))
    assert (namespace.lookup(["page"]), other.lookup(["page"])) == (0, 1), "an opening of its own"
    connection.close()
    connection.close()
    assert connection.state() == {"connected": False, "transport": None, "error": "closed"}
    for call in every_call(other, 600_000):
        assert call()
    assert other.state()["open"] is False
    late = connection.namespace(spec(model))
    assert not late.wait_open(0.01) and late.lookup(["page"]) == 0
    other.close()


def soon(draw: random.Random) -> int:
    """A timeout that ends some calls before their time, whatever carries them: 1 to 45 ms, mostly short."""
    return int(2 ** draw.uniform(0, 5.5))


@pytest.mark.parametrize("seed", range(3))
def test_memory_is_not_written_after_a_get_that_ran_out_of_time(
    connection: _native.Connection, model: str, seed: int
) -> None:
    """Whatever a get left behind, a pattern that is written after it stays."""
    draw = random.Random(seed)
    namespace = opened(connection, model, [MIB])
    keys, content = names("page", 24), pages(model, 24, MIB)
    put(namespace, keys, content)
    canary = bytes([0xA5]) * len(content)
    memory, cut = bytearray(len(content)), 0
    places = Places.buffer(memory, MIB)
    rounds = 0
    while rounds < 30 or not cut:
        hits = namespace.get(keys, 0, places, timeout_ms=soon(draw))
        for page, hit in enumerate(hits):
            if hit:
                assert memory[page * MIB : (page + 1) * MIB] == content[page * MIB : (page + 1) * MIB], page
        assert hits == sorted(hits, reverse=True), "the first miss ends a get"
        memory[:] = canary
        cut += not all(hits)
        # Whoever would still write has time to: another call over the same connection.
        assert namespace.lookup(keys, timeout_ms=30_000) == len(keys)
        assert memory == canary
        rounds += 1
        assert rounds < 1000, "no get was cut short"
    assert all(namespace.get(keys, 0, places, timeout_ms=60_000)) and memory == content


@pytest.mark.parametrize("seed", range(3))
def test_memory_is_not_read_after_a_put_that_ran_out_of_time(
    connection: _native.Connection, model: str, seed: int
) -> None:
    """What was put is what the memory held during the call, or nothing."""
    draw = random.Random(seed)
    namespace = opened(connection, model, [MIB])
    memory = bytearray(8 * MIB)
    places, rounds, cut = Places.buffer(memory, MIB), 0, 0
    while rounds < 12 or not cut:
        keys, content = names(f"{seed} {rounds}", 8), pages((seed, rounds), 8, MIB)
        memory[:] = content
        outcomes = namespace.put(keys, 0, places, timeout_ms=soon(draw))
        memory[:] = bytes(len(memory))
        cut += _native.OUT_FAILED in outcomes
        got = bytearray(len(memory))
        hits = namespace.get(keys, 0, Places.buffer(got, MIB), every_key=True, timeout_ms=60_000)
        for page, hit in enumerate(hits):
            if hit:
                assert got[page * MIB : (page + 1) * MIB] == content[page * MIB : (page + 1) * MIB], page
        rounds += 1
        assert rounds < 200, "no put was cut short"


def test_an_agent_that_is_killed_under_load_costs_misses_and_no_wrong_byte(mortal: Agent, way: str, model: str) -> None:
    """Threads put and get all the time, each its own pages; the agent is killed and started again, three times."""
    connection = _native.Connection(mortal.address(way))
    namespace = opened(connection, model, [64 << 10])
    stop, wrong, hits, life = threading.Event(), [], [0] * 4, 0

    def busy(thread: int) -> None:
        draw = random.Random(thread)
        memory = bytearray(8 * (64 << 10))
        places = Places.buffer(memory, 64 << 10)
        while not stop.is_set():
            # Some of this life of the agent, some of an earlier one, which are in the cluster only at first.
            number = 16 * draw.randint(0, life) + draw.randrange(16)
            keys, content = names(f"{thread} {number}", 8), pages((thread, number), 8, 64 << 10)
            memory[:] = content
            namespace.put(keys, 0, places, timeout_ms=1000)
            memory[:] = bytes(len(memory))
            got = namespace.get(keys, 0, places, every_key=True, timeout_ms=1000)
            for page, hit in enumerate(got):
                part = slice(page * (64 << 10), (page + 1) * (64 << 10))
                if hit and memory[part] != content[part]:
                    wrong.append((thread, number, page))
            hits[thread] += sum(got)

    threads = [threading.Thread(target=busy, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    try:
        for life in range(3):
            before = list(hits)
            until(lambda before=before: all(now > then for now, then in zip(hits, before)), "every thread has hits")
            mortal.end(signal.SIGKILL)
            until(lambda: not connection.state()["connected"], "the loss is seen")
            mortal.start()
            assert namespace.wait_open(PATIENCE_S), namespace.state()
        before = list(hits)
        until(lambda: all(now > then for now, then in zip(hits, before)), "every thread has hits again")
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not wrong
    connection.close()


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, float("nan")])
def test_a_wait_for_no_time_is_none(timeout_s: float) -> None:
    connection = _native.Connection("unix:/nonexistent/socket")
    assert connection.namespace(spec("model")).wait_open(timeout_s) is False
    connection.close()


def test_a_long_wait_ends_when_the_namespace_is_open_and_can_be_interrupted(agent: Agent, way: str, model: str) -> None:
    connection = _native.Connection(agent.address(way))
    assert connection.namespace(spec(model)).wait_open(float("inf"))
    connection.close()
    connection = _native.Connection("unix:/nonexistent/socket")
    namespace = connection.namespace(spec(model))
    interrupt = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        namespace.wait_open(float("inf"))
    connection.close()


def in_child(work: Callable[[], str]) -> str:
    """What a forked child has to say; it must end by itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it ended without a word"
        try:
            said = work()
        except BaseException as error:
            said = f"it raised {error!r}"
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], PATIENCE_S)
        assert ready, "the child hangs"
        return os.read(read, 1000).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    content = pages(model, 4)
    keys = names("page", 4)
    put(namespace, keys, content)
    stop, wrong = threading.Event(), []

    def busy() -> None:
        got = bytearray(len(content))
        while not stop.is_set():
            hits = namespace.get(keys, 0, Places.buffer(got, PAGE_BYTES))
            if not all(hits) or got != content:
                wrong.append((hits, namespace.state()))

    def child() -> str:
        got = bytearray(len(content))
        if not namespace.wait_open(PATIENCE_S):
            return f"not open: {namespace.state()}"
        hits = namespace.get(keys, 0, Places.buffer(got, PAGE_BYTES))
        right = all(hits) and got == content and namespace.lookup(keys) == 4
        namespace.close()
        connection.close()
        return "right" if right else f"{hits}, {namespace.state()}"

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert in_child(child) == "right"
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not wrong
    assert namespace.lookup(keys) == 4, "the parent's goes on"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_only_drops_what_it_inherited_ends(connection: _native.Connection, model: str) -> None:
    held = [opened(connection, model)]
    passed = [_native.Connection("unix:/nonexistent")]

    def child() -> str:
        held.clear()
        passed.clear()
        return "dropped"

    assert in_child(child) == "dropped"
    assert held[0].lookup(["key"]) == 0 and held[0].state()["open"]
    passed[0].close()


def test_who_cannot_map_the_agents_memory_gets_its_pages_all_the_same(agent: Agent, model: str) -> None:
    """An engine may be allowed no more address space: its lookups promised pages that its gets never gave."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            connection = _native.Connection(agent.address("unix"), timeout_ms=30_000)
            namespace, content = opened(connection, model), pages(model, 4)
            put(namespace, names("key", 4), content)
            with open("/proc/self/statm") as statm:
                mapped = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            # Enough for messages, too little for a segment of the arena.
            resource.setrlimit(resource.RLIMIT_AS, (mapped + MIB * 3 // 2, resource.RLIM_INFINITY))
            got = bytearray(4 * PAGE_BYTES)
            hits = namespace.get(names("key", 4), 0, Places.buffer(got, PAGE_BYTES))
            code = 0 if hits == [True] * 4 and got == content and connection.state()["transport"] == "session" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
