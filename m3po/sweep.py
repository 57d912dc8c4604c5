"""``python -m m3po.sweep GRID.toml``: every run of a grid, as Ray tasks that survive the loss of workers and nodes.

What a run is and whether it is finished is told by its run directory alone: a sweep that was stopped, or lost its
machine, goes on when it is started again. The grid's format: ``m3po.grid``. Clusters: docs/cluster.md.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import tyro

from m3po.command_line import json_of, run
from m3po.flag_checks import Positive, Within, check_fields
from m3po.grid import Run, check_environments, read_grid
from m3po.interruption import StopRequest
from m3po.sweep_worker import Board, Outcome, Report, Standing, survey, train_run

_POLL = 0.5  # seconds between two looks at the board
_LINES_APART = 60.0  # seconds between two progress lines of one run, where stderr is no terminal
_PATIENCE = 10.0  # seconds for trainings of an earlier, killed sweep to die


@dataclass(frozen=True)
class SweepConfig:
    """Train every run of a grid on Ray. Finished runs are skipped, unfinished ones go on from their checkpoints, as do
    those whose worker or node dies meanwhile. The table at the end shows final evaluations."""

    grid: tyro.conf.Positional[Path]
    """TOML file: seeds, algorithms, environments, variants (m3po/grid.py, sweeps/point_mass.toml)."""
    out: Path | None = None
    """Where the runs lie, a directory each, called environment/variant/seed-N. On a cluster: on a file system that all
    nodes share. runs/ with the name of the grid when not given."""
    address: str = "local"
    """local: a Ray of its own on this machine, gone at the end. auto: the cluster this machine belongs to. Also
    HOST:PORT of its head, or ray://HOST:10001 from outside it (then --out is a path on the cluster)."""
    cpus: Annotated[int, Within(1, 10**4)] | None = None
    """Only with --address local: CPUs to use, >= 1; all when not given."""
    only: str | None = None
    """Only the runs whose name fits this pattern, such as '*/k1/*'."""
    silence: Annotated[float, Within(1)] = 30.0
    """Seconds, >= 1. A training that cannot reach the sweep for so long stops itself, and a run whose node is lost is
    taken up when so much time has passed since its last word: two never write one run, even when the node was only cut
    off."""
    list_runs: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Print the runs, and what they cost with --seconds-per-step, and start none."""
    seconds_per_step: Positive | None = None
    """Only with --list: measured seconds of one real step with all that belongs to it, > 0."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.address not in ("local", "auto") and not re.fullmatch(r"(ray://)?[^/\s:]+:\d+", self.address):
            raise ValueError(f"--address must be local, auto, HOST:PORT or ray://HOST:PORT, got {self.address}")
        if self.cpus is not None and self.address != "local":
            raise ValueError(f"--cpus is for --address local; a cluster knows its own CPUs, got {self.address}")
        if self.client and (self.out is None or not self.out.is_absolute()):
            raise ValueError(f"--address {self.address} needs --out, an absolute path on the cluster, got {self.out}")
        if self.seconds_per_step is not None and not self.list_runs:
            raise ValueError(f"--seconds-per-step goes with --list, got {self.seconds_per_step} without it")

    @property
    def client(self) -> bool:
        """Whether this process is outside the cluster and need not see its files."""
        return self.address.startswith("ray://")

    @property
    def directory(self) -> Path:
        """Of the sweep; absolute, since workers have another working directory."""
        return (Path("runs") / self.grid.stem if self.out is None else self.out).absolute()


@dataclass
class Track:
    """Where one run of the sweep is.

    Attributes:
        attempt: number of its present task, from 0; also how often it was restarted.
        surely_dead: whether its last task, when lost, cannot be writing any more.
        futile: losses in a row without a new checkpoint between them.
        report: the last word of any of its tasks.
        cpu_seconds_per_step: processor time of its last task, a real step.
        row: its last row of metrics.
    """

    run: Run
    state: Literal["waiting", "running", "lost", "finished", "stopped", "failed"] = "waiting"
    attempt: int = 0
    surely_dead: bool = False
    futile: int = 0
    saved_at_loss: int = -1
    report: Report | None = None
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


class Cluster(Protocol):
    """What the sweep needs of Ray."""

    def submit(self, run: Run, attempt: int) -> Any:
        """Start a task of ``train_run``; its handle."""

    def wait(self, tasks: Sequence[Any], timeout: float) -> list[Any]:
        """Those of the tasks that have ended, after at most ``timeout`` seconds."""

    def collect(self, task: Any) -> Outcome | Lost:
        """How an ended task ended."""

    def cancel(self, task: Any) -> None:
        """Ask a task to stop after its step, with a checkpoint."""

    def look(self, current: Mapping[str, int]) -> Mapping[str, tuple[Report, float]] | None:
        """``Board.look``; None when the board cannot be reached at the moment."""


def import_ray() -> Any:
    """Ray, which is an extra.

    Raises:
        ValueError: when it is not installed.
    """
    # Of a local Ray; a cluster's head decides for itself. Trainings get the priority that one started by hand has.
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"):
        os.environ.setdefault(name, "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("a sweep needs ray: pip install -e '.[cluster]'") from error
    return ray


class RayCluster:
    """``Cluster`` on Ray: connects on construction; ``close`` when done.

    Attributes:
        directory_id: see ``sweep_worker.directory_id``; to be set before the first task.

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
        self._board = ray.remote(Board).options(max_restarts=-1, max_task_retries=-1, **self._on_head).remote()
        # Ray's own retries would start at once, while a node that is only cut off may still be writing. One task per
        # process: nothing of one run, such as its memory, is left to the next.
        self._train = ray.remote(max_calls=1, max_retries=0)(train_run)

    def survey(self, runs: Sequence[Run]) -> tuple[str, list[Standing]]:
        """``sweep_worker.survey`` on the cluster, whose files this process may not see."""
        task = self._ray.remote(survey).options(max_retries=0, **self._on_head)
        try:
            surveyed: tuple[str, list[Standing]] = self._ray.get(
                task.remote(runs, self._config.directory, patience=_PATIENCE)
            )
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from None
            first = str(error.cause).splitlines()[0]
            raise ValueError(f"the cluster cannot look at {self._config.directory}: {first}") from error
        return surveyed

    def unmet(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that want more CPUs or GPUs than any node has now."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [
            each
            for each in runs
            if not any(node.get("CPU", 0) >= each.cpus and node.get("GPU", 0) >= each.gpus for node in nodes)
        ]

    def submit(self, run: Run, attempt: int) -> Any:
        task = self._train.options(num_cpus=run.cpus, num_gpus=run.gpus, name=f"{run.name}#{attempt}")
        silence = self._config.silence
        return task.remote(
            run,
            attempt,
            self._board,
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

    def collect(self, task: Any) -> Outcome | Lost:
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(task)
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
        return outcome

    def cancel(self, task: Any) -> None:
        self._ray.cancel(task, force=False)

    def look(self, current: Mapping[str, int]) -> Mapping[str, tuple[Report, float]] | None:
        try:
            reports: Mapping[str, tuple[Report, float]] = self._ray.get(self._board.look.remote(current), timeout=10)
        except (self._ray.exceptions.RayError, self._ray.exceptions.GetTimeoutError):
            return None
        return reports

    def close(self) -> None:
        self._ray.shutdown()


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


def drive(tracks: Sequence[Track], cluster: Cluster, stop: StopRequest, display: Display, *, silence: float) -> None:
    """Bring every waiting run to its end.

    A run whose worker has ended for sure is taken up at once, and one whose node is lost when its last word is
    ``silence`` seconds old. It fails when it was lost more than ``run.retries`` times in a row without a new
    checkpoint. After Ctrl-C or SIGTERM nothing new is started.
    """
    tasks: dict[Any, Track] = {}
    stopping = False
    while not all(track.ended for track in tracks):
        # A new attempt is told to the board before its task exists: from then on the one before is not wanted.
        reports = _look(tracks, cluster)
        if stop.number is not None and not stopping:
            stopping = True
            display.say(f"{len(tasks)} runs are asked to stop; those under way write a checkpoint first")
            for task in tasks:
                cluster.cancel(task)
        under_way = {track.run.name for track in tasks.values()}
        for track in tracks:
            if track.run.name in under_way:
                if track.report is not None and track.report.attempt == track.attempt:
                    track.state, track.message = "running", ""
            elif stopping and not track.ended:
                track.state = "stopped"
            elif track.state == "waiting" and reports is not None:
                tasks[cluster.submit(track.run, track.attempt)] = track
            elif track.state == "lost" and reports is not None:
                _, quiet = reports.get(track.run.name, (None, silence))
                if track.surely_dead or quiet >= silence:
                    track.state, track.attempt = "waiting", track.attempt + 1
        ended = cluster.wait(list(tasks), _POLL)
        if ended:
            _look(tracks, cluster)  # the last words of those that have ended
        for task in ended:
            _end(tasks.pop(task), cluster.collect(task))
        display.show()


def _look(tracks: Sequence[Track], cluster: Cluster) -> Mapping[str, tuple[Report, float]] | None:
    """What the board knows, which is put into the tracks too."""
    reports = cluster.look({track.run.name: track.attempt for track in tracks if not track.ended})
    for track in tracks:
        if reports is not None and track.run.name in reports:
            track.report, _ = reports[track.run.name]
    return reports


def _end(track: Track, outcome: Outcome | Lost) -> None:
    if isinstance(outcome, Outcome):
        track.state, track.row, track.message = outcome.state, outcome.row or track.row, outcome.message
        track.cpu_seconds_per_step = outcome.cpu_seconds_per_step
        return
    saved = 0 if track.report is None else track.report.saved
    track.futile = track.futile + 1 if saved == track.saved_at_loss else 1
    track.saved_at_loss = saved
    track.state, track.message, track.surely_dead = "lost", outcome.reason, outcome.surely
    if track.futile > track.run.retries:
        track.state = "failed"
        track.message = f"lost {track.futile} times in a row without a new checkpoint; the last time {outcome.reason}"


def sweep(config: SweepConfig, runs: Sequence[Run]) -> list[Track]:
    """Where every run is when all have ended, or stopped.

    Raises:
        ValueError: before anything starts, when the place of a run is taken or no node of a local Ray is large enough.
        ConnectionError: when there is no Ray cluster at ``config.address``.
    """
    ray = import_ray()
    survived = None if config.client else survey(runs, config.directory, patience=_PATIENCE)
    if survived is not None and all(standing.state == "finished" for standing in survived[1]):
        return [Track(each, "finished", row=standing.row) for each, standing in zip(runs, survived[1], strict=True)]
    cluster = RayCluster(config, ray)
    try:
        cluster.directory_id, standings = cluster.survey(runs) if survived is None else survived
        tracks = [
            Track(each, "finished" if standing.state == "finished" else "waiting", row=standing.row)
            for each, standing in zip(runs, standings, strict=True)
        ]
        unmet = cluster.unmet([track.run for track in tracks if not track.ended])
        if unmet:
            want = f"{unmet[0].name} wants {unmet[0].cpus:g} CPUs and {unmet[0].gpus:g} GPUs"
            if config.address == "local":
                raise ValueError(f"{want}, which this machine does not have; see cpus and gpus in the grid, and --cpus")
            print(f"{want} and no node has them; {len(unmet)} runs wait until one joins", file=sys.stderr)
        display = Display(tracks)
        resumed = sum(standing.state == "unfinished" for standing in standings)
        display.say(f"{len(runs)} runs in {config.directory}: {display.summary()}, of these {resumed} to resume")
        with StopRequest() as stop:
            drive(tracks, cluster, stop, display, silence=config.silence)
    finally:
        cluster.close()
    return tracks


def results(config: SweepConfig, tracks: Sequence[Track]) -> dict[str, Any]:
    """The final table as a record; ``return`` is of the last evaluation, not of the best."""
    return {
        "grid": str(config.grid),
        "directory": str(config.directory),
        "finished": sum(track.state == "finished" for track in tracks),
        "runs": [
            {
                "run": track.run.name,
                "run_dir": str(track.run.config.run_dir),
                "state": track.state,
                "step": track.last[0],
                "total_steps": track.run.config.total_steps,
                "return": track.row.get("return"),
                "return_standard_error": track.row.get("return_standard_error"),
                "seconds_per_step": _seconds_per_step(track),
                "cpu_seconds_per_step": track.cpu_seconds_per_step,
                "restarts": track.attempt,
                "message": track.message,
            }
            for track in tracks
        ],
    }


def _seconds_per_step(track: Track) -> float | None:
    """Measured seconds of a real step with all that belongs to it, over the steps after the random ones."""
    steps = int(track.row.get("step", 0)) - track.run.config.initial_random_steps
    return track.row["seconds"] / steps if steps > 0 and "seconds" in track.row else None


def cost(runs: Sequence[Run], seconds_per_step: float | None) -> dict[str, Any]:
    """What a grid asks for: runs, real steps, and with a measured speed hours."""
    steps = [run.config.total_steps for run in runs]
    record: dict[str, Any] = {"runs": len(runs), "steps": sum(steps)}
    if seconds_per_step is not None:
        hours = [each * seconds_per_step / 3600 for each in steps]
        record |= {
            "seconds_per_step": seconds_per_step,
            "run_hours": sum(hours),
            "cpu_hours": sum(run.cpus * each for run, each in zip(runs, hours, strict=True)),
            "gpu_hours": sum(run.gpus * each for run, each in zip(runs, hours, strict=True)),
            "longest_run_hours": max(hours),
        }
    return record


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first aligned to the left and the others to the right."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    lines = []
    for line in (header, *rows):
        cells = [
            line[0].ljust(widths[0]),
            *(each.rjust(width) for each, width in zip(line[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def results_text(record: Mapping[str, Any]) -> str:
    """The final table."""
    rows = [
        (
            each["run"],
            each["state"],
            f"{each['step']:,}/{each['total_steps']:,}",
            "" if each["return"] is None else f"{each['return']:.2f}",
            "" if each["return_standard_error"] is None else f"{each['return_standard_error']:.2f}",
            "" if each["seconds_per_step"] is None else f"{each['seconds_per_step']:.3g}",
            "" if each["cpu_seconds_per_step"] is None else f"{each['cpu_seconds_per_step']:.3g}",
            str(each["restarts"]),
        )
        for each in record["runs"]
    ]
    notes = [f"{each['run']}: {each['message']}" for each in record["runs"] if each["message"]]
    last = f"{record['finished']} of {len(rows)} runs finished in {record['directory']}"
    return "\n".join(
        [table(("run", "state", "steps", "return", "+-", "s/step", "cpu s/step", "restarts"), rows), *notes, last]
    )


def plan(config: SweepConfig, runs: Sequence[Run]) -> str:
    """What ``--list`` prints."""
    total = cost(runs, config.seconds_per_step)
    if config.as_json:
        entries = [
            {
                "run": run.name,
                "cpus": run.cpus,
                "gpus": run.gpus,
                "config": {
                    name: str(value) if isinstance(value, Path) else value for name, value in vars(run.config).items()
                },
            }
            for run in runs
        ]
        return json_of({**total, "list": entries})
    rows = [
        (
            run.name,
            run.config.algorithm,
            run.config.env_id,
            f"{run.config.total_steps:,}",
            f"{run.cpus:g}",
            f"{run.gpus:g}",
        )
        for run in runs
    ]
    text = table(("run", "algorithm", "environment", "steps", "cpus", "gpus"), rows)
    text += f"\n{total['runs']:,} runs, {total['steps']:,} real steps"
    if config.seconds_per_step is not None:
        text += (
            f"; at {config.seconds_per_step:g} s a step {total['run_hours']:,.0f} run-hours ({total['cpu_hours']:,.0f} "
            f"CPU-hours, {total['gpu_hours']:,.0f} GPU-hours), the longest run {total['longest_run_hours']:,.1f} hours"
        )
    return text


def main(config: SweepConfig) -> int:
    runs = read_grid(config.grid, config.directory)
    if config.only is not None:
        runs = [each for each in runs if fnmatch.fnmatchcase(each.name, config.only)]
        if not runs:
            raise ValueError(f"--only {config.only} fits no run of {config.grid}")
    check_environments(runs)
    if config.list_runs:
        print(plan(config, runs))
        return 0
    again = "the same command goes on from the checkpoints"
    try:
        # Of a dead node Ray prints, on stdout, twenty lines of its own log; what matters of it is in our lines.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            tracks = sweep(config, runs)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {again} in {config.directory}", file=sys.stderr)
        return 130
    record = results(config, tracks)
    print(json_of(record) if config.as_json else results_text(record))
    if any(track.state == "stopped" for track in tracks):
        print(f"stopped with {record['finished']} of {len(tracks)} runs finished; {again}", file=sys.stderr)
        return 130
    return 0 if record["finished"] == len(tracks) else 1


def cli(arguments: Sequence[str] | None = None) -> None:
    run(main, SweepConfig, arguments, prog="python -m m3po.sweep")


if __name__ == "__main__":
    cli()
