"""Where the time of a training goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by activity. Activities do not overlap: one that is started inside another pauses it.

    Attributes:
        seconds: of every activity so far.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[tuple[str, float]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """The block's time counts as ``name``."""
        now = time.perf_counter()
        if self._running:
            outer, since = self._running[-1]
            self.seconds[outer] = self.seconds.get(outer, 0.0) + now - since
        self._running.append((name, now))
        try:
            yield
        finally:
            now = time.perf_counter()
            _, since = self._running.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
            if self._running:
                self._running[-1] = (self._running[-1][0], now)
