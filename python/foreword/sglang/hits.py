"""What of a prompt can be restored: each pool's pages against the KV run, by SGLang's hit policies. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Policy(Enum):
    """Which of a pool's pages a prefix needs. The values are SGLang's."""

    ALL_PAGES = "all_pages"
    TRAILING_PAGES = "trailing_pages"
    BLOCK_GROUPS = "block_groups"


@dataclass(frozen=True)
class Asked:
    """A pool beside the KV pages, and what of it is there."""

    name: str
    policy: Policy
    # One a key: the page is there. At least as many as the KV run is long.
    present: Sequence[bool]
    # TRAILING_PAGES: how many of the last pages a prefix needs.
    trailing: int = 1
    # BLOCK_GROUPS: pages of a block, and how many of its last keys a group has.
    block_pages: int = 0
    group_pages: int = 0


@dataclass(frozen=True)
class Hits:
    """`pages`: the longest prefix that can be restored. `boundaries`: of each pool, the longest prefix that it could
    serve, 0 included. `restorable`: all lengths that can be restored, ascending: with pools that keep only the end of
    a prefix there are holes."""

    pages: int
    boundaries: dict[str, int]
    restorable: list[int]


def hits(kv_name: str, kv_run: int, pools: Sequence[Asked]) -> Hits:
    """The prefixes that `kv_run` leading KV pages and every one of these pools can serve."""
    boundaries, restorable = {kv_name: kv_run}, set(range(1, kv_run + 1))
    for pool in pools:
        if pool.policy is Policy.BLOCK_GROUPS:
            # A second form of the same pages: it has a boundary of its own and takes nothing away.
            boundaries[pool.name] = _whole_blocks(pool, kv_run)
            continue
        served = _served(pool, kv_run)
        boundaries[pool.name] = max(served, default=0)
        restorable &= served
    lengths = sorted(restorable)
    return Hits(lengths[-1] if lengths else 0, boundaries, lengths)


def _served(pool: Asked, kv_run: int) -> set[int]:
    """The lengths of prefix for which the pool has what the policy asks for."""
    if pool.policy is Policy.ALL_PAGES:
        return set(range(1, _leading(pool.present[:kv_run]) + 1))
    served, in_a_row = set(), 0
    for length in range(1, kv_run + 1):
        in_a_row = in_a_row + 1 if pool.present[length - 1] else 0
        if in_a_row >= min(pool.trailing, length):
            served.add(length)
    return served


def _whole_blocks(pool: Asked, kv_run: int) -> int:
    """Pages that the leading blocks cover whose group, the last keys of the block, is there."""
    block, group = pool.block_pages, pool.group_pages
    if block < 1 or not 1 <= group <= block:
        return 0
    covered = 0
    while covered + block <= kv_run and all(pool.present[covered + block - group : covered + block]):
        covered += block
    return covered


def _leading(present: Sequence[bool]) -> int:
    return next((i for i, there in enumerate(present) if not there), len(present))
