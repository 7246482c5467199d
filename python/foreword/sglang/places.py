"""Where the pages of a transfer lie in this process: given to the native client, which copies without Python's lock.

Addresses are computed (layouts.py) and, at attach, compared with SGLang's own on some pages. A pool that is not
known, or whose addresses differ, is asked for them on every call; one that cannot say gives and takes flat pages,
which costs a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from foreword import _native
from foreword.sglang.config import ConfigError
from foreword.sglang.layouts import Layout, layout_of

logger = logging.getLogger(__name__)

Answers = TypeVar("Answers")
# Of one call through flat pages: they are held twice meanwhile.
_FLAT_BYTES_MAX = 64 << 20


class PageMap(Protocol):
    """How a pool's pages are found. `starts` is a row of int64, the first token of each page, on the CPU."""

    @property
    def page_bytes(self) -> int: ...

    @property
    def form(self) -> str:
        """Of the identity: pools whose pages' bytes come in another order share nothing."""

    @property
    def pages_max(self) -> int:
        """Of one call."""

    def put(self, starts: Any, call: Callable[[_native.Places], list[int]]) -> list[int]: ...

    def get(self, starts: Any, call: Callable[[_native.Places], list[bool]]) -> list[bool]: ...


def map_pages(pool: Any, name: str) -> PageMap | None:
    """How the pages of this pool are found, None for one without bytes (an anchor that only counts). Raises
    ConfigError for one whose bytes nobody can tell."""
    if type(pool).__name__ == "PageInterleaveHostPool":
        raise ConfigError(
            "pool", "SGLang shards its KV over ranks page by page; start it without --enable-kv-cache-sharding"
        )
    if getattr(pool, "_is_dummy", False):
        return _Elsewhere(int(pool.size_per_token) * tokens_of(pool))
    layout = _computed(pool, name)
    told, refusal = _told(pool, 0)
    if layout is not None:
        if told is None or _agrees(pool, layout):
            return _Computed(pool, layout)
        logger.warning(
            "foreword: the %s pool's pages do not lie as expected; SGLang is asked where on every call (slower)", name
        )
    if told is not None:
        return _Asked(pool, sum(told[1])) if told[0] else None
    if refusal is None:
        return None
    flat = _flat_page(pool)
    if flat is None:
        expected = "one of layer_first, page_first, page_first_direct, page_head, page_first_kv_split, page_unified"
        raise ConfigError(
            "layout",
            f"the {name} pool ({type(pool).__name__}, {pool.layout}) does not tell where its pages are ({refusal}); "
            f"write --hicache-mem-layout page_first ({expected})",
        )
    logger.warning("foreword: the %s pool gives and takes its pages as copies (slower)", name)
    return _Flat(pool, flat)


def starts_of(host_indices: Any, pages: int, pool: Any) -> Any | None:
    """The first token of each page, as a row of int64 on the CPU; None unless `host_indices` are those of so many
    pages of this pool."""
    tokens = tokens_of(pool)
    if host_indices is None or host_indices.numel() != pages * tokens:
        return None
    starts = host_indices.reshape(-1)[::tokens].to(device="cpu").long().contiguous()
    last = int(getattr(pool, "logical_size", pool.size)) - tokens
    return starts if int(starts.min()) >= 0 and int(starts.max()) <= last else None


def tokens_of(pool: Any) -> int:
    """Tokens of a page. A pool of states has one page a slot."""
    return int(getattr(pool, "page_size", 1) or 1)


@dataclass(frozen=True)
class _Computed:
    pool: Any
    layout: Layout
    form: str = "parts"
    pages_max: int = 1 << 30

    @property
    def page_bytes(self) -> int:
        return self.layout.page_bytes

    def put(self, starts: Any, call: Callable[[_native.Places], list[int]]) -> list[int]:
        return self._with_places(starts, call)

    def get(self, starts: Any, call: Callable[[_native.Places], list[bool]]) -> list[bool]:
        return self._with_places(starts, call)

    def _with_places(self, starts: Any, call: Callable[[_native.Places], Answers]) -> Answers:
        indices = starts // tokens_of(self.pool) if self.layout.by_page else starts
        parts = self.layout.parts
        bases, strides = [part.base for part in parts], [part.stride for part in parts]
        lengths = [part.length for part in parts]
        # `indices` lives until the call is over.
        return call(_native.Places.strided(bases, strides, lengths, (indices.data_ptr(), indices.numel()), 1))


