"""Which ranks gather into one page, and of which pools there is one copy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foreword.sglang.config import ConfigError
from foreword.sglang.ranks import RankGroup, Sharing, rank_group, sharing
from foreword.sglang.runtime import Parallel


def config(rank, size, *, cp=(0, 1), pp=(0, 1), mla=False):
    return SimpleNamespace(
        tp_rank=rank,
        tp_size=size,
        attn_cp_rank=cp[0],
        attn_cp_size=cp[1],
        pp_rank=pp[0],
        pp_size=pp[1],
        is_mla_model=mla,
    )


def placed(world, nodes, tp, *, pp_rank=0, attn_tp=None, cp=(0, 1), dp_rank=0):
    return Parallel(world, nodes, tp, pp_rank, attn_tp or tp // cp[1], cp[1], cp[0], dp_rank)


@pytest.mark.parametrize(
    ("rank", "said", "expected"),
    [
        (5, config(5, 8), RankGroup(0, 8, 8, 5)),
        (5, config(5, 16), RankGroup(0, 8, 16, 5)),
        (13, config(13, 16), RankGroup(8, 8, 16, 13)),
    ],
)
def test_a_page_is_gathered_from_the_ranks_of_one_machine(rank, said, expected):
    assert rank_group(said, placed(said.tp_size, said.tp_size // 8, said.tp_size), None) == expected
    assert expected.shard == rank % 8


def test_without_a_word_of_sglangs_all_ranks_are_on_this_machine():
    assert rank_group(config(3, 4), None, None) == RankGroup(0, 4, 4, 3)


def test_a_word_of_sglangs_about_other_ranks_is_no_word():
    assert rank_group(config(1, 2), placed(1, 1, 1), None) == RankGroup(0, 2, 2, 1)


def test_stages_of_a_pipeline_on_one_machine_have_groups_of_their_own():
    both = placed(8, 1, 4, pp_rank=1)
    assert rank_group(config(2, 4, pp=(1, 2)), both, None) == RankGroup(0, 4, 4, 2)


def test_a_stage_that_lies_on_two_machines_has_two_groups():
    # World ranks 0..5 and 6..11; the second stage is 4..7, the third 8..11.
    assert rank_group(config(1, 4, pp=(1, 3)), placed(12, 2, 4, pp_rank=1), None) == RankGroup(0, 2, 4, 1)
    assert rank_group(config(3, 4, pp=(1, 3)), placed(12, 2, 4, pp_rank=1), None) == RankGroup(2, 2, 4, 3)


def test_attention_groups_count_ranks_of_their_own():
    # Four attention groups of two ranks on two machines of four: tp_rank is the rank within its group.
    assert rank_group(config(1, 2), placed(8, 2, 8, attn_tp=2, dp_rank=3), None) == RankGroup(0, 2, 2, 1)
    # Two groups of four on four machines of two.
    assert rank_group(config(1, 4), placed(8, 4, 8, attn_tp=4, dp_rank=1), None) == RankGroup(0, 2, 4, 1)
    assert rank_group(config(2, 4), placed(8, 4, 8, attn_tp=4, dp_rank=1), None) == RankGroup(2, 2, 4, 2)


def test_context_parallel_ranks_gather_with_those_of_their_own_place():
    # tp_rank counts both places: 0..3 hold one slice of each page, 4..7 the other.
    assert rank_group(config(5, 8, cp=(1, 2)), placed(8, 1, 8, cp=(1, 2)), None) == RankGroup(4, 4, 8, 5)
    assert rank_group(config(1, 8, cp=(0, 2)), None, None) == RankGroup(0, 4, 8, 1)


def test_a_configured_group_is_so_many_ranks_in_a_row():
    assert rank_group(config(5, 8), placed(8, 1, 8), 4) == RankGroup(4, 4, 8, 5)
    assert rank_group(config(7, 8), placed(8, 1, 8), 3) == RankGroup(6, 2, 8, 7)
    assert rank_group(config(1, 2), None, 64) == RankGroup(0, 2, 2, 1)


def test_a_rank_beyond_its_size_is_refused():
    with pytest.raises(ConfigError, match="tp_rank: expected a rank below tp_size 2, got 2"):
        rank_group(config(2, 2), None, None)


def pool_of(name, *bases):
    return type(name, tuple(type(base, (), {}) for base in bases), {})()


@pytest.mark.parametrize(
    ("pool", "name", "mla", "expected"),
    [
        (pool_of("MHATokenToKVPoolHost"), "kv", False, Sharing.PER_RANK),
        (pool_of("MLATokenToKVPoolHost"), "kv", True, Sharing.ONE_COPY),
        (pool_of("NPUMLA", "MLATokenToKVPoolHost"), "kv", True, Sharing.ONE_COPY),
        (pool_of("DSAIndexerPoolHost"), "indexer", True, Sharing.ONE_COPY),
        (pool_of("DeepSeekV4PagedHostPool"), "deepseek_v4_c4", True, Sharing.ONE_COPY),
        (pool_of("DeepSeekV4StateHostPool"), "deepseek_v4_c4_state", True, Sharing.ONE_COPY),
        (pool_of("MambaPoolHost"), "mamba", True, Sharing.PER_RANK),
        (pool_of("MambaPoolHost"), "mamba", False, Sharing.PER_RANK),
        (pool_of("MHATokenToKVPoolHost"), "draft", True, Sharing.FIRST_RANK),
        (pool_of("MLATokenToKVPoolHost"), "draft", False, Sharing.ONE_COPY),
        (pool_of("QSAIndexerPoolHost", "DeepSeekV4PagedHostPool"), "indexer", False, Sharing.PER_RANK),
    ],
)
def test_one_copy_for_all_ranks_is_decided_by_class_and_name(pool, name, mla, expected):
    assert sharing(pool, name, config(0, 2, mla=mla)) is expected


def test_a_single_rank_has_all_of_its_pools():
    assert sharing(pool_of("MHATokenToKVPoolHost"), "draft", config(0, 1, mla=True)) is Sharing.PER_RANK
