"""Who may share a pool's pages: the fields of its namespace. Two engines share a page only if every one of them is
equal.

The data-parallel rank is not among them: its ranks share. Adapters (LoRA) and cache salts are in the keys already.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from foreword.sglang import runtime
from foreword.sglang.config import Config, ConfigError
from foreword.sglang.places import tokens_of
from foreword.sglang.ranks import RankGroup, Sharing

# The longest text of a namespace is 256 bytes; what is longer ends in a digest of the whole.
_FORMAT_CHARACTERS_MAX = 200
_UINT8 = "torch.uint8"

# Attributes of SGLang's host pools that say how a page's bytes are to be read. Order and labels are part of the
# identity.
_FORMAT_ATTRIBUTES = (
    ("tag", "storage_format_tag"),
    ("heads", "head_num"),
    ("dim", "head_dim"),
    ("vdim", "v_head_dim"),
    ("groups", "head_group_num"),
    ("lora", "kv_lora_rank"),
    ("rope", "qk_rope_head_dim"),
    ("row", "kv_cache_dim"),
    ("packed", "dsa_kv_cache_store_fp8"),
    ("targets", "target_layer_num"),
    ("live", "_live_target_layers"),
    ("page", "indexer_page_stride_size"),
    ("as", "indexer_dtype"),
    ("states", "temporal_state_shape"),
    ("statetype", "temporal_dtype"),
    ("convs", "conv_state_shapes"),
    ("convtype", "conv_dtype"),
    ("item", "item_bytes"),
    ("rows", "row_bytes"),
    ("state", "state_page_bytes"),
    ("ring", "ring_size"),
    ("kscale", "k_sf_page_bytes"),
    ("vscale", "v_sf_page_bytes"),
)
# Buffers that a page lies in beside the main ones: their shapes are told by nothing else.
_FORMAT_BUFFERS = (
    ("sides", "slot_state_buffers"),
    ("indexkeys", "index_k_buffer"),
    ("indexscales", "index_k_scale_buffer"),
)


@dataclass(frozen=True)
class Pool:
    """A host pool as far as its identity needs it."""

    host_pool: Any
    name: str
    page_bytes: int
    # How its pages' bytes are found (places.py): part of the identity where that decides their order.
    form: str
    sharing: Sharing
    # The pool of the KV pages beside it (SGLang's anchor); itself, if it is that one.
    anchor: Any


def revision(config: Config, weight_version: str) -> str:
    """The weights' revision: what the operator wrote, if anything, and the version that SGLang serves now.
    Unambiguous: the text before the `@` is the operator's."""
    served = quote(weight_version, safe=" /:+,")
    return served if config.revision is None else f"{quote(config.revision, safe=' /:+,')}@{served}"


def spec(config: Config, storage_config: Any, ranks: RankGroup, pool: Pool) -> dict[str, Any]:
    """The namespace's fields but for `revision`, which follows the served weights. Raises ConfigError."""
    host_pool = pool.host_pool
    one_shard = pool.sharing is not Sharing.PER_RANK
    tp_first, tp_count = _ranks_of_a_page(ranks, pool.sharing)
    return {
        "tenant": config.tenant,
        "model": _model(storage_config),
        "dtype": _dtype(config, pool),
        "layout": str(getattr(host_pool, "layout", "unknown")),
        "storage_format": _storage_format(storage_config, pool),
        "page_tokens": tokens_of(host_pool),
        "layer_first": int(getattr(host_pool, "start_layer", None) or 0),
        "layer_count": _layers(host_pool),
        "cp_rank": storage_config.attn_cp_rank,
        "cp_size": storage_config.attn_cp_size,
        "dcp_rank": getattr(storage_config, "dcp_rank", 0),
        "dcp_size": getattr(storage_config, "dcp_size", 1),
        "tp_first": tp_first,
        "tp_count": tp_count,
        "tp_size": ranks.size,
        "head_split": "none" if pool.sharing is Sharing.ONE_COPY else "even",
        "shard_bytes": [pool.page_bytes] * (1 if one_shard else tp_count),
        "pool": pool.name,
        **_draft(config, pool),
        "salt": config.salt,
    }


def _ranks_of_a_page(ranks: RankGroup, sharing: Sharing) -> tuple[int, int]:
    if sharing is Sharing.ONE_COPY:
        # The same on every machine, so that agents of several machines share the one copy.
        return 0, ranks.size
    if sharing is Sharing.FIRST_RANK:
        return 0, 1
    return ranks.first, ranks.count


