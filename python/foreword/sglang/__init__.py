"""SGLang's HiCache on Foreword: `foreword.sglang.ForewordStorage`, for `--hicache-storage-backend dynamic`.

How to switch it on, and what each message means: docs/SGLANG.md. SGLang itself is imported only when
`ForewordStorage` is asked for, so that the rest (`config`, for `python -m foreword.doctor`) works where SGLang is not
installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foreword.sglang.storage import ForewordStorage

__all__ = ["ForewordStorage"]


def __getattr__(name: str) -> Any:
    if name != "ForewordStorage":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from foreword.sglang.storage import ForewordStorage

    return ForewordStorage
