"""What SGLang's process says of itself. Each reader gives None where SGLang does not say (a test, a tool, an older
bag of settings)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

# SGLang's own default for `--weight-version`.
WEIGHT_VERSION_DEFAULT = "default"
_UNTOLD = ("", "auto")


@dataclass(frozen=True)
class Parallel:
    """Where this process stands among the ranks of its launch."""

    world_size: int
    nodes: int
    tp_size: int
    pp_rank: int
    attn_tp_size: int
    attn_cp_size: int
    attn_cp_rank: int
    attn_dp_rank: int


def weight_version() -> str:
    """The served weights' version. It changes under a running backend, and nobody tells: read anew by every call."""
    return str(_read(lambda: _context().get_serving().weight_version) or WEIGHT_VERSION_DEFAULT)


def kv_cache_dtype(*, draft: bool) -> str | None:
    """What `--kv-cache-dtype` says; None where it leaves the choice to the checkpoint."""
    model = _read(lambda: _context().get_model().kv_cache_dtype)
    own = _read(lambda: _context().get_spec().speculative_draft_kv_cache_dtype) if draft else None
    for told in (own, model):
        if told is not None and told not in _UNTOLD:
            return str(told)
    return None


def model_path() -> str | None:
    """The path of the served model: its name where SGLang passes none."""
    path = _read(lambda: _context().get_model().model_path)
    return str(path) if path else None


def draft_model_path() -> str | None:
    """The draft model of speculative decoding, if there is one."""
    path = _read(lambda: _context().get_spec().speculative_draft_model_path)
    return str(path) if path else None


def parallel() -> Parallel | None:
    """Where this process stands; None unless every part of it is known."""
    told = _read(lambda: _context().get_parallel())
    if told is None:
        return None
    names = (
        "launch_world_size",
        "nnodes",
        "tp_size",
        "pp_rank",
        "attn_tp_size",
        "attn_cp_size",
        "attn_cp_rank",
        "attn_dp_rank",
    )
    values = [_read(partial(getattr, told, name)) for name in names]
    if not all(isinstance(value, int) for value in values):
        return None
    return Parallel(*values)


def _context() -> Any:
    from sglang.srt import runtime_context

    return runtime_context


def _read(ask: Callable[[], Any]) -> Any:
    # SGLang raises ValueError, RuntimeError or AttributeError for what is not published yet.
    try:
        return ask()
    except Exception:
        return None
