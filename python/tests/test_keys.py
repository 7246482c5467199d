"""Keys: hexadecimal digits, names, and chains of tokens."""

from __future__ import annotations

import array
import hashlib
import json
import random
import subprocess
from pathlib import Path

import pytest
from support import PAGE_BYTES, Agent, binary, opened, pages, put, spec

from foreword import _native
from foreword._native import Places, keys_from_tokens


def test_digits_and_bytes_and_a_list_of_bytes_are_the_same_keys(connection: _native.Connection, model: str) -> None:
    namespace = opened(connection, model)
    raw = [random.Random(number).randbytes(32) for number in range(3)]
    put(namespace, [key.hex() for key in raw], pages(model, 3))
    for keys in (
        [key.hex() for key in raw],
        [key.hex().upper() for key in raw],
        tuple(key.hex() for key in raw),
        raw,
        [raw[0].hex(), raw[1], raw[2].hex()],
        b"".join(raw),
    ):
        assert namespace.lookup(keys) == 3, keys


def test_names_are_the_keys_of_foreword_put_opaque(agent: Agent, way: str, model: str, tmp_path: Path) -> None:
    """Any text that is not 64 digits, 64 letters that are no digits among them."""
    connection = _native.Connection(agent.address(way), timeout_ms=30_000)
    namespace = opened(connection, model)
    name_file, content = tmp_path / "namespace.json", pages(model, 1)
    fields = spec(model)
    name_file.write_text(json.dumps(fields | {"salt": fields["salt"].hex()}))
    (tmp_path / "page").write_bytes(content)
    for name in ("greeting", "__placeholder__", "grüß dich", "x" * 64, "f" * 63, "f" * 65):
        assert namespace.lookup([name]) == 0
        subprocess.run(
            [
                *(binary(), "put", "--agent", agent.address(way), "--namespace", str(name_file)),
                *("--opaque", name, str(tmp_path / "page")),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        got = bytearray(PAGE_BYTES)
        assert namespace.get([name], 0, Places.buffer(got, PAGE_BYTES)) == [True], name
        assert got == content
    connection.close()


def chain(tokens: list[int], page_tokens: int, seed: bytes | None, bigrams: bool) -> list[bytes]:
    """SGLang's chain in a few lines: SHA-256 over the digest before and the page's ids, u32 each, or a byte 0xff
    and u64 each.
    """
    units = [list(pair) for pair in zip(tokens, tokens[1:])] if bigrams else [[token] for token in tokens]
    keys, before = [], seed
    for start in range(0, len(units) - page_tokens + 1, page_tokens):
        ids = [token for unit in units[start : start + page_tokens] for token in unit]
        wide = max(ids) >= 1 << 32
        page = b"".join(token.to_bytes(8 if wide else 4, "little") for token in ids)
        before = hashlib.sha256((before or b"") + (b"\xff" if wide else b"") + page).digest()
        keys.append(before)
    return keys


@pytest.mark.parametrize("seed", range(100))
def test_tokens_become_sglangs_chain(seed: int) -> None:
    draw = random.Random(seed)
    page_tokens = draw.choice([1, 2, 16, 64])
    largest = draw.choice([150_000, (1 << 32) - 1, 1 << 40])
    tokens = [draw.randint(0, largest) for _ in range(draw.randint(0, 500))]
    start = draw.choice([None, draw.randbytes(32)])
    for unit in ("token", "bigram"):
        expected = chain(tokens, page_tokens, start, unit == "bigram")
        given: list = [tokens, array.array("q", tokens), array.array("Q", tokens)]
        if largest < 1 << 31:
            given += [array.array("i", tokens), array.array("I", tokens)]
        for ids in given:
            assert keys_from_tokens(ids, page_tokens, seed=start, unit=unit) == expected


def test_a_lookup_by_tokens_is_one_by_their_keys(connection: _native.Connection, model: str) -> None:
    namespace = connection.namespace(spec(model, page_tokens=4))
    assert namespace.wait_open(30)
    tokens = list(range(23))
    keys = keys_from_tokens(tokens, 4)
    assert len(keys) == 5
    put(namespace, keys[:3], pages(model, 3))
    assert namespace.lookup_tokens(tokens) == namespace.lookup(keys) == 3
    assert namespace.lookup_tokens(tokens, seed=bytes(32)) == 0
    assert namespace.lookup_tokens(tokens, unit="bigram") == 0
    assert namespace.lookup_tokens(tokens, algorithm="blake3") == 0


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("keys: expected a multiple of 32 bytes, got 33", bytes(33)),
        ("keys: expected a list of keys, got one str", "0" * 64),
        (r"keys\[1\]: expected a str or 32 bytes, got int", ["a", 1]),
        (r"keys\[0\]: expected 32 bytes or a str, got 31 bytes", [bytes(31)]),
        ("not iterable", 7),
    ],
)
def test_keys_that_are_none_are_named(words: str, keys) -> None:
    connection = _native.Connection("unix:/nonexistent/socket")
    namespace = connection.namespace(spec("model"))
    places = Places.buffer(bytearray(0), 1)
    for call in (namespace.lookup, namespace.locate, lambda keys: namespace.get(keys, 0, places)):
        with pytest.raises((ValueError, TypeError), match=words):
            call(keys)
    connection.close()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("page_tokens: expected 1 to", {"page_tokens": 0}),
        ("seed: expected None or 32 bytes", {"seed": b"short"}),
        ('unit: expected "token" or "bigram", got "page"', {"unit": "page"}),
        ('algorithm: expected "sha256" or "blake3", got "md5"', {"algorithm": "md5"}),
        ("tokens: expected ints, 0 or more", {"tokens": [-1]}),
        (r"tokens\[1\]: expected 0 or more", {"tokens": array.array("i", [1, -1])}),
        ("tokens: expected ints of 32 or 64 bits", {"tokens": array.array("d", [1.0])}),
        ("token_ids: expected ids of at most", {"tokens": [1 << 63]}),
    ],
)
def test_tokens_that_can_make_no_keys_are_named(words: str, named) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        keys_from_tokens(**({"tokens": [1, 2, 3], "page_tokens": 1} | named))
