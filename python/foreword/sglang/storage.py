"""The storage backend that SGLang loads: `foreword.sglang.ForewordStorage`.

Constructor and registration parse and check, wait for nothing, and refuse only what every rank is told alike.
Whatever depends on the agent or the group degrades instead: False and 0, quickly, until it is back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolName, PoolTransferResult
from sglang.srt.observability.metrics_collector import StorageMetrics

from foreword.sglang import hits, ranks, runtime
from foreword.sglang.config import Config, ConfigError, parse
from foreword.sglang.connect import connect
from foreword.sglang.deadline import Deadline, Patience
from foreword.sglang.pools import Pool, Pools
from foreword.sglang.reports import Reports
from foreword.sglang.transfer import Transfer

logger = logging.getLogger("foreword.sglang")
# A lookup takes microseconds, and SGLang's scheduler makes some itself: who has not answered by then does not.
LOOKUP_MS = 1_000
Answer = TypeVar("Answer")


class ForewordStorage(HiCacheStorage):  # type: ignore[misc]  # SGLang has no types
    """SGLang's third tier on a Foreword agent.

    SGLang calls it from several threads at once: prefetch (exists), prefetch-io (get), backup (set) and the
    scheduler's (the rest). No call lasts longer than `timeout_ms` (5 s, at most 9 s) and a little, and none raises
    but the constructor, registration and clear().
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        self.config = parse(storage_config.extra_config)
        self.storage_config = storage_config
        _refuse_unsupported(storage_config, self.config)
        group = ranks.rank_group(storage_config, runtime.parallel(), self.config.rank_group)
        self.registered_pools: dict[Any, Any] = {}
        self._reports = Reports(metrics=bool(storage_config.enable_storage_metrics))
        self._patience = Patience(self.config.timeout_ms)
        self._transfer = Transfer(self._reports)
        self._closed = False
        self._connection = connect(self.config)
        self._pools = Pools(self.config, storage_config, group, self._connection, self._reports.warn)
        if not self.config.is_local:
            faster = "its unix socket is faster where it runs on this machine"
            logger.warning("foreword: pages go to the agent over TCP (%s); %s", self.config.agent, faster)

    # ---- registration: may raise ConfigError ----

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        super().register_mem_pool_host(mem_pool_host)
        self._log_pool(self._pools.register_anchor(mem_pool_host))

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        pool = self._pools.register(str(getattr(host_pool_name, "value", host_pool_name)), host_pool)
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self._log_pool(pool)

    def on_host_pools_registered(self) -> None:
        logger.info(
            "foreword: attached to %s with the pools %s",
            self.config.agent,
            ", ".join(pool.name for pool in self._pools.all()),
        )

    # ---- interface v1: the KV pages ----

    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """How many of the leading keys' pages this machine's agent could deliver now."""
        return self._answered(lambda: self._kv_run(keys, self._patience.deadline()), 0)

    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Reads pages into the KV pool, up to the first that is not there. One answer a key."""
        deadline = self._patience.deadline()
        nothing = [False] * len(keys)
        return self._answered(lambda: self._get(self._pools.kv, keys, host_indices, deadline, every_key=False), nothing)

    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Writes pages of the KV pool. One answer a key: True also for one that need not be written."""
        deadline = self._patience.deadline()
        nothing = [False] * len(keys)
        return self._answered(lambda: self._put(self._pools.kv, keys, host_indices, extra_info, deadline), nothing)

    # ---- interface v2: several pools at once ----

    def batch_exists_v2(
        self, keys: Sequence[str], pool_transfers: Sequence[Any] | None = None, extra_info: Any = None
    ) -> PoolTransferResult:
        """The longest prefix that the KV pool and every one of these pools can serve, all lengths that they can, and
        each pool's own."""
        transfers = list(pool_transfers or [])
        nothing = PoolTransferResult(0, {PoolName.KV: 0, **{transfer.name: 0 for transfer in transfers}}, [])
        return self._answered(lambda: self._exists_v2(keys, transfers), nothing)

    def batch_get_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Reads pages into these pools. For each pool's name, one answer a key."""
        deadline = self._patience.deadline()

        def get(transfer: Any) -> list[bool]:
            pool, keys = self._pools.get(transfer.name), transfer.keys or []
            return self._get(pool, keys, transfer.host_indices, deadline, every_key=True)

        return self._of_each(transfers, get)

    def batch_set_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Writes pages of these pools. For each pool's name, one answer a key."""
        deadline = self._patience.deadline()

        def put(transfer: Any) -> list[bool]:
            pool, keys = self._pools.get(transfer.name), transfer.keys or []
            return self._put(pool, keys, transfer.host_indices, extra_info, deadline)

        return self._of_each(transfers, put)

    # ---- the rest ----

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    def get_stats(self) -> StorageMetrics:
        """What was moved since the last call: counted here, asked of nobody."""
        return self._reports.drain(StorageMetrics())

    def clear(self) -> bool:
        """Takes all pages of these pools out of the cluster's index. Raises RuntimeError where that is not allowed,
        or was not done."""
        if not self.config.allow_clear:
            raise RuntimeError(
                "foreword: clear is not allowed: it would take the pages from every engine of the cluster; "
                'write "allow_clear": true into the extra config, and name the tenant in the agent\'s clear_tenants'
            )
        self._pools.follow_weights()
        deadline = self._patience.deadline()
        namespaces = [pool.opened(deadline) for pool in self._pools.all()]
        # The first that fails ends it: two of them could last longer than SGLang waits.
        for namespace in namespaces:
            if namespace is not None:
                namespace.clear()
        return True

    def close(self) -> None:
        """Ends everything, within 2 s; may be called again."""
        if not self._closed:
            self._closed = True
            self._pools.close()
        self._connection.close()

    # ---- what SGLang calls without interface_v1, which is refused: pages as copied tensors ----

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> None:
        self._without_v1()

    def batch_get(self, keys: Sequence[str], target_locations: Any = None, target_sizes: Any = None) -> list[None]:
        self._without_v1()
        return [None] * len(keys)

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        self._without_v1()
        return False

    def batch_set(
        self, keys: Sequence[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        self._without_v1()
        return False

    # ---- inside ----

    def _answered(self, ask: Callable[[], Answer], nothing: Answer) -> Answer:
        """The answer, or `nothing`: SGLang's scheduler survives no exception of ours."""
        if self._closed:
            return nothing
        try:
            self._pools.follow_weights()
            return ask()
        except Exception as error:
            self._reports.warn(f"a call failed, and was answered with a miss: {error!r}")
            logger.debug("foreword: a call failed", exc_info=True)
            return nothing

    def _of_each(self, transfers: Sequence[Any], move: Callable[[Any], list[bool]]) -> dict[Any, list[bool]]:
        nothing = [[False] * len(transfer.keys or []) for transfer in transfers]
        answers = [self._answered(partial(move, one), none) for one, none in zip(transfers, nothing, strict=True)]
        return {transfer.name: answer for transfer, answer in zip(transfers, answers, strict=True)}

    def _kv_run(self, keys: Sequence[str], deadline: Deadline) -> int:
        pool = self._pools.kv
        if pool is None or not keys:
            return 0
        if pool.pages is None:
            return self._run_without_bytes(keys, deadline)
        run = self._lookup(pool, keys, deadline)
        self._reports.looked_up(len(keys), run)
        return run

    def _run_without_bytes(self, keys: Sequence[str], deadline: Deadline) -> int:
        """An anchor without bytes has every page; what counts is what the pools beside it have."""
        run = len(keys)
        for pool in self._pools.all():
            if pool.pages is not None and run:
                run = self._lookup(pool, keys[:run], deadline)
        return run

    def _lookup(self, pool: Pool, keys: Sequence[str], deadline: Deadline) -> int:
        namespace, asking = pool.opened(deadline), deadline.at_most(LOOKUP_MS)
        if namespace is None or not asking.left_ms():
            return 0
        run = namespace.lookup(keys, timeout_ms=asking.left_ms())
        self._patience.note(asking, answered=bool(run))
        if not run:
            self._say_why_not(pool)
        return run

    def _exists_v2(self, keys: Sequence[str], transfers: list[Any]) -> PoolTransferResult:
        deadline = self._patience.deadline()
        anchor = self._pools.kv
        without_bytes = anchor is not None and anchor.pages is None
        kv_run = len(keys) if without_bytes else self._kv_run(keys, deadline)
        asked = [self._asked(transfer, keys[:kv_run], deadline) for transfer in transfers]
        found = hits.hits(PoolName.KV, kv_run, asked)
        self._promise_tails(asked, keys, found.pages, deadline)
        return PoolTransferResult(found.pages, found.boundaries, found.restorable)

    def _asked(self, transfer: Any, keys: Sequence[str], deadline: Deadline) -> hits.Asked:
        """What of this transfer's pool is there. The transfer's own keys are placeholders: only their number counts."""
        try:
            policy = hits.Policy(str(getattr(transfer.hit_policy, "value", transfer.hit_policy)))
        except ValueError:
            self._reports.warn(
                f"an unknown hit policy of the {transfer.name} pool was answered with a miss: {transfer.hit_policy!r}"
            )
            return hits.Asked(transfer.name, hits.Policy.ALL_PAGES, [False] * len(keys))
        return hits.Asked(
            name=transfer.name,
            policy=policy,
            present=self._present(self._pools.get(transfer.name), keys, policy, deadline),
            trailing=max(1, len(transfer.keys or [])),
            block_pages=getattr(transfer, "block_pages", 0),
            group_pages=getattr(transfer, "group_pages", 0),
        )

    def _present(self, pool: Pool | None, keys: Sequence[str], policy: hits.Policy, deadline: Deadline) -> list[bool]:
        if not keys:
            return []
        if pool is not None and pool.pages is None:
            return [True] * len(keys)
        if pool is not None and policy is hits.Policy.ALL_PAGES:
            run = self._lookup(pool, keys, deadline)
            return [True] * run + [False] * (len(keys) - run)
        namespace = pool.opened(deadline) if pool is not None else None
        asking = deadline.at_most(LOOKUP_MS)
        if namespace is None or not asking.left_ms():
            return [False] * len(keys)
        present = [bool(tiers) for tiers in namespace.locate(keys, timeout_ms=asking.left_ms())]
        self._patience.note(asking, answered=any(present))
        return present

    def _promise_tails(self, asked: list[hits.Asked], keys: Sequence[str], pages: int, deadline: Deadline) -> None:
        """What a lookup counts stays deliverable for some seconds; asking where pages are does not do that."""
        for tail in asked:
            pool = self._pools.get(tail.name)
            if tail.policy is hits.Policy.TRAILING_PAGES and pages and pool is not None and pool.pages is not None:
                self._lookup(pool, keys[max(0, pages - tail.trailing) : pages], deadline)

    def _get(
        self, pool: Pool | None, keys: Sequence[str], host_indices: Any, deadline: Deadline, *, every_key: bool
    ) -> list[bool]:
        if pool is None or not keys:
            return [False] * len(keys)
        answers = self._transfer.get(pool, keys, host_indices, deadline, every_key=every_key)
        self._patience.note(deadline, answered=any(answers))
        if not all(answers):
            self._say_why_not(pool)
        return answers

    def _put(
        self, pool: Pool | None, keys: Sequence[str], host_indices: Any, extra_info: Any, deadline: Deadline
    ) -> list[bool]:
        if pool is None or not keys:
            return [False] * len(keys)
        # None: SGLang does not say. Empty: the first key begins a chain. In both cases there is no parent to name.
        before = getattr(extra_info, "prefix_keys", None)
        answers = self._transfer.put(pool, keys, host_indices, before[-1] if before else None, deadline)
        self._patience.note(deadline, answered=any(answers))
        if not all(answers):
            self._say_why_not(pool)
        return answers

    def _say_why_not(self, pool: Pool) -> None:
        """A miss is nothing to report; an agent that is away, or does not know these pages, is: once a minute."""
        if self._closed:
            return
        connection = self._connection.state()
        if not connection["connected"]:
            why = connection["error"] or "not connected yet"
            self._reports.warn(f"no agent at {self.config.agent}: {why}; every page is a miss until it is back")
        elif pool.namespace is not None:
            namespace = pool.namespace.state()
            if not namespace["open"] or namespace["error"]:
                why = namespace["error"] or "its namespace is not open yet"
                self._reports.warn(f"the {pool.name} pool: {why}; its pages are misses until then")

    def _without_v1(self) -> None:
        self._reports.warn(
            'SGLang asks for pages as copies, which are not served; write "interface_v1": 1 into the extra config'
        )

    def _log_pool(self, pool: Pool | None) -> None:
        if pool is None or pool.namespace is None:
            return
        logger.info(
            "foreword: the %s pool: %d B a page and rank, %s, namespace %s",
            pool.name,
            pool.page_bytes,
            pool.sharing.value,
            pool.namespace.fingerprint,
        )


def _refuse_unsupported(storage_config: Any, config: Config) -> None:
    """Raises ConfigError for what SGLang's settings ask for, and is not carried."""
    if getattr(storage_config, "dcp_size", 1) > 1:
        raise ConfigError(
            "dcp_size",
            "decode context parallelism is not served; start SGLang without it, or without a storage backend",
        )
    if runtime.draft_model_path() is not None and config.draft is None:
        raise ConfigError(
            "draft",
            "SGLang runs a draft model, whose KV is cached too, and its settings do not identify its weights; "
            'write "draft": "NAME@REVISION" into the extra config',
        )
