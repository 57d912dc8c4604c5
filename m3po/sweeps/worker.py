"""The part of a sweep that runs on the nodes: tasks, which train a run or several, and the ``Progress`` that they
report to.

torch is imported by the tasks that train, not by this module: ``Progress`` needs none of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from m3po.config import Config
from m3po.runs.files import create_exclusively, is_held, read_regular
from m3po.sweeps.grid import SWEEP_ID, GridRun

_LOST_LEASE = 3  # exit code of a worker that stopped itself


@dataclass(frozen=True)
class RunState:
    """How far a run on disk is: ``new``, ``unfinished`` or ``finished``, and its last row of metrics."""

    state: Literal["new", "unfinished", "finished"]
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Real steps at the last evaluation."""
        return int(self.row.get("step", 0))


@dataclass(frozen=True)
class Outcome:
    """How a run ended in its task; one that is lost with its task does not get to say anything.

    Attributes:
        row: its last row of metrics, without its long lists.
        cpu_seconds_per_step: processor time of this task over the real steps of all its runs after their random ones;
            None without any.
    """

    state: Literal["finished", "stopped", "failed"]
    row: Mapping[str, Any]
    message: str = ""
    cpu_seconds_per_step: float | None = None


@dataclass(frozen=True)
class TaskReport:
    """What a task said last of one of its runs: where it is, and how far.

    Attributes:
        attempt: which task of the run it is, counted from 0.
        node: see ``node_name``.
        step, value, warnings: real steps, return and warnings of the last row of metrics.
        saved: when the last checkpoint was written, in ns; tells whether there is a new one.
        ended: how the run has ended, where others of the task go on.
    """

    attempt: int
    node: str
    step: int = 0
    value: float | None = None
    saved: int = 0
    warnings: tuple[str, ...] = ()
    ended: Outcome | None = None


class Progress:
    """Where tasks report and learn whether they are still wanted. One process of the cluster holds it.

    A task that was given up must not write any more, even when it only seemed dead: ``report`` tells it so.
    """

    def __init__(self) -> None:
        self._current: dict[str, int] = {}
        self._reports: dict[str, tuple[TaskReport, float]] = {}

    def report(self, reports: Mapping[str, TaskReport]) -> bool:
        """Take what a task reports of each of its runs; whether the sweep wants all these attempts to go on."""
        wanted = all(self._current.get(run, report.attempt) == report.attempt for run, report in reports.items())
        if wanted:
            now = time.monotonic()
            self._reports |= {run: (report, now) for run, report in reports.items()}
        return wanted

    def reports(self, current: Mapping[str, int]) -> dict[str, tuple[TaskReport, float]]:
        """The last report of every run and the seconds since then. ``current``: each run's attempt from now on; those
        that have ended are left out."""
        self._current = dict(current)
        now = time.monotonic()
        return {run: (report, now - at) for run, (report, at) in self._reports.items()}


class Lease:
    """While entered, reports to ``Progress``, and ends this process when it no longer wants this attempt, or could not
    be reached for ``silence`` seconds: by then the sweep may have started the task's runs elsewhere.

    Args:
        report: sends reports, waiting at most so many seconds; True, False (not wanted) or None (not reached).
        describe: makes the report of each run, by its name.
        beat, silence: seconds between two reports, and without an answer.
        leave: ends the process; a test's own function otherwise.
    """

    def __init__(
        self,
        report: Callable[[Mapping[str, TaskReport], float], bool | None],
        describe: Callable[[], Mapping[str, TaskReport]],
        *,
        beat: float,
        silence: float,
        leave: Callable[[], None] = lambda: os._exit(_LOST_LEASE),
    ) -> None:
        self._report, self._describe, self._leave = report, describe, leave
        self._beat, self._silence = beat, silence
        self._begun, self._over = threading.Event(), threading.Event()
        # Not the main thread: Ray lends a task's CPU to others while its main thread waits for an answer.
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def _keep(self) -> None:
        heard = time.monotonic()
        while True:
            description = self._describe()
            # The clock starts before the report is sent: the sweep counts from when it came, which is later.
            sent = time.monotonic()
            answer = self._report(description, max(heard + self._silence - sent, 0.01))
            if self._over.is_set():
                return
            late = time.monotonic() >= heard + self._silence
            if late or answer is False:  # too late a yes is a no: the sweep has stopped counting on it
                self._leave()
                return
            if answer:
                heard = sent
                self._begun.set()
            if self._over.wait(self._beat):
                return

    def __enter__(self) -> Lease:
        self._thread.start()
        self._begun.wait()  # nothing is written before the sweep knows who writes
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()


