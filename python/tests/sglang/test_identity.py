"""Who shares pages: one test for each field. Two values never share a page, by fingerprint and by a get that must
miss; equal ones do."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import fake_native
import pytest
import real_sglang
from pages import EXTRA

KEY = hashlib.sha256(b"page").hexdigest()


@dataclass(frozen=True)
class Engine:
    """One rank of an engine, as far as it decides who shares its pages."""

    kind: str = "mha"
    layout: str = "page_first"
    extra: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    served: dict[str, Any] = field(default_factory=dict)
    geometry: dict[str, Any] = field(default_factory=dict)
    pool: dict[str, Any] = field(default_factory=dict)
    page: int = 64
    # The pool is registered under this name, beside an anchor of another geometry.
    beside: str | None = None

    def but(self, **changes: Any) -> Engine:
        return replace(self, **changes)


def served(name, value):
    return Engine(served={name: value})


def configured(**fields):
    return Engine(config=fields)


def extra(name, value):
    return Engine(extra={name: value})


def fp8(kind):
    return Engine(
        geometry={"dtype": {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}[kind]},
        served={"kv_cache_dtype": kind},
    )


PLAIN, MLA, STATES = Engine(), Engine(kind="mla"), Engine(kind="mamba", beside="mamba", page=1)
TWO = {"tp_rank": 0, "tp_size": 2}
# What differs, and two engines that differ in nothing else.
CASES = {
    "tenant": (extra("tenant", "a"), extra("tenant", "b")),
    "model": (configured(model="org/a"), configured(model="org/b")),
    "format tag": (configured(model="org/a"), configured(model="org/a-unified-token-major")),
    "revision, ours": (extra("revision", "a"), extra("revision", "b")),
    "revision, ours or none": (extra("revision", "default"), PLAIN),
    "weights that are served": (served("weight_version", "1"), served("weight_version", "2")),
    "revision and weights, cut elsewhere": (
        Engine(extra={"revision": "a@b"}, served={"weight_version": "c"}),
        Engine(extra={"revision": "a"}, served={"weight_version": "b@c"}),
    ),
    "weights alone, looking like both": (
        Engine(extra={"revision": "a"}, served={"weight_version": "b"}),
        served("weight_version", "a@b"),
    ),
    "salt": (extra("salt", "a"), extra("salt", "b")),
    "draft model": (extra("draft", "a@1"), extra("draft", "b@1")),
    "draft revision": (extra("draft", "a@1"), extra("draft", "a@2")),
    "dtype, ours": (extra("dtype", "a"), extra("dtype", "b")),
    "dtype": (Engine(geometry={"dtype": "bfloat16"}), Engine(geometry={"dtype": "float16"})),
    "fp8": (fp8("fp8_e4m3"), fp8("fp8_e5m2")),
    "layout, of one size": (Engine(layout="page_first"), Engine(layout="page_first_direct")),
    "layout, of other parts": (Engine(layout="page_first"), Engine(layout="layer_first")),
    "layout, heads": (Engine(layout="page_first_direct"), Engine(layout="page_head")),
    "layout, MLA": (MLA, MLA.but(layout="page_first_direct")),
    "layout, states": (STATES, STATES.but(layout="page_first_direct")),
    "page_tokens": (PLAIN, PLAIN.but(page=32)),
    "page_tokens, of one size": (Engine(geometry={"layers": 2}), Engine(geometry={"layers": 4}, page=32)),
    "heads x dim": (Engine(geometry={"heads": 2, "head_dim": 32}), Engine(geometry={"heads": 4, "head_dim": 16})),
    "v dim": (
        Engine(kind="asymmetric", geometry={"head_dim": 32, "v_head_dim": 16}),
        Engine(kind="asymmetric", geometry={"head_dim": 16, "v_head_dim": 32}),
    ),
    "lora x rope": (MLA.but(geometry={"lora": 48, "rope": 16}), MLA.but(geometry={"lora": 32, "rope": 32})),
    "class": (
        Engine(geometry={"heads": 1, "head_dim": 32}),
        MLA.but(geometry={"lora": 48, "rope": 16}),
    ),
    "states' shapes": (STATES, STATES.but(geometry={"temporal": (6, 4)})),
    "states' convolutions": (STATES, STATES.but(geometry={"conv": ((7, 3), (5, 3))})),
    "item bytes x layers": (
        Engine(kind="paged", extra={"dtype": "fp8_e4m3"}, geometry={"item_bytes": 1024}),
        Engine(kind="paged", extra={"dtype": "fp8_e4m3"}, geometry={"item_bytes": 2048}),
    ),
    "layers of the indexer": (
        Engine(kind="indexer", beside="indexer", geometry={"owned": (0, 1)}),
        Engine(kind="indexer", beside="indexer", geometry={"owned": (0, 2)}),
    ),
    "states beside states": (
        Engine(kind="mamba_sides", beside="mamba", page=1, geometry={"sides": (8, 4)}),
        Engine(kind="mamba_sides", beside="mamba", page=1, geometry={"sides": (4, 8)}),
    ),
    "index keys beside split KV": (
        Engine(kind="mla_split", layout="page_first_kv_split", geometry={"index": (2, 32)}),
        Engine(kind="mla_split", layout="page_first_kv_split", geometry={"index": (1, 64)}),
    ),
    "first layer": (Engine(pool={"start_layer": 0}), Engine(pool={"start_layer": 2})),
    "layers": (Engine(geometry={"layers": 2}), Engine(geometry={"layers": 3})),
    "draft layers in a page": (
        Engine(extra={"draft": "a@1"}),
        Engine(extra={"draft": "a@1"}, pool={"target_layer_num": 1}),
    ),
    "tp size": (configured(tp_rank=0, tp_size=2), configured(tp_rank=0, tp_size=4)),
    "tp size, one copy": (MLA.but(config=TWO), MLA.but(config={"tp_rank": 0, "tp_size": 4})),
    "rank group": (Engine(config=TWO, extra={"rank_group": 1}), Engine(config=TWO, extra={"rank_group": 2})),
    "rank group, its place": (
        Engine(config={"tp_rank": 0, "tp_size": 2}, extra={"rank_group": 1}),
        Engine(config={"tp_rank": 1, "tp_size": 2}, extra={"rank_group": 1}),
    ),
    "pp rank": (configured(pp_rank=0, pp_size=2), configured(pp_rank=1, pp_size=2)),
    "pp size": (configured(pp_rank=0, pp_size=1), configured(pp_rank=0, pp_size=2)),
    "cp rank": (configured(attn_cp_rank=0, attn_cp_size=2), configured(attn_cp_rank=1, attn_cp_size=2)),
    "cp size": (configured(attn_cp_rank=0, attn_cp_size=1), configured(attn_cp_rank=0, attn_cp_size=2)),
    "pool": (Engine(beside="swa", extra={"draft": "a@1"}), Engine(beside="draft_swa", extra={"draft": "a@1"})),
}
# Fields that SGLang's settings cannot vary with this backend: it refuses decode context parallelism with it.
FIXED = {"dcp_rank", "dcp_size"}


@contextlib.contextmanager
def attached(real, engine):
    """The engine's backend, the name of its pool there, and the pool."""
    import torch
    from sglang.srt.runtime_context import get_context

    from foreword.sglang import ForewordStorage

    geometry = dict(engine.geometry)
    if isinstance(geometry.get("dtype"), str):
        geometry["dtype"] = getattr(torch, geometry["dtype"])
    config = dict(engine.config)
    model = config.pop("model", "org/model")
    extra_config = {**EXTRA, **engine.extra}
    with get_context().override_server_args(**engine.served):
        storage_config = real.storage_config(
            "mla" if engine.kind.startswith("mla") else "mha", engine.layout, model=model, extra=extra_config
        )
        for name, value in config.items():
            setattr(storage_config, name, value)
        pool = real_sglang.host_pool(engine.kind, engine.layout, page=engine.page, **geometry)
        for name, value in engine.pool.items():
            setattr(pool, name, value)
        storage = ForewordStorage(storage_config, {})
        try:
            anchor = real_sglang.host_pool("mha", "page_first", heads=4) if engine.beside else pool
            storage.register_mem_pool_host(anchor)
            if engine.beside:
                storage.register_mem_host_pool_v2(pool, real.PoolName(engine.beside))
            yield storage, engine.beside or "kv", pool
        finally:
            storage.close()


