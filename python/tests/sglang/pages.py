"""Keys, transfers and bytes of pages, for tests of the calls."""

from __future__ import annotations

import hashlib

from real_sglang import indices


# What an operator writes, at least: SGLang's keys, and where the agent is.
EXTRA = {
    "backend_name": "foreword",
    "module_path": "foreword.sglang",
    "class_name": "ForewordStorage",
    "interface_v1": 1,
    "agent": "unix:/run/foreword/node.sock",
}


def keys_of(count, name="k"):
    return [hashlib.sha256(f"{name}{i}".encode()).hexdigest() for i in range(count)]


def content(pool, page):
    """The bytes of a page, in the order in which they are kept."""
    from foreword.sglang.places import map_pages, starts_of

    seen = []
    map_pages(pool, "kv").put(starts_of(indices(pool, page), 1, pool), lambda places: seen.append(places.read(0)) or [])
    return seen[0]


def transfer(real, name, pool, pages, keys, **more):
    from sglang.srt.mem_cache.hicache_storage import PoolTransfer

    return PoolTransfer(real.PoolName(name), host_indices=indices(pool, *pages) if pages else None, keys=keys, **more)


def tail(real, name, count=1):
    from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolTransfer

    return PoolTransfer(real.PoolName(name), keys=["__placeholder__"] * count, hit_policy=PoolHitPolicy.TRAILING_PAGES)