def wait_until_free(path: Path, until: float) -> None:
    """Wait for the training in the run directory ``path`` to end.

    Raises:
        ValueError: when ``time.monotonic()`` is past ``until`` and it has not.
    """
    while is_held(path):
        if time.monotonic() > until:
            raise ValueError(f"another process is training in {path}")
        time.sleep(0.2)


def state_of(config: Config) -> RunState:
    """How far the run is, from its directory.

    Raises:
        ValueError: when something else is in its place: other files, or a run with other settings.
    """
    from m3po.runs.run_directory import RunDirectory, unborn

    path = config.run_dir
    if unborn(path):
        return RunState("new")
    directory = RunDirectory.read(path)
    difference = directory.difference(config)
    if difference is not None:
        name, stored, asked = difference
        raise ValueError(f"{path} holds another run: it has {name}={stored}, the grid asks for {asked}")
    rows = directory.metrics()
    return RunState("finished" if directory.complete else "unfinished", rows[-1] if rows else {})


def survey(runs: Sequence[GridRun], out: Path, *, patience: float) -> tuple[str, list[RunState]]:
    """The id of the sweep's directory (made when new), and how far every run is.

    Args:
        patience: seconds to wait for trainings that are still at it to end, as after an earlier sweep was killed.

    Raises:
        ValueError: when a run's place is taken, or another process is still training in one.
    """
    out.mkdir(parents=True, exist_ok=True)
    states = [state_of(run.config) for run in runs]
    until = time.monotonic() + patience
    for run in runs:
        wait_until_free(run.config.run_dir, until)
    return directory_id(out), states


def directory_id(out: Path) -> str:
    """A name that this very directory has; where it is not seen, the file system is another one."""
    file = out / SWEEP_ID
    create_exclusively(file, secrets.token_hex(16).encode())
    return read_regular(file).decode()


def ready(config: Config, *, patience: float) -> Config:
    """The settings to train with now: with ``resume`` when the run is there already.

    Raises:
        ValueError: see ``state_of``; and when another process is still training in it after ``patience`` seconds.
    """
    wait_until_free(config.run_dir, time.monotonic() + patience)  # of the worker before, which is dying
    return config if state_of(config).state == "new" else dataclasses.replace(config, resume=True)


class Watch:
    """How far a run is, as a report; its metrics are read only when they have changed.

    Args:
        failed: what stopped runs of this task, by their directories; others may add to it meanwhile.
    """

    def __init__(self, run: GridRun, attempt: int, failed: Mapping[Path, Exception]) -> None:
        self._run, self._path, self._failed = run, run.config.run_dir, failed
        self._report = TaskReport(attempt, node_name())
        self._seen: tuple[int, int] | None = None

    def __call__(self) -> TaskReport:
        from m3po.runs.checkpoints import LAST
        from m3po.runs.run_directory import RunDirectory

        # What is missing now, or is being replaced, is seen the next time.
        with contextlib.suppress(OSError, ValueError):
            now = (self._path / "metrics.jsonl").stat()
            if (now.st_mtime_ns, now.st_size) != self._seen:
                rows = RunDirectory.read(self._path).metrics()
                self._seen = (now.st_mtime_ns, now.st_size)
                row: Mapping[str, Any] = rows[-1] if rows else {"step": 0}
                self._report = dataclasses.replace(
                    self._report,
                    step=row["step"],
                    value=row.get("return"),
                    warnings=tuple(row.get("warnings", ())),
                )
            saved = (self._path / LAST).stat().st_mtime_ns
            self._report = dataclasses.replace(self._report, saved=saved)
        if self._report.ended is None:
            self._report = dataclasses.replace(self._report, ended=ended(self._run, self._failed))
        return self._report


def node_name() -> str:
    """Host and the start of Ray's id of the node: several nodes may share a host."""
    import ray

    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:6]}"


