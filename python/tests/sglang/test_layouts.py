"""Where pages lie: what is computed against SGLang's own words, and bytes that come back."""

from __future__ import annotations

import hashlib

import pytest
import real_sglang
from real_sglang import LAYOUTS

from foreword.sglang.config import ConfigError

ALL = [(kind, layout) for kind, layouts in LAYOUTS.items() for layout in layouts]
# SGLang gives no addresses of these; ours are compared with the bytes that it copies.
UNTOLD = {
    ("mamba_sides", "page_first"),
    ("mamba_sides", "page_first_direct"),
    ("indexer", "layer_first"),
    ("keys_only", "layer_first"),
    ("packed_rows", "layer_first"),
    ("packed_kv", "layer_first"),
}
NEVER_TOLD = {("mha", "page_unified"), ("mla", "page_unified")}


def addresses(pool, pages):
    from foreword.sglang.places import map_pages, starts_of

    mapped = map_pages(pool, "kv")
    seen = []
    mapped.put(
        starts_of(real_sglang.indices(pool, *pages), len(pages), pool),
        lambda places: seen.extend(places.addresses()) or [],
    )
    return mapped, seen


@pytest.mark.parametrize(("kind", "layout"), [case for case in ALL if case not in UNTOLD | NEVER_TOLD])
def test_a_page_lies_where_sglang_says(real, kind, layout):
    pool = real_sglang.host_pool(kind, layout)
    mapped, seen = addresses(pool, (5, 0, 3))
    pointers, sizes = pool.get_page_buffer_meta(real_sglang.indices(pool, 5, 0, 3))
    assert seen == list(zip(pointers, sizes, strict=True))
    assert type(mapped).__name__ == "_Computed"
    assert mapped.page_bytes * 3 == sum(sizes)


@pytest.mark.parametrize(("kind", "layout"), sorted(UNTOLD))
def test_a_page_whose_place_sglang_does_not_tell_is_the_one_that_it_copies(real, kind, layout):
    import ctypes

    import torch

    pool = real_sglang.host_pool(kind, layout)
    mapped, seen = addresses(pool, (5,))
    assert type(mapped).__name__ == "_Computed"
    ours = b"".join(ctypes.string_at(address, size) for address, size in seen)
    copied = pool.get_data_page(5 * pool.page_size, flat=True).contiguous().view(torch.uint8).numpy().tobytes()
    assert ours == copied


@pytest.mark.parametrize(("kind", "layout"), ALL)
def test_every_byte_of_a_pool_belongs_to_one_page(real, kind, layout):
    """Taken together, the pages cover each buffer without a gap or an overlap, but for padding at its end."""
    pool = real_sglang.host_pool(kind, layout)
    count = pool.size // pool.page_size
    _, seen = addresses(pool, range(count))
    spans = sorted(seen)
    assert all(a + size <= b for (a, size), (b, _) in zip(spans, spans[1:], strict=False))
    inside = [
        (buffer.data_ptr(), buffer.data_ptr() + buffer.numel() * buffer.element_size())
        for buffer in real_sglang.buffers(pool)
    ]
    assert all(any(start <= a and a + size <= end for start, end in inside) for a, size in spans)
    # The DSA indexer has a page more than its anchor.
    spare = mapped_bytes(pool) if kind == "indexer" else 0
    assert sum(size for _, size in spans) == sum(end - start for start, end in inside) - spare


def mapped_bytes(pool):
    from foreword.sglang.places import map_pages

    return map_pages(pool, "kv").page_bytes


@pytest.mark.parametrize(("kind", "layout"), ALL)
def test_the_same_bytes_come_back_and_no_other_byte_is_touched(real, storage_of, kind, layout):
    pool = real_sglang.host_pool(kind, layout)
    storage = storage_of(pool, layout=layout, extra={"dtype": "fp8_e4m3"})
    keys = [hashlib.sha256(f"{kind}{layout}{i}".encode()).hexdigest() for i in range(3)]
    assert storage.batch_set_v1(keys, real_sglang.indices(pool, 1, 6, 2)) == [True] * 3
    before = real_sglang.snapshot(pool)
    pages = [page_bytes(pool, i) for i in (1, 6, 2)]
    assert storage.batch_exists(keys) == 3
    assert storage.batch_get_v1(keys, real_sglang.indices(pool, 4, 0, 7)) == [True] * 3
    assert [page_bytes(pool, i) for i in (4, 0, 7)] == pages
    for i in (4, 0, 7):
        overwrite(pool, i, before)
    assert all(
        (now == then).all() for now, then in zip(as_bytes(real_sglang.buffers(pool)), as_bytes(before), strict=True)
    )


def as_bytes(tensors):
    import torch

    return [tensor.view(-1).view(torch.uint8) for tensor in tensors]


def page_bytes(pool, page):
    import ctypes

    return b"".join(ctypes.string_at(address, size) for address, size in addresses(pool, (page,))[1])


