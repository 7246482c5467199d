#!/usr/bin/env python3
"""SGLang's storage calls over Foreword, beside SGLang's own ways of doing them, in one run, as a table on stdout.

    FOREWORD_SGLANG_VENV=VENV python/bench/peers.py [--binary FOREWORD] [--page-kib 64 1024 4096] [--json]

Needs the package (``pip install ./python``) in a Python of the version that VENV has, which ../shared/sglang/install_venv.sh
makes. The machine should do nothing else. All figures are medians.

Lookups: ``batch_exists`` of ForewordStorage; of HiCacheFile, on a local directory; and of the hf3fs backend, which asks
its metadata server, a Python process, over HTTP. All keys are there.

Copies: 128 pages between SGLang's own host pool (MHA, page_first, 8 layers) and the storage. Foreword's gets are from
the agent's memory, its sets end when the pages are in the index, or after 2 s; the file backend's are from and to files
in the kernel's cache. ``memcpy`` copies as many bytes of the pool to another place in it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "sglang")]

import real_sglang  # noqa: E402
from support import Cluster, free_port, until  # noqa: E402

LOOKUP_KEYS = (1, 128, 1024, 2048)
PAGES, TOKENS, LAYERS = 128, 64, 8
ROUNDS = 7
Row = dict[str, object]


def keys_of(count: int, seed: object) -> list[str]:
    draw = random.Random(str(seed))
    return [draw.randbytes(32).hex() for _ in range(count)]


def median_us(call: Callable[[], object], pause_s: float, calls: int) -> float:
    took = []
    for _ in range(calls):
        if pause_s:
            time.sleep(pause_s)
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1e6, 1)


def metadata_server(port: int) -> None:
    """SGLang's own, in a process of its own, which says nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    from sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server import run_metadata_server

    run_metadata_server("127.0.0.1", port)


def hf3fs_exists(port: int, keys: list[str]) -> Callable[[list[str]], object]:
    """What the hf3fs backend's batch_exists asks, with these keys there."""
    from sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server import Hf3fsGlobalMetadataClient

    client = Hf3fsGlobalMetadataClient(f"http://127.0.0.1:{port}", max_retries=0)

    def is_up() -> bool:
        try:
            client.initialize(0, 4 * len(keys))
        except RuntimeError:
            return False
        return True

    until(is_up, "the metadata server answers")
    granted = client.reserve_and_allocate_page_indices(0, [(key, "") for key in keys])
    client.confirm_write(0, [(key, index) for key, (_, index) in zip(keys, granted, strict=True)], [])
    assert all(client.exists(0, keys))
    return lambda asked: client.exists(0, asked)


class Bench:
    """One size of page: a pool, and each storage on it."""

    def __init__(self, sglang: Any, address: str, folder: str, page_kib: int) -> None:
        self.page_kib, self.total = page_kib, PAGES * page_kib << 10
        head_dim = (page_kib << 10) // (2 * LAYERS * TOKENS * 2)
        self.pool = sglang.host_pool(
            "mha", layout="page_first", pages=2 * PAGES, page=TOKENS, layers=LAYERS, heads=1, head_dim=head_dim
        )
        config = {"agent": address, "backend_name": "foreword", "module_path": "foreword.sglang"}
        extra = {**config, "class_name": "ForewordStorage", "interface_v1": 1, "salt": f"{page_kib} KiB"}
        from foreword.sglang import ForewordStorage
        from sglang.srt.mem_cache.hicache_storage import HiCacheFile, PoolName

        self.kv = PoolName.KV
        self.ours = ForewordStorage(sglang.storage_config("mha", "page_first", extra=extra), {})
        self.ours.register_mem_pool_host(self.pool)
        self.ours.on_host_pools_registered()
        self.file = HiCacheFile(sglang.storage_config("mha", "page_first", model=f"{page_kib}"), f"{folder}/{page_kib}")
        self.file.register_mem_pool_host(self.pool)
        self.file.register_mem_host_pool_v2(self.pool, PoolName.KV)

    def close(self) -> None:
        self.ours.close()

    def of_file(self, keys: list[str], first: int) -> list[Any]:
        from sglang.srt.mem_cache.hicache_storage import PoolTransfer

        return [PoolTransfer(name=self.kv, keys=keys, host_indices=self.indices(first))]

    def indices(self, first: int) -> Any:
        return real_sglang.indices(self.pool, *range(first, first + PAGES))

    def rows(self) -> list[Row]:
        """Sets and gets of each, a round of all after the other."""
        took: dict[str, list[float]] = {}

        def note(name: str, call: Callable[[], Any], ok: Callable[[Any], bool]) -> None:
            began = time.perf_counter()
            answer = call()
            took.setdefault(name, []).append(time.perf_counter() - began)
            assert ok(answer), (name, answer)

        half, all_of = self.pool.kv_buffer.shape[1] // 2, lambda answer: all(answer) and len(answer) == PAGES
        for number in range(ROUNDS + 1):
            keys = keys_of(PAGES, (self.page_kib, number))
            if number == 1:
                took.clear()  # The first round maps and takes memory.
            note("memcpy", lambda: self.pool.kv_buffer[:, half:].copy_(self.pool.kv_buffer[:, :half]), lambda _: True)
            note("foreword set", lambda keys=keys: self.ours.batch_set_v1(keys, self.indices(0)), all_of)
            note("foreword get", lambda keys=keys: self.ours.batch_get_v1(keys, self.indices(PAGES)), all_of)
            assert self.pool.kv_buffer[:, half:].equal(self.pool.kv_buffer[:, :half])
            in_file = lambda answer: all_of(answer[self.kv])  # noqa: E731
            note("file set", lambda keys=keys: self.file.batch_set_v2(self.of_file(keys, 0)), in_file)
            note("file get", lambda keys=keys: self.file.batch_get_v2(self.of_file(keys, PAGES)), in_file)
        gib = self.total / (1 << 30)
        speed = {name: gib / statistics.median(seconds) for name, seconds in took.items()}
        return [
            {
                "call": name,
                "page_kib": self.page_kib,
                "gib_per_s": round(mine, 2),
                "of_memcpy": round(mine / speed["memcpy"], 2),
            }
            for name, mine in speed.items()
        ]