def train_task(
    runs: Sequence[GridRun],
    attempt: int,
    progress: Any,
    out: Path,
    out_id: str,
    beat: float,
    silence: float,
    command: Sequence[str],
) -> dict[str, Outcome]:
    """Train, or go on with, runs of one cell until each is finished, stopped or has failed. The body of a Ray task.

    Args:
        attempt: counts from 0; the number that the sweep knows.
        progress: handle of the actor that holds ``Progress``.
        out, out_id: the sweep's directory and its id: every node has to see the same one.
        beat, silence: see Lease.
        command: of the sweep, for the runs' provenance; this process was started by Ray.
    """
    sys.argv = list(command)
    os.environ.setdefault("TQDM_MININTERVAL", "30")  # the bar of a training goes to a log file here
    # Ray asks a task to stop by SIGINT, which is ignored below a command that a shell started in the background.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    import m3po.train  # noqa: F401 (slow: before the lease begins)

    def report(each: Mapping[str, TaskReport], timeout: float) -> bool | None:
        try:
            return bool(ray.get(progress.report.remote(each), timeout=timeout))
        except (RayError, GetTimeoutError):
            return None

    failed: dict[Path, Exception] = {}
    watches = {run.name: Watch(run, attempt, failed) for run in runs}
    try:
        with Lease(report, lambda: {name: watch() for name, watch in watches.items()}, beat=beat, silence=silence):
            if not (out / SWEEP_ID).is_file() or read_regular(out / SWEEP_ID).decode() != out_id:
                unseen = f"node {node_name()} does not see {out}: the nodes need a shared file system"
                return {run.name: Outcome("failed", {}, unseen) for run in runs}
            return train_all(runs, failed, patience=max(60.0, 2 * silence))
    except KeyboardInterrupt:  # the sweep was asked to stop; the trainings have written their checkpoints
        return {run.name: ended(run, failed) or Outcome("stopped", _last_row(run)) for run in runs}


def train_all(runs: Sequence[GridRun], failed: dict[Path, Exception], *, patience: float) -> dict[str, Outcome]:
    """Train runs of one cell side by side; one that cannot begin or go on fails by itself, and the others go on.

    Args:
        failed: gets what stopped a run, by its directory, when it happens.
        patience: see ``ready``, of each run.
    """
    from m3po.runs.health import DivergenceError
    from m3po.train import blamed, train_side_by_side

    began, before = time.process_time(), {run.name: _learned_steps(run) for run in runs}
    left = list(runs)
    while left:
        known = len(failed)
        try:
            configs = []
            for run in left:
                with blamed(run.config.run_dir, failed):
                    configs.append(ready(run.config, patience=patience))
            train_side_by_side(configs, failed)
            break
        except (DivergenceError, ValueError, OSError) as error:
            if len(failed) == known:  # of none in particular: of all
                failed |= {run.config.run_dir: error for run in left}
        for reason in failed.values():
            reason.__traceback__ = None  # it would keep the trainings that have ended
        left = [run for run in left if run.config.run_dir not in failed]
    steps = {run.name: _learned_steps(run) - before[run.name] for run in runs}
    speed = (time.process_time() - began) / max(sum(steps.values()), 1)
    outcomes = {run.name: ended(run, failed) or Outcome("finished", _last_row(run)) for run in runs}
    return {
        name: dataclasses.replace(outcome, cpu_seconds_per_step=speed)
        if outcome.state == "finished" and steps[name] > 0
        else outcome
        for name, outcome in outcomes.items()
    }


def ended(run: GridRun, failed: Mapping[Path, Exception]) -> Outcome | None:
    """How a run of this task has ended by itself; None when it has not."""
    from m3po.runs.health import DivergenceError

    reason = failed.get(run.config.run_dir)
    if reason is not None:
        told = f"the training diverged: {reason}" if isinstance(reason, DivergenceError) else str(reason)
        return Outcome("failed", _last_row(run), " ".join(told.split()))
    with contextlib.suppress(OSError, ValueError):
        if (run.config.run_dir / "COMPLETE").exists() and state_of(run.config).state == "finished":
            return Outcome("finished", _last_row(run))
    return None


def _learned_steps(run: GridRun) -> int:
    """Real steps after the random ones, as far as there are metrics."""
    with contextlib.suppress(OSError, ValueError):
        return max(state_of(run.config).step - run.config.initial_random_steps, 0)
    return 0


def _last_row(run: GridRun) -> Mapping[str, Any]:
    """The last row of metrics, without its long lists."""
    with contextlib.suppress(OSError, ValueError):
        row = state_of(run.config).row
        return {name: value for name, value in row.items() if not isinstance(value, list)}
    return {}