def overwrite(pool, page, before):
    """Puts what the page held before back into its place."""
    import ctypes

    bases = [(buffer.data_ptr(), buffer.numel() * buffer.element_size()) for buffer in real_sglang.buffers(pool)]
    for address, size in addresses(pool, (page,))[1]:
        for (base, length), old in zip(bases, before, strict=True):
            if base <= address < base + length:
                ctypes.memmove(address, old.data_ptr() + (address - base), size)


def test_a_pool_that_is_not_known_is_asked_where_its_pages_are(real, storage_of):
    pool = real_sglang.host_pool("mha", "page_first")
    asked = []

    class Unknown:
        def __getattr__(self, name):
            return getattr(pool, name)

        def get_page_buffer_meta(self, indices):
            asked.append(len(indices))
            return pool.get_page_buffer_meta(indices)

    mapped, seen = addresses(Unknown(), (2, 3))
    assert type(mapped).__name__ == "_Asked"
    assert asked[-1] == 128
    assert seen == addresses(pool, (2, 3))[1]


def test_a_pool_that_lies_otherwise_than_computed_is_asked(real):
    pool = real_sglang.host_pool("mha", "page_first")
    told = pool.get_page_buffer_meta

    def elsewhere(indices):
        pointers, sizes = told(indices)
        return [pointer + 64 for pointer in pointers], sizes

    pool.get_page_buffer_meta = elsewhere
    mapped, seen = addresses(pool, (2,))
    assert type(mapped).__name__ == "_Asked"
    assert seen[0][0] == told(real_sglang.indices(pool, 2))[0][0] + 64


def test_a_pool_that_only_copies_pages_gives_them_as_copies(real, storage_of):
    pool = real_sglang.host_pool("mha", "layer_first")

    class CopiesOnly:
        def __getattr__(self, name):
            return getattr(pool, name)

        def get_page_buffer_meta(self, indices):
            raise NotImplementedError("no addresses")

    storage = storage_of(CopiesOnly(), layout="layer_first")
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(2)]
    assert storage.batch_set_v1(keys, real_sglang.indices(pool, 1, 2)) == [True, True]
    want = as_bytes([pool.get_data_page(i * 64).clone() for i in (1, 2)])
    assert storage.batch_get_v1(keys, real_sglang.indices(pool, 5, 6)) == [True, True]
    got = as_bytes([pool.get_data_page(i * 64) for i in (5, 6)])
    assert all((now == then).all() for now, then in zip(got, want, strict=True))


def test_copied_pages_and_parts_of_pages_share_nothing(real, storage_of):
    pool = real_sglang.host_pool("mha", "layer_first")

    class MHATokenToKVPoolHost:
        def __getattr__(self, name):
            return getattr(pool, name)

        def get_page_buffer_meta(self, indices):
            raise NotImplementedError("no addresses")

        @property
        def kv_buffer(self):
            raise RuntimeError("moved")

    parts, copies = storage_of(pool, layout="layer_first"), storage_of(MHATokenToKVPoolHost(), layout="layer_first")
    key = hashlib.sha256(b"k").hexdigest()
    assert parts.batch_set_v1([key], real_sglang.indices(pool, 1)) == [True]
    assert copies.batch_exists([key]) == 0


def test_an_unsupported_layout_is_refused_with_what_to_write(real, storage_of):
    pool = real_sglang.host_pool("mha", "page_first")
    pool.layout = "diagonal"
    with pytest.raises(ConfigError, match="layout: .*diagonal.*--hicache-mem-layout page_first"):
        storage_of(pool)


@pytest.mark.parametrize("kind", ["mha", "mla", "mamba", "indexer"])
def test_a_pool_that_gave_up_its_buffers_is_read_and_written_all_the_same(real, storage_of, kind):
    """SGLang does so when its process ends, and calls may be under way."""
    pool = real_sglang.host_pool(kind, "page_first")
    storage = storage_of(pool)
    key = hashlib.sha256(b"k").hexdigest()
    assert storage.batch_set_v1([key], real_sglang.indices(pool, 1)) == [True]
    for name in ("kv_buffer", "data_refs", "k_data_refs", "v_data_refs", "host_kv_data_refs", "temporal_buffer"):
        if hasattr(pool, name):
            setattr(pool, name, None)
    pool.destroy()
    assert storage.batch_get_v1([key], real_sglang.indices(pool, 2)) == [True]


@pytest.mark.parametrize("kind", ["mha", "mla"])
def test_a_page_outside_the_pool_is_a_miss(real, storage_of, kind):
    pool = real_sglang.host_pool(kind, "page_first")
    storage = storage_of(pool)
    key = hashlib.sha256(b"k").hexdigest()
    beyond = real_sglang.indices(pool, pool.size // pool.page_size)
    assert storage.batch_set_v1([key], beyond) == [False]
    assert storage.batch_get_v1([key], beyond - 3 * pool.size) == [False]
