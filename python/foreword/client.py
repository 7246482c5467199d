"""The cluster's pages for any engine, in a few lines: see :class:`Client`.

What the agent, the network or the cluster does never raises: a failure is a miss, and :attr:`Namespace.error` says
why. Arguments that can be nothing raise ``TypeError`` or ``ValueError`` naming the argument. No call lasts longer
than its timeout, and after a call nobody touches its buffer.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from foreword import _native

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from foreword._native import ConnectionState, Counters, Keys, Tokens

_DEFAULTS: dict[str, Any] = {
    "revision": "static",
    "dtype": "bfloat16",
    "layout": "page_first",
    "storage_format": "raw",
    "layer_first": 0,
    "layer_count": 1,
    "cp_rank": 0,
    "cp_size": 1,
    "dcp_rank": 0,
    "dcp_size": 1,
    "tp_first": 0,
    "head_split": "even",
    "pool": "kv",
}
"""Of a plain namespace, as ``foreword get --model`` opens it."""


class Outcome(enum.IntEnum):
    """What became of one page of a put."""

    FAILED = _native.OUT_FAILED
    """The call failed, the agent is away, or the bytes were not taken."""
    TAKEN = _native.OUT_TAKEN
    """The agent has the bytes, and goes on by itself."""
    PUBLISHED = _native.OUT_PUBLISHED
    """Every agent can read the page."""
    EXISTS = _native.OUT_EXISTS
    """The page was there before."""
    DECLINED = _native.OUT_DECLINED
    """The agent's policy does not want the page."""
    REFUSED = _native.OUT_REFUSED
    """No room, a full queue, a quota, or a page whose other shards did not come."""


