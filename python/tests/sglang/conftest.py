"""Tests of `foreword.sglang`.

Those with `real` in their fixtures run on SGLang's own classes, in the environment that FOREWORD_SGLANG_VENV names
(docs/SGLANG.md, "Tests"); without it they are skipped aloud. The native module is a fake in memory (fake_native.py)
but in `test_cluster.py`, which starts a cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import fake_native  # noqa: E402
from pages import EXTRA  # noqa: E402


@pytest.fixture(autouse=True)
def cluster(request, monkeypatch) -> Iterator[fake_native.FakeCluster | None]:
    """The cluster in memory, empty at first, in place of the native module."""
    if request.module.__name__ == "test_cluster":
        yield None
        return
    from foreword.sglang import connect, places, transfer

    for module in (connect, places, transfer):
        monkeypatch.setattr(module, "_native", fake_native)
    fake_native.CLUSTER.reset()
    yield fake_native.CLUSTER


@pytest.fixture(scope="session")
def real():
    """SGLang's own classes on a machine without a GPU, as a module."""
    import real_sglang

    missing = real_sglang.missing()
    if missing:
        pytest.skip(missing)
    return real_sglang.load()


@pytest.fixture
def storage_of(real):
    """Makes backends: `storage_of(pool, layout=…, tp_rank=…, extra={…})`, attached as SGLang does it, closed at the
    end."""
    from foreword.sglang import ForewordStorage

    made = []

    def make(pool=None, *, kind=None, layout="page_first", extra=None, pools=None, **ranks):
        config = real.storage_config(kind or "mha", layout, extra={**EXTRA, **(extra or {})}, **ranks)
        storage = ForewordStorage(config, {})
        made.append(storage)
        if pool is not None:
            storage.register_mem_pool_host(pool)
            storage.register_mem_host_pool_v2(pool, real.PoolName.KV)
            for name, other in (pools or {}).items():
                storage.register_mem_host_pool_v2(other, real.PoolName(name))
            storage.on_host_pools_registered()
        return storage

    yield make
    for storage in made:
        storage.close()