def _model(storage_config: Any) -> str:
    model = storage_config.model_name or runtime.model_path()
    if not model:
        raise ConfigError("model_name", "SGLang serves no name; start it with --served-model-name NAME")
    return str(model)


def _layers(host_pool: Any) -> int:
    for name in ("layer_num", "num_mamba_layers"):
        layers = getattr(host_pool, name, None)
        if layers:
            return int(layers)
    return 1


def _dtype(config: Config, pool: Pool) -> str:
    """The pool's dtype. SGLang keeps both kinds of fp8 as uint8, and states of all kinds: then what its settings say,
    or ours."""
    own = str(pool.host_pool.dtype)
    if own != _UINT8:
        return own if config.dtype is None else f"{own}:{config.dtype}"
    told = runtime.kv_cache_dtype(draft=pool.name.startswith("draft"))
    anchor = str(pool.anchor.dtype)
    if told is None and config.dtype is None and anchor == _UINT8:
        raise ConfigError(
            "dtype",
            f"the {pool.name} pool is kept as uint8, which says nothing of what is in it, and --kv-cache-dtype "
            'is auto; write "dtype": "fp8_e4m3" (or what the checkpoint has) into the extra config, or give the flag',
        )
    kinds = [kind for kind in (None if anchor == _UINT8 else anchor, told, config.dtype) if kind is not None]
    return ":".join([own, *dict.fromkeys(kinds)])


def _storage_format(storage_config: Any, pool: Pool) -> str:
    """Class, tag, shapes, and the pipeline's place: two stages may have pools of the same layers' count, and both
    begin at 0."""
    host_pool = pool.host_pool
    values = [(label, getattr(host_pool, name, None)) for label, name in _FORMAT_ATTRIBUTES]
    values += [(label, _shapes(host_pool, name)) for label, name in _FORMAT_BUFFERS]
    slots = list(getattr(host_pool, "_target_layer_indices", None) or ())
    # Only where it tells something: a pool without memory, which stands for another rank's, does not have it.
    values.append(("slots", slots if slots != list(range(len(slots))) else None))
    shown = [f"{label}={_shown(value)}" for label, value in values if value not in (None, [], ())]
    stage = f"pp={storage_config.pp_rank}/{storage_config.pp_size}"
    text = ";".join([type(host_pool).__name__, pool.form, *shown, stage])
    if len(text) <= _FORMAT_CHARACTERS_MAX:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"{text[: _FORMAT_CHARACTERS_MAX - len(digest) - 1]}#{digest}"


def _shapes(host_pool: Any, name: str) -> list[tuple[Any, ...]]:
    """Of one buffer or several beside the main ones: shape of a page and dtype of each."""
    buffers = getattr(host_pool, name, None)
    each = [] if buffers is None else buffers if isinstance(buffers, (list, tuple)) else [buffers]
    return [(tuple(buffer.shape[1:]), str(buffer.dtype)) for buffer in each]


def _shown(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    if len(value) > 2 and all(isinstance(part, int) for part in value) and list(value) == _row(value[0], len(value)):
        return f"[{value[0]}-{value[-1]}]"
    return "[" + ",".join(_shown(part) for part in value) + "]"


def _row(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


def _draft(config: Config, pool: Pool) -> dict[str, str]:
    """A draft model's identity: wherever one is configured, and required of a pool with its KV. What a draft model
    wrote lies in pools of its own, or in layers behind the target's in the same page."""
    if config.draft is not None:
        return {"draft_model": config.draft.model, "draft_revision": config.draft.revision}
    if pool.name.startswith("draft") or has_draft_layers(pool.host_pool):
        raise ConfigError(
            "draft",
            f"the {pool.name} pool holds KV of a draft model, and SGLang's settings do not identify its weights; "
            'write "draft": "NAME@REVISION" into the extra config',
        )
    return {"draft_model": "", "draft_revision": ""}


def has_draft_layers(host_pool: Any) -> bool:
    """True if layers of a draft model lie behind the target's in each page."""
    targets, layers = getattr(host_pool, "target_layer_num", None), getattr(host_pool, "layer_num", None)
    if targets is not None and layers is not None and layers > targets:
        return True
    return bool(
        getattr(host_pool, "mtp_draft_buffer_infos", None) or getattr(host_pool, "mtp_draft_device_pools", None)
    )
