"""SGLang's HiCacheHF3FS with a real host pool and SGLang's mock of a 3FS file: what an engine has, without its GPU."""

import hashlib
import json
import os

import torch
from sgl_cpu import PAGE, host_pool, storage_config
from sglang.srt.mem_cache.storage.hf3fs.storage_hf3fs import HiCacheHF3FS

CONFIG_VARIABLE = "SGLANG_HICACHE_HF3FS_CONFIG_PATH"


class Engine:
    """One engine rank. Engines with the same `dir` share their files, as they do on 3FS.

    `pages`: of the file and of the host pool; `entries`: pages of one file call; `kind`: mha or mla."""

    def __init__(self, url: str, dir: str, pages: int = 16, kind: str = "mla", entries: int = 8):
        self.pool = host_pool(kind, layout="page_first", pages=2 * pages)
        self.page_bytes = self.pool.get_ksize_per_token() * PAGE
        config = os.path.join(dir, "config.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({
                "file_path_prefix": os.path.join(dir, "pages"),
                # MHA has two pages a page: keys and values.
                "file_size": pages * self.page_bytes * (2 if kind == "mha" else 1),
                "numjobs": 1,
                "entries": entries,
                "metadata_server_url": url,
            }, file)
        os.environ[CONFIG_VARIABLE] = config
        about = storage_config(kind, "page_first", extra={"use_mock_hf3fs_client": True})
        # As StorageBackendFactory makes it.
        self.storage = HiCacheHF3FS.from_env_config(self.page_bytes, self.pool.dtype, about)
        self.storage.register_mem_pool_host(self.pool)

    def close(self) -> None:
        self.storage.close()

    def indices(self, count: int, first: int = 0):
        return torch.arange(first * PAGE, (first + count) * PAGE)

    def set(self, keys: list, like: str = "") -> list:
        """Puts pages of these keys, made from their names and from `like`."""
        for at, key in enumerate(keys):
            write_page(self.pool, at, like + key)
        return self.storage.batch_set_v1(keys, self.indices(len(keys)))

    def get(self, keys: list, like: str = "") -> list:
        """Which pages SGLang says it has read. AssertionError if one of them has other bytes than were put."""
        for at in range(len(keys)):
            write_page(self.pool, at, "nothing was read here")
        done = self.storage.batch_get_v1(keys, self.indices(len(keys)))
        for at, key in enumerate(keys):
            if done[at]:
                assert page_bytes(self.pool, at) == pattern(like + key, len(page_bytes(self.pool, at))), (
                    f"wrong bytes: page {at} ({key}) of {keys} was reported as read, of {done}"
                )
        return done

    def exists(self, keys: list) -> int:
        return self.storage.batch_exists(keys)


def pattern(name: str, size: int) -> bytes:
    block = hashlib.sha256(name.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def write_page(pool, at: int, name: str) -> None:
    page = pool.get_data_page(at * PAGE, flat=False)
    data = bytearray(pattern(name, page.numel() * page.itemsize))
    page.copy_(torch.frombuffer(data, dtype=torch.uint8).view(page.dtype).view(page.shape))


def page_bytes(pool, at: int) -> bytes:
    page = pool.get_data_page(at * PAGE, flat=False)
    return page.contiguous().view(torch.uint8).flatten().numpy().tobytes()
