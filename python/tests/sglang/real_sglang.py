"""SGLang's own host pools and controllers on a machine without a GPU, for tests.

Needs the environment that FOREWORD_SGLANG_VENV names and `sgl_cpu.py` beside the repository
($FOREWORD_SHARED/sglang), which stands in for pinned memory. Loading takes 20 s and more.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PAGE = 64
LAYOUTS = {
    "mha": ("layer_first", "page_first", "page_first_direct", "page_head", "page_unified"),
    "mla": ("layer_first", "page_first", "page_first_direct", "page_unified"),
    "asymmetric": ("page_first", "page_first_direct"),
    "keys_only": ("page_first", "page_first_direct", "layer_first"),
    "mamba": ("page_first", "page_first_direct"),
    "mamba_sides": ("page_first", "page_first_direct"),
    "indexer": ("layer_first", "page_first", "page_first_direct"),
    "paged": ("layer_first", "page_first", "page_first_direct"),
    "state": ("layer_first", "page_first", "page_first_direct"),
    "mla_split": ("page_first_kv_split",),
    "mla_split_packed": ("page_first_kv_split",),
    "packed_rows": ("layer_first", "page_first", "page_first_direct"),
    "packed_kv": ("layer_first", "page_first", "page_first_direct"),
}
_ROOT = Path(__file__).parents[3]
_SHARED = Path(os.environ.get("FOREWORD_SHARED") or _ROOT.parent / "shared") / "sglang"


def missing() -> str | None:
    """Why SGLang cannot be loaded here, None if it can."""
    venv = os.environ.get("FOREWORD_SGLANG_VENV")
    if not venv:
        return "FOREWORD_SGLANG_VENV names no environment with SGLang"
    if not (_SHARED / "sgl_cpu.py").is_file():
        return f"no {_SHARED}/sgl_cpu.py"
    if not _packages(venv).is_dir():
        return (
            f"no {_packages(venv)}: SGLang is there for another Python than {sys.version_info[0]}.{sys.version_info[1]}"
        )
    return None


def load() -> Any:
    """`sgl_cpu`, with SGLang imported."""
    venv = os.environ["FOREWORD_SGLANG_VENV"]
    os.environ.setdefault("SGLANG_SRC", f"{venv}/sglang-src")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", f"{venv}/torch_ext")
    os.environ.setdefault("PYTHONPYCACHEPREFIX", f"{venv}/pycache")
    os.environ["PATH"] = f"{venv}/bin{os.pathsep}{os.environ['PATH']}"
    sys.path += [str(_packages(venv)), str(_SHARED)]
    import sgl_cpu

    # It warns of each small pool.
    logging.getLogger("sglang").setLevel(logging.ERROR)
    return sgl_cpu


def _packages(venv: str) -> Path:
    return Path(venv) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def host_pool(kind: str, layout: str, *, pages: int = 8, page: int = PAGE, **geometry: Any) -> Any:
    """A real host pool of SGLang's with memory of its own: every byte of it random, so that a page that moved is
    seen."""
    import torch

    pool = _BUILDERS[kind](layout, pages, page, geometry)
    for buffer in buffers(pool):
        flat = buffer.view(-1).view(torch.uint8) if buffer.numel() else buffer
        flat.copy_(torch.randint(0, 256, flat.shape, dtype=torch.uint8))
    return pool


def buffers(pool: Any) -> list[Any]:
    """The tensors in which the pool's pages lie."""
    if pool.layout == "page_first_kv_split":
        split = (pool.k_buffer, None if pool.dsa_kv_cache_store_fp8 else pool.v_buffer, pool.index_k_buffer)
        return [buffer for buffer in (*split, pool.index_k_scale_buffer) if buffer is not None]
    if getattr(pool, "index_k_with_scale_buffer", None) is not None:
        return [pool.index_k_with_scale_buffer]
    whole = getattr(pool, "kv_buffer", None)
    if whole is None:
        return list(pool.get_hybrid_pool_buffer())
    return list(whole) if isinstance(whole, (list, tuple)) else [whole]


