"""The agent's client, in Rust. Python's lock is held to read arguments, and let go for the rest of a call.

Whoever wants to use the cache in a few lines uses :class:`foreword.Client`; this is what it stands on.

A call never raises for what the agent, the network or the cluster does: a failure is a miss, and
``state()["error"]`` says why. It raises ``TypeError`` or ``ValueError``, naming the argument, for arguments that
can be nothing. It never lasts longer than its timeout.

Keys of a call are either

- ``bytes`` of 32 a key, one after another, or
- a sequence with a key a member: ``str`` of 64 hexadecimal digits (SGLang's), ``bytes`` of 32, or any other
  ``str``, a name of the caller's own, which is hashed to a key as ``foreword put --opaque`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Union, final

from typing_extensions import Buffer

VERSION: str
"""Of the package."""

OUT_FAILED: int
"""The call failed, the agent is away, or the bytes were not taken."""
OUT_TAKEN: int
"""The agent has the bytes, and goes on by itself."""
OUT_PUBLISHED: int
"""Every agent can read the page."""
OUT_EXISTS: int
"""The page was there before."""
OUT_DECLINED: int
"""The agent's policy does not want the page: nothing that an engine could mend."""
OUT_REFUSED: int
"""No room, a full queue, a quota, or a page whose other shards did not come."""

Keys = Union[bytes, Sequence[Union[str, bytes]]]
Indices = Union[Buffer, tuple[int, int]]
Tokens = Union[Sequence[int], Buffer]

class ConnectionState(TypedDict):
    connected: bool
    transport: str | None
    error: str | None

class NamespaceState(TypedDict):
    open: bool
    error: str | None
    namespace_id: int | None

class Counters(TypedDict):
    lookups: int
    lookup_keys: int
    lookup_pages: int
    gets: int
    hits: int
    misses: int
    bytes_got: int
    puts: int
    pages_put: int
    pages_not_put: int
    bytes_put: int
    failures: int
    lookup_seconds: float
    get_seconds: float
    put_seconds: float

