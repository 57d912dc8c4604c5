"""One run of a sweep as the driver sees it: its attempts, its last report, how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from m3po.sweeps.grid import GridRun
from m3po.sweeps.worker import TaskReport


@dataclass
class Track:
    """The state of one run of a sweep: waiting, running, lost or ended, and how far it is.

    Attributes:
        attempt: number of its present task, from 0; also how often it was restarted.
        surely_dead: whether its last task, when lost, cannot be writing any more.
        futile: losses in a row without a new checkpoint between them.
        report: the last word of any of its tasks.
        cpu_seconds_per_step: processor time of its last task, a real step.
        row: its last row of metrics.
    """

    run: GridRun
    state: Literal["waiting", "running", "lost", "finished", "stopped", "failed"] = "waiting"
    attempt: int = 0
    surely_dead: bool = False
    futile: int = 0
    saved_at_loss: int = -1
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
