"""SGLang's own UnifiedRadixCache without a GPU, with its controller, threads, host pools and storage backend.

    engine.py produce --agent unix:/run/foreword/node.sock     # draws a prompt's KV and writes it through
    engine.py consume --agent unix:/run/foreword/node.sock     # has never seen it: reads it, and compares every byte

Everything is SGLang's but memory that is not pinned, and the kernels that copy between a device and the host, for
which torch's indexing stands in. Needs the Python of an environment with SGLang, and `sgl_cpu.py` of ../shared/sglang
(FOREWORD_SHARED) on its path.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sgl_cpu
import torch
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import CacheRequestHandle, InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool
from sglang.srt.mem_cache.pool_host.base import HostKVCache
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.cache_action import BackupKV
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

PAGE_TOKENS = sgl_cpu.PAGE
PATIENCE_S = 60.0


def stand_in_for_the_gpu() -> None:
    """Host pools are not pinned, and copies between device and host are torch's."""
    made = HostKVCache.__init__
    HostKVCache.__init__ = lambda self, **settings: made(self, **{**settings, "pin_memory": False})
    for pool in (MHATokenToKVPoolHost, MLATokenToKVPoolHost):
        pool.backup_from_device_all_layer = _backup
        pool.load_to_device_per_layer = _load
    logging.getLogger("sglang").setLevel(logging.ERROR)


def _sides(pool: Any, layer: int) -> list[tuple[Any, Any]]:
    """(host, device) views of one layer."""
    if isinstance(pool, MHATokenToKVPoolHost):
        keys = pool.k_data_refs[layer], pool.device_k_buffers[layer]
        return [keys, (pool.v_data_refs[layer], pool.device_v_buffers[layer])]
    host = pool.kv_buffer[:, layer] if pool.layout == "page_first_direct" else pool.data_refs[layer]
    return [(host, pool.device_kv_buffers[layer])]


def _rows(host: Any, indices: Any, page_tokens: int) -> tuple[Any, ...]:
    return (indices // page_tokens, indices % page_tokens) if host.dim() == 4 else (indices,)


def _backup(self: Any, device_pool: Any, host_indices: Any, device_indices: Any, io_backend: str) -> None:
    for layer in range(self.layer_num):
        for host, device in _sides(self, layer):
            host[_rows(host, host_indices, self.page_size)] = device[device_indices]


def _load(
    self: Any,
    device_pool: Any,
    host_indices: Any,
    device_indices: Any,
    layer_id: int,
    io_backend: str,
    *,
    is_draft: bool = False,
) -> None:
    for host, device in _sides(self, layer_id):
        device[device_indices] = host[_rows(host, host_indices, self.page_size)]


@dataclass(frozen=True)
class Rank:
    """One of an engine's tensor-parallel ranks; those of an engine meet at a file, `rendezvous`."""

    rank: int = 0
    ranks: int = 1
    rendezvous: str = ""

    def join(self) -> Any:
        """The group of all ranks, None for a rank alone."""
        sgl_cpu.set_parallel(self.rank, self.ranks)
        if self.ranks == 1:
            return None
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{self.rendezvous}", rank=self.rank, world_size=self.ranks
        )
        return torch.distributed.group.WORLD


ALONE = Rank()


