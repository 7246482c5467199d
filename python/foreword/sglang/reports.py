"""What a backend says of itself: SGLang's storage metrics, a line a minute of what it did, and at most one warning a
minute."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger("foreword.sglang")

INTERVAL_S = 60.0
# SGLang drains them in every pass of its scheduler; nobody does when its metrics are off.
_SAMPLES_MAX = 4096


@dataclass
class _Minute:
    asked_pages: int = 0
    hit_pages: int = 0
    read_pages: int = 0
    read_bytes: int = 0
    written_pages: int = 0
    written_bytes: int = 0
    failed_pages: int = 0


@dataclass
class Reports:
    """Counts calls; all of its methods are for any thread, wait for nobody and never raise."""

    metrics: bool
    _minute: _Minute = field(default_factory=_Minute)
    _said: float = field(default_factory=time.monotonic)
    _warned: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # (pages, GiB a second) of each call since SGLang last asked.
    _reads: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))
    _writes: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))

    def looked_up(self, asked: int, hit: int) -> None:
        with self._lock:
            self._minute.asked_pages += asked
            self._minute.hit_pages += hit
        self._say()

    def read(self, asked: int, pages: int, page_bytes: int, seconds: float) -> None:
        with self._lock:
            self._minute.read_pages += pages
            self._minute.read_bytes += pages * page_bytes
            self._minute.failed_pages += asked - pages
        if self.metrics and pages:
            self._reads.append((pages, _gib_per_s(pages * page_bytes, seconds)))
        self._say()

    def wrote(self, asked: int, pages: int, page_bytes: int, seconds: float) -> None:
        with self._lock:
            self._minute.written_pages += pages
            self._minute.written_bytes += pages * page_bytes
            self._minute.failed_pages += asked - pages
        if self.metrics and pages:
            self._writes.append((pages, _gib_per_s(pages * page_bytes, seconds)))
        self._say()

    def drain(self, into: Any) -> Any:
        """Moves what was counted since the last time into a StorageMetrics of SGLang's, and gives it back."""
        for samples, pages, bandwidth in (
            (self._reads, into.prefetch_pgs, into.prefetch_bandwidth),
            (self._writes, into.backup_pgs, into.backup_bandwidth),
        ):
            for _ in range(len(samples)):
                count, gib_per_s = samples.popleft()
                pages.append(count)
                bandwidth.append(gib_per_s)
        return into

    def warn(self, message: str) -> None:
        """Logs it, unless there was a warning within the last minute."""
        with self._lock:
            now = time.monotonic()
            if self._warned is not None and now - self._warned < INTERVAL_S:
                return
            self._warned = now
        logger.warning("foreword: %s", message)

    def _say(self) -> None:
        """A line of what was done since the last one, once a minute while there are calls."""
        with self._lock:
            now = time.monotonic()
            if now - self._said < INTERVAL_S:
                return
            self._said, seconds = now, now - self._said
            done, self._minute = self._minute, _Minute()
        logger.info(
            "foreword: in %d s asked for %d pages, hit %d; read %d (%.2f GiB), wrote %d (%.2f GiB), failed %d",
            round(seconds),
            done.asked_pages,
            done.hit_pages,
            done.read_pages,
            done.read_bytes / (1 << 30),
            done.written_pages,
            done.written_bytes / (1 << 30),
            done.failed_pages,
        )


def _gib_per_s(moved_bytes: int, seconds: float) -> float:
    return moved_bytes / (1 << 30) / max(seconds, 1e-9)