@dataclass(frozen=True)
class _Asked:
    pool: Any
    page_bytes: int
    form: str = "parts"
    pages_max: int = 1 << 30

    def put(self, starts: Any, call: Callable[[_native.Places], list[int]]) -> list[int]:
        return call(self._places(starts))

    def get(self, starts: Any, call: Callable[[_native.Places], list[bool]]) -> list[bool]:
        return call(self._places(starts))

    def _places(self, starts: Any) -> _native.Places:
        pointers, sizes = self.pool.get_page_buffer_meta(_token_indices(self.pool, starts))
        return _native.Places.explicit(list(pointers), list(sizes), len(pointers) // starts.numel())


@dataclass(frozen=True)
class _Elsewhere:
    """SGLang keeps one copy for all ranks of the machine, at the first one, which reads and writes for this one too."""

    page_bytes: int
    form: str = "parts"
    pages_max: int = 1 << 30

    def put(self, starts: Any, call: Callable[[_native.Places], list[int]]) -> list[int]:
        return [_native.OUT_EXISTS] * starts.numel()

    def get(self, starts: Any, call: Callable[[_native.Places], list[bool]]) -> list[bool]:
        return [True] * starts.numel()


class _Flat:
    form = "flat"

    def __init__(self, pool: Any, page: Any) -> None:
        self.pool = pool
        self.dtype = page.dtype
        self.items = page.numel()
        self.page_bytes = page.numel() * page.element_size()
        self.pages_max = max(1, _FLAT_BYTES_MAX // self.page_bytes)

    def put(self, starts: Any, call: Callable[[_native.Places], list[int]]) -> list[int]:
        pages = [self.pool.get_data_page(start, flat=True).contiguous() for start in starts.tolist()]
        return call(self._places([page.data_ptr() for page in pages]))

    def get(self, starts: Any, call: Callable[[_native.Places], list[bool]]) -> list[bool]:
        import torch

        room = torch.empty((starts.numel(), self.items), dtype=self.dtype)
        answers = call(self._places([room.data_ptr() + i * self.page_bytes for i in range(starts.numel())]))
        for i, start in enumerate(starts.tolist()):
            if answers[i]:
                self.pool.set_from_flat_data_page(start, room[i])
        return answers

    def _places(self, pointers: list[int]) -> _native.Places:
        return _native.Places.explicit(pointers, [self.page_bytes] * len(pointers), 1)


def _computed(pool: Any, name: str) -> Layout | None:
    try:
        return layout_of(pool)
    except Exception as error:
        # Another SGLang than this was written for: its pools are asked instead.
        logger.warning("foreword: where the %s pool's pages lie cannot be computed: %r", name, error)
        return None


def _told(pool: Any, start: int) -> tuple[tuple[list[int], list[int]] | None, str | None]:
    """SGLang's own addresses and sizes of the page at `start`, or why it has none; neither for a pool without bytes."""
    try:
        told = pool.get_page_buffer_meta(_token_indices(pool, _row([start])))
    except Exception as error:
        return None, str(error) or repr(error)
    return (None, None) if told is None else ((list(told[0]), list(told[1])), None)


def _agrees(pool: Any, layout: Layout) -> bool:
    """True if the first, a middle and the last page lie where SGLang says."""
    tokens = tokens_of(pool)
    last = int(pool.size) // tokens - 1
    for page in {0, last // 2, last}:
        start = page * tokens
        told, _ = _told(pool, start)
        at = page if layout.by_page else start
        if told != ([part.base + at * part.stride for part in layout.parts], [part.length for part in layout.parts]):
            return False
    return True


def _flat_page(pool: Any) -> Any | None:
    """A page as the pool itself copies it; None if it does not, or not in both directions."""
    try:
        page, dummy = pool.get_data_page(0, flat=True), pool.get_dummy_flat_data_page()
        # Written back as it is: a pool that gives pages and takes none is found here, not in the first hit.
        pool.set_from_flat_data_page(0, page.contiguous().clone())
    except Exception:
        return None
    return page if page.numel() and page.numel() == dummy.numel() and page.dtype == dummy.dtype else None


def _token_indices(pool: Any, starts: Any) -> Any:
    import torch

    return (starts.reshape(-1, 1) + torch.arange(tokens_of(pool), dtype=torch.int64)).reshape(-1)


def _row(starts: list[int]) -> Any:
    import torch

    return torch.tensor(starts, dtype=torch.int64)