class Client:
    """One agent, at ``unix:/path`` or ``HOST:PORT``. Connects in the background, again whenever the connection is lost.

    Ten lines of an engine: a prompt's pages are looked up, what is there is read, and the rest is computed and shared.

    >>> with Client("unix:/run/foreword/node.sock") as client:
    ...     pages = client.namespace("my-model", page_tokens=64, shard_bytes=4096)
    ...     keys = pages.keys(range(256))  # a prompt of four pages
    ...     found = pages.lookup(keys)
    ...     there = bytearray(found * 4096)
    ...     hits = pages.get(keys[:found], there)
    ...     computed = bytes((len(keys) - found) * 4096)
    ...     outcomes = pages.put(keys[found:], computed, parent=keys[found - 1] if found else None, wait=True)
    ...     print(found, hits, [outcome.name for outcome in outcomes])
    0 [] ['PUBLISHED', 'PUBLISHED', 'PUBLISHED', 'PUBLISHED']
    """

    def __init__(self, address: str, *, tenant: str = "default", timeout_ms: int = 5000) -> None:
        """Waits for nothing. ``timeout_ms`` is what a call may take that names nothing else.

        Raises ValueError, naming the argument, for one that can be nothing.
        """
        self._connection = _native.Connection(address, tenant=tenant, timeout_ms=timeout_ms)

    def namespace(
        self,
        model: str,
        *,
        page_tokens: int,
        shard_bytes: int | Sequence[int],
        open_s: float = 5.0,
        **fields: Any,
    ) -> Namespace:
        """Opens the pages of a model: ``shard_bytes`` bytes of ``page_tokens`` tokens, or a size for each rank of
        the engine.

        Pages are shared by those whose fields all agree; docs/GLOSSARY.md has the words. ``fields`` are any others
        of them by name (``revision``, ``dtype``, ``layout``, ``tp_size``, ``salt``, …). Those not named are as
        ``foreword get --model`` has them: one group of ranks, the revision "static".

        Waits ``open_s`` seconds at most for the agent, and returns all the same: :attr:`Namespace.error` says why
        it is not open, and it goes on trying.

        Raises ValueError naming the field that is unknown or not what was expected.
        """
        sizes = [shard_bytes] if isinstance(shard_bytes, int) else list(shard_bytes)
        spec = _DEFAULTS | {"tp_count": len(sizes), "tp_size": len(sizes)}
        spec |= {"model": model, "page_tokens": page_tokens, "shard_bytes": sizes} | fields
        native = self._connection.namespace(spec)
        native.wait_open(open_s)
        return Namespace(native, page_tokens, sizes)

    def state(self) -> ConnectionState:
        """Whether the agent has answered on the present connection, what carries it, else why there is none. Never
        waits.
        """
        return self._connection.state()

    def close(self) -> None:
        """Ends everything, within 2 s. A second time does nothing."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Namespace:
    """Pages of one model, shared by all who named the same fields. Made by :meth:`Client.namespace`.

    Keys of a call are ``bytes`` of 32 a key, one after another, or a sequence with a key a member: ``bytes`` of 32
    or ``str`` of 64 hexadecimal digits, as :meth:`keys` and SGLang make them, or any other ``str``, a name of the
    caller's own.
    """

    def __init__(self, native: _native.Namespace, page_tokens: int, shard_bytes: list[int]) -> None:
        self._native = native
        self.page_tokens = page_tokens
        self.shard_bytes = shard_bytes

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits: equal exactly where all fields are."""
        return self._native.fingerprint

    @property
    def is_open(self) -> bool:
        """Whether calls reach the agent now."""
        return self._native.state()["open"]

    @property
    def error(self) -> str | None:
        """Why it is not open, in the agent's words, or why the last lookup, get or put failed, if one did."""
        return self._native.state()["error"]

    def wait_open(self, timeout_s: float) -> bool:
        """Waits until it is open. False: it is not by then."""
        return self._native.wait_open(timeout_s)

    def keys(self, tokens: Tokens, *, seed: bytes | None = None, unit: str = "token") -> list[bytes]:
        """Keys of the whole pages of a prompt, as SGLang computes them. ``seed``: None or 32 bytes, which keep
        apart prompts that are otherwise equal. ``unit``: "token", or "bigram" for EAGLE's overlapping pairs.
        """
        return _native.keys_from_tokens(tokens, self.page_tokens, seed=seed, unit=unit)

    def lookup(
        self, keys: Keys, *, min_revision: int = 0, linearizable: bool = False, timeout_ms: int | None = None
    ) -> int:
        """How many leading pages the agent could deliver now; 0 when it cannot be told.

        ``min_revision``: wait until what the agent knows is of this revision. ``linearizable``: ask the leader
        first, so that nothing that was acknowledged before is missed.
        """
        return self._native.lookup(keys, min_revision=min_revision, linearizable=linearizable, timeout_ms=timeout_ms)

    def lookup_tokens(
        self,
        tokens: Tokens,
        *,
        seed: bytes | None = None,
        unit: str = "token",
        min_revision: int = 0,
        linearizable: bool = False,
        timeout_ms: int | None = None,
    ) -> int:
        """:meth:`lookup` of the keys that :meth:`keys` makes."""
        return self._native.lookup_tokens(
            tokens,
            seed=seed,
            unit=unit,
            min_revision=min_revision,
            linearizable=linearizable,
            timeout_ms=timeout_ms,
        )

    def get(
        self,
        keys: Keys,
        buffer: Buffer,
        *,
        shard: int = 0,
        every_key: bool = False,
        timeout_ms: int | None = None,
    ) -> list[bool]:
        """Reads one shard of each page into writable memory, page after page; whether each is there.

        Without ``every_key`` the first miss is the last page looked at. The memory of a page that is not there may
        have been written.

        Raises TypeError for memory that is read-only, ValueError where it is smaller or larger than the pages.
        """
        if memoryview(buffer).readonly:
            raise TypeError("buffer: expected writable memory, got read-only memory")
        places = self._places(keys, buffer, shard)
        return self._native.get(keys, shard, places, every_key=every_key, timeout_ms=timeout_ms)

    def put(
        self,
        keys: Keys,
        buffer: Buffer,
        *,
        shard: int = 0,
        parent: str | bytes | None = None,
        wait: bool = False,
        timeout_ms: int | None = None,
    ) -> list[Outcome]:
        """Offers one shard of each page, page after page in memory, and sends what is wanted; what became of each.

        ``parent``: the page before the first one. ``wait``: until each page is published, or will not be; else
        until the agent has its bytes.

        Raises ValueError where the memory is smaller or larger than the pages.
        """
        places = self._places(keys, buffer, shard)
        codes = self._native.put(keys, shard, places, parent=parent, wait=wait, timeout_ms=timeout_ms)
        return [Outcome(code) for code in codes]

    def clear(self) -> int:
        """Takes all pages out of the index, for every agent; the revision of that.

        Raises RuntimeError with the agent's words: it does not allow it, or the metadata group is away.
        """
        return self._native.clear()

    def counters(self) -> Counters:
        """What the calls of this process amounted to since the namespace was opened."""
        return self._native.counters()

    def close(self) -> None:
        """Ends it, and tells the agent in the background. A second time does nothing."""
        self._native.close()

    def _places(self, keys: Keys, buffer: Buffer, shard: int) -> _native.Places:
        if not 0 <= shard < len(self.shard_bytes):
            raise ValueError(f"shard: expected one below {len(self.shard_bytes)}, got {shard}")
        pages = len(keys) // 32 if isinstance(keys, bytes) else len(keys)
        expected, got = pages * self.shard_bytes[shard], memoryview(buffer).nbytes
        if got != expected:
            raise ValueError(f"buffer: expected {expected} bytes for {pages} pages, got {got}")
        return _native.Places.buffer(buffer, self.shard_bytes[shard])
