"""Puts and gets of a pool's pages: in batches, within one deadline, and with an answer for each page whatever
happens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foreword import _native
from foreword.sglang.deadline import Deadline
from foreword.sglang.places import starts_of
from foreword.sglang.pools import Pool
from foreword.sglang.reports import Reports

# SGLang cuts most transfers to this itself, but not those of batch_set_v2.
_PAGES_PER_CALL = 128
# Pages whose bytes the agent took are waited for, so that a lookup after the put finds them: SGLang puts on a thread
# of its own. The group may be away, and a page may lack the shards of ranks that are late: after a wait in vain, or
# several in a row where there are other ranks, they are short for a while.
_SETTLE_S = 2.0
_SETTLE_GATHERED_S = 1.0
_VAIN_MAX = 1
_VAIN_GATHERED_MAX = 5
_SETTLE_SHORT_S = 0.05
_SETTLE_SHORT_FOR_S = 10.0
_SETTLE_STEP_S = 0.002
# Not an engine's business: one False ends SGLang's whole backup, and the page was left out on purpose.
_STORED = {_native.OUT_TAKEN, _native.OUT_PUBLISHED, _native.OUT_EXISTS, _native.OUT_DECLINED}


@dataclass
class Transfer:
    """Moves pages for a backend."""

    reports: Reports
    _vain: int = 0
    _short_until: float = 0.0

    def put(
        self, pool: Pool, keys: Sequence[str], host_indices: Any, parent: str | None, deadline: Deadline
    ) -> list[bool]:
        """One answer a key: True if the page need not be put again."""
        if pool.pages is None or not pool.writes:
            return [True] * len(keys)
        began = time.monotonic()
        outcomes = self._put_all(pool, keys, host_indices, parent, deadline)
        stored = [outcome in _STORED for outcome in outcomes]
        self.reports.wrote(len(keys), sum(stored), pool.page_bytes, time.monotonic() - began)
        self._settle(pool, keys, outcomes, deadline)
        return stored

    def get(
        self, pool: Pool, keys: Sequence[str], host_indices: Any, deadline: Deadline, *, every_key: bool
    ) -> list[bool]:
        """One answer a key: True if the page's bytes are in its place. Without `every_key` the first False ends it."""
        if pool.pages is None:
            return [True] * len(keys)
        began = time.monotonic()
        answers = self._get_all(pool, keys, host_indices, deadline, every_key)
        answers += [False] * (len(keys) - len(answers))
        self.reports.read(len(keys), sum(answers), pool.page_bytes, time.monotonic() - began)
        return answers

    def _put_all(
        self, pool: Pool, keys: Sequence[str], host_indices: Any, parent: str | None, deadline: Deadline
    ) -> list[int]:
        pages, namespace = pool.pages, pool.opened(deadline)
        outcomes: list[int] = []
        starts = starts_of(host_indices, len(keys), pool.host_pool)
        if pages is not None and namespace is not None and starts is not None:
            for begin, end in _batches(len(keys), pages.pages_max):
                left_ms = deadline.left_ms()
                if not left_ms:
                    break
                batch, before = keys[begin:end], keys[begin - 1] if begin else parent

                def put(places: _native.Places, batch: Sequence[str] = batch, before: str | None = before) -> list[int]:
                    return namespace.put(batch, pool.shard, places, parent=before, timeout_ms=left_ms)

                outcomes += pages.put(starts[begin:end], put)
        return outcomes + [_native.OUT_FAILED] * (len(keys) - len(outcomes))

    def _get_all(
        self, pool: Pool, keys: Sequence[str], host_indices: Any, deadline: Deadline, every_key: bool
    ) -> list[bool]:
        pages, namespace = pool.pages, pool.opened(deadline)
        answers: list[bool] = []
        starts = starts_of(host_indices, len(keys), pool.host_pool)
        if pages is None or namespace is None or starts is None:
            return answers
        for begin, end in _batches(len(keys), pages.pages_max):
            left_ms = deadline.left_ms()
            if not left_ms or (answers and not answers[-1] and not every_key):
                break
            batch = keys[begin:end]

            def get(places: _native.Places, batch: Sequence[str] = batch) -> list[bool]:
                return namespace.get(batch, pool.shard, places, every_key=every_key, timeout_ms=left_ms)

            answers += pages.get(starts[begin:end], get)
        return answers

    def _settle(self, pool: Pool, keys: Sequence[str], outcomes: list[int], deadline: Deadline) -> None:
        """Waits a moment until pages that were taken are in the index."""
        taken = [key for key, outcome in zip(keys, outcomes, strict=True) if outcome == _native.OUT_TAKEN]
        now, namespace = time.monotonic(), pool.namespace
        if not taken or namespace is None:
            return
        settle_s, vain_max = (_SETTLE_GATHERED_S, _VAIN_GATHERED_MAX) if pool.gathered else (_SETTLE_S, _VAIN_MAX)
        is_short = now < self._short_until
        end = now + min(_SETTLE_SHORT_S if is_short else settle_s, deadline.left_ms() / 1000)
        while not all(namespace.locate(taken, timeout_ms=max(1, deadline.left_ms()))):
            if time.monotonic() >= end:
                self._vain += not is_short
                if self._vain >= vain_max:
                    self._short_until, self._vain = end + _SETTLE_SHORT_FOR_S, 0
                return
            time.sleep(_SETTLE_STEP_S)
        self._vain = 0


def _batches(keys: int, pages_max: int) -> list[tuple[int, int]]:
    step = min(_PAGES_PER_CALL, pages_max)
    return [(begin, min(begin + step, keys)) for begin in range(0, keys, step)]