def lookups(bench: Bench, port: int) -> list[Row]:
    """A row for each number of keys, each rhythm and each storage."""
    keys = [key for number in range(LOOKUP_KEYS[-1] // PAGES) for key in keys_of(PAGES, ("lookups", number))]
    for number in range(len(keys) // PAGES):
        some = keys[number * PAGES :][:PAGES]
        assert all(bench.ours.batch_set_v1(some, bench.indices(0)))
        bench.file.batch_set_v2(bench.of_file(some, 0))
    ways: dict[str, Callable[[list[str]], object]] = {
        "foreword": bench.ours.batch_exists,
        "hf3fs metadata server": hf3fs_exists(port, keys),
        "file": bench.file.batch_exists,
    }
    assert bench.ours.batch_exists(keys) == bench.file.batch_exists(keys) == len(keys)
    rows: list[Row] = []
    for count in LOOKUP_KEYS:
        for rhythm, pause_s, calls in (("closed loop", 0.0, 400), ("10 ms pauses", 0.01, 100)):
            for way, exists in ways.items():
                p50 = median_us(lambda exists=exists, asked=keys[:count]: exists(asked), pause_s, calls)
                rows.append({"call": "batch_exists", "keys": count, "rhythm": rhythm, "way": way, "p50_us": p50})
    return rows


def shown(row: Row) -> str:
    if row["call"] == "batch_exists":
        return f"batch_exists {row['keys']:>5} keys, {row['rhythm']:<12}  {row['way']:<22} p50 {row['p50_us']:>10} µs"
    speed = f"{row['gib_per_s']:>7} GiB/s  {row['of_memcpy']:>5} of memcpy"
    return f"{row['call']:<13} {PAGES} pages of {row['page_kib']:>5} KiB  {speed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--binary", help="the foreword to start")
    parser.add_argument("--page-kib", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--json", action="store_true", help="one JSON document in place of the table")
    arguments = parser.parse_args()
    if arguments.binary:
        os.environ["FOREWORD_BINARY"] = arguments.binary
    why_not = real_sglang.missing()
    if why_not:
        parser.error(why_not)
    sglang = real_sglang.load()
    sglang.set_parallel()
    port = free_port()
    server = multiprocessing.get_context("fork").Process(target=metadata_server, args=(port,), daemon=True)
    server.start()
    cluster = Cluster(l3_bytes="8GiB")
    rows: list[Row] = []
    try:
        agent = cluster.agent("bench", arena_bytes="2GiB")
        with tempfile.TemporaryDirectory() as folder:
            for number, page_kib in enumerate(arguments.page_kib):
                bench = Bench(sglang, agent.address("unix"), folder, page_kib)
                if number == 0:
                    rows += lookups(bench, port)
                rows += bench.rows()
                bench.close()
    finally:
        cluster.end()
        server.terminate()
        server.join()
    print(json.dumps(rows) if arguments.json else "\n".join(map(shown, rows)))


if __name__ == "__main__":
    main()
