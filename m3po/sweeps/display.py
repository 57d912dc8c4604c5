"""The progress of a sweep in the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from m3po.sweeps.tracks import Track

_LINES_APART = 60.0  # seconds between two progress lines of one run, where stderr is no terminal


class Display:
    """Progress on stderr: a table that is redrawn on a terminal, lines elsewhere."""

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._tracks = tracks
        self._terminal = sys.stderr.isatty()
        self._drawn = 0  # lines of the table on the screen
        self._said: dict[str, tuple[str, int, float]] = {}  # run -> state, step and time of its last line
        self._warned: dict[str, tuple[str, ...]] = {}

    def say(self, text: str) -> None:
        """A line that stays."""
        self._erase()
        print(text, file=sys.stderr, flush=True)

    def show(self) -> None:
        """Bring what is on the screen up to date."""
        for track in self._tracks:
            self._say_what_is_new(track)
        if self._terminal:
            try:
                width, height = os.get_terminal_size(sys.stderr.fileno())
            except OSError:  # it was closed
                width, height = 80, 24
            running = [track for track in self._tracks if track.state in ("running", "lost")]
            lines = [track.describe() for track in running[: max(height - 3, 1)]] + [self.summary()]
            self._erase()
            print("\n".join(line[: width - 1] for line in lines), file=sys.stderr, flush=True)
            self._drawn = len(lines)

    def _say_what_is_new(self, track: Track) -> None:
        name, now = track.run.name, time.monotonic()
        state, step, at = self._said.get(name, ("waiting", 0, 0.0))
        moved = not self._terminal and track.last[0] > step and now - at > _LINES_APART
        if track.state != state or moved:
            self._said[name] = (track.state, track.last[0], now)
            self.say(f"[{self.summary()}] {track.describe()}")
        warnings = () if track.report is None else track.report.warnings
        if warnings != self._warned.get(name, ()):
            self._warned[name] = warnings
            for warning in warnings:
                self.say(f"{name}, step {track.last[0]:,}: {warning}")

    def summary(self) -> str:
        """How many runs are in which state."""
        count = {state: sum(track.state == state for track in self._tracks) for state in _STATES}
        finished = f"{count.pop('finished')}/{len(self._tracks)} finished"
        return ", ".join([finished, *(f"{number} {state}" for state, number in count.items() if number)])

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", file=sys.stderr)
            self._drawn = 0


_STATES = ("finished", "running", "lost", "waiting", "stopped", "failed")
