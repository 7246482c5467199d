"""Where pages lie: every address as a few lines of Python compute it."""

from __future__ import annotations

import array
import random

import pytest

from foreword._native import Places

SEEDS = range(200)


def strided_model(
    bases: list[int], strides: list[int], lens: list[int], indices: list[int], page_size: int
) -> list[tuple[int, int]]:
    return [
        (base + indices[page * page_size] * stride, length)
        for page in range(len(indices) // page_size)
        for base, stride, length in zip(bases, strides, lens)
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_strided_places_are_base_plus_index_times_stride(seed: int) -> None:
    draw = random.Random(seed)
    parts, pages, page_size = draw.randint(1, 130), draw.randint(0, 40), draw.choice([1, 2, 16, 64])
    bases = [draw.randint(1, 1 << 47) for _ in range(parts)]
    strides = [draw.randint(0, 1 << 20) for _ in range(parts)]
    lens = [draw.randint(0, 1 << 22) for _ in range(parts)]
    indices = array.array("q", [draw.randint(0, 1 << 24) for _ in range(pages * page_size)])
    expected = strided_model(bases, strides, lens, list(indices), page_size)
    address, count = indices.buffer_info()
    for given in (indices, memoryview(indices), (address, count)):
        places = Places.strided(bases, strides, lens, given, page_size)
        assert places.addresses() == expected
        assert places.pages == pages
        assert places.page_bytes == (sum(lens) if pages else 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_explicit_places_are_taken_as_they_are(seed: int) -> None:
    draw = random.Random(seed)
    parts, pages = draw.randint(1, 130), draw.randint(0, 40)
    ptrs = [draw.randint(1, 1 << 47) for _ in range(parts * pages)]
    sizes = [draw.randint(0, 1 << 22) for _ in ptrs]
    places = Places.explicit(ptrs, sizes, parts)
    assert places.addresses() == list(zip(ptrs, sizes))
    assert places.pages == pages
    assert places.page_bytes == sum(sizes[:parts])


def test_indices_are_read_when_places_are_made() -> None:
    indices = array.array("q", [5, 6])
    places = Places.strided([1000], [10], [4], indices, 1)
    indices[0] = 7
    assert places.addresses() == [(1050, 4), (1060, 4)]


def test_a_buffers_places_follow_one_another() -> None:
    memory = bytearray(3 * 100)
    places = Places.buffer(memory, 100)
    ((first, _), *_) = places.addresses()
    assert places.addresses() == [(first + page * 100, 100) for page in range(3)]
    view = Places.buffer(memoryview(memory)[100:], 100)
    assert view.addresses() == places.addresses()[1:]


def test_a_buffer_stays_where_it_is_as_long_as_its_places() -> None:
    memory = bytearray(100)
    places = Places.buffer(memory, 100)
    with pytest.raises(BufferError):
        memory.extend(b"more")
    del places
    memory.extend(b"more")


@pytest.mark.parametrize(
    ("words", "make"),
    [
        ("strides: expected as many as bases, 2", lambda: Places.strided([1, 2], [1], [1, 1], (8, 0), 1)),
        ("lens: expected as many as bases, 1", lambda: Places.strided([1], [1], [], (8, 0), 1)),
        ("page_size: expected at least 1", lambda: Places.strided([1], [1], [1], (8, 0), 0)),
        (r"bases\[0\]: expected an address", lambda: Places.strided([0], [1], [1], array.array("q", [0]), 1)),
        (r"bases\[0\]: .*index 4", lambda: Places.strided([1], [1 << 62], [1], array.array("q", [4]), 1)),
        (
            r"indices\[1\]: expected 0 or more, got -2",
            lambda: Places.strided([1], [1], [1], array.array("q", [1, -2]), 1),
        ),
        ("indices: expected whole pages of 2", lambda: Places.strided([1], [1], [1], array.array("q", [1, 2, 3]), 2)),
        ("indices: expected members of int64", lambda: Places.strided([1], [1], [1], array.array("i", [1]), 1)),
        ("indices: expected members of int64", lambda: Places.strided([1], [1], [1], array.array("d", [1]), 1)),
        ("indices: expected memory of int64", lambda: Places.strided([1], [1], [1], [1, 2, 3], 1)),
        ("indices: expected an address", lambda: Places.strided([1], [1], [1], (0, 1), 1)),
        ("sizes: expected as many as ptrs, 1", lambda: Places.explicit([1], [], 1)),
        ("parts: expected a divisor of the 3 ptrs", lambda: Places.explicit([1, 2, 3], [1, 1, 1], 2)),
        ("parts: expected", lambda: Places.explicit([], [], 0)),
        (r"ptrs\[1\]: expected an address", lambda: Places.explicit([1, 0], [1, 1], 1)),
        ("obj: expected whole pages of 3 bytes, got 10", lambda: Places.buffer(bytearray(10), 3)),
        ("obj: expected whole pages of 0 bytes", lambda: Places.buffer(bytearray(10), 0)),
        ("obj: expected an object with contiguous memory", lambda: Places.buffer(memoryview(bytearray(10))[::2], 1)),
        ("obj: expected an object with contiguous memory", lambda: Places.buffer("text", 1)),
    ],
)
def test_places_that_can_be_none_name_the_argument(words: str, make) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()