@final
class Connection:
    """One agent, at ``unix:/path`` or ``HOST:PORT``. Connects on a thread of its own, and again whenever the
    connection is lost, after 0.2 s, doubling to 5 s. A process that was forked makes a connection of its own when
    it first uses it.
    """

    def __init__(
        self,
        address: str,
        *,
        tenant: str = "default",
        timeout_ms: int = 5000,
        token: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        """Waits for nothing. ``timeout_ms`` is what a call may take that names nothing else.

        Raises ValueError, naming the argument, for an address, a tenant or a timeout that can be none. ``token``,
        ``ca``, ``cert`` and ``key`` must be None: agents of this release know neither TLS nor tokens.
        """

    def state(self) -> ConnectionState:
        """Whether an agent has answered on the present connection, what carries it, else why there is none. Never
        waits.
        """

    def namespace(self, spec: Mapping[str, Any]) -> Namespace:
        """Opens a namespace in the background, again after every reconnect; an agent counts the same one twice as
        two openings.

        ``spec`` is a dict with all fields of ``Namespace`` in proto/wire/common.proto by name. ``draft_model``,
        ``draft_revision`` and ``salt`` (bytes) may be left out, ``tenant`` too, which is the connection's.

        Raises ValueError naming the field that is missing, unknown or not what was expected.
        """

    def close(self) -> None:
        """Ends everything, within 2 s: namespaces, calls of other threads, the background. A second time does
        nothing.
        """

@final
class Namespace:
    """Who shares pages with whom, open at an agent or on the way to it."""

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits: equal exactly where all fields are."""

    def state(self) -> NamespaceState:
        """Whether it is open; if not, why not, in the agent's words; if it is, why the last lookup, get or put
        failed, if one did. Never waits.
        """

    def wait_open(self, timeout_s: float) -> bool:
        """Waits until it is open. False: it is not by then."""

    def lookup(
        self,
        keys: Keys,
        *,
        min_revision: int = 0,
        linearizable: bool = False,
        timeout_ms: int | None = None,
    ) -> int:
        """How many leading pages the agent could deliver now; 0 when it cannot be told.

        ``min_revision``: wait until what the agent knows is of this revision. ``linearizable``: ask the leader
        first, so that nothing that was acknowledged before is missed.
        """

    def lookup_tokens(
        self,
        tokens: Tokens,
        *,
        seed: bytes | None = None,
        unit: str = "token",
        algorithm: str = "sha256",
        min_revision: int = 0,
        linearizable: bool = False,
        timeout_ms: int | None = None,
    ) -> int:
        """:meth:`lookup` of the keys that :func:`keys_from_tokens` makes with the namespace's ``page_tokens``."""

    def locate(self, keys: Keys, *, timeout_ms: int | None = None) -> bytes:
        """Where each page is: a byte a key, bit 0 the agent's memory, bit 1 its disk, bit 2 the cluster. All 0 when
        it cannot be told.
        """

    def get(
        self,
        keys: Keys,
        shard: int,
        places: Places,
        *,
        every_key: bool = False,
        timeout_ms: int | None = None,
    ) -> list[bool]:
        """Copies one shard of each page to its place; an answer a key. Without ``every_key`` the first miss is the
        last page looked at.

        A place whose answer is False may have been written to in part. After the return nobody writes to any.
        """

    def put(
        self,
        keys: Keys,
        shard: int,
        places: Places,
        *,
        parent: str | bytes | None = None,
        wait: bool = False,
        timeout_ms: int | None = None,
    ) -> list[int]:
        """Offers one shard of each page, and sends those that are wanted; an ``OUT_…`` a key.

        ``parent``: the page before the first one. ``wait``: until each page is published, or will not be; else
        until the agent has its bytes. After the return nobody reads the places.
        """

    def clear(self) -> int:
        """Takes all pages out of the index, for every agent; the revision of that.

        Raises RuntimeError with the agent's words: it does not allow it, or the metadata group is away.
        """

    def counters(self) -> Counters:
        """What the calls of this process amounted to, since the namespace was made. Nobody drains them."""

    def close(self) -> None:
        """Ends it, and tells the agent in the background. A second time does nothing."""

@final
class Places:
    """Where pages lie in this process's memory. The caller keeps the memory, which is touched within a get or a put
    only. A page's bytes are its parts one after another.
    """

    @staticmethod
    def strided(
        bases: Sequence[int], strides: Sequence[int], lens: Sequence[int], indices: Indices, page_size: int
    ) -> Places:
        """Part j of page i: ``lens[j]`` bytes at address ``bases[j] + indices[i * page_size] * strides[j]``.

        ``indices``: an object whose memory holds int64 (a numpy array), or ``(address, count)`` of such memory;
        read now.

        Raises ValueError or TypeError naming the argument: lengths that differ, no whole pages, an index below 0,
        no address.
        """

    @staticmethod
    def explicit(ptrs: Sequence[int], sizes: Sequence[int], parts: int) -> Places:
        """Page i: entries ``i * parts`` to ``(i + 1) * parts`` of addresses and their bytes. Raises ValueError as
        above.
        """

    @staticmethod
    def buffer(obj: Buffer, page_bytes: int) -> Places:
        """One object's memory, page after page; kept alive by this. Raises ValueError where it is not contiguous,
        or no whole pages.
        """

    def addresses(self) -> list[tuple[int, int]]:
        """Address and bytes of every part of every page, in order."""

    @property
    def pages(self) -> int: ...
    @property
    def page_bytes(self) -> int:
        """Of the first page; 0 without pages."""

def keys_from_tokens(
    tokens: Tokens,
    page_tokens: int,
    *,
    seed: bytes | None = None,
    unit: str = "token",
    algorithm: str = "sha256",
) -> list[bytes]:
    """Keys of the whole pages of a prompt, 32 bytes each: each a digest of the page's tokens and the key before it,
    the first one's of ``seed`` (None or 32 bytes).

    ``unit``: "token", or "bigram" for EAGLE's overlapping pairs. ``algorithm``: "sha256", which is SGLang's, or
    "blake3".

    Raises TypeError or ValueError naming the argument.
    """