def transfer(real, name, pool, page):
    from sglang.srt.mem_cache.hicache_storage import PoolTransfer

    return PoolTransfer(real.PoolName(name), host_indices=real_sglang.indices(pool, page), keys=[KEY])


def put(real, engine):
    with attached(real, engine) as (storage, name, pool):
        assert storage.batch_set_v2([transfer(real, name, pool, 2)]) == {name: [True]}
        return storage._pools.get(name).namespace.fingerprint


@dataclass(frozen=True)
class Seen:
    """What an engine sees of the page: it is there, it was read; and as whom it asked."""

    fingerprint: str
    there: bool
    read: bool
    spec: dict[str, Any]


def get(real, engine):
    with attached(real, engine) as (storage, name, pool):
        namespace = storage._pools.get(name).namespace
        there = bool(namespace.locate([KEY])[0])
        read = storage.batch_get_v2([transfer(real, name, pool, 3)])[name] == [True]
        return Seen(namespace.fingerprint, there, read, namespace.spec)


def whole(real, engine):
    """Fills the shards of other ranks, so that only identity decides whether the page is found."""
    fingerprint = put(real, engine)
    with attached(real, engine) as (storage, name, _):
        spec = storage._pools.get(name).namespace.spec
        shards = fake_native.CLUSTER.pages[fingerprint][KEY]
        for shard, size in enumerate(spec["shard_bytes"]):
            shards.setdefault(shard, bytes(size))
    return fingerprint


