"""How long a call of SGLang's may take: one total deadline, however many calls of ours it takes."""

from __future__ import annotations

import time

# SGLang makes several calls before it looks whether it is to stop, and gives up on its threads after 10 s. So after a
# call that nobody answered in all of its time, those that follow are short for a while.
_SHORT_MS = 500
_SHORT_FOR_S = 10.0


class Deadline:
    """Begins when it is made."""

    def __init__(self, timeout_ms: int) -> None:
        self._end = time.monotonic() + timeout_ms / 1000

    def left_ms(self) -> int:
        """Whole milliseconds left, 0 when it is over."""
        return max(0, int((self._end - time.monotonic()) * 1000))

    def at_most(self, timeout_ms: int) -> Deadline:
        """One for a part of the call: this one, or sooner."""
        return Deadline(min(timeout_ms, self.left_ms()))


class Patience:
    """Makes deadlines. For any thread: what two of them note at once is true of either."""

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._short_until = 0.0

    def deadline(self) -> Deadline:
        is_short = time.monotonic() < self._short_until
        return Deadline(min(_SHORT_MS, self._timeout_ms) if is_short else self._timeout_ms)

    def note(self, deadline: Deadline, *, answered: bool) -> None:
        """Whether a call got an answer, be it a miss, within its deadline."""
        if answered or deadline.left_ms():
            self._short_until = 0.0
        elif time.monotonic() >= self._short_until:
            self._short_until = time.monotonic() + _SHORT_FOR_S