class Engine:
    """One rank of an engine with a cache and its storage backend. `extra`: SGLang's extra config for a dynamic
    backend, None for none.
    """

    def __init__(self, kind: str, layout: str, pages: int, extra: dict[str, Any] | None, rank: Rank = ALONE) -> None:
        group = rank.join()
        # With MLA all ranks hold the same KV, else heads of their own.
        self.seed_of_rank = rank.rank if kind == "mha" else 0
        # How long a page may lack the others' parts.
        self.others_s = PATIENCE_S if rank.ranks > 1 else 0.0
        tokens = (pages + 8) * PAGE_TOKENS
        self.pages = pages
        self.device = sgl_cpu.device_pool(kind, tokens)
        self.allocator = PagedTokenToKVPoolAllocator(
            size=tokens,
            page_size=PAGE_TOKENS,
            dtype=self.device.dtype,
            device="cpu",
            kvcache=self.device,
            need_sort=False,
        )
        args = ServerArgs(
            model_path="dummy",
            device="cpu",
            tp_size=get_parallel().tp_size,
            page_size=PAGE_TOKENS,
            hicache_io_backend="kernel",
            hicache_write_policy="write_through",
            hicache_ratio=2.0,
            hicache_mem_layout=layout,
            hicache_storage_backend=None if extra is None else "dynamic",
            hicache_storage_backend_extra_config=None if extra is None else _written(extra),
            hicache_storage_prefetch_policy="wait_complete",
        )
        set_global_server_args_for_scheduler(args)
        params = CacheInitParams(
            disable=False,
            req_to_token_pool=ReqToTokenPool(size=4, max_context_len=tokens, device="cpu", enable_memory_saver=False),
            token_to_kv_pool_allocator=self.allocator,
            page_size=PAGE_TOKENS,
            tree_components=(ComponentType.FULL,),
            enable_metrics=False,
            tp_cache_group=group,
        )
        self.cache = UnifiedRadixCache(params)
        self.cache.init_hicache(args, params)
        self.cache.load_back_threshold = 0

    @property
    def backend(self) -> Any:
        return self.cache.cache_controller.storage_backend

    def produce(self, prompt: list[int], seed: int) -> None:
        """Writes a prompt's KV, and makes sure that all of it is stored."""
        keys, deadline = self.write(prompt, seed), time.monotonic() + self.others_s
        while (stored := self.backend.batch_exists(keys)) < len(keys) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stored == len(prompt) // PAGE_TOKENS, f"{stored} pages are stored of {len(prompt) // PAGE_TOKENS}"

    def write(self, prompt: list[int], seed: int) -> list[str]:
        """Computes (draws) the KV of a prompt, and writes it through to storage; the pages' keys."""
        indices = self.allocator.alloc(len(prompt))
        for layer, buffer in enumerate(self._layers()):
            buffer[indices] = self._drawn(buffer, seed, layer, len(prompt))
        self.cache.insert(InsertParams(key=_key(prompt), value=indices))
        node = self.cache.match_prefix(MatchPrefixParams(key=_key(prompt))).last_device_node
        if not self.cache.tree_core.is_backuped(node):
            nodes = self.cache.tree_core.build_backup_node_ids(node, False)
            self.cache._execute_and_commit_kv_backup(BackupKV(node_ids=nodes), False)
        self._until(lambda: not self.cache.ongoing_write_through and not self.cache.ongoing_backup, "backup")
        return list(self.cache.tree_core.get_hash_values(node))

    def consume(self, prompt: list[int], seed: int, expected_pages: int) -> float:
        """Reads a prompt that it has never seen, all that is expected of it; seconds until it was in host memory."""
        began = time.monotonic()
        loaded = self.read(prompt, seed)
        assert loaded == expected_pages, f"{loaded} pages came of {expected_pages}"
        return time.monotonic() - began

    def read(self, prompt: list[int], seed: int) -> int:
        """Asks storage for a prompt and a page more, loads what it has, and compares every byte; pages that came."""
        asked = prompt + [1] * PAGE_TOKENS
        assert self._match(asked).device_prefix_len == 0, "the consumer knows the prompt already"
        request = CacheRequestHandle(f"request-{seed}", 0)
        self.cache.prefetch_from_storage(request, self.cache.root_node_handle(), array("q", asked), None, None)
        self._until(lambda: self.cache.check_prefetch_progress(request), "prefetch")
        loaded = self.cache.pop_prefetch_loaded_tokens(request)
        if loaded:
            self._compare(asked, seed, loaded)
        return int(loaded) // PAGE_TOKENS

    def attach(self, extra: dict[str, Any]) -> tuple[bool, str]:
        """As PUT /hicache/storage-backend does; whether it succeeded, and what SGLang says."""
        return self.cache.attach_storage_backend(
            "dynamic", _written(extra), hicache_storage_prefetch_policy="wait_complete"
        )

    def close(self) -> None:
        detached, message = self.cache.detach_storage_backend()
        assert detached, message

    def _compare(self, asked: list[int], seed: int, tokens: int) -> None:
        assert self.cache.load_back(self._match(asked).best_match_node), "nothing was loaded back"
        self.cache.ready_to_load_host_cache()
        self.cache.loading_check()
        match = self._match(asked)
        assert match.device_prefix_len == tokens, f"{match.device_prefix_len} tokens on the device of {tokens}"
        indices = self.cache.path_device_indices(match.last_device_node)
        for layer, buffer in enumerate(self._layers()):
            same = torch.equal(buffer[indices], self._drawn(buffer, seed, layer, tokens))
            assert same, f"layer buffer {layer}: not the producer's bytes"

    def _drawn(self, buffer: Any, seed: int, layer: int, tokens: int) -> Any:
        """The KV of a layer, the same for the same prompt and rank."""
        generator = torch.Generator().manual_seed(1000 * seed + layer + 100_000 * self.seed_of_rank)
        return torch.randint(-100, 100, (tokens, *buffer.shape[1:]), generator=generator).to(buffer.dtype)

    def _match(self, prompt: list[int]) -> Any:
        return self.cache.match_prefix(MatchPrefixParams(key=_key(prompt)))

    def _layers(self) -> list[Any]:
        device = self.device
        return device.k_buffer + device.v_buffer if hasattr(device, "k_buffer") else device.kv_buffer

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            self.cache.check_hicache_events()
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
            time.sleep(0.001)


