"""Runs as Ray tasks that survive the loss of workers and nodes."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from m3po.runs.interruption import StopRequest
from m3po.sweeps.display import Display
from m3po.sweeps.grid import GridRun, packed
from m3po.sweeps.settings import SweepConfig
from m3po.sweeps.tracks import Lost, Task, Track
from m3po.sweeps.worker import Outcome, Progress, RunState, TaskReport, survey, train_task

_POLL = 0.5  # seconds between two readings of the reports

_PATIENCE = 10.0  # seconds for trainings of an earlier, killed sweep to die


class Cluster(Protocol):
    """What the sweep needs of Ray."""

    def submit(self, runs: Sequence[GridRun], attempt: int) -> Any:
        """Start a task of ``train_task``; its handle."""

    def wait(self, tasks: Sequence[Any], timeout: float) -> list[Any]:
        """Those of the tasks that have ended, after at most ``timeout`` seconds."""

    def collect(self, task: Any) -> Mapping[str, Outcome] | Outcome | Lost:
        """How an ended task ended: each of its runs by name, or all of them in the same way."""

    def cancel(self, task: Any) -> None:
        """Ask a task to stop after its step, with checkpoints."""

    def reports(self, current: Mapping[str, int]) -> Mapping[str, tuple[TaskReport, float]] | None:
        """``Progress.reports``; None when it cannot be reached at the moment."""


def import_ray() -> Any:
    """Ray, which is an extra.

    Raises:
        ModuleNotFoundError: when it is not installed.
    """
    # Of a local Ray; a cluster's head decides for itself. Trainings get the priority that one started by hand has.
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"):
        os.environ.setdefault(name, "0")
    import ray

    return ray


class RayCluster:
    """``Cluster`` on Ray: connects on construction; ``close`` when done.

    Attributes:
        directory_id: see ``worker.directory_id``; to be set before the first task.

    Raises:
        ConnectionError: when there is no cluster at the address.
    """

    def __init__(self, config: SweepConfig, ray: Any) -> None:
        self._ray, self._config, self.directory_id = ray, config, ""
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if config.address == "local":
            options |= {"include_dashboard": False, "num_cpus": config.cpus, "object_store_memory": 100 * 2**20}
        ray.init(address=config.address, **options)
        # The head is the one node without which nothing goes on anyway.
        self._on_head = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
        self._progress = ray.remote(Progress).options(max_restarts=-1, max_task_retries=-1, **self._on_head).remote()
        # Ray's own retries would start at once, while a node that is only cut off may still be writing. One task per
        # process: nothing of one, such as its memory, is left to the next.
        self._train = ray.remote(max_calls=1, max_retries=0)(train_task)

    def survey(self, runs: Sequence[GridRun]) -> tuple[str, list[RunState]]:
        """``worker.survey`` on the cluster, whose files this process may not see."""
        task = self._ray.remote(survey).options(max_retries=0, **self._on_head)
        try:
            surveyed: tuple[str, list[RunState]] = self._ray.get(
                task.remote(runs, self._config.directory, patience=_PATIENCE)
            )
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from None
            first = str(error.cause).splitlines()[0]
            raise ValueError(f"the cluster cannot look at {self._config.directory}: {first}") from error
        return surveyed

    def unmet(self, runs: Sequence[GridRun]) -> list[GridRun]:
        """The runs that want more CPUs or GPUs than any node has now."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [
            each
            for each in runs
            if not any(node.get("CPU", 0) >= each.cpus and node.get("GPU", 0) >= each.gpus for node in nodes)
        ]

    def submit(self, runs: Sequence[GridRun], attempt: int) -> Any:
        first, *others = runs
        name = "+".join([first.name, *(str(run.config.seed) for run in others)])
        task = self._train.options(num_cpus=first.cpus, num_gpus=first.gpus, name=f"{name}#{attempt}")
        silence = self._config.silence
        return task.remote(
            runs,
            attempt,
            self._progress,
            self._config.directory,
            self.directory_id,
            beat=min(silence / 6, 5.0),
            silence=silence,
            command=sys.argv,
        )

    def wait(self, tasks: Sequence[Any], timeout: float) -> list[Any]:
        if not tasks:
            time.sleep(timeout)
            return []
        ended, _ = self._ray.wait(list(tasks), num_returns=len(tasks), timeout=timeout, fetch_local=False)
        return list(ended)

    def collect(self, task: Any) -> Mapping[str, Outcome] | Outcome | Lost:
        errors = self._ray.exceptions
        try:
            outcomes: Mapping[str, Outcome] = self._ray.get(task)
        except errors.TaskCancelledError:
            return Outcome("stopped", {})
        except errors.RayTaskError as error:  # a mistake in the code: once more would not help
            print(error, file=sys.stderr)
            return Outcome("failed", {}, f"{type(error.cause).__name__}: {error.cause}")
        except (errors.TaskUnschedulableError, errors.RuntimeEnvSetupError) as error:
            return Outcome("failed", {}, " ".join(str(error).split()))
        except errors.RayError as error:
            surely = isinstance(error, (errors.WorkerCrashedError, errors.OutOfMemoryError))
            return Lost(type(error).__name__, surely)
        return outcomes

    def cancel(self, task: Any) -> None:
        self._ray.cancel(task, force=False)

    def reports(self, current: Mapping[str, int]) -> Mapping[str, tuple[TaskReport, float]] | None:
        try:
            reports: Mapping[str, tuple[TaskReport, float]] = self._ray.get(
                self._progress.reports.remote(current), timeout=10
            )
        except (self._ray.exceptions.RayError, self._ray.exceptions.GetTimeoutError):
            return None
        return reports

    def close(self) -> None:
        self._ray.shutdown()