@pytest.mark.parametrize("case", CASES)
def test_two_values_never_share_a_page(real, case):
    one, other = CASES[case]
    fingerprint = whole(real, one)
    seen = get(real, other)
    assert seen.fingerprint != fingerprint
    assert not seen.there
    assert not seen.read


@pytest.mark.parametrize("case", CASES)
def test_equal_values_share_a_page(real, case):
    for engine in CASES[case]:
        fake_native.CLUSTER.reset()
        fingerprint = whole(real, engine)
        seen = get(real, engine)
        assert (seen.fingerprint, seen.there, seen.read) == (fingerprint, True, True)


def test_every_field_of_a_namespace_is_told_apart_by_some_case(real):
    told = set()
    for case in CASES:
        one, other = (get(real, engine).spec for engine in CASES[case])
        told |= {name for name in fake_native.FIELDS if one[name] != other[name]}
    assert told == fake_native.FIELDS - FIXED


@pytest.mark.parametrize("kind", ["mha", "mla"])
def test_data_parallel_ranks_share(real, kind):
    whole(real, Engine(kind=kind, config={"dp_rank": 0}))
    assert get(real, Engine(kind=kind, config={"dp_rank": 3})).read


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "10.0.0.7:7500"},
        {"timeout_ms": 9000},
        {"allow_clear": True},
        {"allocator": "shm"},
        {"backend_name": "other"},
        {"hicache_storage_pass_prefix_keys": True},
    ],
)
def test_what_says_nothing_of_the_pages_does_not_part_them(real, changes):
    whole(real, PLAIN)
    assert get(real, Engine(extra=changes)).read


def test_what_the_server_says_and_what_we_are_told_of_a_dtype_is_one_word(real):
    whole(real, fp8("fp8_e4m3"))
    assert get(real, fp8("fp8_e4m3").but(served={}, extra={"dtype": "fp8_e4m3"})).read


def test_a_uint8_pool_of_which_nothing_is_told_is_refused_with_what_to_write(real):
    with pytest.raises(ValueError, match='dtype: the kv pool is kept as uint8.*write "dtype": "fp8_e4m3"'):
        put(real, fp8("fp8_e4m3").but(served={}))


def test_rows_of_bytes_beside_kv_of_a_known_dtype_need_no_word(real):
    put(real, Engine(kind="paged", beside="indexer"))


def test_draft_layers_without_an_identity_are_refused_with_what_to_write(real):
    with pytest.raises(
        ValueError, match='draft: the kv pool holds KV of a draft model.*write "draft": "NAME@REVISION"'
    ):
        put(real, Engine(pool={"target_layer_num": 1}))


def test_a_draft_pool_without_an_identity_is_refused_and_the_others_go_on(real):
    engine = Engine()
    with attached(real, engine) as (storage, _, pool):
        with pytest.raises(ValueError, match='draft: the draft pool holds KV of a draft model.*write "draft"'):
            storage.register_mem_host_pool_v2(real_sglang.host_pool("mha", "page_first"), real.PoolName.DRAFT)
        storage.on_host_pools_registered()
        assert storage.batch_set_v1([KEY], real_sglang.indices(pool, 1)) == [True]
        assert storage.batch_set_v2([transfer(real, "draft", pool, 1)]) == {"draft": [False]}


def test_a_draft_model_without_an_identity_is_refused_before_anything_is_attached(real):
    with pytest.raises(ValueError, match='draft: SGLang runs a draft model.*write "draft"'):
        put(real, served("speculative_draft_model_path", "org/eagle"))


def test_decode_context_parallelism_is_refused(real):
    with pytest.raises(ValueError, match="dcp_size"):
        put(real, Engine(kind="mla", config={"dcp_size": 2}))


def test_a_model_without_a_name_goes_by_its_path(real):
    assert get(real, configured(model=None)).spec["model"] == "dummy"


def test_a_text_that_is_too_long_is_refused_by_name(real):
    with pytest.raises(ValueError, match="kv pool: model: "):
        put(real, configured(model="m" * 257))


def test_a_long_storage_format_ends_in_a_digest_of_all_of_it(real):
    layers = {"layers": 90}
    one = get(real, Engine(kind="indexer", beside="indexer", geometry={**layers, "owned": tuple(range(0, 90, 2))}))
    other = get(real, Engine(kind="indexer", beside="indexer", geometry={**layers, "owned": (*range(0, 88, 2), 89)}))
    assert len(one.spec["storage_format"]) <= 200
    assert one.fingerprint != other.fingerprint
