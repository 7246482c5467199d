"""How the pages of SGLang's host pools lie in memory: parts of a page as base address, stride and length.

The order of the parts is that of SGLang's own `get_page_buffer_meta`, which asks Python for every part of every page:
5.3 ms for 128 pages of 64 layers, where this is computed below Python in microseconds. Three kinds it refuses are
here as well: states with side states, the DSA indexer in layer_first, and page_unified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PAGES_IN_A_ROW = ("page_first", "page_first_direct", "page_head")


@dataclass(frozen=True)
class Part:
    """A part of every page: `length` bytes at `base + start * stride`. Bytes."""

    base: int
    stride: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A page's parts, in order. `start` is the page's first token, or its number where `by_page` (a page's bytes need
    not divide by its tokens). `buffers` are held, so that the memory is there for as long as its addresses are used:
    SGLang gives up a pool's buffers when its process ends, while calls may be under way."""

    parts: tuple[Part, ...]
    buffers: tuple[Any, ...]
    by_page: bool = False

    @property
    def page_bytes(self) -> int:
        return sum(part.length for part in self.parts)


def layout_of(pool: Any) -> Layout | None:
    """The layout of a pool whose class is known here, None for another class or an unknown `pool.layout`."""
    for cls in type(pool).__mro__:
        builder = _BUILDERS.get(cls.__name__)
        if builder is not None:
            return builder(pool)
    return None


def _mha(pool: Any) -> Layout | None:
    base, buffers = pool.kv_buffer.data_ptr(), (pool.kv_buffer,)
    row = pool.head_num * pool.head_dim * pool.dtype.itemsize
    values = base + pool.layer_num * pool.size * row
    if pool.layout == "layer_first":
        starts = [at + layer * pool.size * row for layer in range(pool.layer_num) for at in (base, values)]
        return Layout(tuple(Part(start, row, pool.page_size * row) for start in starts), buffers)
    if pool.layout in _PAGES_IN_A_ROW:
        token = pool.layer_num * row
        return Layout(tuple(Part(at, token, pool.page_size * token) for at in (base, values)), buffers)
    if pool.layout == "page_unified":
        return _rows_of(pool.kv_buffer)
    return None


def _asymmetric_mha(pool: Any) -> Layout | None:
    if pool.layout not in ("page_first", "page_first_direct"):
        return None
    parts = []
    for buffer, dim in ((pool.k_buffer, pool.head_dim), (pool.v_buffer, pool.v_head_dim)):
        token = pool.layer_num * pool.head_num * dim * pool.dtype.itemsize
        parts.append(Part(buffer.data_ptr(), token, pool.page_size * token))
    return Layout(tuple(parts), (pool.k_buffer, pool.v_buffer))


def _keys_only(pool: Any) -> Layout | None:
    if pool.layout not in ("layer_first", "page_first", "page_first_direct"):
        return None
    return _one_buffer(pool, pool.k_buffer, pool.head_num * pool.head_dim * pool.dtype.itemsize)


def _mla(pool: Any) -> Layout | None:
    if getattr(pool, "dcp_size", 1) > 1:
        return None
    if pool.layout == "page_first_kv_split":
        return _mla_split(pool)
    if pool.layout == "page_unified":
        return _rows_of(pool.kv_buffer)
    if pool.layout not in ("layer_first", "page_first", "page_first_direct"):
        return None
    return _one_buffer(pool, pool.kv_buffer, pool.kv_cache_dim * pool.dtype.itemsize)


def _mla_split(pool: Any) -> Layout:
    buffers = [pool.k_buffer]
    if not getattr(pool, "dsa_kv_cache_store_fp8", False):
        # Packed fp8 has the values in the same rows as the keys, and what lies in `v_buffer` is nothing.
        buffers.append(pool.v_buffer)
    buffers += [getattr(pool, "index_k_buffer", None), getattr(pool, "index_k_scale_buffer", None)]
    return _rows_of(*[buffer for buffer in buffers if buffer is not None])


def _one_buffer(pool: Any, buffer: Any, row: int) -> Layout:
    """One buffer of `row` bytes a token and layer."""
    base, token = buffer.data_ptr(), pool.layer_num * row
    if pool.layout != "layer_first":
        return Layout((Part(base, token, pool.page_size * token),), (buffer,))
    starts = [base + layer * pool.size * row for layer in range(pool.layer_num)]
    return Layout(tuple(Part(start, row, pool.page_size * row) for start in starts), (buffer,))


def _states(pool: Any) -> Layout | None:
    if pool.layout not in ("page_first", "page_first_direct"):
        return None
    # A model of convolutions alone has a temporal buffer without bytes.
    buffers = [pool.temporal_buffer, *pool.conv_buffer, *pool.slot_state_buffers]
    return _rows_of(*[buffer for buffer in buffers if buffer.numel() > 0])


def _dsa_indexer(pool: Any) -> Layout | None:
    return _rows(pool, pool.index_k_with_scale_buffer)


def _paged_rows(pool: Any) -> Layout | None:
    return _rows(pool, pool.kv_buffer)


def _packed_rows(pool: Any) -> Layout | None:
    """Rows of packed values and scales, which SGLang gives as keys and values where both are in them."""
    layout, count = _rows(pool, pool.kv_buffer), pool.storage_objects_per_page
    if layout is None or pool.layout == "layer_first":
        return layout
    base, page = pool.kv_buffer.data_ptr(), pool.page_bytes
    layers = [pool.layer_num // count + (part < pool.layer_num % count) for part in range(count)]
    starts = [base + sum(layers[:part]) * pool.row_bytes for part in range(count)]
    parts = [Part(start, page, rows * pool.row_bytes) for start, rows in zip(starts, layers, strict=True)]
    return Layout(tuple(parts), layout.buffers, by_page=True)


def _rows(pool: Any, buffer: Any) -> Layout | None:
    """A page is a row of a buffer, or with layer_first a row of each layer's."""
    if pool.layout == "layer_first":
        return _rows_of(*[buffer[layer] for layer in range(pool.layer_num)])
    return _rows_of(buffer) if pool.layout in ("page_first", "page_first_direct") else None


def _rows_of(*buffers: Any) -> Layout:
    """A row of each of these tensors is a page's part of it."""
    parts = []
    for buffer in buffers:
        row = buffer.stride(0) * buffer.element_size()
        parts.append(Part(buffer.data_ptr(), row, row))
    return Layout(tuple(parts), buffers, by_page=True)


_BUILDERS: dict[str, Callable[[Any], Layout | None]] = {
    "AsymmetricMHATokenToKVPoolHost": _asymmetric_mha,
    # Its scales lie outside the buffers that SGLang would give; not carried.
    "MHATokenToKVPoolMXFP8Host": lambda pool: None,
    "MHATokenToKVPoolHost": _mha,
    "MHATokenToKOnlyPoolHost": _keys_only,
    "MLATokenToKVPoolHost": _mla,
    "MambaPoolHost": _states,
    "DSAIndexerPoolHost": _dsa_indexer,
    "DeepSeekV4PagedHostPool": _paged_rows,
    "DeepSeekV4StateHostPool": _paged_rows,
    "MiniMaxM3Nvfp4IndexKPoolHost": _packed_rows,
}
