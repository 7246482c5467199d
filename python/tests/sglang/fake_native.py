"""A cluster in this process's memory behind the API of `foreword._native`, for tests of the Python above it.

Pages are kept by namespace fingerprint and gathered from their shards, as an agent does. `FakeCluster` is the
switchboard: tests take agents away, let the policy decline, and look at what was asked.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

OUT_FAILED, OUT_TAKEN, OUT_PUBLISHED, OUT_EXISTS, OUT_DECLINED, OUT_REFUSED = range(6)
VERSION = "fake"

FIELDS = {
    "tenant", "model", "revision", "dtype", "layout", "storage_format", "page_tokens", "layer_first", "layer_count",
    "cp_rank", "cp_size", "dcp_rank", "dcp_size", "tp_first", "tp_count", "tp_size", "head_split", "shard_bytes",
    "pool", "draft_model", "draft_revision", "salt",
}  # fmt: skip


@dataclass
class FakeCluster:
    """All agents of the cluster, and the pages they share."""

    pages: dict[str, dict[str, dict[int, bytes]]] = field(default_factory=dict)
    away: bool = False
    # Waits until namespaces are open.
    opening: int = 0
    decline: bool = False
    refuse_keys: set[str] = field(default_factory=set)
    clears_allowed: bool = True
    calls: Counter[str] = field(default_factory=Counter)
    parents: list[Any] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]


CLUSTER = FakeCluster()


class Places:
    """Where pages lie: for each, its parts as (address, bytes)."""

    def __init__(self, parts_of_pages: list[list[tuple[int, int]]]) -> None:
        self._pages = parts_of_pages

    @staticmethod
    def strided(bases: list[int], strides: list[int], lens: list[int], indices: Any, page_size: int) -> Places:
        address, count = indices
        numbers = (ctypes.c_int64 * count).from_address(address)
        parts = list(zip(bases, strides, lens, strict=True))
        return Places(
            [[(base + start * stride, size) for base, stride, size in parts] for start in numbers[::page_size]]
        )

    @staticmethod
    def explicit(ptrs: list[int], sizes: list[int], parts: int) -> Places:
        pairs = list(zip(ptrs, sizes, strict=True))
        return Places([pairs[i : i + parts] for i in range(0, len(pairs), parts)])

    def addresses(self) -> list[tuple[int, int]]:
        return [part for page in self._pages for part in page]

    @property
    def pages(self) -> int:
        return len(self._pages)

    @property
    def page_bytes(self) -> int:
        return sum(size for _, size in self._pages[0]) if self._pages else 0

    def read(self, page: int) -> bytes:
        return b"".join(ctypes.string_at(address, size) for address, size in self._pages[page])

    def write(self, page: int, data: bytes) -> None:
        at = 0
        for address, size in self._pages[page]:
            ctypes.memmove(address, data[at : at + size], size)
            at += size


class Namespace:
    def __init__(self, spec: dict[str, Any]) -> None:
        assert set(spec) == FIELDS, f"fields: {set(spec) ^ FIELDS}"
        for name in ("tenant", "model", "revision", "dtype", "layout", "storage_format", "head_split", "pool"):
            if not 1 <= len(spec[name]) <= 256:
                raise ValueError(f"{name}: expected 1 to 256 bytes, got {len(spec[name])}")
        if not spec["shard_bytes"] or sum(spec["shard_bytes"]) > 256 << 20:
            raise ValueError("shard_bytes: a page of at most 268435456 bytes over all shards")
        if spec["tp_first"] + spec["tp_count"] > spec["tp_size"] or spec["cp_rank"] >= spec["cp_size"]:
            raise ValueError("tp_count: within tp_size")
        self.spec = spec
        plain = json.dumps({**spec, "salt": spec["salt"].hex()}, sort_keys=True)
        self.fingerprint = hashlib.sha256(plain.encode()).hexdigest()
        self.closed = False
        CLUSTER.open.append(self.fingerprint)

    @property
    def _pages(self) -> dict[str, dict[int, bytes]]:
        return CLUSTER.pages.setdefault(self.fingerprint, {})

    @property
    def _gone(self) -> bool:
        return CLUSTER.away or self.closed or bool(CLUSTER.opening)

    def state(self) -> dict[str, Any]:
        if CLUSTER.opening and not (CLUSTER.away or self.closed):
            return {"open": False, "error": None, "namespace_id": None}
        return {"open": not self._gone, "error": "connection refused" if self._gone else None, "namespace_id": 1}

    def wait_open(self, timeout_s: float) -> bool:
        CLUSTER.opening = max(0, CLUSTER.opening - 1)
        return not CLUSTER.opening and not self._gone

    def _whole(self, key: str) -> bool:
        return len(self._pages.get(key, {})) == len(self.spec["shard_bytes"])

    def lookup(self, keys: Any, *, timeout_ms: int | None = None) -> int:
        CLUSTER.calls["lookup"] += 1
        run = 0
        while not self._gone and run < len(keys) and self._whole(keys[run]):
            run += 1
        return run

    def locate(self, keys: Any, *, timeout_ms: int | None = None) -> bytes:
        CLUSTER.calls["locate"] += 1
        return bytes(0 if self._gone else 4 * self._whole(key) for key in keys)

    def get(
        self, keys: Any, shard: int, places: Places, *, every_key: bool = False, timeout_ms: int | None = None
    ) -> list[bool]:
        CLUSTER.calls["get"] += 1
        assert timeout_ms is not None and 0 < timeout_ms <= 9000
        answers = [False] * len(keys)
        for i, key in enumerate(keys):
            fits = places.pages == len(keys) and places.page_bytes == self.spec["shard_bytes"][shard]
            if not self._gone and fits and self._whole(key):
                places.write(i, self._pages[key][shard])
                answers[i] = True
            elif not every_key:
                break
        return answers

    def put(
        self,
        keys: Any,
        shard: int,
        places: Places,
        *,
        parent: Any = None,
        wait: bool = False,
        timeout_ms: int | None = None,
    ) -> list[int]:
        CLUSTER.calls["put"] += 1
        CLUSTER.parents.append(parent)
        assert timeout_ms is not None and 0 < timeout_ms <= 9000
        assert len(keys) <= 128
        outcomes = []
        for i, key in enumerate(keys):
            if self._gone or places.page_bytes != self.spec["shard_bytes"][shard]:
                outcomes.append(OUT_FAILED)
            elif CLUSTER.decline:
                outcomes.append(OUT_DECLINED)
            elif key in CLUSTER.refuse_keys:
                outcomes.append(OUT_REFUSED)
            elif self._whole(key):
                outcomes.append(OUT_EXISTS)
            else:
                self._pages.setdefault(key, {})[shard] = places.read(i)
                outcomes.append(OUT_TAKEN)
        return outcomes

    def clear(self) -> int:
        if self._gone or not CLUSTER.clears_allowed:
            raise RuntimeError("clear: this agent lets nobody clear tenant default (clear_tenants)")
        self._pages.clear()
        return 1

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            CLUSTER.open.remove(self.fingerprint)


class Connection:
    def __init__(self, address: str, **settings: Any) -> None:
        assert set(settings) == {"tenant", "timeout_ms"}
        self.address, self.settings, self.closed = address, settings, False

    def state(self) -> dict[str, Any]:
        connected = not (CLUSTER.away or self.closed)
        return {
            "connected": connected,
            "transport": "grpc" if connected else None,
            "error": None if connected else "connection refused",
        }

    def namespace(self, spec: dict[str, Any]) -> Namespace:
        return Namespace(spec)

    def close(self) -> None:
        self.closed = True
