"""The clients of :mod:`foreword.client` for asyncio: the same methods, awaited, each on a thread of its own meanwhile.

A task that is cancelled during a call is cancelled when that call has left its buffer, which its timeout bounds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from foreword.client import Client, Namespace, Outcome

if TYPE_CHECKING:
    from typing_extensions import Buffer, ParamSpec

    from foreword._native import ConnectionState, Counters, Keys, Tokens

    _P = ParamSpec("_P")

_T = TypeVar("_T")


async def _apart(call: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
    """Runs a call on a thread, and leaves when it has ended, whatever happens to the task."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **named))
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return running.result()


class AsyncClient:
    """:class:`foreword.Client`, awaited.

    >>> async def found(tokens: list[int]) -> int:
    ...     async with AsyncClient("unix:/run/foreword/node.sock") as client:
    ...         pages = await client.namespace("my-model", page_tokens=64, shard_bytes=4096)
    ...         return await pages.lookup_tokens(tokens)
    """

    def __init__(self, address: str, *, tenant: str = "default", timeout_ms: int = 5000) -> None:
        self._client = Client(address, tenant=tenant, timeout_ms=timeout_ms)

    async def namespace(
        self,
        model: str,
        *,
        page_tokens: int,
        shard_bytes: int | Sequence[int],
        open_s: float = 5.0,
        **fields: Any,
    ) -> AsyncNamespace:
        """As :meth:`foreword.Client.namespace`."""
        opened = await _apart(
            self._client.namespace, model, page_tokens=page_tokens, shard_bytes=shard_bytes, open_s=open_s, **fields
        )
        return AsyncNamespace(opened)

    def state(self) -> ConnectionState:
        """As :meth:`foreword.Client.state`."""
        return self._client.state()

    async def close(self) -> None:
        """As :meth:`foreword.Client.close`."""
        await _apart(self._client.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncNamespace:
    """:class:`foreword.Namespace`, awaited. Made by :meth:`AsyncClient.namespace`."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    @property
    def page_tokens(self) -> int:
        """Tokens of one page."""
        return self._namespace.page_tokens

    @property
    def shard_bytes(self) -> list[int]:
        """Bytes of each shard of one page."""
        return self._namespace.shard_bytes

    @property
    def fingerprint(self) -> str:
        """As :attr:`foreword.Namespace.fingerprint`."""
        return self._namespace.fingerprint

    @property
    def is_open(self) -> bool:
        """As :attr:`foreword.Namespace.is_open`."""
        return self._namespace.is_open

    @property
    def error(self) -> str | None:
        """As :attr:`foreword.Namespace.error`."""
        return self._namespace.error

    async def wait_open(self, timeout_s: float) -> bool:
        """As :meth:`foreword.Namespace.wait_open`."""
        return await _apart(self._namespace.wait_open, timeout_s)

    def keys(self, tokens: Tokens, *, seed: bytes | None = None, unit: str = "token") -> list[bytes]:
        """As :meth:`foreword.Namespace.keys`."""
        return self._namespace.keys(tokens, seed=seed, unit=unit)

    async def lookup(
        self, keys: Keys, *, min_revision: int = 0, linearizable: bool = False, timeout_ms: int | None = None
    ) -> int:
        """As :meth:`foreword.Namespace.lookup`."""
        return await _apart(
            self._namespace.lookup,
            keys,
            min_revision=min_revision,
            linearizable=linearizable,
            timeout_ms=timeout_ms,
        )

    async def lookup_tokens(
        self,
        tokens: Tokens,
        *,
        seed: bytes | None = None,
        unit: str = "token",
        min_revision: int = 0,
        linearizable: bool = False,
        timeout_ms: int | None = None,
    ) -> int:
        """As :meth:`foreword.Namespace.lookup_tokens`."""
        return await _apart(
            self._namespace.lookup_tokens,
            tokens,
            seed=seed,
            unit=unit,
            min_revision=min_revision,
            linearizable=linearizable,
            timeout_ms=timeout_ms,
        )

    async def get(
        self,
        keys: Keys,
        buffer: Buffer,
        *,
        shard: int = 0,
        every_key: bool = False,
        timeout_ms: int | None = None,
    ) -> list[bool]:
        """As :meth:`foreword.Namespace.get`."""
        return await _apart(self._namespace.get, keys, buffer, shard=shard, every_key=every_key, timeout_ms=timeout_ms)

    async def put(
        self,
        keys: Keys,
        buffer: Buffer,
        *,
        shard: int = 0,
        parent: str | bytes | None = None,
        wait: bool = False,
        timeout_ms: int | None = None,
    ) -> list[Outcome]:
        """As :meth:`foreword.Namespace.put`."""
        return await _apart(
            self._namespace.put, keys, buffer, shard=shard, parent=parent, wait=wait, timeout_ms=timeout_ms
        )

    async def clear(self) -> int:
        """As :meth:`foreword.Namespace.clear`."""
        return await _apart(self._namespace.clear)

    def counters(self) -> Counters:
        """As :meth:`foreword.Namespace.counters`."""
        return self._namespace.counters()

    async def close(self) -> None:
        """As :meth:`foreword.Namespace.close`."""
        await _apart(self._namespace.close)
