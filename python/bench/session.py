#!/usr/bin/env python3
"""What an engine's calls cost from Python, on one machine with one agent, as a table on stdout.

    python/bench/session.py [--binary FOREWORD] [--way unix|tcp] [--arena BYTES] [--json]

Needs the package (``pip install ./python``) and a ``foreword``: $FOREWORD_BINARY, else the newest in the target
directory. Lookups: all keys are there; "closed loop" asks without a pause, "10 ms pauses" as an engine's scheduler
does. Copies: 128 pages a call, from and to memory that was used before, beside one ``memmove`` of the same bytes; a
get is from the agent's memory, a put of pages that the agent has not seen. Medians; the machine should do nothing else.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import Cluster, opened

from foreword import _native
from foreword._native import Places

LOOKUP_KEYS = (1, 128, 1024, 2048)
PAGE_BYTES = (64 << 10, 1 << 20, 4 << 20)
PAGES = 128


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def quantiles_us(seconds: list[float]) -> dict[str, float]:
    """Microseconds."""
    ordered = sorted(seconds)
    return {name: round(ordered[int(len(ordered) * part)] * 1e6, 1) for name, part in (("p50", 0.5), ("p99", 0.99))}


def lookups(connection: _native.Connection) -> list[dict[str, object]]:
    """One row for each number of keys and each rhythm."""
    namespace = opened(connection, "lookups", [4096])
    draw = random.Random(1)
    keys = [draw.randbytes(32).hex() for _ in range(max(LOOKUP_KEYS))]
    content = bytearray(draw.randbytes(4096) * len(keys))
    assert _native.OUT_FAILED not in namespace.put(keys, 0, Places.buffer(content, 4096), wait=True, timeout_ms=60_000)
    rows: list[dict[str, object]] = []
    for count in LOOKUP_KEYS:
        asked = keys[:count]
        for pause_s, calls in ((0.0, 5000), (0.01, 300)):
            took = []
            for _ in range(calls):
                if pause_s:
                    time.sleep(pause_s)
                took.append(timed(lambda: namespace.lookup(asked)))
            assert namespace.lookup(asked) == count
            rhythm = "10 ms pauses" if pause_s else "closed loop"
            rows.append({"call": "lookup", "keys": count, "rhythm": rhythm, **quantiles_us(took)})
    return rows


def copies(connection: _native.Connection) -> list[dict[str, object]]:
    """One row for each size of page."""
    rows: list[dict[str, object]] = []
    for page_bytes in PAGE_BYTES:
        namespace = opened(connection, f"pages of {page_bytes}", [page_bytes])
        total = PAGES * page_bytes
        rounds = 1 + max(5, min(20, (1 << 30) // total))
        source, target = bytearray(os.urandom(1 << 20) * (total >> 20)), bytearray(total)
        target[:] = source
        put_s, get_s, plain_s = [], [], []
        to, since = Places.buffer(target, page_bytes), Places.buffer(source, page_bytes)
        target_address, source_address = to.addresses()[0][0], since.addresses()[0][0]
        for number in range(rounds):
            keys = [random.Random(f"{page_bytes} {number} {page}").randbytes(32).hex() for page in range(PAGES)]
            outcomes: list[int] = []
            put_s.append(timed(lambda: outcomes.extend(namespace.put(keys, 0, since, timeout_ms=60_000))))
            if outcomes.count(_native.OUT_TAKEN) != PAGES:
                put_s.pop()
                continue
            # Published and out of the way, so that a get is of the agent's memory and of nothing else.
            namespace.put(keys, 0, since, wait=True, timeout_ms=60_000)
            for _ in range(5):
                hits: list[bool] = []
                took = timed(lambda: hits.extend(namespace.get(keys, 0, to, timeout_ms=60_000)))
                if all(hits):
                    get_s.append(took)
                plain_s.append(timed(lambda: ctypes.memmove(target_address, source_address, total)))
            if number == 0:
                # Memory is touched for the first time by all.
                put_s, get_s, plain_s = [], [], []
        rows += [row("get", page_bytes, get_s, plain_s), row("put", page_bytes, put_s, plain_s)]
        namespace.close()
    return rows


def row(call: str, page_bytes: int, took_s: list[float], plain_s: list[float]) -> dict[str, object]:
    gib = PAGES * page_bytes / (1 << 30)
    if not took_s:
        return {"call": call, "page_bytes": page_bytes, "calls": 0}
    mine, plain = gib / statistics.median(took_s), gib / statistics.median(plain_s)
    return {
        "call": call,
        "page_bytes": page_bytes,
        "calls": len(took_s),
        "gib_per_s": round(mine, 2),
        "memcpy_gib_per_s": round(plain, 2),
        "of_memcpy": round(mine / plain, 2),
    }


def shown(row: dict[str, object]) -> str:
    if row["call"] == "lookup":
        return f"lookup {row['keys']:>5} keys, {row['rhythm']:<12}  p50 {row['p50']:>8} µs   p99 {row['p99']:>8} µs"
    kib = int(str(row["page_bytes"])) >> 10
    if not row["calls"]:
        return f"{row['call']} {PAGES} pages of {kib:>5} KiB: no call went through whole"
    return (
        f"{row['call']} {PAGES} pages of {kib:>5} KiB  {row['gib_per_s']:>6} GiB/s   memcpy {row['memcpy_gib_per_s']:>6} GiB/s"
        f"   {row['of_memcpy']} of it   ({row['calls']} calls)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--binary", help="the foreword to start")
    parser.add_argument("--way", choices=["unix", "tcp"], default="unix", help="a session, or gRPC over TCP")
    parser.add_argument("--arena", default="2GiB", help="the agent's memory")
    parser.add_argument("--json", action="store_true", help="one JSON document in place of the table")
    arguments = parser.parse_args()
    if arguments.binary:
        os.environ["FOREWORD_BINARY"] = arguments.binary
    cluster = Cluster(l3_bytes="8GiB")
    try:
        agent = cluster.agent("bench", arena_bytes=arguments.arena)
        connection = _native.Connection(agent.address(arguments.way), timeout_ms=60_000)
        rows = lookups(connection)
        transport = connection.state()["transport"]
        rows += copies(connection)
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
