"""Which ranks share a page, and who of them writes it.

A page holds the parts (shards) of the ranks behind one agent: those of this machine with the same pipeline,
context-parallel and data-parallel place. SGLang joins what several machines have by its MIN over all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from foreword.sglang.config import ConfigError
from foreword.sglang.runtime import Parallel

# Pools of which every rank holds the same bytes, by class; a subclass counts, unless it is named below.
_ONE_COPY_CLASSES = {"MLATokenToKVPoolHost", "DSAIndexerPoolHost", "DeepSeekV4PagedHostPool", "DeepSeekV4StateHostPool"}
# It borrows a class of them for how its pages lie; its keys are those of a pool that every rank fills for itself.
_PER_RANK_CLASSES = {"QSAIndexerPoolHost"}
# Its states belong to a rank, whatever its class, and under MLA too.
_PER_RANK_NAMES = {"mamba"}


class Sharing(Enum):
    """Whose bytes a pool's pages are."""

    PER_RANK = "each rank's own: a page holds a shard of each"
    ONE_COPY = "the same for all ranks: a page has one shard"
    FIRST_RANK = "the first rank's alone: the others neither have nor read it"


@dataclass(frozen=True)
class RankGroup:
    """Ranks `first .. first + count` of `size`, which share an agent; `rank` is this process."""

    first: int
    count: int
    size: int
    rank: int

    @property
    def shard(self) -> int:
        """This rank's place in a page that holds a shard of each."""
        return self.rank - self.first


def rank_group(storage_config: Any, parallel: Parallel | None, configured: int | None) -> RankGroup:
    """The ranks behind this rank's agent: `configured` of them in a row, or those that SGLang has on this machine."""
    rank, size = storage_config.tp_rank, storage_config.tp_size
    if not 0 <= rank < size:
        raise ConfigError("tp_rank", f"expected a rank below tp_size {size}, got {rank}")
    placed = parallel if parallel is not None and _fits(storage_config, parallel) else None
    start, end = _same_place(storage_config, placed)
    if configured is not None:
        first = start + (rank - start) // configured * configured
        return RankGroup(first, min(configured, end - first), size, rank)
    if placed is None or placed.nodes < 1 or placed.world_size < placed.nodes:
        return RankGroup(start, end - start, size, rank)
    world = [_world_rank(peer, storage_config, placed) for peer in range(start, end)]
    per_machine = placed.world_size // placed.nodes
    here = [
        peer for peer in range(start, end) if world[peer - start] // per_machine == world[rank - start] // per_machine
    ]
    return RankGroup(here[0], len(here), size, rank)


def sharing(pool: Any, name: str, storage_config: Any) -> Sharing:
    """One copy for all ranks is decided by the pool's class and name: a model with MLA may have a draft or states of
    another kind."""
    classes = {cls.__name__ for cls in type(pool).__mro__}
    if name not in _PER_RANK_NAMES and classes & _ONE_COPY_CLASSES and not classes & _PER_RANK_CLASSES:
        return Sharing.ONE_COPY
    # With MLA, SGLang sends only the states of other ranks than the first one: their shards of anything else would
    # never come.
    if storage_config.is_mla_model and name not in _PER_RANK_NAMES and storage_config.tp_size > 1:
        return Sharing.FIRST_RANK
    return Sharing.PER_RANK


def _fits(storage_config: Any, parallel: Parallel) -> bool:
    widths = (parallel.tp_size, parallel.attn_tp_size)
    return storage_config.tp_size in widths and bool(storage_config.pp_rank == parallel.pp_rank)


def _counts_attention_ranks(storage_config: Any, parallel: Parallel) -> bool:
    """With attention data parallelism, SGLang's tp_rank is the rank among those of one attention group."""
    return bool(storage_config.tp_size != parallel.tp_size)


def _same_place(storage_config: Any, parallel: Parallel | None) -> tuple[int, int]:
    """First and end of the ranks that differ from this one in nothing but the tensor-parallel rank."""
    rank, size, context = storage_config.tp_rank, storage_config.tp_size, storage_config.attn_cp_size
    if context <= 1 or size % context or (parallel is not None and _counts_attention_ranks(storage_config, parallel)):
        return 0, size
    # Without it, ranks of all context-parallel places are counted together, each place's in a row.
    width = size // context
    start = storage_config.attn_cp_rank * width
    return (start, start + width) if start <= rank < start + width else (0, size)


def _world_rank(peer: int, storage_config: Any, parallel: Parallel) -> int:
    before = parallel.pp_rank * parallel.tp_size
    if not _counts_attention_ranks(storage_config, parallel):
        return before + peer
    group = parallel.attn_dp_rank * parallel.attn_cp_size + parallel.attn_cp_rank
    return before + group * parallel.attn_tp_size + peer
