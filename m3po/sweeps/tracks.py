"""Runs of a sweep and the tasks that train them, as the driver sees them: attempts, last reports, how they ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from m3po.sweeps.grid import GridRun
from m3po.sweeps.worker import Outcome, TaskReport


@dataclass
class Track:
    """The state of one run of a sweep: waiting, running, lost or ended, and how far it is.

    Attributes:
        attempt: number of its present task, from 0; also how often it was restarted.
        report: the last word of any of its tasks.
        cpu_seconds_per_step: processor time of its last task, a real step.
        row: its last row of metrics.
    """

    run: GridRun
    state: Literal["waiting", "running", "lost", "finished", "stopped", "failed"] = "waiting"
    attempt: int = 0
    report: TaskReport | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    cpu_seconds_per_step: float | None = None

    @property
    def last(self) -> tuple[int, float | None]:
        """Real steps and return at its last evaluation."""
        at_the_end = (int(self.row.get("step", 0)), self.row.get("return"))
        if self.report is None or self.report.step <= at_the_end[0]:
            return at_the_end
        return self.report.step, self.report.value

    @property
    def ended(self) -> bool:
        """Whether it has no task and gets none any more."""
        return self.state in ("finished", "stopped", "failed")

    def hear(self, report: TaskReport) -> None:
        """The last report of any of its tasks."""
        self.report = report
        if report.ended is not None and report.attempt == self.attempt and not self.ended:
            self.end(report.ended)

    def end(self, outcome: Outcome) -> None:
        """It was told how the run has ended."""
        self.state, self.row, self.message = outcome.state, outcome.row or self.row, outcome.message
        self.cpu_seconds_per_step = outcome.cpu_seconds_per_step

    def describe(self) -> str:
        """One line of progress."""
        step, value = self.last
        words = [f"step {step:,}/{self.run.config.total_steps:,}"]
        words += [] if value is None else [f"return {value:.4g}"]
        words += [] if self.report is None else [f"on {self.report.node}"]
        words += [] if self.attempt == 0 else [f"restarted {self.attempt}x"]
        return f"{self.run.name}: {self.state}, " + ", ".join(words) + (f" ({self.message})" if self.message else "")


@dataclass(frozen=True)
class Lost:
    """A task whose worker or node died.

    Attributes:
        reason: Ray's name for it.
        surely: whether the node itself says that the process has ended. A node that is lost may only be cut off.
    """

    reason: str
    surely: bool


@dataclass(eq=False)
class Task:
    """Runs that are trained side by side in one Ray task, and lost and taken up again together.

    Attributes:
        tracks: of the runs, those that have ended among them.
        surely_dead: whether its last attempt, when lost, cannot be writing any more.
        futile: losses in a row without a new checkpoint of any of its runs between them.
    """

    tracks: Sequence[Track]
    surely_dead: bool = False
    futile: int = 0
    saved_at_loss: int = -1

    @property
    def left(self) -> list[Track]:
        """The runs that have not ended; they are in the same state and attempt, but for when they began to run."""
        return [track for track in self.tracks if not track.ended]

    def lose(self, lost: Lost) -> None:
        """An attempt was lost; the runs have failed when that was so too often in a row."""
        left = self.left
        saved = max((track.report.saved for track in left if track.report is not None), default=0)
        self.futile = self.futile + 1 if saved == self.saved_at_loss else 1
        self.saved_at_loss, self.surely_dead = saved, lost.surely
        for track in left:
            track.state, track.message = "lost", lost.reason
            if self.futile > track.run.retries:
                times = f"lost {self.futile} times in a row without a new checkpoint"
                track.state, track.message = "failed", f"{times}; the last time {lost.reason}"
