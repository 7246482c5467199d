"""One total deadline for a call of SGLang's, however many calls of ours it takes."""

from __future__ import annotations

import time


class Deadline:
    """Begins when it is made."""

    def __init__(self, timeout_ms: int) -> None:
        self._end = time.monotonic() + timeout_ms / 1000

    def left_ms(self) -> int:
        """Whole milliseconds left, 0 when it is over."""
        return max(0, int((self._end - time.monotonic()) * 1000))
