"""The host pools that SGLang registered, each with its namespace: who may share its pages, and where they lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foreword.sglang import identity, runtime
from foreword.sglang.config import Config, ConfigError
from foreword.sglang.deadline import Deadline
from foreword.sglang.places import PageMap, map_pages
from foreword.sglang.ranks import RankGroup, Sharing, sharing

if TYPE_CHECKING:
    from foreword import _native

KV = "kv"
# An agent opens a namespace within some milliseconds, the first one of a cluster after a write of its group.
_OPENING_S = 2.0
_OPENING_STEP_S = 0.05


@dataclass
class Pool:
    """A registered pool. `pages` is None for one without bytes (an anchor that only counts), `namespace` too for one
    that this rank neither reads nor writes."""

    name: str
    host_pool: Any
    pages: PageMap | None
    sharing: Sharing
    shard: int
    writes: bool
    # The namespace's fields but for the revision.
    spec: dict[str, Any] | None
    # The namespace, and until when calls wait for it to open; no time when it has been open.
    _used: tuple[_native.Namespace | None, float | None] = (None, None)

    @property
    def namespace(self) -> _native.Namespace | None:
        return self._used[0]

    @property
    def page_bytes(self) -> int:
        return self.pages.page_bytes if self.pages is not None else 0

    @property
    def gathered(self) -> bool:
        """True where a page has shards of several ranks."""
        return self.spec is not None and len(self.spec["shard_bytes"]) > 1

    def use(self, namespace: _native.Namespace | None) -> None:
        """Begins to use a namespace that is opening."""
        self._used = (namespace, time.monotonic() + _OPENING_S)

    def opened(self, deadline: Deadline) -> _native.Namespace | None:
        """The namespace for a call. One that was asked for a moment ago is waited for: SGLang may write in the moment
        after an attach, or after new weights, and one False ends its backup. Not where it is known why it is not
        open."""
        used = self._used
        namespace, until = used
        if namespace is None or until is None:
            return namespace
        while True:
            state = namespace.state()
            left_s = min(until - time.monotonic(), deadline.left_ms() / 1000)
            if state["open"] or state["error"] is not None or left_s <= 0:
                break
            namespace.wait_open(min(left_s, _OPENING_STEP_S))
        if self._used is used and (state["open"] or time.monotonic() >= until):
            self._used = (namespace, None)
        return namespace


@dataclass
class Pools:
    """All pools of a backend, by name; `anchor` is the one of the KV pages of interface v1."""

    config: Config
    storage_config: Any
    ranks: RankGroup
    connection: _native.Connection
    warn: Callable[[str], None]
    anchor: Pool | None = None
    _by_name: dict[str, Pool] = field(default_factory=dict)
    # The weights' version, as SGLang had it when the namespaces were opened.
    _served: str = field(default_factory=runtime.weight_version)
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register_anchor(self, host_pool: Any) -> Pool:
        """Raises ConfigError for a pool that cannot be served, with what to write instead."""
        pool = self._made(KV, host_pool, host_pool)
        with self._lock:
            previous, self.anchor = [self.anchor, self._by_name.get(KV)], pool
            self._by_name[KV] = pool
        _close(previous)
        return pool

    @property
    def kv(self) -> Pool | None:
        """The pool of the KV pages."""
        return self.anchor or self._by_name.get(KV)

    def register(self, name: str, host_pool: Any) -> Pool | None:
        """The same for a pool by name; registered again it takes the place of the former one. None: it was known."""
        with self._lock:
            known = self._by_name.get(name)
        if known is not None and known.host_pool is host_pool:
            return None
        anchor = self.anchor.host_pool if self.anchor is not None else host_pool
        try:
            pool = self._made(name, host_pool, anchor)
        except ValueError:
            # SGLang does not roll an attach back here, so that calls for this pool may still come: they find nothing.
            self._replace(name, None)
            raise
        self._replace(name, pool)
        return pool

    def _replace(self, name: str, pool: Pool | None) -> None:
        with self._lock:
            previous = self._by_name.pop(name, None)
            if pool is not None:
                self._by_name[name] = pool
        if previous is not self.anchor:
            _close([previous])

    def get(self, name: str) -> Pool | None:
        """The pool of this name. For SGLang's PoolName as for its text."""
        return self._by_name.get(str(getattr(name, "value", name)))

    def follow_weights(self) -> None:
        """Opens the namespaces of the weights that are served now, and closes those of the former ones. Called before
        every use: SGLang tells no backend of new weights.
        """
        if runtime.weight_version() == self._served:
            return
        with self._lock:
            served = runtime.weight_version()
            if served == self._served or self._closed:
                return
            former = [pool.namespace for pool in self.all()]
            for pool in self.all():
                pool.use(self._opened(pool.spec, identity.revision(self.config, served)))
            self._served = served
        for namespace in former:
            if namespace is not None:
                namespace.close()

    def all(self) -> list[Pool]:
        """The KV pages' first."""
        pools = ([self.anchor] if self.anchor is not None else []) + list(self._by_name.values())
        return list({id(pool): pool for pool in pools}.values())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            pools = self.all()
        _close(pools)

    def _made(self, name: str, host_pool: Any, anchor: Any) -> Pool:
        pages = map_pages(host_pool, name)
        shared = sharing(host_pool, name, self.storage_config)
        own, first = shared is Sharing.PER_RANK, self.ranks.rank == 0
        pool = Pool(
            name=name,
            host_pool=host_pool,
            pages=pages,
            sharing=shared,
            shard=self.ranks.shard if own else 0,
            # One copy of a model whose other ranks write as well (an MLA draft beside MHA) is put by whoever comes.
            writes=own or first or not self.storage_config.is_mla_model,
            spec=None,
        )
        if pages is None or (shared is Sharing.FIRST_RANK and not first):
            return pool
        known = identity.Pool(host_pool, name, pages.page_bytes, pages.form, shared, anchor)
        pool.spec = identity.spec(self.config, self.storage_config, self.ranks, known)
        revision = identity.revision(self.config, self._served)
        try:
            pool.use(self.connection.namespace({**pool.spec, "revision": revision}))
        except ValueError as error:
            raise ConfigError(f"{name} pool", str(error)) from error
        return pool

    def _opened(self, spec: dict[str, Any] | None, revision: str) -> _native.Namespace | None:
        if spec is None:
            return None
        try:
            return self.connection.namespace({**spec, "revision": revision})
        except ValueError as error:
            self.warn(f"the {spec['pool']} pool has no namespace for the weights {revision!r}: {error}")
            return None


def _close(pools: Sequence[Pool | None]) -> None:
    for namespace in {id(pool): pool.namespace for pool in pools if pool is not None}.values():
        if namespace is not None:
            namespace.close()
