#!/usr/bin/env python3
"""What an engine's calls cost from Python, on one machine with one agent, as a table on stdout.

    python/bench/session.py [--binary FOREWORD] [--way unix|tcp] [--json]

Needs the package (``pip install ./python``) and a ``foreword``: $FOREWORD_BINARY, else the newest in the target
directory. The machine should do nothing else. All figures are medians.

Lookups: all keys are there; "closed loop" asks without a pause, "10 ms pauses" as an engine's scheduler does.

Copies: 128 pages a call, beside one ``memmove`` of as many bytes. Neither side finds its bytes in a processor's cache:
calls go round through ``SPREAD_BYTES`` of memory, as an engine's do, all of which was touched before. A get is from the
agent's memory (L1), or after a restart of the agent from the cluster's files (L3), here those of a local directory that
the kernel has cached. A put is of pages that the agent has not seen, into memory that it has had in use: pages of the
same size were put before until its arena was full.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import Agent, Cluster, opened, until

from foreword import _native
from foreword._native import Places

LOOKUP_KEYS = (1, 128, 1024, 2048)
PAGE_BYTES = (64 << 10, 1 << 20, 4 << 20)
PAGES = 128
SPREAD_BYTES = 512 << 20
ARENA_BYTES = 1 << 30
ROUNDS = 5
Row = dict[str, object]


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def quantiles_us(seconds: list[float]) -> dict[str, float]:
    """Microseconds."""
    ordered = sorted(seconds)
    return {name: round(ordered[int(len(ordered) * part)] * 1e6, 1) for name, part in (("p50", 0.5), ("p99", 0.99))}


def keys_of(count: int, seed: object) -> list[str]:
    draw = random.Random(str(seed))
    return [draw.randbytes(32).hex() for _ in range(count)]


def lookups(connection: _native.Connection) -> list[Row]:
    """A row for each number of keys and each rhythm."""
    namespace = opened(connection, "lookups", [4096])
    keys = keys_of(max(LOOKUP_KEYS), "lookups")
    content = bytearray(os.urandom(4096) * len(keys))
    published(namespace, keys, Places.buffer(content, 4096))
    rows: list[Row] = []
    for count in LOOKUP_KEYS:
        asked = keys[:count]
        for rhythm, pause_s, calls in (("closed loop", 0.0, 5000), ("10 ms pauses", 0.01, 300)):
            took = []
            for _ in range(calls):
                if pause_s:
                    time.sleep(pause_s)
                took.append(timed(lambda asked=asked: namespace.lookup(asked)))
            assert namespace.lookup(asked) == count
            rows.append({"call": "lookup", "keys": count, "rhythm": rhythm, **quantiles_us(took)})
    namespace.close()
    return rows


def published(namespace: _native.Namespace, keys: list[str], places: Places) -> None:
    """Waits until pages are published, and nothing of them is under way any more."""
    outcomes = namespace.put(keys, 0, places, wait=True, timeout_ms=120_000)
    assert set(outcomes) <= {_native.OUT_PUBLISHED, _native.OUT_EXISTS}, (set(outcomes), namespace.state())


@dataclass
class Batch:
    """128 pages: their keys, and where they lie."""

    keys: list[str]
    source: Places
    target: Places

    def copied_plainly(self) -> float:
        """Seconds that ``memmove`` takes."""
        (to, _), (since, _) = self.target.addresses()[0], self.source.addresses()[0]
        bytes_ = self.source.pages * self.source.page_bytes
        return timed(lambda: ctypes.memmove(to, since, bytes_))


class Copies:
    """Pages of one size."""

    def __init__(self, connection: _native.Connection, page_bytes: int) -> None:
        self.page_bytes, self.total = page_bytes, PAGES * page_bytes
        self.namespace = opened(connection, f"pages of {page_bytes}", [page_bytes])
        count = max(1, SPREAD_BYTES // self.total)
        self.source = bytearray(os.urandom(1 << 20) * (count * self.total >> 20))
        self.target = bytearray(self.source)
        self.batches = [self.batch(number) for number in range(count)]
        self.plain_s: list[float] = []

    def batch(self, number: int) -> Batch:
        part = slice(number * self.total, (number + 1) * self.total)
        places = [Places.buffer(memoryview(memory)[part], self.page_bytes) for memory in (self.source, self.target)]
        return Batch(keys_of(PAGES, (self.page_bytes, number)), *places)

    def fill_arena(self) -> None:
        """Puts other pages of this size, so that no put after it is the first to touch its memory."""
        for number in range(ARENA_BYTES * 5 // 4 // self.total):
            published(
                self.namespace,
                keys_of(PAGES, ("before", self.page_bytes, number)),
                self.batches[number % len(self.batches)].source,
            )

    def put(self) -> list[float]:
        """Seconds of each batch's put, all of whose pages were new and taken."""
        took = []
        for batch in self.batches:
            outcomes: list[int] = []
            seconds = timed(
                lambda: outcomes.extend(self.namespace.put(batch.keys, 0, batch.source, timeout_ms=120_000))
            )
            assert _native.OUT_EXISTS not in outcomes
            if not {_native.OUT_FAILED, _native.OUT_REFUSED} & set(outcomes):
                took.append(seconds)
            published(self.namespace, batch.keys, batch.source)
        return took

    def get(self, rounds: int) -> list[float]:
        """Seconds of each get that gave all pages; and those of a plain copy, noted apart."""
        took = []
        for _ in range(rounds):
            for batch in self.batches:
                hits: list[bool] = []
                seconds = timed(
                    lambda: hits.extend(self.namespace.get(batch.keys, 0, batch.target, timeout_ms=120_000))
                )
                if all(hits):
                    took.append(seconds)
            self.plain_s += [batch.copied_plainly() for batch in self.batches]
        return took

    def row(self, call: str, took_s: list[float]) -> Row:
        if not took_s:
            return {"call": call, "page_bytes": self.page_bytes, "calls": 0}
        gib = self.total / (1 << 30)
        mine, plain = gib / statistics.median(took_s), gib / statistics.median(self.plain_s)
        return {
            "call": call,
            "page_bytes": self.page_bytes,
            "calls": len(took_s),
            "gib_per_s": round(mine, 2),
            "memcpy_gib_per_s": round(plain, 2),
            "of_memcpy": round(mine / plain, 2),
        }