def snapshot(pool: Any) -> list[Any]:
    return [buffer.clone() for buffer in buffers(pool)]


def indices(pool: Any, *pages: int) -> Any:
    """SGLang's host indices of these pages: all tokens of each."""
    import torch

    tokens = pool.page_size
    return torch.cat([torch.arange(page * tokens, (page + 1) * tokens, dtype=torch.int64) for page in pages])


def _kv(kind: str):
    def build(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
        import sgl_cpu

        geometry = {"heads": 2, **geometry} if kind == "mha" else geometry
        return sgl_cpu.host_pool(kind, layout=layout, pages=pages, page=page, **geometry)

    return build


def _asymmetric(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    import sgl_cpu
    import torch

    device = sgl_cpu.MHATokenToKVPool(
        size=page * pages, page_size=page, dtype=geometry.get("dtype", torch.bfloat16), head_num=2,
        head_dim=geometry.get("head_dim", 32), v_head_dim=geometry.get("v_head_dim", 16), layer_num=2, device="cpu",
        enable_memory_saver=False, enable_alt_stream=False,
    )  # fmt: skip
    return sgl_cpu.host_pool("mha", device, layout=layout, pages=pages, page=page)


def _keys_only(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    import torch
    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKOnlyPoolHost

    anchor = _kv("mha")("page_first", pages, page, {})
    device = SimpleNamespace(
        store_dtype=torch.bfloat16, start_layer=0, end_layer=2, head_num=2, head_dim=16, layer_num=2, device="cpu",
        k_buffer=[torch.zeros(page, 2, 16, dtype=torch.bfloat16) for _ in range(2)],
    )  # fmt: skip
    return MHATokenToKOnlyPoolHost(device, anchor, layout, pin_memory=False)


def _mamba(sides: tuple[int, ...]):
    def build(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
        import torch
        from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo
        from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost

        layers = geometry.get("layers", 3)
        temporal = torch.zeros(layers, pages, *geometry.get("temporal", (4, 6)), dtype=torch.float32)
        conv = tuple(
            torch.zeros(layers, pages, *shape, dtype=torch.bfloat16) for shape in geometry.get("conv", ((5, 3), (7, 3)))
        )
        widths = geometry.get("sides", sides)
        extra = tuple(torch.zeros(pages, width, dtype=torch.uint8) for width in widths)
        info = MambaStateBufferInfo(temporal=temporal, conv=conv, extra_checkpoint_buffers=extra)
        return MambaPoolHost(info, 2.0, 0, device_capacity=pages, pin_memory=False, layout=layout)

    return build


def _indexer(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    import torch
    from sglang.srt.mem_cache.pool_host.dsa import DSAIndexerPoolHost
    from sglang.srt.mem_cache.pool_host.host_pool_decl import HostPoolStorageInfo

    anchor = _kv("mla")(layout, pages, page, {})
    layers = geometry.get("layers", 3)
    device = SimpleNamespace(
        store_dtype=torch.bfloat16, start_layer=0, end_layer=layers, layer_num=layers, layer_shard_enabled=False,
        device="cpu",
        index_k_with_scale_buffer=[torch.zeros(4, 132 * page, dtype=torch.uint8) for _ in range(layers)],
    )  # fmt: skip
    decl = SimpleNamespace(
        storage_info=HostPoolStorageInfo(bytes_per_token_per_layer=132, dtype=torch.uint8), device_pool=device,
        owned_device_layers=geometry.get("owned"),
    )  # fmt: skip
    return DSAIndexerPoolHost(decl, anchor, pin_memory=False)


def _paged(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    import torch
    from sglang.srt.mem_cache.memory_pool_host import DeepSeekV4PagedHostPool

    item = geometry.get("item_bytes", 584 * page // 4 + 1)
    device = [torch.zeros(4, item, dtype=torch.uint8) for _ in range(2)]
    return DeepSeekV4PagedHostPool("deepseek_v4_c4", device, item, pages, page, layout=layout, pin_memory=False)


def _state(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    import torch
    from sglang.srt.mem_cache.memory_pool_host import DeepSeekV4StateHostPool

    score = SimpleNamespace(kv_score=torch.zeros(16, 3, 7, dtype=torch.bfloat16))
    states = [SimpleNamespace(kv_score_buffer=score, ring_size=4) for _ in range(2)]
    return DeepSeekV4StateHostPool("deepseek_v4_c4_state", states, pages, page, layout=layout, pin_memory=False)


def _mla_split(packed: bool):
    def build(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
        import torch
        from sglang.srt.mem_cache.device_pool_info import MLABufferInfo, MLASplitBuffers
        from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

        layers, width = 3, 64 if packed else 48
        index_layers, index_width = geometry.get("index", (2, 32))
        split = MLASplitBuffers(
            k=torch.zeros(layers, pages, page, 1, width, dtype=torch.bfloat16),
            v=torch.zeros(layers, pages, page, 1, 16, dtype=torch.bfloat16),
            index_k=torch.zeros(index_layers, pages, page, 1, index_width, dtype=torch.bfloat16),
            index_scales=torch.zeros(index_layers, pages, page, 1, 1) if packed else None,
            index_layer_indices=tuple(range(index_layers)), k_width=width, v_width=16, index_width=index_width,
        )  # fmt: skip
        info = MLABufferInfo(
            buffers=split, data_ptrs=None, layer_indices=(0, 1, 2), device_layer_num=layers, page_size=page,
            kv_lora_rank=48, qk_rope_head_dim=16, kv_cache_dim=64, dtype=torch.bfloat16, device=torch.device("cpu"),
            packed_fp8=packed,
        )  # fmt: skip
        return MLATokenToKVPoolHost(
            info, 2.0, 0, page, layout, pin_memory=False, device_capacity_tokens=pages * page, start_layer=0,
            end_layer=layers, target_layer_num=layers, host_token_capacity=pages * page,
        )  # fmt: skip

    return build


def _packed_rows(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    from sglang.srt.mem_cache.pool_host.minimax_m3_nvfp4 import MiniMaxM3Nvfp4IndexKPoolHost

    anchor = _kv("mha")("page_first", pages, page, {})
    info = _rows(3, pages, page)
    return MiniMaxM3Nvfp4IndexKPoolHost(info, anchor, layout, pin_memory=False, start_layer=0, end_layer=3)


def _packed_kv(layout: str, pages: int, page: int, geometry: dict[str, Any]) -> Any:
    from sglang.srt.mem_cache.pool_host.minimax_m3_nvfp4 import MiniMaxM3Nvfp4MainKVPoolHost

    return MiniMaxM3Nvfp4MainKVPoolHost(
        _rows(3, pages, page), 2.0, 0, page, layout, pin_memory=False, device_capacity_tokens=pages * page,
        start_layer=0, end_layer=3,
    )  # fmt: skip


def _rows(layers: int, pages: int, page: int) -> Any:
    import torch
    from sglang.srt.mem_cache.device_pool_info import PageRowBufferInfo

    slab = torch.zeros(layers, pages, page * 9, dtype=torch.uint8)
    return PageRowBufferInfo(slab=slab, rows=tuple(slab), row_bytes=page * 9, page_size=page, num_pages=pages)


_BUILDERS = {
    "mla_split": _mla_split(packed=False),
    "mla_split_packed": _mla_split(packed=True),
    "packed_rows": _packed_rows,
    "packed_kv": _packed_kv,
    "mha": _kv("mha"),
    "mla": _kv("mla"),
    "asymmetric": _asymmetric,
    "keys_only": _keys_only,
    "mamba": _mamba(()),
    "mamba_sides": _mamba((11, 12)),
    "indexer": _indexer,
    "paged": _paged,
    "state": _state,
}