def _written(extra: dict[str, Any]) -> str:
    return json.dumps({"prefetch_threshold": 1, **extra})


def prompt_of(pages: int, seed: int) -> list[int]:
    """Tokens of so many pages; prompts of different seeds share no page."""
    return [seed, *(7 + (i * 31) % 50_000 for i in range(pages * PAGE_TOKENS - 1))]


def _key(prompt: list[int]) -> RadixKey:
    return RadixKey(array("q", prompt))


def extra_config(agent: str, *, shm: bool = False) -> dict[str, Any]:
    """What an operator gives to --hicache-storage-backend-extra-config."""
    extra = {
        "backend_name": "foreword",
        "module_path": "foreword.sglang",
        "class_name": "ForewordStorage",
        "interface_v1": 1,
        "agent": agent,
    }
    return {**extra, "allocator": "shm"} if shm else extra


def main() -> None:
    parser = argparse.ArgumentParser(description="One engine without a GPU: SGLang's cache over a Foreword agent")
    parser.add_argument("role", choices=("produce", "consume"))
    parser.add_argument("--agent", required=True, help="unix:/path or HOST:PORT")
    parser.add_argument("--kind", default="mha", choices=("mha", "mla"))
    parser.add_argument("--layout", default="page_first", choices=("layer_first", "page_first", "page_first_direct"))
    parser.add_argument("--pages", type=int, default=128, help="pages of the prompt, of 64 tokens")
    asked = parser.parse_args()
    stand_in_for_the_gpu()
    logging.basicConfig(level=logging.INFO, format="    %(name)s: %(message)s")
    engine = Engine(asked.kind, asked.layout, asked.pages, extra_config(asked.agent))
    prompt = prompt_of(asked.pages, seed=1)
    if asked.role == "produce":
        engine.produce(prompt, seed=1)
        print(f"producer: {asked.pages} pages ({len(prompt)} tokens) are stored")
    else:
        took_s = engine.consume(prompt, 1, asked.pages)
        took = f"{asked.pages} pages came from storage and were compared in {took_s * 1000:.0f} ms"
        print(f"consumer: {took}: every byte is the producer's")
    engine.close()


if __name__ == "__main__":
    main()