def drive(tracks: Sequence[Track], cluster: Cluster, stop: StopRequest, display: Display, *, silence: float) -> None:
    """Bring every waiting run to its end, in tasks as ``grid.packed`` makes them of those.

    A task whose worker has ended for sure is taken up at once, and one whose node is lost when its last word is
    ``silence`` seconds old, with those of its runs that have not ended. They fail when it was lost more than
    ``run.retries`` times in a row without a new checkpoint. After Ctrl-C or SIGTERM nothing new is started.
    """
    waiting = {track.run.name: track for track in tracks if not track.ended}
    tasks = [Task([waiting[run.name] for run in runs]) for runs in packed([track.run for track in waiting.values()])]
    under_way: dict[Any, Task] = {}
    stopping = False
    while under_way or any(task.left for task in tasks):
        # A new attempt is told to ``Progress`` before its task exists: from then on the one before is not wanted.
        reports = _read_reports(tracks, cluster)
        if stop.number is not None and not stopping:
            stopping = True
            asked = sum(len(task.left) for task in under_way.values())
            display.say(f"{asked} runs are asked to stop; those under way write a checkpoint first")
            for handle in under_way:
                cluster.cancel(handle)
        busy = set(under_way.values())
        for task in tasks:
            left = task.left
            if not left:
                continue
            if task in busy:
                for track in left:
                    if track.report is not None and track.report.attempt == track.attempt:
                        track.state, track.message = "running", ""
            elif stopping:
                for track in left:
                    track.state = "stopped"
            elif reports is not None and left[0].state == "waiting":
                under_way[cluster.submit([track.run for track in left], left[0].attempt)] = task
            elif reports is not None:
                quiet = min(reports.get(track.run.name, (None, silence))[1] for track in left)
                if task.surely_dead or quiet >= silence:
                    for track in left:
                        track.state, track.attempt = "waiting", track.attempt + 1
        ended = cluster.wait(list(under_way), _POLL)
        if ended:
            _read_reports(tracks, cluster)  # the last words of those that have ended
        for handle in ended:
            _end(under_way.pop(handle), cluster.collect(handle))
        display.show()


def _read_reports(tracks: Sequence[Track], cluster: Cluster) -> Mapping[str, tuple[TaskReport, float]] | None:
    """The last report of every run, which is put into its track too."""
    reports = cluster.reports({track.run.name: track.attempt for track in tracks if not track.ended})
    for track in tracks:
        if reports is not None and track.run.name in reports:
            track.hear(reports[track.run.name][0])
    return reports


def _end(task: Task, outcome: Mapping[str, Outcome] | Outcome | Lost) -> None:
    if isinstance(outcome, Lost):
        task.lose(outcome)
    elif isinstance(outcome, Outcome):
        for track in task.left:
            track.end(outcome)
    else:
        for track in task.tracks:
            if track.run.name in outcome:
                track.end(outcome[track.run.name])