def copies(agent: Agent, connection: _native.Connection, page_bytes: int) -> list[Row]:
    """What one size of page costs: put, got from L1, got from L3."""
    sized = Copies(connection, page_bytes)
    sized.fill_arena()
    put_s = sized.put()
    # The first round maps what it copies.
    sized.get(1)
    sized.plain_s.clear()
    from_l1_s = sized.get(ROUNDS)
    agent.end()
    agent.start()
    until(lambda: all(sized.namespace.lookup(batch.keys) == PAGES for batch in sized.batches), "the mirror is there")
    from_l3_s = sized.get(1)
    assert bytes(sized.target) == bytes(sized.source)
    sized.namespace.close()
    return [sized.row(*row) for row in (("put", put_s), ("get from L1", from_l1_s), ("get from L3", from_l3_s))]


def shown(row: Row) -> str:
    if row["call"] == "lookup":
        return f"lookup {row['keys']:>5} keys, {row['rhythm']:<12}  p50 {row['p50']:>8} µs   p99 {row['p99']:>8} µs"
    what = f"{row['call']:<11} {PAGES} pages of {int(str(row['page_bytes'])) >> 10:>5} KiB"
    if not row["calls"]:
        return f"{what}: no call went through whole"
    speed = f"{row['gib_per_s']:>6} GiB/s   memcpy {row['memcpy_gib_per_s']:>6} GiB/s"
    return f"{what}  {speed}   {row['of_memcpy']} of it   ({row['calls']} calls)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--binary", help="the foreword to start")
    parser.add_argument("--way", choices=["unix", "tcp"], default="unix", help="a session, or gRPC over TCP")
    parser.add_argument("--json", action="store_true", help="one JSON document in place of the table")
    arguments = parser.parse_args()
    if arguments.binary:
        os.environ["FOREWORD_BINARY"] = arguments.binary
    cluster = Cluster(l3_bytes="8GiB")
    try:
        agent = cluster.agent("bench", arena_bytes=ARENA_BYTES)
        connection = _native.Connection(agent.address(arguments.way), timeout_ms=60_000)
        rows = lookups(connection)
        transport = connection.state()["transport"]
        for page_bytes in PAGE_BYTES:
            rows += copies(agent, connection, page_bytes)
        connection.close()
    finally:
        cluster.end()
    if arguments.json:
        print(json.dumps({"transport": transport, "rows": rows}))
        return
    print(f"transport: {transport}")
    for line in map(shown, rows):
        print(line)


if __name__ == "__main__":
    main()
